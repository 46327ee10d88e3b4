"""What a teacher has been paid for, counted before it answers and shared by every process of a run."""

import fcntl
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kdlightning.types import Answers

_OLD, _BODY, _SUM = struct.Struct("<3Q"), struct.Struct("<3Q3q"), struct.Struct("<I")
_NOTHING = Answers(0, 0, 0)
METER = "queries.meter"  # what the file is called in a run's directory

WAY_ON = ". What was paid for is kept; raise the budget and run the same command to go on."  # how a refusal ends


class QueryBudgetExceededError(RuntimeError):
    """The next answer would cost more than the budget allows. Everything paid for so far has been kept."""


class _Count(NamedTuple):
    """What a meter's file holds: all that was charged, and which part of it is not known to be kept."""

    total: Answers = _NOTHING
    flying: Answers = _NOTHING

    def more(self, queries: int, bytes_up: int, bytes_down: int, *, flies: bool) -> "_Count":
        amounts = (queries, bytes_up, bytes_down)
        return _Count(_sum(self.total, amounts), _sum(self.flying, amounts) if flies else self.flying)

    @property
    def kept(self) -> Answers:
        return Answers(*(max(0, all_ - flying) for all_, flying in zip(self.total, self.flying, strict=True)))


class QueryMeter:
    """Counts queries and bytes; refuses what would go over the budget.

    Without a file it counts for one process. :meth:`share` moves the count into a small file that any number of
    processes add to under a lock, so that they spend one budget; the count then also survives a kill.

    A question counts before it is answered. Where its answer is then kept on disk, :meth:`resume` and :meth:`settle`
    tell what a kill has cut off, which is asked again: it counts once.

    Args:
        budget: the most queries that may ever be charged; None for no limit.

    Raises:
        ValueError: negative budget; every method: a file that is damaged, or no meter's.
    """

    def __init__(self, budget: int | None = None) -> None:
        if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool)):
            raise TypeError(f"a query budget is a whole number of images or None, got {budget!r}")
        if budget is not None and budget < 0:
            raise ValueError(f"a query budget is a number of images >= 0 or None, got {budget}")
        self.budget = budget
        self._count = _Count()
        self._own = _NOTHING  # what this process has charged and not settled
        self._settles = False
        self._path: Path | None = None
        self._descriptor, self._owner = -1, -1

    @property
    def total(self) -> Answers:
        """What has been charged so far, by all processes that share this meter."""
        return self._count.total if self._path is None else self._read(self._open()).total

    @property
    def shared(self) -> bool:
        """Whether the count lives in a file."""
        return self._path is not None

    def share(self, path: str | Path) -> None:
        """Count in a file from now on. A count already in the file goes on; a new file starts with this meter's."""
        if self._path is not None:
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        local, self._path = self._count, path.resolve()
        with self._locked() as descriptor:
            if not os.fstat(descriptor).st_size:
                self._write(descriptor, local)
            self._read(descriptor)

    def counted(self, path: str | Path, *, unknown: bool = False) -> Answers:
        """From what :meth:`resume` would go on, by a file which may not be there."""
        path = Path(path)
        if self._path is not None or not path.is_file() or not path.stat().st_size:
            return self.total
        count = _unpack(path.read_bytes(), path)
        return count.total if unknown else count.kept

    def charge(self, queries: int, bytes_up: int = 0, bytes_down: int = 0) -> None:
        """Add images and their bytes, sent and received, to the count, before the answer is given.

        Raises:
            QueryBudgetExceededError: the budget does not allow it; nothing is charged.
        """
        amounts = (queries, bytes_up, bytes_down)

        def add(count: _Count) -> _Count:
            spent = count.total.queries
            if self.budget is not None and spent + queries > self.budget and queries > 0:
                told = f"{spent:,} queries have been spent and {queries:,} more were asked for"
                raise QueryBudgetExceededError(f"{told}, but the budget is {self.budget:,}{WAY_ON}")
            return count.more(*amounts, flies=self._settles)

        self._update(add)
        if self._settles:
            self._own = _sum(self._own, amounts)

    def raise_to(self, total: Answers) -> None:
        """Make the count at least ``total``: a checkpoint knows of answers that this process did not see."""
        self._update(lambda count: count._replace(total=Answers(*map(max, count.total, total))))

    def resume(self, kept: Answers | None, *, unknown: bool = False) -> None:
        """Go on with work whose answers are kept on disk; from now on :meth:`settle` follows every answer.

        Args:
            kept: what the disk holds; the count is at least that, and without what a killed process has asked and not
                kept. None in all processes but one, which comes first.
            unknown: what was not kept may have been paid all the same, and stays in the count.
        """
        self._settles = True
        if kept is None:
            return

        def again(count: _Count) -> _Count:
            start = count.total if unknown else count.kept
            less = start.queries < kept.queries  # the file was deleted, or the last answer was kept and not settled
            return _Count(Answers(*map(max, start, kept)) if less else start)

        self._update(again)

    def settle(self) -> None:
        """All that this process has charged is kept."""
        if self._settles and any(self._own):
            own = [-amount for amount in self._own]
            self._update(lambda count: count._replace(flying=_sum(count.flying, own)))
            self._own = _NOTHING

    def _update(self, change: Callable[[_Count], _Count]) -> None:
        """Replace the count by what ``change`` makes of it; no other process comes in between."""
        if self._path is None:
            self._count = change(self._count)
            return
        with self._locked() as descriptor:
            self._write(descriptor, change(self._read(descriptor)))

    @contextmanager
    def _locked(self) -> Iterator[int]:
        descriptor = self._open()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield descriptor
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _open(self) -> int:
        """The file's descriptor, opened once per process: a lock does not exclude a fork that inherited it."""
        if self._owner != os.getpid():
            assert self._path is not None
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            self._owner = os.getpid()
        return self._descriptor

    def _read(self, descriptor: int) -> _Count:
        assert self._path is not None
        return _unpack(os.pread(descriptor, 1 << 10, 0), self._path)

    @staticmethod
    def _write(descriptor: int, count: _Count) -> None:
        body = _BODY.pack(*count.total, *count.flying)
        os.pwrite(descriptor, body + _SUM.pack(zlib.crc32(body)), 0)


def _sum(one: Iterable[int], other: Iterable[int]) -> Answers:
    return Answers(*(a + b for a, b in zip(one, other, strict=True)))


def _unpack(data: bytes, path: Path) -> _Count:
    body = data[: _BODY.size]
    if data[_BODY.size :] == _SUM.pack(zlib.crc32(body)) and len(body) == _BODY.size:
        values = _BODY.unpack(body)
        return _Count(Answers(*values[:3]), Answers(*values[3:]))
    if len(data) == _OLD.size:
        return _Count(Answers(*_OLD.unpack(data)))
    raise ValueError(
        f"{path} is damaged, or no count of queries: expected {_BODY.size + _SUM.size} bytes with their checksum, got "
        f"{len(data)}. Put it back from a copy, or delete it: then what was paid counts as far as the answers that are "
        "kept tell"
    )
