"""One launch at a time in a directory: a second one is refused before it pays."""

import fcntl
import os
import socket
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

NAME = ".lock"

_held: dict[Path, tuple[int, int]] = {}  # of this process: a file's descriptor, and how many locks share it


class DirectoryInUseError(RuntimeError):
    """Another launch works in the directory."""


class DirectoryLock:
    """Held by all processes of a launch, for as long as one of them lives: a kill releases it, too.

    The lock is on the file ``.lock`` of the directory (``flock``). On a network file system it keeps out other hosts
    only where that passes locks on: NFS does, unless it is mounted with ``nolock`` or ``local_lock``.

    Args:
        directory: made when it is locked, if absent, and taken away again where nothing was put into it.
    """

    def __init__(self, directory: str | Path) -> None:
        self._file = Path(directory).resolve() / NAME
        self._mine = False
        self._made: list[Path] = []  # directories that were not there

    def acquire(self, *, shared: bool = False) -> None:
        """Take the directory for a launch, as its first process; ``shared``: others of the launch :meth:`join`.

        Raises:
            DirectoryInUseError: another launch has it.
        """
        self._take(fcntl.LOCK_EX)
        if shared:
            self._lock(_held[self._file][0], fcntl.LOCK_SH)

    def join(self) -> None:
        """Hold what the first process of this launch has acquired; a DirectoryInUseError where it has not."""
        self._take(fcntl.LOCK_SH)

    def release(self) -> None:
        """Let go, if it is held."""
        if self._mine and self._file in _held:
            descriptor, number = _held.pop(self._file)
            if number > 1:
                _held[self._file] = descriptor, number - 1
            else:
                self._tidy()
                os.close(descriptor)
        self._mine = False

    def _tidy(self) -> None:
        """Leave no directories behind that hold nothing but the lock."""
        if self._made and list(self._file.parent.iterdir()) == [self._file]:
            self._file.unlink()
            with suppress(OSError):  # not empty
                for directory in self._made:
                    directory.rmdir()
        self._made = []

    def _take(self, mode: int) -> None:
        if self._mine:
            return
        descriptor, number = _held.get(self._file, (-1, 0))
        if not number:
            descriptor = self._locked(mode)
        _held[self._file] = descriptor, number + 1
        self._mine = True

    def _locked(self, mode: int) -> int:
        """The descriptor of the file, locked; whoever let go of it a moment before may have taken the file away."""
        while True:
            place = self._file.parent
            self._made = (
                list(takewhile(lambda directory: not directory.exists(), (place, *place.parents))) or self._made
            )
            place.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._lock(descriptor, mode)
                if os.fstat(descriptor).st_nlink:
                    if mode == fcntl.LOCK_EX:
                        os.ftruncate(descriptor, 0)
                        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _lock(self, descriptor: int, mode: int) -> None:
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            raise DirectoryInUseError(
                f"{self._file.parent} is in use by {who}: wait until it has ended, or stop it and run the same command "
                "again to go on, or choose another directory"
            ) from None


def _let_go() -> None:
    """In a fork, which is no process of the launch: it would keep the lock of its dead parent."""
    for descriptor, _ in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
