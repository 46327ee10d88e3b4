"""Which classes students take for which, as runs have it beside them: the seeds of a row of the comparison added up."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kdlightning.report.checks import check_object
from kdlightning.report.rows import Problem, Run

CONFUSION_FILE = "confusion.json"


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """The test images of one student by their class and by the student's, over its seeds.

    Attributes:
        method: see `Run`, like all that is not described here.
        variant: see `Run`.
        dataset: see `Run`.
        teacher: see `Run`.
        student: see `Run`.
        access: see `Run`.
        seeds: the seeds that are added up, sorted.
        class_names: names of the K classes.
        counts: images, K rows (class by the label) of K columns (class by the student).
    """

    method: str
    variant: str | None
    dataset: str
    teacher: str | None
    student: str
    access: str | None
    seeds: tuple[int, ...]
    class_names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def label(self) -> str:
        """Method, variant, student and access, ``"DB3KD (mbd), LeNet5Fifth, hard"``."""
        method = f"{self.method} ({self.variant})" if self.variant else self.method
        return ", ".join(part for part in (method, self.student, self.access) if part)


def read_confusions(runs: Iterable[Run]) -> tuple[list[Confusion], list[Problem]]:
    """The counts beside students' runs; of a seed that was run twice those of the newest.

    Args:
        runs: finished runs.

    Returns:
        One entry per student whose runs have counts, by data set and label; and the files that could not be read.
    """
    groups: dict[tuple[str | None, ...], dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: (run.modified, str(run.path))):
        if run.role == "student" and run.path.with_name(CONFUSION_FILE).exists():
            key = (run.method, run.variant, run.dataset, run.teacher, run.student, run.access)
            groups.setdefault(key, {})[run.seed] = run
    confusions, problems = [], []
    for members in groups.values():
        counted: dict[int, tuple[tuple[str, ...], list[list[int]]]] = {}
        for seed, run in sorted(members.items()):
            path = run.path.with_name(CONFUSION_FILE)
            try:
                names, counts = _parse(path)
                if counted and names != next(iter(counted.values()))[0]:
                    raise ValueError("its classes are not those of the other seeds")
                counted[seed] = names, counts
            except (OSError, ValueError) as error:
                problems.append(Problem(path, str(error)))
        if counted:
            confusions.append(_add(next(iter(members.values())), counted))
    return sorted(confusions, key=lambda one: (one.dataset, one.label)), problems


def _parse(path: Path) -> tuple[tuple[str, ...], list[list[int]]]:
    """Class names and counts; a ValueError says what is wrong with them."""
    content = check_object(json.loads(path.read_text(encoding="utf-8")))
    names, counts = content.get("class_names"), content.get("counts")
    if not isinstance(names, list) or not names:
        raise ValueError(f"class_names: expected a list of names, got {names!r}")
    rows = counts if isinstance(counts, list) else []
    cells = [cell for row in rows if isinstance(row, list) and len(row) == len(names) for cell in row]
    if len(rows) != len(names) or len(cells) != len(names) ** 2:
        raise ValueError(f"counts: expected {len(names)} rows of {len(names)} numbers, one per class name")
    if any(type(cell) is not int or cell < 0 for cell in cells):
        raise ValueError("counts: expected whole numbers that are not negative")
    return tuple(map(str, names)), rows


def _add(run: Run, counted: dict[int, tuple[tuple[str, ...], list[list[int]]]]) -> Confusion:
    matrices = [counts for _, counts in counted.values()]
    return Confusion(
        method=run.method, variant=run.variant, dataset=run.dataset, teacher=run.teacher, student=run.student,
        access=run.access, seeds=tuple(counted), class_names=next(iter(counted.values()))[0],
        counts=tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*matrices, strict=True)),
    )  # fmt: skip
