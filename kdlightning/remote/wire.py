"""One request and its whole reply over HTTP/1.1, in bounded time and memory, and never to a proxy that may not see it.

Needs the extra ``remote``.
"""

import contextlib
import importlib.util
import ipaddress
import ssl
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore2

from kdlightning.remote.credentials import bare, remember
from kdlightning.remote.protocol import UnreadableReplyError

LONGEST = 64 * 2**20  # bytes of a reply, unpacked; no answer to a request's images is longer, but an endless body is
_PIECE = 2**16
_READS = "%:@!$&'()*+,;=~/?[]"


class TooLongError(Exception):
    """A reply that did not end."""


class Received(NamedTuple):
    """A reply; names of headers are lower case, and ``size`` is that of the body as it was transferred."""

    status: int
    headers: dict[str, str]
    body: bytes
    size: int


class Wire:
    """Connections to one server, kept open, at most ``at_once`` of them.

    Args:
        headers: of every request.
        at_once: the most connections.
        proxy: the proxy's address; None for none.
    """

    def __init__(self, headers: dict[str, str], at_once: int, proxy: str | None) -> None:
        self._headers = {"Accept": "*/*", "Accept-Encoding": "gzip", "User-Agent": "kdlightning", **headers}
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpcore2.default_ssl_context(), proxy=None if proxy is None else _proxy(proxy),
            max_connections=at_once, max_keepalive_connections=at_once, keepalive_expiry=5.0,
            network_backend=_Backend(),
        )  # fmt: skip

    def exchange(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, connect: float, rest: float
    ) -> Received:
        """Send and take the whole reply: ``connect`` seconds for a connection, ``rest`` to send, and again to answer.

        Raises:
            TooLongError: the reply did not end.
            UnreadableReplyError: its body is not in the encoding that it announces.
            httpcore2.TimeoutException, httpcore2.NetworkError, ...: what else may happen on the way.
        """
        timeout = {"connect": connect, "read": rest, "write": rest, "pool": connect + 2 * rest}
        sent = list({**self._headers, **headers}.items())
        with self._pool.stream(method, plain(url), headers=sent, content=body, extensions={"timeout": timeout}) as got:
            told = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in got.headers}
            parts = _Counted(got.iter_stream())
            content = _unpacked(parts, told.get("content-encoding", ""))
            if _surplus(got):  # would be taken for the answer to the next question
                got.extensions["network_stream"].close()
        return Received(got.status, told, content, parts.size)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


def plain(url: str) -> str:
    """An address in the characters that HTTP has."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host.encode("idna").decode()
    port = "" if parts.port is None else f":{parts.port}"
    query = f"?{quote(parts.query, _READS)}" if parts.query else ""
    return f"{parts.scheme}://{host}{port}{quote(parts.path, _READS) or '/'}{query}"


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host or "").is_loopback
    return host == "localhost" or (host or "").endswith(".localhost")


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address; None for this machine, and what NO_PROXY names.

    Raises:
        ValueError: it is of a kind that cannot be used.
    """
    parts = urlsplit(url)
    if is_loopback(parts.hostname) or proxy_bypass(parts.hostname or ""):
        return None
    known = getproxies()
    name = parts.scheme if parts.scheme in known else "all"
    if not (proxy := known.get(name)):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    proxy = proxy.replace("socks://", "socks5://")
    scheme, told = proxy.partition(":")[0], f"the environment variable {name.upper()}_PROXY names {bare(proxy)}"
    remember(unquote(urlsplit(proxy).password or ""))
    advice = f"correct it, or except the server: NO_PROXY={parts.hostname}"
    if scheme not in ("http", "https", "socks5", "socks5h") or not urlsplit(proxy).hostname:
        raise ValueError(f"expected a proxy such as http://host:3128 or socks5://host:1080, but {told}; {advice}")
    if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ValueError(f"{told}, and a SOCKS proxy needs another package: pip install socksio; or {advice}")
    return proxy


def _proxy(url: str) -> httpcore2.Proxy:
    parts = urlsplit(url)
    auth = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    port = {"http": 80, "https": 443}.get(parts.scheme, 1080)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return httpcore2.Proxy(f"{parts.scheme}://{host}:{parts.port or port}", auth)


class _Counted:
    """Parts of a body, and how long they are together."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts, self.size = parts, 0

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            self.size += len(part)
            yield part


def _unpacked(parts: Iterable[bytes], encoding: str) -> bytes:
    """A body without its encoding; what it unpacks to is never longer than the limit, not even for a moment."""
    body = bytearray()
    if encoding.lower() not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise UnreadableReplyError(f"expected a body in its announced encoding, and gzip or none, got {encoding!r}")
    unpacker = None if encoding.lower() in ("", "identity") else zlib.decompressobj(47)
    try:
        for part in parts:
            body += part if unpacker is None else unpacker.decompress(part, LONGEST + 1 - len(body))
            if len(body) > LONGEST:
                raise TooLongError(f"the answer did not end after {LONGEST:,} bytes; if it is meant, lower max_batch")
    except zlib.error as error:
        raise UnreadableReplyError(f"expected a body in its announced encoding, {encoding} ({error})") from None
    if unpacker is not None and not unpacker.eof:
        raise UnreadableReplyError(f"expected a body in its announced encoding, {encoding}; it is cut")
    return bytes(body)


def _surplus(response: httpcore2.Response) -> bool:
    """Whether more has come than the reply; what comes later, httpcore finds when it takes up the connection again."""
    inner = getattr(getattr(response.stream, "_stream", None), "_connection", None)
    state = getattr(inner, "_h11_state", None)
    return state is not None and bool(state.trailing_data[0])


class _Timed(httpcore2.NetworkStream):
    """Holds all writing of a request, and all reading of its reply, to the time that one operation may take."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream
        self._reading: bool | None = None
        self._ends = 0.0

    def _left(self, reading: bool, timeout: float | None) -> float:
        now = time.monotonic()
        if self._reading is not reading:
            self._reading, self._ends = reading, now + (timeout or 0.0)
        if self._ends <= now:
            raise httpcore2.ReadTimeout if reading else httpcore2.WriteTimeout
        return self._ends - now

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(True, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        for at in range(0, len(view), _PIECE):
            self._stream.write(view[at : at + _PIECE], self._left(False, timeout))  # type: ignore[arg-type]

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's
        return self._stream.get_extra_info(info)


class _Backend(httpcore2.SyncBackend):
    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:  # noqa: ANN401 - httpcore's
        return _Timed(super().connect_tcp(*args, **kwargs))
