"""Runs → one row per comparison, seeds averaged."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator

from kdlightning.report.parsing import Duration, Fraction, Role, Seed, Text, Versions, Whole, parse
from kdlightning.report.records import Compared, ReportError, Run

T = TypeVar("T")
_ROLES = get_args(get_args(Role)[0])
# an int where it is whole
Mean = Annotated[Duration, AfterValidator(lambda mean: int(mean) if mean == int(mean) else mean)]


class Row(Compared):
    """One line of the comparison: the seeds of one method, variant, role, data set, teacher, student and access."""

    accuracy_mean: Fraction  #: mean test accuracy over the seeds, in [0, 1]
    accuracy_std: Fraction  #: sample standard deviation of the test accuracy over the seeds; 0.0 for one seed
    seeds: list[Seed]  #: the seeds, sorted
    #: mean over the seeds in [0, 1]; None unless every seed has it (this holds for all means)
    agreement: Fraction | None
    parameters: Whole | None  #: the seeds' common value; None where they differ
    macs: Whole | None  #: the seeds' common value; None where they differ
    queries: Mean | None  #: mean over the seeds, an int where it is whole
    bytes_up: Mean | None  #: mean over the seeds, an int where it is whole
    bytes_down: Mean | None  #: mean over the seeds, an int where it is whole
    seconds: Duration | None  #: mean over the seeds
    checkpoint: Text | None  #: the seeds' common value, else ``"mixed"``
    commit: Text | None  #: the seeds' common value, else ``"mixed"``
    #: the seeds' common value, else ``"mixed"``; like all that follows, None in older records
    hardware: Text | None = None
    versions: Versions | None = None  #: package → version, ``"mixed"`` where the seeds differ
    accuracies: list[Fraction] | None = None  #: of the seeds, in their order, in [0, 1]; last checkpoints
    accuracies_best: list[Fraction] | None = None  #: of the seeds' validation-selected checkpoints, in [0, 1]
    #: first 12 digits of the SHA-256 of the seeds' configuration files; None unless all of them are there
    configs: list[str] | None = None

    def flat(self) -> dict[str, str | float | None]:
        """All fields as single values: what a list or a mapping holds is separated by spaces."""
        return {key: _joined(value) for key, value in self.model_dump().items()}


KEYS = tuple(Row.model_fields)


def load_rows(path: Path) -> list[Row]:
    """Read the rows of a ``results.json`` that a report wrote.

    Args:
        path: the file.

    Returns:
        Its rows, in the file's order.

    Raises:
        ReportError: the file is not such a list; a sentence with the file, the row and the field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise ReportError(f"{path}: expected a list of rows, got {type(content).__name__}")
    except ValueError as error:
        raise ReportError(f"{path}: {error}") from error
    rows = []
    for number, row in enumerate(content):
        try:
            rows.append(parse(Row, row))
        except ValueError as error:
            raise ReportError(f"{path}: row {number}: {error}") from error
    return rows


def summarise(runs: Iterable[Run]) -> tuple[list[Row], list[str]]:
    """Average the seeds of each method, variant, role, data set, teacher, student and access.

    Args:
        runs: runs in any order.

    Returns:
        The rows, sorted by data set, then teacher → reference → student, then accuracy (highest first), and
        sentences about what a reader must know: seeds that were there twice, seeds that do not belong together,
        checkpoints other than the last.
    """
    groups: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.key, []).append(run)
    rows: list[Row] = []
    notes: list[str] = []
    for members in groups.values():
        kept, duplicates = _newest_of_each_seed(members)
        row, mixtures = _average(kept)
        rows.append(row)
        notes += duplicates + mixtures
    rows.sort(key=lambda row: (row.dataset, _ROLES.index(row.role), -row.accuracy_mean, row.label, row.student))
    return rows, notes


def teacher_sizes(rows: Iterable[Row]) -> dict[str, int]:
    """Network → parameters of the teachers of one data set; a name that stands for several sizes is left out."""
    sizes: dict[str, set[int | None]] = {}
    for row in rows:
        if row.role == "teacher":
            sizes.setdefault(row.student, set()).add(row.parameters)
    return {name: size for name, known in sizes.items() if len(known) == 1 for size in known if size}


def _newest_of_each_seed(members: list[Run]) -> tuple[list[Run], list[str]]:
    """Keep one run per seed, the newest by modification time, and say which ones were left out."""
    kept: dict[int, Run] = {}
    notes = []
    for run in sorted(members, key=lambda run: (run.modified, str(run.path))):
        older = kept.get(run.seed)
        if older is not None and older.accuracy != run.accuracy:
            notes.append(
                f"{_describe(run)}: seed {run.seed} was run more than once; the newest is kept "
                f"({run.path}: {run.accuracy:.2%}) and {older.path} ({older.accuracy:.2%}) is left out."
            )
        kept[run.seed] = run
    return [kept[seed] for seed in sorted(kept)], notes


def _average(members: list[Run]) -> tuple[Row, list[str]]:
    """Average runs of one group, one per seed and sorted by seed."""
    first = members[0]

    def each(key: str) -> list[Any]:
        return [getattr(run, key) for run in members]

    seeds, accuracies = each("seed"), each("accuracy")
    notes = [
        f"{_describe(first)}: seeds {', '.join(map(str, seeds))} differ in {key}; are these the same experiment?"
        for key in ("parameters", "macs")
        if len(set(each(key))) > 1
    ]
    others = sorted({checkpoint or "not stated" for checkpoint in each("checkpoint")} - {"last"})
    if others:
        notes.append(f"{_describe(first)}: not (only) the last checkpoint was tested, but: {', '.join(others)}.")
    common: dict[str, Any] = {key: _common(each(key), otherwise=None) for key in ("parameters", "macs")}
    common |= {key: _common(each(key), otherwise="mixed") for key in ("checkpoint", "commit", "hardware")}
    means: dict[str, Any] = {
        key: _mean(each(key)) for key in ("agreement", "seconds", "queries", "bytes_up", "bytes_down")
    }
    row = Row(
        **first.model_dump(include=set(Compared.model_fields)),
        **common,
        **means,
        accuracy_mean=fmean(accuracies),
        accuracy_std=stdev(accuracies) if len(accuracies) > 1 else 0.0,
        seeds=seeds,
        versions=_versions(each("versions")),
        accuracies=accuracies,
        accuracies_best=_complete(each("accuracy_best")),
        configs=_complete([_digest(config) for config in each("config")]),
    )
    return row, notes


def _describe(run: Run) -> str:
    return f"{run.label}, {run.student} on {run.dataset}"


def _mean(values: list[float | None]) -> float | None:
    """The mean, or None if one is missing: a mean over some of the seeds would pass for one over all."""
    known = _complete(values)
    return None if known is None else fmean(known)


def _complete(values: list[T | None]) -> list[T] | None:
    """The values, or None if one is missing."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def _digest(config: str | None) -> str | None:
    """What identifies a configuration, or None if its file is gone."""
    path = Path(config or "")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else None


def _versions(stated: list[Mapping[str, str] | None]) -> dict[str, str] | None:
    known = [versions or {} for versions in stated]
    packages = sorted({package for versions in known for package in versions})
    return {name: str(_common([one.get(name) for one in known], otherwise="mixed")) for name in packages} or None


def _joined(value: object) -> str | float | None:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={content}" for key, content in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else value  # type: ignore[return-value]


def _common(values: Iterable[T], *, otherwise: T) -> T:
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else otherwise
