"""The SQLite file of a query ledger: created, opened, locked and explained. What stands in it is ledger.py's.

Four traps of SQLite are closed here:

- A connection must not cross a fork: the child would believe in locks that it does not hold. Before a fork every
  connection of this process is closed, when no transaction runs; parent and child open their own when they need one.
- SQLite before 3.51.3 can lose writes when a checkpoint and a commit meet (sqlite.org/wal.html#walresetbug). The
  automatic checkpoints are off; ours hold the write lock, so that nothing commits meanwhile.
- WAL needs memory that all its users share, hence one host. Hosts that share a network file system take
  ``journal_mode="delete"``, and a file system whose fcntl locks work.
- The POSIX locks of a process vanish when it closes *any* descriptor of the file: never read a ledger with ``open``.
"""

import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from kdlightning.accounting.accounts import endpoint_number, identity_text

SCHEMA = 4
_APPLICATION = 0x6B644C67  # "kdLg": tells a ledger from any other SQLite file
_WAL_LIMIT = 16 << 20  # bytes of write-ahead log that are worth a checkpoint

# answers: a table with rowids, so that rows are appended in the order of time and long answers stay out of the index
_FIRST = """
CREATE TABLE teachers (
    id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, asked INTEGER NOT NULL DEFAULT 0 REFERENCES endpoints
);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY, teacher INTEGER NOT NULL REFERENCES teachers, account TEXT NOT NULL, owner TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('in flight', 'answered', 'lost', 'released')), queries INTEGER NOT NULL,
    bytes_up INTEGER NOT NULL, bytes_down INTEGER NOT NULL, price INTEGER NOT NULL, sent REAL NOT NULL, settled REAL
);
CREATE INDEX unsettled ON requests (id) WHERE state = 'in flight';
CREATE TABLE answers (
    id INTEGER PRIMARY KEY, teacher INTEGER NOT NULL REFERENCES teachers, image BLOB NOT NULL,
    request INTEGER NOT NULL REFERENCES requests, checksum INTEGER NOT NULL, answer BLOB NOT NULL,
    UNIQUE (teacher, image)
);
CREATE TABLE tallies (
    teacher INTEGER NOT NULL REFERENCES teachers, account TEXT NOT NULL, "unique" INTEGER NOT NULL,
    repeated INTEGER NOT NULL, twice INTEGER NOT NULL, in_flight INTEGER NOT NULL, lost INTEGER NOT NULL,
    bytes_up INTEGER NOT NULL, bytes_down INTEGER NOT NULL, price INTEGER NOT NULL, PRIMARY KEY (teacher, account)
) WITHOUT ROWID;
"""
# what schema 1 did not have. kept: which reply holds an image's answer; replies.images: its images' hashes, in order
_SECOND = """
CREATE {temporary} TABLE endpoints (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE);
CREATE {temporary} TABLE replies (
    request INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, images BLOB NOT NULL, reply BLOB NOT NULL
);
CREATE {temporary} TABLE kept (
    endpoint INTEGER NOT NULL, image BLOB NOT NULL, request INTEGER NOT NULL, PRIMARY KEY (endpoint, image)
) WITHOUT ROWID;
CREATE {temporary} TABLE claims (
    endpoint INTEGER NOT NULL, image BLOB NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (endpoint, image)
) WITHOUT ROWID;
"""
# what schema 2 did not have
_THIRD = "".join(
    f"ALTER TABLE {table} ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0;"
    for table in ("requests", "tallies")
    for name in ("input_tokens", "output_tokens")
)
_THIRD_BESIDE = "".join(
    f"CREATE TEMP VIEW {table} AS SELECT *, 0 AS input_tokens, 0 AS output_tokens FROM main.{table};"
    for table in ("requests", "tallies")
)

# what schema 3 did not have. queued: the images of batch jobs that are not settled, each with its request
_FOURTH = """
CREATE {temporary} TABLE jobs (
    id INTEGER PRIMARY KEY, endpoint INTEGER NOT NULL, tag TEXT NOT NULL UNIQUE, name TEXT, owner TEXT NOT NULL,
    images INTEGER NOT NULL, begun REAL NOT NULL
);
CREATE {temporary} TABLE queued (
    endpoint INTEGER NOT NULL, image BLOB NOT NULL, job INTEGER NOT NULL, request INTEGER NOT NULL UNIQUE,
    PRIMARY KEY (endpoint, image)
) WITHOUT ROWID
"""

_lock = threading.RLock()  # one transaction at a time in this process; other processes wait in SQLite
_files: "weakref.WeakSet[LedgerFile]" = weakref.WeakSet()
_DAMAGED = "is damaged; `kdlightning ledger verify` says where, `sqlite3 FILE .recover` may save it"


class LedgerError(RuntimeError):
    """The ledger's file cannot be used: what was expected, what was found, and what to do."""


class LedgerFile:
    """One SQLite file, one connection per process, opened when needed. May be pickled, forked and shared by threads.

    Args:
        path: the file.
        readonly: only answer, count nothing: for replays and reports; the file has to exist.
        journal_mode: ``wal`` for processes of one host, ``delete`` for hosts on one network file system; None for what
            the file has, ``wal`` if it is new.
        durable: what is recorded survives a power cut too; False (``wal`` only) saves a sync of the disk in ``reserve``
            and one in ``record``.
        timeout: seconds to wait for another process that writes.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        readonly: bool = False,
        journal_mode: Literal["wal", "delete"] | None = None,
        durable: bool = True,
        timeout: float = 60.0,
    ) -> None:
        self._connection: sqlite3.Connection | None = None
        if journal_mode not in (None, "wal", "delete"):
            raise ValueError(f"journal_mode: expected 'wal', 'delete' or None, got {journal_mode!r}")
        if not timeout > 0:
            raise ValueError(f"timeout: expected seconds > 0, got {timeout}")
        self.path = Path(path).resolve()
        self._log = self.path.with_name(self.path.name + "-wal")
        self.readonly, self.journal_mode, self.durable, self.timeout = readonly, journal_mode, durable, timeout
        self._wal, self._checkpoint_at = False, _WAL_LIMIT
        with _lock:
            _files.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("path", "readonly", "journal_mode", "durable", "timeout")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        LedgerFile.__init__(self, **state)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close this process's connection; the next transaction opens another."""
        with _lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    @contextmanager
    def transaction(self, *, write: bool = True, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All or nothing, alone among the writers of all processes; without ``write``, a consistent view and no lock.

        Not ``durable``: a power cut may undo it. Raises a `LedgerError` where the file cannot be opened or written, is
        damaged, or was locked for too long.
        """
        with _lock:
            try:
                connection = self._connect()
                if write:
                    level = "FULL" if not self._wal or (durable and self.durable) else "NORMAL"
                    connection.execute(f"PRAGMA synchronous = {level}")
                with _whole(connection, "BEGIN IMMEDIATE" if write else "BEGIN"):
                    yield connection
                if write and self._wal:
                    self._checkpoint(connection)
            except sqlite3.Error as error:
                raise self._explain(error) from error
            except (TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:  # what SQLite takes for a value
                raise LedgerError(f"{self.path} {_DAMAGED} ({error})") from error

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            if self.readonly and not self.path.is_file():
                raise FileNotFoundError(f"{self.path} does not exist; name the file of a query ledger")
            connection = self._open("mode=ro" if self.readonly else "mode=rwc")
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _open(self, how: str) -> sqlite3.Connection:
        try:
            if not self.readonly:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            # any thread may close it; _lock lets one in at a time
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?{how}", uri=True, timeout=self.timeout, isolation_level=None,
                check_same_thread=False,
            )  # fmt: skip
        except OSError as error:
            raise LedgerError(f"{self.path} cannot be made: {error}; choose another place") from error
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.Error as error:
            connection.close()
            # reading a WAL file writes beside it; where that is forbidden and nobody writes, the file stands still
            cannot = error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY"))
            if how == "mode=ro" and cannot and self.path.is_file() and not self._log.exists():
                return self._open("immutable=1")
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Check whose file it is; make the tables if it is new; settle the journal mode."""
        empty = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
        new = empty and not application and not self.readonly
        if not new and application != _APPLICATION:
            found = f"application_id {application:#x} instead of {_APPLICATION:#x}"
            raise LedgerError(f"{self.path} is an SQLite file, but not a query ledger ({found}); choose another path")
        if not new and not 1 <= version <= SCHEMA:
            found = f"{self.path} has schema version {version}, this version of kdlightning reads 1 to {SCHEMA}"
            raise LedgerError(f"{found}; use the version that wrote it or a newer one")
        if not self.readonly:
            current = _pragma(connection, "journal_mode")
            wanted = self.journal_mode or ("wal" if new else current)
            if current != wanted:
                self._convert(connection, wanted)
        if self.readonly and version < SCHEMA:
            _migrate(connection, version, temporary=True)
        elif version < SCHEMA:
            with _whole(connection, "BEGIN IMMEDIATE"):
                version = _pragma(connection, "user_version")  # another process may have been first
                if not version:
                    later = f"{_SECOND}{_THIRD}{_FOURTH}".format(temporary="")
                    made = f"{_FIRST}{later};PRAGMA application_id = {_APPLICATION}"
                    _run(connection, made)
                elif version < SCHEMA:
                    _migrate(connection, version)
                connection.execute(f"PRAGMA user_version = {SCHEMA}")
        self._wal = _pragma(connection, "journal_mode") == "wal"
        connection.execute("PRAGMA wal_autocheckpoint = 0")

    def _convert(self, connection: sqlite3.Connection, mode: str) -> None:
        """Change the journal mode; SQLite does not wait for others here, so this does."""
        end = time.monotonic() + self.timeout
        result = None
        while result is None:
            try:
                result = _pragma(connection, f"journal_mode = {mode}")
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > end:
                    raise
                time.sleep(0.01)
        if result != mode:
            raise LedgerError(
                f"{self.path} cannot use journal_mode '{mode}', only '{result}': 'wal' needs a file system whose "
                "processes share memory; on a network file system give journal_mode='delete'"
            )

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Move a long write-ahead log into the file. Someone who reads for long may prevent it: then later."""
        size = self._log.stat().st_size if self._log.exists() else 0
        if size < self._checkpoint_at:
            return
        connection.execute("PRAGMA busy_timeout = 1000")  # TRUNCATE waits for readers with the write lock held
        blocked = True
        try:
            blocked = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.OperationalError:
            pass  # what was to be written is written: a disk without room for the file, too, may have some later
        finally:
            connection.execute(f"PRAGMA busy_timeout = {int(1000 * self.timeout)}")
        self._checkpoint_at = size + _WAL_LIMIT if blocked else _WAL_LIMIT

    def _explain(self, error: sqlite3.Error) -> LedgerError:
        reasons = {
            "SQLITE_BUSY": f"has been locked by another process for more than {self.timeout:g} s; see who holds it "
            "(`lsof`), or give a longer timeout",
            "SQLITE_NOTADB": "is not a query ledger, nor any SQLite file; choose another path",
            "SQLITE_CORRUPT": _DAMAGED,
            "SQLITE_FULL": "could not be written because the disk is full; free space and run the same command again",
            "SQLITE_IOERR": "could not be read or written; see whether its disk is full or at fault",
            "SQLITE_CANTOPEN": "cannot be opened: expected a file in a directory that this user may write to, where "
            "SQLite keeps its -wal and -shm files; change the permissions or copy the ledger elsewhere",
        }
        reasons["SQLITE_READONLY"] = reasons["SQLITE_CANTOPEN"]
        # errors that the sqlite3 module raises itself have no code
        name = getattr(error, "sqlite_errorname", "")
        known = next((text for code, text in reasons.items() if name.startswith(code)), None)
        return LedgerError(f"{self.path} {known} ({error})" if known else f"{self.path}: {error}")


@contextmanager
def _whole(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _migrate(connection: sqlite3.Connection, version: int, *, temporary: bool = False) -> None:
    """Bring an older schema up to date; ``temporary``: for this connection alone, beside a file that is not written.

    The teachers of schema 1 had a fingerprint, of the rest and of how answers are read.
    """
    kind = "TEMP" if temporary else ""
    if temporary:
        _run(connection, "PRAGMA temp_store = MEMORY")
    _run(connection, _FOURTH.format(temporary=kind))
    if version < 3:
        _run(connection, (_THIRD_BESIDE if temporary else _THIRD).rstrip(";"))
    if version > 1:
        return
    if temporary:
        _run(connection, "CREATE TEMP TABLE teachers AS SELECT * FROM main.teachers")
    _run(connection, f"ALTER TABLE teachers ADD COLUMN asked INTEGER NOT NULL DEFAULT 0;{_SECOND}".format(
        temporary=kind))  # fmt: skip
    for number, text in connection.execute("SELECT id, identity FROM teachers").fetchall():
        identity = {key: value for key, value in json.loads(text).items() if key != "fingerprint"}
        connection.execute("UPDATE OR IGNORE teachers SET identity = ? WHERE id = ?", (identity_text(identity), number))
        asked = endpoint_number(connection, identity)
        connection.execute("UPDATE teachers SET asked = ? WHERE id = ?", (asked, number))


def _run(connection: sqlite3.Connection, statements: str) -> None:
    """Several statements within the transaction that runs; sqlite3's own ``executescript`` would end it."""
    for statement in statements.split(";"):
        connection.execute(statement)


def _pragma(connection: sqlite3.Connection, name: str) -> Any:  # noqa: ANN401 - a number or a word
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _before_fork() -> None:
    _lock.acquire()  # waits for a transaction that runs in another thread
    for file in list(_files):
        file.close()


os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release)
