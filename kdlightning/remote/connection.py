"""Requests that may fail: time-outs, retries with backoff and jitter, and what an attempt may have cost."""

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from kdlightning.remote.credentials import bare, blacken
from kdlightning.remote.limits import retry_after
from kdlightning.remote.protocol import UnreadableReplyError, shorten
from kdlightning.teachers.answers import AnswerError

if TYPE_CHECKING:
    import tenacity

    from kdlightning.remote.wire import Received

_log = logging.getLogger(__name__)
_REFUSED = (408, 425, 429)  # before the work: such an attempt is not paid, and worth another
_LIBRARIES = ("connection", "http11", "proxy", "socks")  # their debug messages show headers
_T = TypeVar("_T")
_P = TypeVar("_P")


class RemoteTeacherError(RuntimeError):
    """The teacher cannot be asked, or does not answer what was agreed. Whatever it has answered is kept.

    ``status`` is that of the HTTP reply, where it is the reason; 200 where what it says is.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(blacken(text))
        self.status = status


@dataclass(frozen=True)
class Patience:
    """How long to wait for an answer, and how often to ask again.

    Args:
        connect_timeout: seconds until a connection has to be there.
        read_timeout: seconds until a request has to be sent, and then its whole answer to be there.
        attempts: the most times a request is sent.
        total: seconds after which a request is not sent again; a longer Retry-After ends the patience, too.
        backoff: seconds before the second attempt; doubled before every further one.
        longest_backoff: seconds that it grows to.
        jitter: up to so many seconds are added to every wait, drawn at random.
        garbled: the most times a request is sent whose answers cannot be read: HTML, half a body. An intermediary may
            be at fault, but such answers are paid. A message that says something else than was agreed ends it at once.
        ask_again: ask once more about images that a ledger knows to have got no answer; without it, never.

    Raises:
        ValueError: a number that is not positive.
    """

    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    attempts: int = 10
    total: float = 600.0
    backoff: float = 0.5
    longest_backoff: float = 30.0
    jitter: float = 1.0
    garbled: int = 3
    ask_again: bool = False

    def __post_init__(self) -> None:
        may_be = ("backoff", "jitter", "ask_again")
        wrong = [name for name, value in vars(self).items() if not value > 0 and name not in may_be]
        if wrong:
            raise ValueError(f"expected positive numbers of patience, got {wrong[0]} = {getattr(self, wrong[0])}")


class Request(NamedTuple):
    """What is sent; ``number``: by which its answer is told from others', where there is one."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None = None
    number: str = ""


class Reply(NamedTuple):
    """What came back, status 2xx, and the number of what was asked.

    Names of headers are lower case; ``size``: bytes of the body as it was transferred.
    """

    headers: Mapping[str, str]
    body: bytes
    size: int
    number: str = ""


class AttemptError(Exception):
    """One attempt's failure. ``paid``: it may have been answered. ``wait``: what the server asked for."""

    def __init__(
        self, text: str, *, paid: bool, again: bool = True, wait: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(blacken(text))
        self.paid, self.again, self.wait, self.status = paid, again, wait, status


class Connection:
    """Sends requests to one server, from several threads if need be; keeps ``at_once`` connections open.

    The headers of every request may hold secrets and never leave this object otherwise. Raises an `ImportError` where
    the extra ``remote`` is not installed, and a `ValueError` for a proxy of a kind that cannot be used.
    """

    def __init__(self, url: str, headers: dict[str, str], patience: Patience, at_once: int) -> None:
        try:
            import httpcore2  # noqa: F401 - used later; its absence is told now
            import tenacity  # noqa: F401
        except ImportError as error:
            text = f"a teacher behind a connection needs {error.name}: pip install httpcore2 tenacity"
            raise ImportError(text) from error
        from kdlightning.remote.wire import Wire, proxy_for

        for name in _LIBRARIES:
            logging.getLogger(f"httpcore2.{name}").addFilter(_without_secrets)
        self.patience = patience
        self.stopped = threading.Event()  # set: no attempt is begun any more
        self.listener: Callable[[Request, dict[str, str], Received], None] | None = None  # of what goes out and in
        self.heard: Callable[[int, Mapping[str, str]], None] | None = None  # of every reply's head
        self.sign: Callable[[Request], dict[str, str]] | None = None  # makes the headers of one attempt
        self._headers, self._proxy = headers, proxy_for(url)
        self._open = partial(Wire, headers, at_once, self._proxy)
        self._wire, self._owner = self._open(), os.getpid()

    def send(self, request: Request, attempt: Callable[[Callable[[], Reply]], _T], attempts: int | None = None) -> _T:
        """Send a request until it is answered; ``attempts``: fewer than patience has.

        ``attempt`` calls what it is given, which sends the request once and may raise an `AttemptError`, and makes the
        answer of the reply; it raises `AnswerError` where that is not what was agreed, and `RemoteTeacherError` where
        asking again would not help.

        Raises:
            RemoteTeacherError: patience has ended, or asking again would not help.
        """
        import tenacity

        last: AttemptError | None = None
        garbled = 0

        def once() -> _T:
            nonlocal last, garbled
            if self.stopped.is_set():
                raise last or AttemptError("stopped", paid=False, again=False)
            try:
                return attempt(lambda: self._exchange(request))
            except AnswerError as error:
                garbled += 1
                again = isinstance(error, UnreadableReplyError) and garbled < self.patience.garbled
                last = AttemptError(str(error), paid=True, again=again, status=200)
                raise last from None
            except AttemptError as fault:
                last = fault
                raise

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, AttemptError) and error.again),
            stop=tenacity.stop_after_attempt(min(attempts or self.patience.attempts, self.patience.attempts))
            | tenacity.stop_before_delay(self.patience.total)
            | tenacity.stop_when_event_set(self.stopped),
            wait=self._wait,
            sleep=tenacity.sleep_using_event(self.stopped),
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            return retrying(once)
        except AttemptError as fault:
            where = bare(blacken(request.url))
            tries = retrying.statistics.get("attempt_number", 1)
            asked = f" (asked {tries} times in {retrying.statistics.get('delay_since_first_attempt', 0):.0f} s)"
            waiting = "" if fault.wait is None else f" It asks to be left alone for {fault.wait:.0f} s."
            raise RemoteTeacherError(
                f"{where}: {fault}{asked if tries > 1 else ''}.{waiting} What it has answered is kept: "
                "once this is mended, run the same command to go on",
                fault.status,
            ) from fault

    def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    def _exchange(self, request: Request) -> Reply:
        """Send once and take the whole reply; no other status than 2xx comes back."""
        import httpcore2

        from kdlightning.remote.wire import TooLongError

        if self._owner != os.getpid():  # a fork inherited the sockets of its parent
            self._wire, self._owner = self._open(), os.getpid()
        headers = request.headers if self.sign is None else {**request.headers, **self.sign(request)}
        waits = self.patience.connect_timeout, self.patience.read_timeout
        # what the libraries say may quote the reply, so that no error of theirs is kept as a cause
        try:
            got = self._wire.exchange(request.method, request.url, headers, request.body, *waits)
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.PoolTimeout, httpcore2.ProxyError) as error:
            raise self._unconnected(error) from None
        except httpcore2.TimeoutException:
            raise AttemptError(f"no answer within {self.patience.read_timeout:g} s", paid=True) from None
        except TooLongError as error:
            raise AttemptError(str(error), paid=True) from None
        except httpcore2.LocalProtocolError as error:
            raise AttemptError(f"the request cannot be sent ({_words(error)})", paid=False, again=False) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol) as error:
            raise AttemptError(f"the connection broke ({_words(error)})", paid=True) from None
        if self.listener is not None:
            self.listener(request, self._headers, got)
        if self.heard is not None:
            self.heard(got.status, got.headers)
        self._check_status(got)
        return Reply(got.headers, got.body, got.size, request.number)

    def _unconnected(self, error: Exception) -> AttemptError:
        if "CERTIFICATE_VERIFY" in str(error):
            text = f"its certificate cannot be verified ({_words(error)}); certificates are always verified: name the "
            text += "authority's certificate in the environment variable SSL_CERT_FILE"
            return AttemptError(text, paid=False, again=False)
        through = ""
        if self._proxy is not None:
            through = f" through the proxy {bare(self._proxy)}, which the environment names (except hosts by NO_PROXY)"
        return AttemptError(f"no connection{through} ({_words(error)})", paid=False)

    def _check_status(self, got: "Received") -> None:
        status = got.status
        if 200 <= status < 300:
            return
        said = _said(got.body)
        wait = retry_after(got.headers.get("retry-after"))
        if status >= 500 or status in _REFUSED:
            # a gateway's 502, 503 or 504 may follow an answer that it lost; who says when to come back has refused
            refused = status in _REFUSED or (status == 503 and wait is not None)
            raise AttemptError(f"status {status}, {said}", paid=not refused, wait=wait, status=status)
        advice = _ADVICE.get(status, "the request is not what this server takes; compare the configuration with it")
        if 300 <= status < 400:
            said = f"redirected to {bare(blacken(got.headers.get('location', '')))[:300]}"
            advice = "redirects are not followed, because a key would travel with them; give the final address"
        raise AttemptError(f"status {status}, {said}: {advice}", paid=False, again=False, status=status)

    def _wait(self, state: "tenacity.RetryCallState") -> float:
        """Exponential backoff with jitter; at least what the server asked for."""
        import tenacity

        patience, fault = self.patience, state.outcome.exception() if state.outcome else None
        jitter = tenacity.wait_random(0, patience.jitter)(state)
        backoff = tenacity.wait_exponential(multiplier=patience.backoff, max=patience.longest_backoff)(state)
        asked = fault.wait if isinstance(fault, AttemptError) and fault.wait is not None else 0.0
        return max(backoff, asked) + jitter

    def _tell(self, state: "tenacity.RetryCallState") -> None:
        fault = state.outcome.exception() if state.outcome else None
        _log.warning("teacher: %s; attempt %d in %.1f s", fault, state.attempt_number + 1, state.upcoming_sleep)


def together(ask: Callable[[_P], _T], parts: Sequence[_P], number: int, stopped: threading.Event) -> list[_T]:
    """Ask about all parts, so many at a time; if one fails, ``stopped`` is set until those under way are through."""
    with ThreadPoolExecutor(number, thread_name_prefix="teacher") as pool:
        futures = [pool.submit(ask, part) for part in parts]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            stopped.clear()
            raise
        return [future.result() for future in futures]


def _without_secrets(record: logging.LogRecord) -> bool:
    record.msg, record.args = blacken(record.getMessage()), None
    return True


def _words(error: Exception) -> str:
    return blacken(str(error))[:300] or type(error).__name__


_ADVICE = {
    401: "the key is missing or wrong; name its place with api_key_env or api_key_file",
    403: "the key does not allow this",
    404: "there is no such model or address; compare url, model and version with the server",
    413: "the request is too long for this server; lower max_batch",
}


def _said(body: bytes) -> str:
    """The server's own words: the text of a JSON error, else the beginning of the body."""
    with contextlib.suppress(ValueError, RecursionError):
        message: Any = json.loads(body)
        for key in ("error", "detail", "message"):
            if isinstance(message, dict) and key in message:
                return shorten(message[key], 300)
    return shorten(body)
