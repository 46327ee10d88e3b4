"""The protocol's addresses over HTTP: key, limits and errors; what an image's answer is, `ServedModel` knows."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from kdlightning import __version__
from kdlightning.remote.protocol import BINARY_EXTENSION, HEADER_LENGTH, ProtocolError
from kdlightning.serving.model import ServedModel
from kdlightning.serving.openapi import document

with suppress(ImportError):  # the extra ``serve``: create_app says so
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    from kdlightning.serving.guard import Place, Room, Turns

    _Endpoint = Callable[[Request], Awaitable[Response]]

_OPEN = ("/v2/health/live", "/v2/health/ready")  # probes of a supervisor, which has no key
_BODY_SECONDS = 60.0  # a body that takes longer is given up: 408
_BODIES = 4  # of the longest, in memory at the same time
_JSON = 16 * 2**20  # bytes: parsing holds up everything else, and takes ten times as much memory
_ASGI = Callable[..., Awaitable[None]]


def create_app(model: ServedModel, *, api_key: str | None = None, max_body: int = 64 * 2**20) -> "Starlette":
    """An ASGI application that serves one model; an ImportError where the extra ``serve`` is not installed.

    Args:
        model: what is served.
        api_key: expected as ``Authorization: Bearer <key>``, except by the health probes; None to let all in.
        max_body: the most bytes in a request's body; more is refused (413) without reading it to its end.
    """
    try:
        import starlette.applications  # noqa: F401
    except ImportError as error:
        raise ImportError("serving needs starlette and uvicorn: pip install starlette uvicorn") from error

    def replies(answer: Callable[[], "Response"]) -> "_Endpoint":
        async def endpoint(request: "Request") -> "Response":
            _check_name(model, request)
            return answer()

        return endpoint

    described: dict[str, dict[str, Any]] = {
        "/v2": {"name": "kdlightning", "version": __version__, "extensions": [BINARY_EXTENSION]},
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"live": True, "ready": True},
        "/openapi.json": document(model, key=api_key is not None),
    }
    infer, infers = _infer(model, max_body), []
    for at in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        described |= {at: model.metadata(), f"{at}/ready": {"name": model.name, "ready": True}}
        infers.append(Route(f"{at}/infer", infer, methods=["POST"]))
    routes = [Route(path, replies(partial(JSONResponse, value))) for path, value in described.items()]
    routes += [Route("/metrics", replies(partial(_metrics, model))), *infers]
    return Starlette(
        routes=routes,
        middleware=[Middleware(_RequireKey, api_key=api_key)],
        exception_handlers={HTTPException: _explain, Exception: _hide},
    )


class _RequireKey:
    """Before anything else of a request is looked at: 401 unless it brings the key."""

    def __init__(self, app: _ASGI, api_key: str | None) -> None:
        self._app = app
        self._expected = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's own types
        if scope["type"] == "http" and self._expected is not None and scope["path"] not in _OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                text = "expected the header 'Authorization: Bearer <key>' with this server's key"
                await _error(401, text, {"www-authenticate": "Bearer"})(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _metrics(model: ServedModel) -> "Response":
    """The count, as Prometheus reads it."""
    name = "kdlightning_images_answered_total"
    count = f'{name}{{model="{model.name}",version="{model.version}"}} {model.answered}'
    text = f"# HELP {name} Images answered.\n# TYPE {name} counter\n{count}\n"
    return Response(text, media_type="text/plain; version=0.0.4")


def _infer(model: ServedModel, max_body: int) -> "_Endpoint":
    """The one endpoint that takes a body."""
    # a network is asked by one thread at a time: its layers use all cores, and the count stays exact
    room, turns = Room(_BODIES * max_body), Turns()

    async def endpoint(request: "Request") -> Response:
        _check_name(model, request)
        header_length = _header_length(request)
        with room.place() as place:
            body = await _read(request, place, max_body if header_length else min(max_body, _JSON))
            async with turns.turn(len(body) if header_length is None else len(body) / 16):  # JSON costs more
                if await request.is_disconnected():
                    return _error(400, "nobody waits for the answer")
                status, answer, length = await run_in_threadpool(_answer, model, body, header_length)
        if status != 200:
            return _error(status, answer.decode()) if answer else await _hide()
        if length is None:
            return Response(answer, media_type="application/json")
        return Response(answer, media_type="application/octet-stream", headers={HEADER_LENGTH: str(length)})

    return endpoint


def _answer(model: ServedModel, body: bytes, header_length: int | None) -> tuple[int, bytes, int | None]:
    """Status, body and its JSON's length. No exception leaves the thread, which would keep all that it refers to."""
    try:
        return 200, *model.infer(body, header_length)
    except ProtocolError as error:
        return 400, str(error).encode(), None
    except Exception:  # here, not in a handler of the application, which would close the connection
        logging.getLogger("uvicorn.error").exception("the model failed to answer")
        return 500, b"", None


async def _read(request: "Request", place: "Place", limit: int) -> bytes:
    """The body of a request, as long as it stays within the limit and there is room for it."""
    close = {"connection": "close"}  # what is left of the body is not read
    too_long = f"expected a body of at most {limit} bytes, got {{}}; send fewer images in a request, or binary tensors"
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise HTTPException(413, too_long.format(announced), close)
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS) as place.clock:
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise HTTPException(413, too_long.format("more"), close)
                if not place.take(len(part)):
                    raise HTTPException(503, "too many bodies at once; come back", {**close, "retry-after": "1"})
    except ClientDisconnect as error:
        raise HTTPException(400, "expected the whole body, got a part of it") from error
    except TimeoutError as error:
        text = f"expected the whole body within {_BODY_SECONDS:g} seconds, or sooner where others wait"
        raise HTTPException(408, text, close) from error
    finally:
        place.clock = None
    return bytes(body)


def _header_length(request: "Request") -> int | None:
    text = request.headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise HTTPException(400, f"expected a number of bytes in the header {HEADER_LENGTH}, got {text[:40]!r}")
    if int(text) > _JSON:
        raise HTTPException(413, f"expected at most {_JSON} bytes of JSON before the tensors, got {text[:40]}")
    return int(text)


def _check_name(model: ServedModel, request: "Request") -> None:
    """404 for an address of another model or version."""
    for part, wanted in (("name", model.name), ("version", model.version)):
        given = request.path_params.get(part, wanted)
        if given != wanted:
            kind = "model" if part == "name" else part
            raise HTTPException(404, f"expected the {kind} '{wanted}', got {given[:80]!r}")


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> "Response":
    return JSONResponse({"error": text}, status, headers)


async def _explain(_: "Request", error: Any) -> "Response":  # noqa: ANN401 - an HTTPException, known only lazily
    return _error(error.status_code, str(error.detail), error.headers)


async def _hide(*_: object) -> "Response":
    return _error(500, "the server failed to answer; its log says why")
