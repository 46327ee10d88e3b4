"""What could not be used of a collected pool, as runs have it beside them."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kdlightning.report.rows import RUN_FILE, Problem, Run

UNUSABLE_FILE = "unusable.json"
SHOWN = 100  # files that a page names


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """The files of one pool that are no images to train on.

    Attributes:
        dataset: data set that the pool stands in for.
        images: images that were trained on: all others, or a share of them.
        total: files of the pool.
        files: ``(name, reason)`` of those that could not be used.
        path: the list, beside one of the runs.
    """

    dataset: str
    images: int
    total: int
    files: tuple[tuple[str, str], ...]
    path: Path

    @property
    def statement(self) -> str:
        """How many, and why, in one sentence."""
        reasons = ", ".join(
            f"{number} {reason}" for reason, number in Counter(why for _, why in self.files).most_common()
        )
        shown = f"the first {SHOWN} are below, " if len(self.files) > SHOWN else ""
        return (
            f"{len(self.files)} of {self.total} files could not be used ({reasons}); {self.images} images were; "
            f"{shown}all are listed in {self.path}."
        )


def read_pools(runs: Iterable[Run]) -> tuple[list[LeftOut], list[Problem]]:
    """The lists beside runs; runs that share a pool share an entry.

    Args:
        runs: finished runs.

    Returns:
        One entry per pool with files that were left out, and the lists that could not be read.
    """
    pools: dict[tuple[object, ...], LeftOut] = {}
    problems = []
    for run in runs:
        path = run.path.with_name(UNUSABLE_FILE)
        if not path.exists():
            continue
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
            files, total = tuple((str(name), str(reason)) for name, reason in listed["unusable"]), int(listed["files"])
            images = json.loads((path.with_name(RUN_FILE)).read_text(encoding="utf-8"))["train_images"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            problems.append(Problem(path, str(error)))
            continue
        if files:
            pool = LeftOut(dataset=run.dataset, images=images, total=total, files=files, path=path)
            pools.setdefault((run.dataset, images, files), pool)
    return list(pools.values()), problems
