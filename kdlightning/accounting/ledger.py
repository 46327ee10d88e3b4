"""The query ledger: every answer that was paid for, on disk before it is used, so that it is never paid for again."""

import hashlib
import itertools
import json
import logging
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kdlightning.accounting import accounts, rows
from kdlightning.accounting.accounts import Cost, Limits, Totals
from kdlightning.accounting.claims import Claims
from kdlightning.accounting.rows import UNREAD, Answer, intact, pack, unpack
from kdlightning.accounting.spool import DAMAGED, Settlement, Spool
from kdlightning.accounting.store import LedgerError, LedgerFile

__all__ = ["Answer", "Cost", "Entry", "LedgerError", "Limits", "QueryLedger", "Request", "Totals"]

Read = Callable[[bytes, int], Sequence[Answer] | Answer]  # of a reply to so many images; ValueError: it does not fit
_log = logging.getLogger(__name__)
_PAGE = 1000  # rows read at a time, so that no reader holds up a checkpoint
_PAUSES = (1, 2, 5, 10)  # seconds between attempts to write down what was paid for


class Request(NamedTuple):
    """Images about to be sent, by SHA-256, counted as paid until settled: its row's number, and the answers' order."""

    number: int
    images: tuple[bytes, ...]


class Entry(NamedTuple):
    """One answer that was paid for, read-only; its cost is its share of the request that it came with."""

    teacher: dict[str, str]
    image: bytes  # its SHA-256
    time: float  # of the recording, seconds since 1970
    bytes_up: int
    bytes_down: int
    price: float
    answer: Answer
    input_tokens: int = 0
    output_tokens: int = 0


class QueryLedger:
    """Answers by teacher and image, and what they cost. Shared by threads, processes and runs; survives kill -9.

    ``lookup`` first; ``claim`` what is missing, so that no other run asks it, too; ``reserve`` it, which checks the
    budget and counts it as paid; send it; then settle the request: ``record`` the answers before they are used,
    ``release`` what was surely not answered, ``write_off`` what may have been. A request that nobody settles (its
    process was killed) goes on counting as paid. While the file cannot be written, because it is locked or its disk is
    full, what became of requests is kept in a spool beside it, which the next opening reads in.

    A teacher is a mapping such as ``BlackBoxTeacher.identity``. It has to name whatever changes an answer (address,
    model, version, access, how images are encoded) and no secret: it stands in the file as it is. The names in
    ``accounts.READING`` say how replies are read, the others what is asked of whom: where only the former differ, a
    reply that is kept is read again. An image is the bytes that are sent.

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
        self._claims, self._spool = Claims(self._file.path), Spool(self._file.path)
        with self._file.transaction(write=False):
            pass  # what is wrong with the file is said now
        with suppress(LedgerError):  # who asks needs it, and tries again
            self._read_spool()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), limits=self.limits, account=self.account, **self._file.__getstate__()), ()

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
        self._claims.close()
        self._file.close()

    def lookup(
        self, teacher: Mapping[str, str], images: Sequence[bytes], read: Read | None = None
    ) -> list[Answer | None]:
        """The answers kept, in the order of the images; None where there is none.

        Answers, and second copies of an image without answer (to be asked once), count as repeated. The arrays are
        read-only.

        With ``read``, replies that were kept for teachers who read them otherwise are read for this one. A reply that
        it cannot read is a reply no more for this teacher: the same lookup again finds none.

        Raises:
            LedgerError: an answer or reply does not have the checksum that it was recorded with.
            ValueError: that of ``read``, once the other replies are read.
        """
        digests = [hashlib.sha256(image).digest() for image in images]
        ask = "SELECT answer, checksum FROM answers WHERE teacher = ? AND image = ?"
        with self._file.transaction(write=False) as connection:
            number = accounts.teacher_number(connection, teacher)
            told = {key: connection.execute(ask, (number, key)).fetchone() for key in digests}
            lacking = [key for key, row in told.items() if not row]
            unread = [] if read is None else rows.replies(connection, teacher, lacking)
        found = {key: self._checked(key, *row) for key, row in told.items() if row and row[0] != UNREAD}
        anew, failure = [], None
        for request, wanted, keys, checksum, reply in unread:
            each = [keys[at : at + 32] for at in range(0, len(keys), 32)]
            if not intact(keys, reply, checksum) or not wanted <= set(each):
                raise self._changed(f"the reply to request {request}")
            try:
                packed = [pack(answer) for answer in read(zlib.decompress(reply), len(each))]  # type: ignore[misc]
                found |= {key: unpack(data) for key, data in zip(each, packed, strict=True)}
            except ValueError as error:
                failure, packed = error, [UNREAD] * len(each)
            anew += [(key, request, data) for key, data in zip(each, packed, strict=True)]
        repeated = len(digests) - len(told.keys() - found.keys())
        if (repeated or anew) and not self._file.readonly:
            # who finds it locked has the answers, though they are not counted
            with suppress(LedgerError), self._file.transaction(durable=False) as connection:
                number = accounts.teacher_number(connection, teacher, create=True)
                rows.insert(connection, number, anew)
                accounts.add(connection, number, self.account, repeated=0 if failure else repeated)
        if failure is not None:
            raise failure
        return [found.get(key) for key in digests]

    def replies(self, teacher: Mapping[str, str], images: Sequence[bytes]) -> list[tuple[bytes, int]]:
        """The whole replies that are kept about images, each with the number of images that it is about."""
        with self._file.transaction(write=False) as connection:
            found = rows.replies(connection, teacher, [hashlib.sha256(image).digest() for image in images])
        return [(zlib.decompress(one[4]), len(one[2]) // 32) for one in found if intact(one[2], one[4], one[3])]

    def claim(self, teacher: Mapping[str, str], images: Sequence[bytes], *, again: bool = False) -> list[bytes]:
        """Those of the images without answer that this ledger's user shall ask now; ``again``: also what got none.

        The others are answered since the lookup, or somebody who lives is asking about them: look them up again, after
        a while. What is recorded is claimed no longer; ``unclaim`` the rest.

        Raises:
            LedgerError: the owner's file beside the ledger cannot be written.
        """
        if self._file.readonly:
            return list(images)
        self._read_spool()
        asked = {hashlib.sha256(image).digest(): image for image in images}
        with self._file.transaction(durable=False) as connection:
            endpoint = accounts.endpoint_number(connection, teacher)
            number = accounts.teacher_number(connection, teacher, create=True)
            free = rows.free(connection, endpoint, number, asked, again=again)
            try:
                mine = self._claims.claim(connection, endpoint, free)
            except OSError as error:
                raise LedgerError(f"{self.path}: no file can be made beside it: {error}") from error
        return [asked[key] for key in mine]

    def unclaim(self, teacher: Mapping[str, str], images: Sequence[bytes]) -> None:
        """Let others ask about images that were claimed and are not answered."""
        self._claims.forget([hashlib.sha256(image).digest() for image in images])
        with suppress(LedgerError), self._file.transaction(durable=False) as connection:
            self._claims.claim(connection, accounts.endpoint_number(connection, teacher), [])

    def reserve(self, teacher: Mapping[str, str], images: Sequence[bytes], cost: Cost) -> Request:
        """Check the budget and count images, each once, as paid, before they are sent; their cost is of all together.

        Raises:
            QueryBudgetExceededError: a limit does not allow it; nothing is counted.
            ValueError: no image, an image that comes twice, or a negative cost.
        """
        digests = tuple(hashlib.sha256(image).digest() for image in images)
        if not digests or len(set(digests)) < len(digests):
            got = f"{len(digests)} of which {len(set(digests))} differ; ask for list(dict.fromkeys(images))"
            raise ValueError(f"expected at least one image and each once, got {got}")
        units = cost.units()
        with self._file.transaction() as connection:
            accounts.check_limits(connection, self.account, self.limits, len(digests), units)
            number = accounts.teacher_number(connection, teacher, create=True)
            return Request(rows.begin(connection, number, self.account, len(digests), units), digests)

    def record(
        self,
        request: Request,
        answers: Sequence[Answer] | Answer,
        cost: Cost | None = None,
        reply: bytes | None = None,
    ) -> None:
        """Keep the answers to a request, before they are used. Of an image that was answered meanwhile the first stays.

        Of bool, integers or floats: one array per image, in the request's order, or one array ``(N, ...)``. The cost is
        what they did cost, all together, None for as reserved; it counts in full, even above a limit. The reply is what
        they were read from; one of more than 256 KiB an image, compressed, is not kept.

        Raises:
            ValueError: another number of answers than images, or not numbers; the request stays in flight.
            LedgerError: the request was settled before.
        """
        packed = [pack(answer) for answer in answers]
        if len(packed) != len(request.images):
            raise ValueError(f"expected {len(request.images)} answers, one per image, got {len(packed)}")
        self._settle(request, "answered", cost, packed, reply)

    def write_off(self, request: Request, cost: Cost | None = None, reply: bytes | None = None) -> None:
        """Give up a request that may have been answered (time-out, broken connection, unusable body): paid, but lost.

        Its cost is what was reserved, if no other is given. A reply is kept for a teacher who can read it.

        Raises:
            LedgerError: the request was settled before.
        """
        self._settle(request, "lost", cost, [], reply)

    def release(self, request: Request, cost: Cost | None = None) -> None:
        """Give back a request that was surely not answered (refused connection, 429, 503): its images are not paid.

        It cost nothing, if no cost is given.

        Raises:
            LedgerError: the request was settled before.
        """
        self._settle(request, "released", cost or Cost(0), [], None)

    def pay_for(self, count: str | Path) -> None:
        """Pay as the run whose meter is this file, from now on; its account stands beside it, and moves with it."""
        with self._file.transaction(write=False) as connection:
            self.account = accounts.account_of(Path(count), connection, create=not self._file.readonly)

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

    def usage(self, teacher: Mapping[str, str]) -> list[tuple[int, int, int, int]]:
        """How often requests to whom this teacher asks had so many images, input and output tokens, where they told."""
        with self._file.transaction(write=False) as connection:
            return rows.usage(connection, accounts.endpoint_number(connection, teacher, create=False))

    def known(self, teacher: Mapping[str, str]) -> int:
        """Images whose answers are free for a teacher: those it has, and those of replies that it has not read yet."""
        with self._file.transaction(write=False) as connection:
            return rows.known(connection, teacher)

    def unanswered(self, teacher: Mapping[str, str]) -> int:
        """Images of which a teacher was asked and gave no answer."""
        with self._file.transaction(write=False) as connection:
            return rows.unanswered(connection, accounts.teacher_number(connection, teacher))

    def teachers(self) -> list[dict[str, str]]:
        """The identities of all teachers, in the order of their first request."""
        with self._file.transaction(write=False) as connection:
            return [json.loads(text) for (text,) in connection.execute("SELECT identity FROM teachers ORDER BY id")]

    def answers(self, teacher: Mapping[str, str] | None = None) -> Iterator[Entry]:
        """All answers in the order in which they were recorded, of one teacher or of all.

        Raises:
            LedgerError: an answer does not have the checksum that it was recorded with.
        """
        query = f"""
            SELECT answers.id, identity, request, queries, image, settled, checksum, answer, {", ".join(accounts.UNITS)}
            FROM answers JOIN requests ON requests.id = request JOIN teachers ON teachers.id = answers.teacher
            WHERE answers.answer != X'' AND answers.id > ? AND (? OR identity = ?) ORDER BY answers.id LIMIT ?"""
        identity, seen = None if teacher is None else accounts.identity_text(teacher), dict[int, int]()
        for _, who, request, number, image, then, checksum, data, *total in self._pages(query, not identity, identity):
            answer, place = self._checked(image, data, checksum), seen.get(request, 0)  # in its request
            seen[request] = place + 1
            try:
                who = json.loads(who)
            except (TypeError, ValueError) as error:
                raise self._changed("the identity of a teacher") from error
            up, down, price, *tokens = (one * (place + 1) // number - one * place // number for one in total)
            yield Entry(who, image, then, up, down, price / 1e9, answer, *tokens)

    def in_flight(self) -> list[str]:
        """Requests and batch jobs that nobody has settled, one line each: on their way now, or their process died."""
        with self._file.transaction(write=False) as connection:
            return rows.unsettled(connection)

    def jobs(self, teacher: Mapping[str, str], images: Sequence[bytes]) -> list[str]:
        """The batch jobs, by name, that images are in whose answers are not fetched yet."""
        with self._file.transaction(write=False) as connection:
            return rows.in_jobs(connection, teacher, [hashlib.sha256(image).digest() for image in images])

    def verify(self) -> list[str]:
        """What is wrong with the file's structure, its checksums and totals, and with the spool, one line each."""
        try:
            with self._file.transaction(write=False) as connection:
                structure = [line for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]
                wrong = [f"structure: {line}" for line in structure] + accounts.wrong_totals(connection)
            query = "SELECT id, image, answer, checksum FROM answers WHERE id > ? ORDER BY id LIMIT ?"
            for number, image, data, checksum in self._pages(query):
                if not intact(image, data, checksum):
                    wrong.append(f"answer {number}: of image {rows.name(image)}, is not what was recorded")
            query = "SELECT request, images, reply, checksum FROM replies WHERE request > ? ORDER BY request LIMIT ?"
            for number, images, reply, checksum in self._pages(query):
                if not intact(images, reply, checksum):
                    wrong.append(f"reply to request {number}: is not what was recorded")
        except LedgerError as error:
            return [str(error)]
        damaged = sorted(self._spool.directory.glob(f"*{DAMAGED}"))
        return wrong + [f"spool: {file.stem} is damaged; its request counts as paid" for file in damaged]

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
        if not intact(image, data, checksum):
            raise self._changed(f"the answer for image {rows.name(image)}")
        return unpack(data)

    def _changed(self, what: str) -> LedgerError:
        return LedgerError(f"{self.path}: {what} is not what was recorded; `kdlightning ledger verify` lists such rows")

    def _settle(
        self, request: Request, state: str, cost: Cost | None, answers: Sequence[bytes], reply: bytes | None
    ) -> None:
        """Write down what became of a request, in the file or beside it; not before that is done does this return."""
        units, packed = None if cost is None else cost.units(), rows.compress(reply, len(request.images))
        settlement = Settlement(request.number, state, request.images, units, tuple(answers), packed)
        for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
            try:
                return self._apply(settlement)
            except LedgerError as error:
                if not isinstance(error.__cause__, sqlite3.Error | OSError):
                    raise  # nothing that time mends
                try:
                    self._spool.put(settlement)
                except OSError as full:
                    paid = f"what {len(request.images)} images were answered can be written neither to the ledger"
                    _log.warning("%s (%s) nor beside it (%s); free space: it is tried again", paid, error, full)
                else:
                    _log.warning("%s; what was answered is kept in %s until it can be", error, self._spool.directory)
                    return self._claims.forget(request.images)
            time.sleep(pause)
        raise AssertionError

    def _read_spool(self) -> None:
        """What became of requests while the file could not be written."""
        for file in [] if self._file.readonly else self._spool.files():
            if (settlement := self._spool.read(file)) is None:
                _log.warning("%s is damaged; its request counts as paid", file)
                file.rename(file.with_suffix(DAMAGED))
                continue
            try:
                self._apply(settlement)
            except LedgerError as error:
                if isinstance(error.__cause__, sqlite3.Error | OSError):
                    raise  # else another process has read it in
            file.unlink(missing_ok=True)
            with suppress(OSError):
                self._spool.directory.rmdir()

    def _apply(self, what: Settlement) -> None:
        with self._file.transaction() as connection:
            if not rows.settle(connection, what):
                raise LedgerError(f"{self.path}: request {what.request} is not in flight; settle each request once")
        if what.state == "answered":
            self._claims.forget(what.images)
