"""The protocol of batch jobs: many requests in one, answered within a day at a lower price. Knows no ledger."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode

from kdlightning.remote.connection import AttemptError, Connection, Reply, Request
from kdlightning.remote.paths import at, found
from kdlightning.remote.protocol import ProtocolError, UnreadableReplyError, parse_value, shorten

_JSON = {"Content-Type": "application/json"}
_NAME = re.compile(r"[\w.-]{1,128}")
_PAGE = 100  # jobs in a page of the server's list
_LEEWAY = 24 * 3600.0  # seconds that a server's clock may go after this one, when jobs are looked for


@dataclass(frozen=True)
class Jobs:
    """How images are asked in batch jobs.

    Args:
        images: the most in a job.
        megabytes: the most that a job's requests take.
        at_once: the most jobs that are open at a time. Vendors limit what may wait, often by tokens; a job that they
            turn away for that is submitted again when another has ended.
        every: seconds between two looks at open jobs.
        hours: how long a run waits for a job. Then it stops, and the same command waits on.
        attempts: the most times that a run puts an image into a job, where nothing comes of it: the job expires, or the
            request fails. That costs nothing.
        settling: seconds until a job counts as never submitted that the server does not list, where the process died,
            or the connection broke, while it was submitted.
        forget: ask again what is in jobs that the server does not know any more; their images count as paid.

    Raises:
        ValueError: a number that is not positive.
    """

    images: int = 2000
    megabytes: float = 100.0
    at_once: int = 5
    every: float = 60.0
    hours: float = 26.0
    attempts: int = 3
    settling: float = 60.0
    forget: bool = False

    def __post_init__(self) -> None:
        if wrong := [name for name, value in vars(self).items() if not value > 0 and name != "forget"]:
            raise ValueError(f"jobs: expected a positive number, got {wrong[0]} = {getattr(self, wrong[0])}")


class State(NamedTuple):
    """How far a job is: the server's word for it, requests that are through, and of those that failed all."""

    status: str
    over: bool
    done: int = 0
    fault: str = ""  # why nothing of it was answered, in the server's words
    later: bool = False  # what is at fault is how much waits there: it may be submitted again
    files: tuple[str, ...] = ()  # of its results, where they have names of their own


class Result(NamedTuple):
    """What became of one request of a job: a reply, as if it had been sent alone, or none, with a status like HTTP's.

    A request that was not worked on, because its job has expired or was cancelled, has neither.
    """

    mark: str
    reply: Reply | None
    status: int | None = None
    said: str = ""


class JobServer(ABC):
    """Where jobs of one vendor are submitted, found and fetched. A subclass says what is sent and what comes.

    Args:
        connection: to it.
        url: of the API, up to where its paths begin.
    """

    most_images: int  #: that the vendor takes in a job
    most_bytes: int

    def __init__(self, connection: Connection, url: str) -> None:
        self._connection, self._url = connection, url.rstrip("/")

    @abstractmethod
    def line(self, mark: str, body: bytes) -> bytes:
        """One request in a job: the body as it is sent alone, marked."""

    @abstractmethod
    def creation(self, tag: str, lines: Sequence[bytes]) -> Request:
        """The request that submits a job; what has to be at the server before is sent here."""

    @abstractmethod
    def look(self, name: str) -> State:
        """How far a job is."""

    @abstractmethod
    def results(self, name: str, state: State) -> list[Result]:
        """What became of the requests of a job that is over, in any order; some may be missing."""

    @abstractmethod
    def find(self, tag: str, images: int, begun: float, known: Collection[str]) -> tuple[str | None, bool]:
        """The name of a job by its tag, and whether one that is not over may be it.

        Args:
            tag: of the job.
            images: how many it has.
            begun: when it was written down; it cannot be older.
            known: names of other jobs.
        """

    def submit(self, creation: Request) -> str:
        """Submit a job; what the server calls it.

        Raises:
            RemoteTeacherError: it was not accepted; or it may have been, where its cause is an `AttemptError` that is
                ``paid``. Then it is not sent again: `find` tells.
        """

        def attempt(exchange: Any) -> str:  # noqa: ANN401 - a function
            try:
                return named(at("id", parse_value(exchange().body)))
            except AttemptError as error:
                again = error.again and not error.paid
                told = str(error), error.wait, error.status
                raise AttemptError(told[0], paid=error.paid, again=again, wait=told[1], status=told[2]) from None
            except ProtocolError as error:
                raise AttemptError(str(error), paid=True, again=False) from None

        return self._connection.send(creation, attempt)

    def _post(self, path: str, value: bytes, kind: dict[str, str] | None = None) -> Request:
        return Request("POST", f"{self._url}{path}", kind or _JSON, value)

    def _get(self, path: str, **query: Any) -> Any:  # noqa: ANN401 - any JSON value
        more = {name: value for name, value in query.items() if value is not None}
        address = f"{self._url}{path}" + (f"?{urlencode(more)}" if more else "")
        return self._connection.send(Request("GET", address, {}), lambda exchange: parse_value(exchange().body))

    def _listed(self, path: str, begun: float, **cursor: str) -> Iterator[Any]:
        """The jobs in the server's list that are not older than a moment; the newest come first.

        ``cursor``: the name of the parameter for what a page begins after.
        """
        last: str | None = None
        while True:
            page = self._get(path, limit=_PAGE, **({cursor["after"]: last} if last else {}))
            entries = found("data", page) or []
            for entry in entries:
                if self._created(entry) < begun - _LEEWAY:
                    return
                yield entry
            if not entries or not found("has_more", page):
                return
            last = named(at("id", entries[-1]))

    @abstractmethod
    def _created(self, entry: Any) -> float:  # noqa: ANN401 - any JSON value
        """When a job in the list was submitted, seconds since 1970."""

    def _lines(self, path: str) -> Iterator[tuple[Any, int]]:
        """The JSON values in a file of results, and their bytes.

        A file with a line that is none was spoilt on its way: it is fetched again, then such lines are left out.
        """
        tries = 0

        def attempt(exchange: Any) -> list[tuple[Any, int]]:  # noqa: ANN401 - a function
            nonlocal tries
            tries += 1
            last, read = tries >= self._connection.patience.garbled, []
            for line in exchange().body.split(b"\n"):
                try:
                    read += [(parse_value(line), len(line) + 1)] if line.strip() else []
                except UnreadableReplyError:
                    if not last:
                        raise
            return read

        yield from self._connection.send(Request("GET", f"{self._url}{path}", {}), attempt)


def said(error: Any) -> str:  # noqa: ANN401 - any JSON value
    """A server's words about an error."""
    words: Iterable[Any] = (found(path, error) for path in ("error.message", "message", "error", ""))
    return shorten(next((word for word in words if word), ""), 300)


def number_at(path: str, value: Any) -> int:  # noqa: ANN401 - any JSON value
    """A whole number in a JSON value; 0 where there is none."""
    with suppress(TypeError, ValueError):
        return int(found(path, value) or 0)
    return 0


def named(name: Any) -> str:  # noqa: ANN401 - any JSON value
    """A name that may stand in an address; a `ProtocolError` for another."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ProtocolError(f"expected the name of a job or a file, got {shorten(name)}")
    return name
