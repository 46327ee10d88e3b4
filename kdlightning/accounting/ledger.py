"""The query ledger: every answer that was paid for, on disk before it is used, so that it is never paid for again."""

import hashlib
import json
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdlightning.accounting import accounts
from kdlightning.accounting.accounts import Cost, Limits, Totals
from kdlightning.accounting.store import LedgerError, LedgerFile, owner

__all__ = ["Answer", "Cost", "Entry", "LedgerError", "Limits", "QueryLedger", "Request", "Totals"]

Answer = NDArray[Any]
_PAGE = 1000  # rows read at a time, so that no reader holds up a checkpoint


class Request(NamedTuple):
    """Images about to be sent, by SHA-256, counted as paid until settled: its row's number, and the answers' order."""

    number: int
    images: tuple[bytes, ...]


class Entry(NamedTuple):
    """One answer that was paid for, read-only; bytes and price are its share of the request that it came with."""

    teacher: dict[str, str]
    image: bytes  # its SHA-256
    time: float  # of the recording, seconds since 1970
    bytes_up: float
    bytes_down: float
    price: float
    answer: Answer


class QueryLedger:
    """Answers by teacher and image, and what they cost. Shared by threads, processes and runs; survives kill -9.

    ``lookup`` first; ``reserve`` what is missing, which checks the budget and counts it as paid; send it; then settle
    the request: ``record`` the answers before they are used, ``release`` what was surely not answered, ``write_off``
    what may have been. A request that nobody settles (its process was killed) goes on counting as paid.

    A teacher is a mapping such as ``BlackBoxTeacher.identity``. It has to name whatever changes an answer (address,
    model, version, access, how images are encoded) and no secret: it stands in the file as it is. An image is the bytes
    that are sent.

    Args:
        path: the file; created if absent.
        limits: the most that ``account`` may pay.
        account: who pays; processes and resumed runs of one account share its limits, all accounts share the answers.
        options: those of :class:`~kdlightning.accounting.store.LedgerFile`: ``readonly``, ``journal_mode``,
            ``durable``, ``timeout``.

    Raises:
        ValueError: negative limits, timeout not above 0, unknown journal mode.
        FileNotFoundError: readonly, and there is no such file.
        LedgerError: not a ledger, of another schema version, or not writable; every method may raise it.
    """

    def __init__(self, path: str | Path, limits: Limits | None = None, account: str = "", **options: Any) -> None:  # noqa: ANN401 - LedgerFile's
        self.limits, self.account = limits or Limits(), account
        if any(limit is not None and not limit >= 0 for limit in self.limits):
            raise ValueError(f"limits: expected numbers >= 0 or None, got {self.limits}")
        self._file = LedgerFile(path, **options)
        with self._file.transaction(write=False):
            pass  # what is wrong with the file is said now

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    def __enter__(self) -> "QueryLedger":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this process's connection. The next call opens another."""
        self._file.close()

    def lookup(self, teacher: Mapping[str, str], images: Sequence[bytes]) -> list[Answer | None]:
        """The answers kept, in the order of the images; None where there is none.

        Answers, and second copies of an image without answer (to be asked once), count as repeated. The arrays are
        read-only.

        Raises:
            LedgerError: an answer does not have the checksum that it was recorded with.
        """
        digests = [hashlib.sha256(image).digest() for image in images]
        with self._file.transaction(write=False) as connection:
            number = accounts.teacher_number(connection, teacher)
            ask = "SELECT answer, checksum FROM answers WHERE teacher = ? AND image = ?"
            rows = [connection.execute(ask, (number, digest)).fetchone() for digest in digests]
        found = [None if row is None else self._checked(key, *row) for key, row in zip(digests, rows, strict=True)]
        repeated = len(digests) - len({key for key, row in zip(digests, rows, strict=True) if row is None})
        if repeated and not self._file.readonly:
            with self._file.transaction(durable=False) as connection:
                number = accounts.teacher_number(connection, teacher, create=True)
                accounts.add(connection, number, self.account, repeated=repeated)
        return found

    def reserve(self, teacher: Mapping[str, str], images: Sequence[bytes], cost: Cost) -> Request:
        """Check the budget and count images, each once, as paid, in one step, before they are sent.

        The cost is what they are expected to cost, all together.

        Raises:
            QueryBudgetExceededError: a limit does not allow it; nothing is counted.
            ValueError: no image, an image that comes twice, or a negative cost.
        """
        digests = tuple(hashlib.sha256(image).digest() for image in images)
        if not digests or len(set(digests)) < len(digests):
            got = f"{len(digests)} of which {len(set(digests))} differ; ask for list(dict.fromkeys(images))"
            raise ValueError(f"expected at least one image and each once, got {got}")
        up, down, price = cost.units()
        with self._file.transaction() as connection:
            accounts.check_limits(connection, self.account, self.limits, len(digests), (up, down, price))
            number = accounts.teacher_number(connection, teacher, create=True)
            row = connection.execute(
                "INSERT INTO requests (teacher, account, owner, state, queries, bytes_up, bytes_down, price, sent) "
                "VALUES (?, ?, ?, 'in flight', ?, ?, ?, ?, ?)",
                (number, self.account, owner(), len(digests), up, down, price, time.time()),
            ).lastrowid
            paid = {"bytes_up": up, "bytes_down": down, "price": price}
            accounts.add(connection, number, self.account, in_flight=len(digests), **paid)
        assert row is not None
        return Request(row, digests)

    def record(self, request: Request, answers: Sequence[Answer] | Answer, cost: Cost | None = None) -> None:
        """Keep the answers to a request, before they are used. Of an image that was answered meanwhile the first stays.

        Of bool, integers or floats: one array per image, in the request's order, or one array ``(N, ...)``. The cost is
        what they did cost, all together, None for as reserved; it counts in full, even above a limit.

        Raises:
            ValueError: another number of answers than images, or not numbers; the request stays in flight.
            LedgerError: the request was settled before.
        """
        packed = [_pack(answer) for answer in answers]
        if len(packed) != len(request.images):
            raise ValueError(f"expected {len(request.images)} answers, one per image, got {len(packed)}")
        pairs = list(zip(request.images, packed, strict=True))
        with self._file.transaction() as connection:
            number, account = self._settle(connection, request, "answered", cost)
            kept = connection.executemany(
                "INSERT INTO answers (teacher, image, request, checksum, answer) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (teacher, image) DO NOTHING",
                [(number, image, request.number, _checksum(image, data), data) for image, data in pairs],
            ).rowcount
            accounts.add(connection, number, account, unique=kept, twice=len(packed) - kept)

    def write_off(self, request: Request, cost: Cost | None = None) -> None:
        """Give up a request that may have been answered (time-out, broken connection, unusable body): paid, but lost.

        Its cost is what was reserved, if no other is given.

        Raises:
            LedgerError: the request was settled before.
        """
        with self._file.transaction() as connection:
            number, account = self._settle(connection, request, "lost", cost)
            accounts.add(connection, number, account, lost=len(request.images))

    def release(self, request: Request, cost: Cost | None = None) -> None:
        """Give back a request that was surely not answered (refused connection, 429, 503): its images are not paid.

        It cost nothing, if no cost is given.

        Raises:
            LedgerError: the request was settled before.
        """
        with self._file.transaction() as connection:
            self._settle(connection, request, "released", cost or Cost(0))

    @property
    def spent(self) -> Totals:
        """What the limits hold for: the account's totals, over all teachers."""
        with self._file.transaction(write=False) as connection:
            return accounts.totals(connection, "account = ?", self.account)

    def totals(self, teacher: Mapping[str, str] | None = None) -> Totals:
        """What all accounts paid, to one teacher or to all."""
        with self._file.transaction(write=False) as connection:
            if teacher is None:
                return accounts.totals(connection, "1")
            return accounts.totals(connection, "teacher = ?", accounts.teacher_number(connection, teacher))

    def teachers(self) -> list[dict[str, str]]:
        """The identities of all teachers, in the order of their first request."""
        with self._file.transaction(write=False) as connection:
            return [json.loads(text) for (text,) in connection.execute("SELECT identity FROM teachers ORDER BY id")]

    def answers(self, teacher: Mapping[str, str] | None = None) -> Iterator[Entry]:
        """All answers in the order in which they were recorded, of one teacher or of all.

        Raises:
            LedgerError: an answer does not have the checksum that it was recorded with.
        """
        query = """
            SELECT answers.id, identity, image, settled, 1.0 * bytes_up / queries, 1.0 * bytes_down / queries,
                1.0 * price / queries / 1e9, checksum, answer
            FROM answers JOIN requests ON requests.id = request JOIN teachers ON teachers.id = answers.teacher
            WHERE answers.id > ? AND (? OR identity = ?) ORDER BY answers.id LIMIT ?"""
        identity = None if teacher is None else accounts.identity_text(teacher)
        for _, who, image, *facts, checksum, data in self._pages(query, identity is None, identity):
            yield Entry._make((json.loads(who), image, *facts, self._checked(image, data, checksum)))

    def in_flight(self) -> list[str]:
        """The requests that nobody has settled, one line each: on their way now, or their process died."""
        with self._file.transaction(write=False) as connection:
            rows = connection.execute(
                "SELECT id, queries, owner, datetime(sent, 'unixepoch') FROM requests WHERE state = 'in flight'"
            ).fetchall()
        return [f"request {number}: images {queries:,}, sent by {by} at {at} UTC" for number, queries, by, at in rows]

    def verify(self) -> list[str]:
        """What is wrong with the file's structure, the answers' checksums and the totals' rows, one line each."""
        try:
            with self._file.transaction(write=False) as connection:
                structure = [line for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]
                wrong = [f"structure: {line}" for line in structure] + accounts.wrong_totals(connection)
            query = "SELECT id, image, answer, checksum FROM answers WHERE id > ? ORDER BY id LIMIT ?"
            for number, image, data, checksum in self._pages(query):
                if _checksum(image, data) != checksum:
                    wrong.append(f"answer {number}: of image {image.hex()[:16]}, is not what was recorded")
        except LedgerError as error:
            return [str(error)]
        return wrong

    def _pages(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """The rows of a query with parameters: number of the row before, values, most rows; no lock between pages."""
        last = 0
        while True:
            with self._file.transaction(write=False) as connection:
                rows = connection.execute(query, (last, *values, _PAGE)).fetchall()
            if not rows:
                return
            yield from rows
            last = rows[-1][0]

    def _checked(self, image: bytes, data: bytes, checksum: int) -> Answer:
        if _checksum(image, data) != checksum:
            wrong = f"{self.path}: the answer for image {image.hex()[:16]} is not what was recorded"
            raise LedgerError(f"{wrong}; `kdlightning ledger verify` lists all such rows")
        return _unpack(data)

    def _settle(self, connection: Connection, request: Request, state: str, cost: Cost | None) -> tuple[int, str]:
        """Take a request out of flight and replace its reserved cost by the true one; its teacher and account."""
        row = connection.execute(
            "SELECT teacher, account, bytes_up, bytes_down, price FROM requests WHERE id = ? AND state = 'in flight'",
            (request.number,),
        ).fetchone()
        if row is None:
            raise LedgerError(f"{self.path}: request {request.number} is not in flight; settle each request once")
        teacher, account, *reserved = row
        true = reserved if cost is None else cost.units()
        connection.execute(
            "UPDATE requests SET state = ?, bytes_up = ?, bytes_down = ?, price = ?, settled = ? WHERE id = ?",
            (state, *true, time.time(), request.number),
        )
        up, down, price = (new - old for new, old in zip(true, reserved, strict=True))
        images = len(request.images)
        accounts.add(connection, teacher, account, in_flight=-images, bytes_up=up, bytes_down=down, price=price)
        return teacher, account


def _checksum(image: bytes, data: bytes) -> int:
    """CRC-32 over the image's hash too: an answer that stands at another image is found as well."""
    return zlib.crc32(data, zlib.crc32(image))


def _pack(answer: Answer) -> bytes:
    """Three letters of dtype, a byte of dimensions, 4 bytes per side, then the values; all little-endian."""
    array = np.asarray(answer)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(f"expected answers of bool, integers or floats of at most 64 bits, got {array.dtype}")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return array.dtype.str.encode() + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape) + array.tobytes()


def _unpack(data: bytes) -> Answer:
    dimensions = data[3]
    shape = struct.unpack_from(f"<{dimensions}I", data, 4)
    return np.frombuffer(data, np.dtype(data[:3].decode()), offset=4 + 4 * dimensions).reshape(shape)
