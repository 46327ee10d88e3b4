"""Runs → one row per comparison, seeds averaged."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args

from kdlightning.report.records import Compared, ReportError, Role, Row, Run, parse

KEYS = tuple(Row.model_fields)
_MEANS = ("agreement", "seconds", "queries", "bytes_up", "bytes_down")
_ROLES = get_args(get_args(Role)[0])


def load_rows(path: Path) -> list[Row]:
    """Read the rows of a ``results.json`` that a report wrote, in its order.

    Raises:
        ReportError: the file is not such a list; a sentence with the file, the row and the field.
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
    except ValueError as error:
        raise ReportError(f"{path}: {place}{error}") from error
    return rows


def summarise(runs: Iterable[Run]) -> tuple[list[Row], list[str]]:
    """Average the seeds of each method, variant, role, data set, teacher, student and access.

    Returns:
        The rows, sorted by data set, then teacher → reference → student, then accuracy (highest first), and
        sentences about what a reader must know: seeds that were there twice, seeds that do not belong together,
        checkpoints other than the last.
    """
    groups: dict[tuple[str | None, ...], dict[int, list[Run]]] = {}
    for run in sorted(runs, key=lambda run: run.time):
        groups.setdefault(run.key, {}).setdefault(run.seed, []).append(run)
    rows: list[Row] = []
    notes: list[str] = []
    for group in groups.values():
        members = [tries[-1] for _, tries in sorted(group.items())]
        rows.append(_average(members))
        name = f"{members[0].label}, {members[0].student} on {members[0].dataset}"
        notes += [
            f"{name}: seed {kept.seed} was run more than once; the newest is kept ({kept.path}: {kept.accuracy:.2%}) "
            f"and {older.path} ({older.accuracy:.2%}) is left out."
            for kept in members
            for older in group[kept.seed]
            if older.accuracy != kept.accuracy
        ]
        notes += [
            f"{name}: seeds {', '.join(map(str, sorted(group)))} differ in {key}; are these the same experiment?"
            for key in ("parameters", "macs")
            if len({getattr(run, key) for run in members}) > 1
        ]
        if others := sorted({run.checkpoint or "not stated" for run in members} - {"last"}):
            notes.append(f"{name}: not (only) the last checkpoint was tested, but: {', '.join(others)}.")
    rows.sort(key=lambda row: (row.dataset, _ROLES.index(row.role), -row.accuracy_mean, row.label, row.student))
    return rows, notes


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
    common: dict[str, Any] = {key: _common(each[key], None) for key in ("parameters", "macs")}
    common |= {key: _common(each[key], "mixed") for key in ("checkpoint", "commit", "hardware")}
    stated = [versions or {} for versions in each["versions"]]
    packages = sorted({package for versions in stated for package in versions})
    configs = [Path(config or "") for config in each["config"]]
    found = all(path.is_file() for path in configs)
    return Row(
        **members[0].model_dump(include=set(Compared.model_fields)),
        **common,
        **means,
        accuracy_mean=fmean(each["accuracy"]),
        accuracy_std=stdev(each["accuracy"]) if len(members) > 1 else 0.0,
        seeds=each["seed"],
        versions={name: str(_common([one.get(name) for one in stated], "mixed")) for name in packages} or None,
        accuracies=each["accuracy"],
        accuracies_best=complete["accuracy_best"],
        configs=[hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in configs] if found else None,
    )


def _common(values: Iterable[Any], otherwise: str | None) -> Any:  # noqa: ANN401 - any field's
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else otherwise
