"""Who asks about an image at this moment: images in flight, each with an owner that can be seen to live."""

import fcntl
import os
import threading
import uuid
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from sqlite3 import Connection

_owners: "weakref.WeakSet[Claims]" = weakref.WeakSet()


class Claims:
    """Images that one user of a ledger is asking about, in the ledger's table ``claims``.

    An owner is a file beside the ledger, locked as long as its process lives: the lock ends with the process, however
    that ends, and holds on every host and in every container that sees the file.

    Args:
        ledger: path of the ledger; the owners' files are in the directory of its name and ``-owners``.
    """

    def __init__(self, ledger: Path) -> None:
        self._directory = ledger.with_name(f"{ledger.name}-owners")
        self._lock, self._held = threading.Lock(), set[bytes]()
        self._file, self._descriptor, self._stale = Path(), -1, False
        _owners.add(self)

    def claim(self, connection: Connection, endpoint: int, images: Sequence[bytes]) -> list[bytes]:
        """Those of the images, by hash, that are this owner's from now on: nobody who lives is asking about them.

        Within a transaction. An OSError where the owner's file cannot be made.
        """
        with self._lock:
            owner, alive, mine = self._open(), {}, []
            if self._stale:
                held = connection.execute("SELECT endpoint, image FROM claims WHERE owner = ?", (owner,)).fetchall()
                left = [row for row in held if row[1] not in self._held]
                connection.executemany("DELETE FROM claims WHERE endpoint = ? AND image = ?", left)
                self._stale = False
            for image in images:
                row = connection.execute(
                    "SELECT owner FROM claims WHERE endpoint = ? AND image = ?", (endpoint, image)
                ).fetchone()
                if row is not None:
                    other = row[0]
                    if other not in alive:
                        alive[other] = other != owner and _lives(self._directory / other)
                    if alive[other] or (other == owner and image in self._held):
                        continue
                connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (endpoint, image, owner))
                mine.append(image)
            self._held.update(mine)
        return mine

    @property
    def owner(self) -> str:
        """The name of this owner; its file is made where there is none."""
        with self._lock:
            return self._open()

    def others(self, owner: str) -> bool:
        """Whether an owner is another one, who lives."""
        return owner != self.owner and _lives(self._directory / owner)

    def forget(self, images: Sequence[bytes]) -> None:
        """Hold images no longer, whatever the table says: rows that it still has go with the next claim."""
        with self._lock:
            self._held.difference_update(images)
            self._stale = True

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End as an owner; the next claim begins as another."""
        with self._lock:
            if self._descriptor >= 0:
                with suppress(OSError):
                    self._file.unlink(missing_ok=True)
                    self._directory.rmdir()  # by the last
            self._leave()

    def _leave(self) -> None:
        """Also after a fork, in the child: the file is its parent's."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._file, self._descriptor = Path(), -1
        self._held.clear()

    def _open(self) -> str:
        """This owner's name; its file is made and locked when it is needed."""
        while self._descriptor < 0:
            self._directory.mkdir(parents=True, exist_ok=True)
            for left in self._directory.iterdir():
                _lives(left)  # removes what a kill has left
            with suppress(FileNotFoundError):  # somebody closed, and took the directory with him
                self._file = self._directory / uuid.uuid4().hex
                self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
                if not os.fstat(self._descriptor).st_nlink:  # taken for dead before it was locked
                    self._leave()
        return self._file.name


def _lives(file: Path) -> bool:
    """Whether an owner's process lives; the file of a dead one is removed."""
    try:
        descriptor = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # another user's
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        with suppress(OSError):
            file.unlink()
        return False
    finally:
        os.close(descriptor)


def _after_fork() -> None:
    for owner in list(_owners):
        owner._lock = threading.Lock()
        owner._leave()


os.register_at_fork(after_in_child=_after_fork)
