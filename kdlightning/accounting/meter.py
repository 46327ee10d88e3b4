"""What a teacher has been paid for, counted before it answers and shared by every process of a run."""

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdlightning.types import Answers

_RECORD = struct.Struct("<3Q")


class QueryBudgetExceededError(RuntimeError):
    """The next answer would cost more than the budget allows. Everything paid for so far has been kept."""


class QueryMeter:
    """Counts queries and bytes; refuses what would go over the budget.

    Without a file it counts for one process. :meth:`share` moves the count into a small file that any number of
    processes add to under a lock, so that they spend one budget; the count then also survives a kill.

    Args:
        budget: the most queries that may ever be charged; None for no limit.

    Raises:
        ValueError: negative budget.
    """

    def __init__(self, budget: int | None = None) -> None:
        if budget is not None and budget < 0:
            raise ValueError(f"a query budget is a number of images >= 0 or None, got {budget}")
        self.budget = budget
        self._total = Answers(0, 0, 0)
        self._path: Path | None = None
        self._descriptor, self._owner = -1, -1

    @property
    def total(self) -> Answers:
        """What has been charged so far, by all processes that share this meter."""
        return self._total if self._path is None else self._read(self._open())

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
        local, self._path = self._total, path.resolve()
        with self._locked() as descriptor:
            if os.fstat(descriptor).st_size < _RECORD.size:
                os.pwrite(descriptor, _RECORD.pack(*local), 0)

    def counted(self, path: str | Path) -> Answers:
        """What :meth:`share` would find in a file, which may not be there."""
        path = Path(path)
        if self._path is not None or not path.is_file() or path.stat().st_size < _RECORD.size:
            return self.total
        return Answers(*_RECORD.unpack(path.read_bytes()[: _RECORD.size]))

    def charge(self, queries: int, bytes_up: int = 0, bytes_down: int = 0) -> None:
        """Add images and their bytes, sent and received, to the count, before the answer is given.

        Raises:
            QueryBudgetExceededError: the budget does not allow it; nothing is charged.
        """

        def add(total: Answers) -> Answers:
            if self.budget is not None and total.queries + queries > self.budget:
                told = f"{total.queries:,} queries have been spent and {queries:,} more were asked for"
                way_on = "What was paid for is kept; raise the budget and run the same command to go on."
                raise QueryBudgetExceededError(f"{told}, but the budget is {self.budget:,}. {way_on}")
            return Answers(total.queries + queries, total.bytes_up + bytes_up, total.bytes_down + bytes_down)

        self._update(add)

    def raise_to(self, total: Answers) -> None:
        """Make the count at least ``total``: a checkpoint knows of answers that this process did not see."""
        self._update(lambda current: Answers(*map(max, current, total)))

    def _update(self, change: Callable[[Answers], Answers]) -> None:
        """Replace the count by what ``change`` makes of it; no other process comes in between."""
        if self._path is None:
            self._total = change(self._total)
            return
        with self._locked() as descriptor:
            os.pwrite(descriptor, _RECORD.pack(*change(self._read(descriptor))), 0)

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

    @staticmethod
    def _read(descriptor: int) -> Answers:
        return Answers(*_RECORD.unpack(os.pread(descriptor, _RECORD.size, 0)))
