"""Runs → one row per comparison, seeds averaged."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args

from kdlightning.report import text
from kdlightning.report.records import Compared, ReportError, Role, Row, Run, parse

KEYS = tuple(Row.model_fields)
_MEANS = ("agreement", "seconds", "queries", "bytes_up", "bytes_down")
# where a student was tested that was not tested on test images
_ELSEWHERE = {
    "validation": "of the validation part",
    "held out": "with answers, which were kept from training",
}
# what a user may do about rows that were tested on different images
_DIFFERENT = "or on the same at another size. A name of its own keeps a data set apart: docs/python.md"
_ROLES = get_args(get_args(Role)[0])


def load_rows(path: Path) -> list[Row]:
    """Read the rows of a ``results.json`` that a report wrote, in its order.

    Raises:
        ReportError: the file is not such a list, or not there; a sentence with the file, the row and the field.
    """
    rows: list[Row] = []
    place = ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise ValueError(f"expected a list of rows, got {type(content).__name__}")
        for number, row in enumerate(content):
            place = f"row {number}: "
            rows.append(parse(Row, row))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: {place}{error}") from error
    return rows


def summarise(runs: Iterable[Run]) -> tuple[list[Row], list[str]]:
    """Average the seeds of each method, variant, role, data set, teacher, student, access and point.

    Returns:
        The rows, sorted by data set, then point (none first), then teacher → reference → student, then accuracy, or
        else agreement (highest first), and sentences about what a reader must know: seeds that were there twice, seeds
        that do not belong together, checkpoints other than the last, students that were not tested on test images. A
        teacher that is not among the runs has a row by what its students' records say of it.
    """
    runs = list(runs)
    groups: dict[tuple[object, ...], dict[int, list[Run]]] = {}
    for run in sorted([*runs, *_unseen_teachers(runs)], key=lambda run: run.time):
        groups.setdefault(run.key, {}).setdefault(run.seed, []).append(run)
    rows: list[Row] = []
    notes: list[str] = []
    for group in groups.values():
        # the newest, but none that has its answers from a ledger where another has paid for them
        members = [max(tries, key=lambda run: (bool(run.queries), run.time)) for _, tries in sorted(group.items())]
        rows.append(_average(members))
        one = members[0]
        name = f"{one.title} on {one.dataset}"
        notes += [
            f"{name}: seed {kept.seed} was run more than once; the newest is kept ({kept.path}: {_result(kept)}) "
            f"and {older.path} ({_result(older)}) is left out."
            for kept in members
            for older in group[kept.seed]
            if older is not kept and (older.accuracy, older.agreement) != (kept.accuracy, kept.agreement)
        ]
        notes += [
            f"{name}: seeds {', '.join(map(str, sorted(group)))} differ in {key}; are these the same experiment?"
            for key in ("parameters", "macs")
            if len({getattr(run, key) for run in members}) > 1
        ]
        if len({bool(run.queries) for run in members if run.queries is not None}) > 1:
            notes.append(
                f"{name}: some seeds have paid for no query, as if a ledger had answered: the mean is no price."
            )
        told = [run.settings for tries in group.values() for run in tries]
        both = ((this, other) for this in told for other in told)
        if different := sorted({key for this, other in both for key in this.keys() & other if this[key] != other[key]}):
            apart = "are these the same experiment? --result.variant NAME keeps them apart"
            notes.append(f"{name}: runs of one row differ in {', '.join(different)}; {apart}.")
        if others := sorted({run.checkpoint or "not stated" for run in members} - {"last"}):
            notes.append(f"{name}: not (only) the last checkpoint was tested, but: {', '.join(others)}.")
        notes += [
            f"{name}: tested on {text.plural(images or 0, 'image')} {said}."
            for where, said in _ELSEWHERE.items()
            for images in sorted({run.test_images for run in members if run.tested_on == where}, key=str)
        ]
        notes += [
            f"{name}: measured on {measured or 0:,} of {there:,} test images only."
            for measured, there in sorted({(run.test_images, run.test_images_there) for run in members}, key=str)
            if there is not None and (measured or 0) < there
        ]
        if len({run.test_fingerprint for run in members} - {None}) > 1:
            notes.append(f"{name}: its seeds were tested on different images; {_DIFFERENT}.")
    rows.sort(key=_order)
    return rows, [*notes, *_unlike(rows)]


def same_images(one: Row, other: Row) -> bool:
    """Whether two rows were tested on the same images: for each seed that both have, or else at all.

    Rows of which it is not known count as the same.
    """
    if one.test_fingerprints is None or other.test_fingerprints is None:
        return True
    ours, theirs = (dict(zip(row.seeds, row.test_fingerprints or (), strict=True)) for row in (one, other))
    if both := ours.keys() & theirs.keys():
        return all(ours[seed] == theirs[seed] for seed in both)
    return set(ours.values()) == set(theirs.values())


def _unlike(rows: Iterable[Row]) -> list[str]:
    """A sentence for each data set whose rows were not all tested on the same images."""
    alike: dict[str, list[list[Row]]] = {}
    for row in rows:
        groups = alike.setdefault(row.dataset, [])
        fitting = next((group for group in groups if same_images(row, group[0])), None)
        groups.append([row]) if fitting is None else fitting.append(row)
    said = {
        dataset: " | ".join("; ".join(row.title for row in group) for group in groups)
        for dataset, groups in alike.items()
        if len(groups) > 1
    }
    return [f"{dataset}: rows were tested on different images ({one}); {_DIFFERENT}." for dataset, one in said.items()]


def find(rows: Iterable[Row], address: str) -> list[Row]:
    """The rows that an address means, ``"DB3KD (bd) | LeNet5Half | images=200"``.

    It is method and variant, and as much of student, role, access and the point's numbers as tells a row from others.
    """
    label, *parts = (part.strip() for part in address.split("|"))
    named = [row for row in rows if row.label == label]
    told = [{row.student, row.role, row.access, *(f"{name}={one}" for name, one in row.point.items())} for row in named]
    return [row for row, known in zip(named, told, strict=True) if set(parts) <= known]


def score(row: Row) -> tuple[float | None, float | None]:
    """What rows are compared by: the accuracy, and where that is not known the agreement."""
    return row.accuracy_mean, row.agreement


def _order(row: Row) -> tuple[Any, ...]:
    role = _ROLES.index(row.role)
    return row.dataset, sorted(row.point.items()), role, *map(_last, score(row)), row.label, row.student


def _last(value: float | None) -> float:
    """Highest first, what is not known behind."""
    return math.inf if value is None else -value


def _result(run: Run) -> str:
    """Accuracy, or agreement, in percent."""
    measured = run.agreement if run.accuracy is None else run.accuracy
    return text.DASH if measured is None else f"{text.percent(measured)}%"


def _unseen_teachers(runs: Sequence[Run]) -> list[Run]:
    """Teachers that were trained elsewhere: one record for each, as the newest of its students measured it."""
    seen = {(run.dataset, run.student) for run in runs if run.role == "teacher"}
    found: dict[tuple[str | None, ...], Run] = {}
    for run in sorted(runs, key=lambda run: run.time):
        if run.teacher_accuracy is not None and run.teacher and (run.dataset, run.teacher) not in seen:
            found[run.dataset, run.teacher, run.teacher_fingerprint] = run
    shared = Counter((run.dataset, run.teacher) for run in found.values())
    return [
        Run.model_construct(
            path=run.path, modified=run.modified, seed=run.seed, role="teacher", method="Teacher",
            variant=(run.teacher_fingerprint or "")[:8] if shared[run.dataset, run.teacher] > 1 else None,
            dataset=run.dataset, teacher=None, student=run.teacher, access=None, accuracy=run.teacher_accuracy,
            parameters=run.teacher_parameters, queries=0, checkpoint="last", test_fingerprint=run.test_fingerprint,
        )
        for run in found.values()
    ]  # fmt: skip


def teacher_sizes(rows: Iterable[Row]) -> dict[str, int]:
    """Network → parameters of the teachers of one data set; a name that stands for several sizes is left out."""
    sizes: dict[str, set[int | None]] = {}
    for row in rows:
        if row.role == "teacher":
            sizes.setdefault(row.student, set()).add(row.parameters)
    return {name: size for name, known in sizes.items() if len(known) == 1 for size in known if size}


def _average(members: list[Run]) -> Row:
    """Average runs of one group, one per seed and sorted by seed."""
    each = {key: [getattr(run, key) for run in members] for key in Run.model_fields}
    # a mean over some of the seeds would pass for one over all
    complete = {key: None if None in values else values for key, values in each.items()}
    means: dict[str, Any] = {key: None if (known := complete[key]) is None else fmean(known) for key in _MEANS}
    common: dict[str, Any] = {key: _common(each[key], None) for key in ("parameters", "macs", "test_images")}
    common |= {key: _common(each[key], "mixed") for key in ("checkpoint", "hardware", "teacher_fingerprint")}
    commits = sorted({commit or "not stated" for commit in each["commit"]})
    stated = [versions or {} for versions in each["versions"]]
    packages = sorted({package for versions in stated for package in versions})
    configs = [Path(config or "") for config in each["config"]]
    found = all(path.is_file() for path in configs)
    return Row(
        **members[0].model_dump(include=set(Compared.model_fields)),
        **common,
        **means,
        commit=None if commits == ["not stated"] else ", ".join(commits),
        accuracy_mean=None if (known := complete["accuracy"]) is None else fmean(known),
        accuracy_std=None if known is None or len(members) == 1 else stdev(known),
        agreement_std=None if (agreed := complete["agreement"]) is None or len(members) == 1 else stdev(agreed),
        seeds=each["seed"],
        versions={name: str(_common([one.get(name) for one in stated], "mixed")) for name in packages} or None,
        accuracies=known,
        accuracies_best=complete["accuracy_best"],
        fingerprints=complete["fingerprint"],
        test_fingerprints=complete["test_fingerprint"],
        sequential=any(each["sequential"]),
        configs=[hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in configs] if found else None,
    )


def _common(values: Iterable[Any], otherwise: str | None) -> Any:  # noqa: ANN401 - any field's
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else otherwise
