"""Batch jobs in a query ledger: what is in a job is on disk before the job is submitted, and until it is settled."""

import bisect
import hashlib
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from sqlite3 import Connection
from typing import NamedTuple

from kdlightning.accounting import accounts, rows
from kdlightning.accounting.accounts import UNITS, Cost
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.accounting.meter import QueryBudgetExceededError
from kdlightning.accounting.spool import Settlement


class Queued(NamedTuple):
    """An image in a job, by SHA-256: the request that counts it, who pays, and what is reserved for it."""

    request: int
    image: bytes
    account: str
    reserved: Cost


class Job(NamedTuple):
    """A job that is not settled.

    Attributes:
        number: of its row.
        tag: tells it from all others; it is sent along, and was written down before.
        name: what the server calls it; None as long as it is not known whether it has arrived.
        begun: when it was written down, seconds since 1970.
        images: how many it had.
        queued: those that are not settled.
    """

    number: int
    tag: str
    name: str | None
    begun: float
    images: int
    queued: tuple[Queued, ...]

    def mark(self, one: Queued) -> str:
        """By which the server's answer to one of the images is told."""
        return f"{self.tag}-{one.request}"


class JobLedger(QueryLedger):
    """A query ledger whose images may be asked in batch jobs.

    ``begin`` a job, submit it, and ``name`` it by what the server answers; look at the ``open`` ones, and ``settle``
    what has come of them. An image of an open job is nobody's else to ask, whoever submitted the job and whether or not
    he lives: whoever uses the ledger may fetch it. A job without a name may have been submitted: its server is asked
    by the tag, unless the process lives that submits it (``submitting``).

    Its arguments are those of :class:`QueryLedger`.
    """

    def missing(self, teacher: Mapping[str, str], images: Sequence[bytes], *, again: bool = False) -> list[bytes]:
        """Those of the images without answer or reply to be read that are in no job; ``again``: see :meth:`claim`."""
        asked = {hashlib.sha256(image).digest(): image for image in images}
        with self._file.transaction(write=False) as connection:
            endpoint = accounts.endpoint_number(connection, teacher, create=False)
            number = accounts.teacher_number(connection, teacher)
            return [asked[key] for key in rows.free(connection, endpoint, number, asked, again=again)]

    def begin(
        self, teacher: Mapping[str, str], images: Sequence[bytes], costs: Sequence[Cost], *, again: bool = False
    ) -> tuple[Job | None, QueryBudgetExceededError | None]:
        """Write down a job of those of the images, each once, that nobody asks, as many as the limits allow.

        From now on they count as paid. The costs are the most that each may cost.

        Returns:
            The job, None if it would be empty; and what was said where the limits did not allow all of it.
        """
        units = {hashlib.sha256(one).digest(): cost.units() for one, cost in zip(images, costs, strict=True)}
        refusal: QueryBudgetExceededError | None = None
        with self._file.transaction() as connection:
            endpoint = accounts.endpoint_number(connection, teacher)
            number = accounts.teacher_number(connection, teacher, create=True)
            mine = self._claims.claim(connection, endpoint, rows.free(connection, endpoint, number, units, again=again))
            connection.executemany(
                "DELETE FROM claims WHERE endpoint = ? AND image = ?", [(endpoint, image) for image in mine]
            )
            self._claims.forget(mine)  # the job holds them

            def refused(count: int) -> bool:
                nonlocal refusal
                total = tuple(map(sum, zip(*(units[image] for image in mine[:count]), strict=True)))
                try:
                    accounts.check_limits(connection, self.account, self.limits, count, total)  # type: ignore[arg-type]
                except QueryBudgetExceededError as error:
                    refusal = refusal or error
                    return True
                return False

            if mine and refused(len(mine)):
                mine = mine[: bisect.bisect_left(range(1, len(mine)), True, key=refused)]
            if not mine:
                return None, refusal
            values = endpoint, f"kdl{uuid.uuid4().hex[:13]}", self._claims.owner, len(mine), time.time()
            job = connection.execute(
                "INSERT INTO jobs (endpoint, tag, owner, images, begun) VALUES (?, ?, ?, ?, ?)", values
            ).lastrowid
            for image in mine:
                request = rows.begin(connection, number, self.account, 1, units[image])
                connection.execute("INSERT INTO queued VALUES (?, ?, ?, ?)", (endpoint, image, job, request))
            return next(one for one in _open(connection, endpoint) if one.number == job), refusal

    def name(self, job: Job, name: str) -> None:
        """What the server calls a job."""
        with self._file.transaction() as connection:
            connection.execute("UPDATE jobs SET name = ? WHERE id = ?", (name, job.number))

    def names(self) -> set[str]:
        """The names of all jobs, also of those that are settled."""
        with self._file.transaction(write=False) as connection:
            return {str(name) for (name,) in connection.execute("SELECT name FROM jobs WHERE name IS NOT NULL")}

    def open(self, teacher: Mapping[str, str]) -> list[Job]:
        """The jobs of whom a teacher asks that are not settled, in the order in which they were begun."""
        with self._file.transaction(write=False) as connection:
            return _open(connection, accounts.endpoint_number(connection, teacher, create=False))

    def submitting(self, job: Job) -> bool:
        """Whether another process that lives has begun a job: it will name it."""
        with self._file.transaction(write=False) as connection:
            (owner,) = connection.execute("SELECT owner FROM jobs WHERE id = ?", (job.number,)).fetchone()
        return self._claims.others(str(owner))

    def settle(self, teacher: Mapping[str, str], settlements: Collection[Settlement]) -> set[int]:
        """What became of some of a job's requests; the numbers of those that nobody had settled before.

        They are this teacher's from now on: the job may be of one who reads replies otherwise.
        """
        with self._file.transaction() as connection:
            number = accounts.teacher_number(connection, teacher, create=True)
            for what in settlements:
                _hand_over(connection, what.request, number)
            done = {what.request for what in settlements if rows.settle(connection, what)}
            connection.executemany("DELETE FROM queued WHERE request = ?", [(what.request,) for what in settlements])
        return done


def _hand_over(connection: Connection, request: int, teacher: int) -> None:
    """Count a request in flight as another teacher's, if it is not his."""
    told = connection.execute(
        f"SELECT teacher, account, queries, {', '.join(UNITS)} FROM requests "
        "WHERE id = ? AND teacher != ? AND state = 'in flight'",
        (request, teacher),
    ).fetchone()
    if told is not None:
        before, account, *amounts = told
        for who, sign in ((before, -1), (teacher, 1)):
            counts = zip(("in_flight", *UNITS), amounts, strict=True)
            accounts.add(connection, who, account, **{name: sign * amount for name, amount in counts})
        connection.execute("UPDATE requests SET teacher = ? WHERE id = ?", (teacher, request))


def _open(connection: Connection, endpoint: int) -> list[Job]:
    jobs = connection.execute(
        "SELECT id, tag, name, begun, images FROM jobs WHERE endpoint = ? ORDER BY id", (endpoint,)
    )
    ask = (
        f"SELECT request, image, account, {', '.join(UNITS)} FROM queued JOIN requests ON requests.id = request "
        "WHERE job = ? ORDER BY request"
    )
    found = []
    for number, tag, name, begun, images in jobs.fetchall():
        queued = [
            Queued(request, image, account, Cost(up, down, price / 1e9, *tokens))
            for request, image, account, up, down, price, *tokens in connection.execute(ask, (number,))
        ]
        if queued:
            found.append(Job(number, tag, name, begun, images, tuple(queued)))
    return found
