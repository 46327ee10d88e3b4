"""Finished runs on disk → checked records → one row per comparison, seeds averaged."""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple, TypeVar

from kdlightning.report.checks import check_object
from kdlightning.report.generators import ROLE as GENERATOR
from kdlightning.report.generators import GeneratorRun, parse_generator
from kdlightning.report.privacy import PRIVACY_FILE, Privacy, merge_privacy, parse_privacy

T = TypeVar("T")

RUN_FILE = "result.json"
TRANSFER_SET_FILE = "manifest.json"
ROLES = ("teacher", "reference", "student")


class ReportError(RuntimeError):
    """A report could not be made; the message says what was looked for, where, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run, as its ``result.json`` states it.

    Attributes:
        path: the file it was read from.
        modified: the file's modification time in nanoseconds.
        method: acronym of the method, ``"DB3KD"``.
        variant: which of the method's variants, ``"mbd"``; None where there is one only.
        role: ``"teacher"``, ``"reference"`` (not distilled through the black box) or ``"student"``.
        dataset: data set that the accuracy is for.
        teacher: teacher's network; None for a network without one.
        student: network that was trained (a teacher's own network, for a teacher).
        access: what the teacher answers with (``"hard"``, ``"soft"``, ``"white"``, ``"labels"``) or None.
        seed: seed of the run.
        accuracy: test accuracy in [0, 1] at ``checkpoint``.
        accuracy_best: test accuracy in [0, 1] of the validation-selected checkpoint, for information only.
        val_accuracy: validation accuracy in [0, 1].
        agreement: share of test images in [0, 1] on which student and teacher name the same class.
        parameters: number of the network's parameters.
        macs: multiply-accumulates per image.
        queries: images that the teacher answered, the transfer set's included.
        bytes_up: bytes sent to the teacher.
        bytes_down: bytes received from the teacher.
        seconds: training time.
        checkpoint: which weights were tested.
        commit: the code's commit.
        hardware: what it ran on.
        versions: package → version.
        config: path of the run's configuration.
    """

    path: Path
    modified: int
    method: str
    variant: str | None
    role: str
    dataset: str
    teacher: str | None
    student: str
    access: str | None
    seed: int
    accuracy: float
    accuracy_best: float | None = None
    val_accuracy: float | None = None
    agreement: float | None = None
    parameters: int | None = None
    macs: int | None = None
    queries: int | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    seconds: float | None = None
    checkpoint: str | None = None
    commit: str | None = None
    hardware: str | None = None
    versions: Mapping[str, str] | None = None
    config: str | None = None


@dataclass(frozen=True, kw_only=True)
class TransferSet:
    """What a report shows of a transfer set: how far the teacher's classes lie from each other.

    Attributes:
        path: the transfer set's directory.
        dataset: data set that the images come from.
        robustness: which distance was measured: ``"sd"``, ``"bd"`` or ``"mbd"``; None if not stated.
        class_names: names of the K classes.
        queries: images that the teacher answered for it; None if not stated.
        mean_distance: K rows (teacher's class of an image) of K columns (target class), mean L2 distances of
            pixels in [0, 1]; None where there is no pair; None as a whole if nothing was measured.
        distance_curve: ``(queries per pair, mean distance, standard deviation)``, each of the same length.
    """

    path: Path
    dataset: str
    robustness: str | None
    class_names: tuple[str, ...]
    queries: int | None = None
    mean_distance: tuple[tuple[float | None, ...], ...] | None = None
    distance_curve: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]] | None = None


class Problem(NamedTuple):
    """A file that could not be read.

    Attributes:
        path: the file.
        reason: what was expected and what came.
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class Findings:
    """Everything that was found under the directories searched.

    Attributes:
        runs: the readable runs, sorted by path.
        transfer_sets: the readable transfer sets that have distances, sorted by path.
        problems: every file that could not be read.
        generators: the readable runs that trained a generator, sorted by path.
        privacy: how near pools come to local images, sorted by path.
        manifests: of every transfer set, what its manifest says in single numbers and words (queries, rows, seconds);
            by its directory's name, or its path where two have the same name.
    """

    runs: tuple[Run, ...]
    transfer_sets: tuple[TransferSet, ...]
    problems: tuple[Problem, ...]
    generators: tuple[GeneratorRun, ...] = ()
    privacy: tuple[Privacy, ...] = ()
    manifests: Mapping[str, Mapping[str, str | float | None]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the comparison: the seeds of one method, variant, role, data set, teacher, student and access.

    Attributes:
        method: see `Run`, like every field that is not described here.
        variant: see `Run`.
        role: see `Run`.
        dataset: see `Run`.
        teacher: see `Run`.
        student: see `Run`.
        access: see `Run`.
        accuracy_mean: mean test accuracy over the seeds, in [0, 1].
        accuracy_std: sample standard deviation of the test accuracy over the seeds; 0.0 for one seed.
        seeds: the seeds, sorted.
        agreement: mean over the seeds in [0, 1]; None unless every seed has it (this holds for all means).
        parameters: the seeds' common value; None where they differ.
        macs: the seeds' common value; None where they differ.
        queries: mean over the seeds, an int where it is whole.
        bytes_up: mean over the seeds, an int where it is whole.
        bytes_down: mean over the seeds, an int where it is whole.
        seconds: mean over the seeds.
        checkpoint: the seeds' common value, else ``"mixed"``.
        commit: the seeds' common value, else ``"mixed"``.
        hardware: the seeds' common value, else ``"mixed"``; like all that follows, None in older records.
        versions: package → version, ``"mixed"`` where the seeds differ.
        accuracies: of the seeds, in their order, in [0, 1]; last checkpoints.
        accuracies_best: of the seeds' validation-selected checkpoints, in [0, 1].
        configs: first 12 digits of the SHA-256 of the seeds' configuration files; None unless all of them are there.
    """

    method: str
    variant: str | None
    role: str
    dataset: str
    teacher: str | None
    student: str
    access: str | None
    accuracy_mean: float
    accuracy_std: float
    seeds: list[int]
    agreement: float | None
    parameters: int | None
    macs: int | None
    queries: float | None
    bytes_up: float | None
    bytes_down: float | None
    seconds: float | None
    checkpoint: str | None
    commit: str | None
    hardware: str | None = None
    versions: Mapping[str, str] | None = None
    accuracies: Sequence[float] | None = None
    accuracies_best: Sequence[float] | None = None
    configs: Sequence[str] | None = None

    @property
    def label(self) -> str:
        """Method and variant, ``"DB3KD (mbd)"``."""
        return f"{self.method} ({self.variant})" if self.variant else self.method

    def flat(self) -> dict[str, str | float | None]:
        """All fields as single values: what a list or a mapping holds is separated by spaces."""
        return {key: _joined(value) for key, value in asdict(self).items()}


KEYS = tuple(field.name for field in fields(Row))

_GROUP = ("method", "variant", "role", "dataset", "teacher", "student", "access")
_TEXTS = (*_GROUP, "checkpoint", "commit", "hardware", "config")
_FRACTIONS = ("accuracy", "accuracy_best", "val_accuracy", "agreement")
_COUNTS = ("parameters", "macs", "queries", "bytes_up", "bytes_down", "seconds")
_REQUIRED = (*_GROUP, "seed", "accuracy")
_NEVER_NULL = ("method", "role", "dataset", "student", "seed", "accuracy")
_RUN_KEYS = frozenset(field.name for field in fields(Run)) - {"path", "modified"}


def read_runs(paths: Sequence[Path]) -> Findings:
    """Read every run and every transfer set below some directories, and what lies beside the sets.

    Args:
        paths: directories, searched recursively; a file found through two of them counts once.

    Returns:
        The runs, those of generators apart; the transfer sets with distances; the pools' privacy; and the files that
        could not be read.

    Raises:
        ReportError: a path is not a directory.
    """
    found: dict[Path, Path] = {}
    for root in paths:
        if not root.is_dir():
            raise ReportError(f"{root} is not a directory; give the directories that finished runs wrote into.")
        for directory, _, names in os.walk(root):
            for name in {RUN_FILE, TRANSFER_SET_FILE, PRIVACY_FILE}.intersection(names):
                path = Path(directory, name)
                found.setdefault(path.resolve(), path)

    runs: list[Run] = []
    transfer_sets: list[TransferSet] = []
    generators: list[GeneratorRun] = []
    privacy: list[Privacy] = []
    problems: list[Problem] = []
    manifests: dict[Path, dict[str, str | float | None]] = {}
    for path in sorted(found.values()):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if path.name == TRANSFER_SET_FILE and isinstance(content, dict):
                single = {key: value for key, value in content.items() if not isinstance(value, dict | list)}
                manifests[path.parent] = single
            if path.name == PRIVACY_FILE:
                privacy.append(parse_privacy(path, content))
            elif path.name == RUN_FILE and isinstance(content, dict) and content.get("role") == GENERATOR:
                generators.append(parse_generator(path, content))
            elif path.name == RUN_FILE:
                runs.append(_parse_run(path, content))
            elif isinstance(content, dict) and {"mean_distance", "distance_curve"} & content.keys():
                transfer_sets.append(_parse_transfer_set(path.parent, content))
        except (OSError, ValueError) as error:  # malformed JSON and bad UTF-8 are ValueErrors
            problems.append(Problem(path, str(error)))
    shared = Counter(path.name for path in manifests)
    return Findings(
        tuple(runs),
        tuple(transfer_sets),
        tuple(problems),
        tuple(generators),
        tuple(merge_privacy(privacy)),
        {path.name if shared[path.name] == 1 else str(path): content for path, content in manifests.items()},
    )


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
        groups.setdefault(tuple(getattr(run, key) for key in _GROUP), []).append(run)
    rows: list[Row] = []
    notes: list[str] = []
    for members in groups.values():
        kept, duplicates = _newest_of_each_seed(members)
        row, mixtures = _average(kept)
        rows.append(row)
        notes += duplicates + mixtures
    rows.sort(key=lambda row: (row.dataset, ROLES.index(row.role), -row.accuracy_mean, row.label, row.student))
    return rows, notes


def load_rows(path: Path) -> list[Row]:
    """Read the rows of a ``results.json`` that a report wrote.

    Args:
        path: the file.

    Returns:
        Its rows, in the file's order.
    """
    return [Row(**content) for content in json.loads(path.read_text(encoding="utf-8"))]


def _parse_run(path: Path, content: object) -> Run:
    """Check one ``result.json``; a ValueError says what is wrong with it."""
    record = check_object(content)
    if missing := [key for key in _REQUIRED if key not in record]:
        raise ValueError(f"missing {', '.join(missing)}")
    values = {key: value for key, value in record.items() if key in _RUN_KEYS}
    for key, value in values.items():
        if value is None:
            if key in _NEVER_NULL:
                raise ValueError(f"{key} is null")
        else:
            _check(key, value)
    return Run(path=path, modified=path.stat().st_mtime_ns, **values)


def _check(key: str, value: object) -> None:
    if key in _TEXTS:
        if not isinstance(value, str):
            raise ValueError(f"{key}: expected a string, got {value!r}")
        if key == "role" and value not in ROLES:
            raise ValueError(f"role: expected one of {', '.join(ROLES)}, got {value!r}")
    elif key == "versions":
        if not isinstance(value, dict):
            raise ValueError(f"versions: expected an object, got {value!r}")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key}: expected a number, got {value!r}")
    elif key == "seed" and not isinstance(value, int):
        raise ValueError(f"seed: expected an integer, got {value!r}")
    elif key in _FRACTIONS and not 0 <= value <= 1:
        raise ValueError(f"{key}: expected a fraction in [0, 1], got {value!r}")
    elif key in _COUNTS and value < 0:
        raise ValueError(f"{key}: expected a number that is not negative, got {value!r}")


def _parse_transfer_set(path: Path, content: dict[str, Any]) -> TransferSet:
    """Check one ``manifest.json``; a ValueError says what is wrong with it."""
    names = content.get("class_names")
    if not isinstance(names, list) or not names:
        raise ValueError(f"class_names: expected a list of names, got {names!r}")
    for key in ("dataset", "robustness"):
        if not isinstance(content.get(key), str | None):
            raise ValueError(f"{key}: expected a string, got {content[key]!r}")
    queries, matrix, curve = content.get("queries"), content.get("mean_distance"), content.get("distance_curve")
    if not isinstance(queries, int | None):
        raise ValueError(f"queries: expected an integer, got {queries!r}")
    return TransferSet(
        path=path,
        dataset=content.get("dataset") or "unnamed data set",
        robustness=content.get("robustness"),
        class_names=tuple(map(str, names)),
        queries=queries,
        mean_distance=None if matrix is None else _parse_matrix(matrix, len(names)),
        distance_curve=None if curve is None else _parse_curve(curve),
    )


def _parse_matrix(matrix: object, classes: int) -> tuple[tuple[float | None, ...], ...] | None:
    """The matrix, or None if it has no distance at all."""
    rows = matrix if isinstance(matrix, list) else []
    if len(rows) != classes or any(not isinstance(row, list) or len(row) != classes for row in rows):
        raise ValueError(f"mean_distance: expected {classes} rows of {classes} numbers, one per class name")
    parsed = tuple(tuple(None if cell is None else _finite(cell, "mean_distance") for cell in row) for row in rows)
    return parsed if any(cell is not None for row in parsed for cell in row) else None


def _parse_curve(curve: object) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    parts = [curve.get(key) if isinstance(curve, dict) else None for key in ("queries", "mean", "std")]
    if any(not isinstance(part, list) or not part or len(part) != len(parts[0] or []) for part in parts):
        raise ValueError("distance_curve: expected queries, mean and std, three lists of the same length")
    queries, mean, std = (tuple(_finite(value, "distance_curve") for value in part or []) for part in parts)
    return queries, mean, std


def _finite(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key}: expected numbers, got {value!r}")
    return float(value)


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
    accuracies = [run.accuracy for run in members]
    seeds = [run.seed for run in members]
    notes = [
        f"{_describe(first)}: seeds {', '.join(map(str, seeds))} differ in {key}; are these the same experiment?"
        for key in ("parameters", "macs")
        if len({getattr(run, key) for run in members}) > 1
    ]
    others = sorted({run.checkpoint or "not stated" for run in members} - {"last"})
    if others:
        notes.append(f"{_describe(first)}: not (only) the last checkpoint was tested, but: {', '.join(others)}.")
    row = Row(
        **{key: getattr(first, key) for key in _GROUP},
        accuracy_mean=fmean(accuracies),
        accuracy_std=stdev(accuracies) if len(accuracies) > 1 else 0.0,
        seeds=seeds,
        agreement=_mean(run.agreement for run in members),
        parameters=_common((run.parameters for run in members), otherwise=None),
        macs=_common((run.macs for run in members), otherwise=None),
        queries=_whole(_mean(run.queries for run in members)),
        bytes_up=_whole(_mean(run.bytes_up for run in members)),
        bytes_down=_whole(_mean(run.bytes_down for run in members)),
        seconds=_mean(run.seconds for run in members),
        checkpoint=_common((run.checkpoint for run in members), otherwise="mixed"),
        commit=_common((run.commit for run in members), otherwise="mixed"),
        hardware=_common((run.hardware for run in members), otherwise="mixed"),
        versions=_versions(members),
        accuracies=accuracies,
        accuracies_best=_complete(run.accuracy_best for run in members),
        configs=_complete(_digest(run.config) for run in members),
    )
    return row, notes


def _describe(run: Run) -> str:
    method = f"{run.method} ({run.variant})" if run.variant else run.method
    return f"{method}, {run.student} on {run.dataset}"


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean, or None if one is missing: a mean over some of the seeds would pass for one over all."""
    known = _complete(values)
    return None if known is None else fmean(known)


def _complete(values: Iterable[T | None]) -> list[T] | None:
    """The values, or None if one is missing."""
    known: list[T] = []
    for value in values:
        if value is None:
            return None
        known.append(value)
    return known


def _digest(config: str | None) -> str | None:
    """What identifies a configuration, or None if its file is gone."""
    path = Path(config or "")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else None


def _versions(members: Sequence[Run]) -> dict[str, str] | None:
    packages = sorted({package for run in members for package in run.versions or {}})
    stated = {
        package: _common(((run.versions or {}).get(package) for run in members), otherwise="mixed")
        for package in packages
    }
    return {package: str(version) for package, version in stated.items()} or None


def _joined(value: object) -> str | float | None:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={content}" for key, content in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else value  # type: ignore[return-value]


def _whole(value: float | None) -> float | None:
    return int(value) if value is not None and value == int(value) else value


def _common(values: Iterable[T], *, otherwise: T) -> T:
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else otherwise
