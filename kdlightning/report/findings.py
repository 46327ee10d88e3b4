"""Directories → the records that lie in them, and what could not be read."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdlightning.report import records
from kdlightning.report.records import (
    Bill,
    Confusion,
    GeneratorRun,
    LeftOut,
    Privacy,
    ReportError,
    Run,
    TransferSet,
    parse,
)

RUN_FILE, TRANSFER_SET_FILE, PRIVACY_FILE = "result.json", "manifest.json", "privacy.json"
CONFUSION_FILE, UNUSABLE_FILE = "confusion.json", "unusable.json"  # beside a run's
SEEDS_FILE = "seeds-added"  # above runs whose seeds were added until there was a verdict


class Problem(NamedTuple):
    """A file that could not be read."""

    path: Path  #: the file
    reason: str  #: what was expected and what came


class Findings(NamedTuple):
    """Everything that was found under the directories searched, sorted by path."""

    runs: tuple[Run, ...]
    transfer_sets: tuple[TransferSet, ...]  #: those that have distances
    problems: tuple[Problem, ...]  #: every file that could not be read
    generators: tuple[GeneratorRun, ...]
    privacy: tuple[Privacy, ...]  #: how near pools come to local images; those with the same images are one entry
    #: of every transfer set, what its manifest says in single numbers and words (queries, rows, seconds); by its
    #: directory's name, or its path where two have the same name
    manifests: Mapping[str, Mapping[str, str | float | None]]
    bills: tuple[Bill, ...] = ()  #: of every transfer set, and every run that asked as it trained, that cost money


@contextmanager
def _noted(problems: list[Problem], path: Path) -> Iterator[None]:
    """Make a problem of what is wrong with a file."""
    try:
        yield
    except (OSError, ValueError) as error:  # malformed JSON and bad UTF-8 are ValueErrors
        problems.append(Problem(path, str(error)))


def _files(root: Path, seen: set[Path], *, links: bool) -> Iterator[Path]:
    """What runs have written below a directory; each folder once, also behind links if these are followed."""
    for directory, folders, names in os.walk(root, followlinks=links):
        seen.add(Path(directory).resolve())
        folders[:] = [name for name in sorted(folders) if Path(directory, name).resolve() not in seen]
        yield from (Path(directory, name) for name in (RUN_FILE, TRANSFER_SET_FILE, PRIVACY_FILE) if name in names)


def read_runs(paths: Sequence[Path]) -> Findings:
    """Read every run and every transfer set below some directories, each once, and what lies beside the sets.

    Raises:
        ReportError: a path is not a directory.
    """
    found: dict[Path, Path] = {}
    for root in paths:
        if not root.is_dir():
            raise ReportError(f"{root} is not a directory; give the directories that finished runs wrote into.")
        for path in chain(
            _files(root, set(), links=False), _files(root, set(), links=True)
        ):  # under its own name first
            found.setdefault(path.resolve(), path)

    runs: list[Run] = []
    transfer_sets: list[TransferSet] = []
    generators: list[GeneratorRun] = []
    privacy: dict[str, list[Privacy]] = {}
    problems: list[Problem] = []
    bills: list[Bill] = []
    manifests: dict[Path, dict[str, str | float | None]] = {}
    for path in sorted(found.values()):
        with _noted(problems, path):
            content = json.loads(path.read_text(encoding="utf-8"))
            stated = content if isinstance(content, dict) else {}
            if "price" in stated and path.name != PRIVACY_FILE:
                bills.append(parse(Bill, content, path=path.parent))
            if path.name == PRIVACY_FILE:
                entry = parse(Privacy, content, paths=(path.parent,))
                # pools with the same images, asked with another access, have the same distances: say them once
                same = privacy.setdefault(entry.model_dump_json(exclude={"paths"}), [])
                same.append(entry)
            elif path.name == TRANSFER_SET_FILE:
                if stated:
                    manifests[path.parent] = {k: v for k, v in stated.items() if not isinstance(v, dict | list)}
                if {"mean_distance", "distance_curve"} & stated.keys():
                    transfer_sets.append(parse(TransferSet, content, path=path.parent))
            elif stated.get("role") == "generator":
                generators.append(parse(GeneratorRun, content, path=path))
            else:
                added = any((folder / SEEDS_FILE).exists() for folder in path.resolve().parents)
                runs.append(parse(Run, content, path=path, modified=path.stat().st_mtime_ns, sequential=added))
    shared = Counter(path.name for path in manifests)
    named = {path.name if shared[path.name] == 1 else str(path): content for path, content in manifests.items()}
    pools = tuple(
        same[0].model_copy(update={"paths": tuple(path for one in same for path in one.paths)})
        for same in privacy.values()
    )
    return Findings(tuple(runs), tuple(transfer_sets), tuple(problems), tuple(generators), pools, named, tuple(bills))


def read_confusions(runs: Iterable[Run]) -> tuple[list[Confusion], list[Problem]]:
    """The counts beside students' runs, one entry per student; and the files that could not be read.

    Of a seed that was run twice, those of the newest count.
    """
    groups: dict[tuple[object, ...], dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: run.time):
        if run.role == "student" and run.path.with_name(CONFUSION_FILE).exists():
            groups.setdefault(run.key, {})[run.seed] = run
    confusions: list[Confusion] = []
    problems: list[Problem] = []
    for members in groups.values():
        counted: dict[int, records.Counts] = {}
        for seed, run in sorted(members.items()):
            path = run.path.with_name(CONFUSION_FILE)
            with _noted(problems, path):
                read = parse(records.Counts, json.loads(path.read_text(encoding="utf-8")))
                if any(read.class_names != other.class_names for other in counted.values()):
                    raise ValueError("class_names: its classes are not those of the other seeds")
                counted[seed] = read
        if counted:
            one = next(iter(members.values())).model_dump(include=set(Confusion.model_fields))
            names = next(iter(counted.values())).class_names
            added = np.sum([read.counts for read in counted.values()], axis=0).tolist()
            confusions.append(Confusion(**one, seeds=tuple(counted), class_names=names, counts=added))
    return sorted(confusions, key=lambda one: (one.dataset, one.label)), problems


def read_pools(runs: Iterable[Run]) -> tuple[list[LeftOut], list[Problem]]:
    """What could not be used of collected pools, by the lists beside runs; and the lists that could not be read."""
    pools: dict[tuple[object, ...], LeftOut] = {}  # runs that share a pool share an entry
    problems: list[Problem] = []
    for run in runs:
        path = run.path.with_name(UNUSABLE_FILE)
        if path.exists():
            with _noted(problems, path):
                listed = json.loads(path.read_text(encoding="utf-8"))
                pool = parse(LeftOut, listed, dataset=run.dataset, images=run.train_images, path=path)
                if pool.unusable:
                    pools.setdefault((pool.dataset, pool.images, pool.unusable), pool)
    return list(pools.values()), problems
