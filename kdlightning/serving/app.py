"""The protocol's addresses over HTTP: key, limits and errors; what an image's answer is, `ServedModel` knows."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from kdlightning import __version__
from kdlightning.serving.model import ServedModel
from kdlightning.teachers.protocol import BINARY_EXTENSION, HEADER_LENGTH, ProtocolError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

_OPEN = ("/v2/health/live", "/v2/health/ready")  # probes of a supervisor, which has no key
_BODY_SECONDS = 60.0  # a body that takes longer is given up: 408
_AT_ONCE = 16  # bodies in memory at the same time; further requests wait
_ASGI = Callable[..., Awaitable[None]]


def create_app(model: ServedModel, *, api_key: str | None = None, max_body: int = 64 * 2**20) -> "FastAPI":
    """An ASGI application that serves one model.

    Args:
        model: what is served.
        api_key: expected as ``Authorization: Bearer <key>``, except by the health probes; None to let all in.
        max_body: the most bytes in a request's body; more is refused (413) without reading it to its end.

    Raises:
        ImportError: the extra ``serve`` is not installed.
    """
    try:
        from fastapi import FastAPI
        from starlette.exceptions import HTTPException
    except ImportError as error:
        raise ImportError("serving needs FastAPI and uvicorn: pip install kdlightning[serve]") from error
    app = FastAPI(title="kdlightning", version=__version__, docs_url=None, redoc_url=None)
    app.add_exception_handler(HTTPException, _explain)
    app.add_exception_handler(Exception, _hide)
    app.add_middleware(_RequireKey, api_key=api_key)
    _add_descriptions(app, model)
    _add_inference(app, model, max_body)
    return app


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


def _add_descriptions(app: "FastAPI", model: ServedModel) -> None:
    """Health, metadata and the count."""
    from fastapi import Response

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        return {"name": "kdlightning", "version": __version__, "extensions": [BINARY_EXTENSION]}

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        return {"live": True, "ready": True}

    @app.get("/v2/models/{name}", responses=_FAILURES)
    @app.get("/v2/models/{name}/versions/{version}", responses=_FAILURES)
    async def metadata(name: str, version: str | None = None) -> dict[str, Any]:
        _check_name(model, name, version)
        return model.metadata()

    @app.get("/v2/models/{name}/ready", responses=_FAILURES)
    @app.get("/v2/models/{name}/versions/{version}/ready", responses=_FAILURES)
    async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
        _check_name(model, name, version)
        return {"name": model.name, "ready": True}

    @app.get("/metrics")
    async def metrics() -> Response:
        name = "kdlightning_images_answered_total"
        lines = [f"# HELP {name} Images answered.", f"# TYPE {name} counter"]
        lines.append(f'{name}{{model="{model.name}",version="{model.version}"}} {model.answered}')
        return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


def _add_inference(app: "FastAPI", model: ServedModel, max_body: int) -> None:
    """The one address that takes a body."""
    from fastapi import Request, Response
    from starlette.concurrency import run_in_threadpool

    room, one_at_a_time = asyncio.Semaphore(_AT_ONCE), asyncio.Lock()

    # a network is asked by one thread at a time: its layers use all cores, and the count stays exact
    @app.post("/v2/models/{name}/infer", openapi_extra=_BODY, responses=_FAILURES)
    @app.post("/v2/models/{name}/versions/{version}/infer", openapi_extra=_BODY, responses=_FAILURES)
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        _check_name(model, name, version)
        header_length = _header_length(request)
        async with room:
            body = await _read(request, max_body)
            async with one_at_a_time:
                try:
                    answer, length = await run_in_threadpool(model.infer, body, header_length)
                except ProtocolError as error:
                    return _error(400, str(error))
        if length is None:
            return Response(answer, media_type="application/json")
        return Response(answer, media_type="application/octet-stream", headers={HEADER_LENGTH: str(length)})


async def _read(request: "Request", limit: int) -> bytes:
    """The body of a request, as long as it stays within the limit."""
    from starlette.exceptions import HTTPException

    close = {"connection": "close"}  # what is left of the body is not read
    too_long = f"expected a body of at most {limit} bytes, got {{}}; send fewer images in a request"
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise HTTPException(413, too_long.format(announced), close)
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise HTTPException(413, too_long.format("more"), close)
    except TimeoutError as error:
        raise HTTPException(408, f"expected the whole body within {_BODY_SECONDS:g} seconds", close) from error
    return bytes(body)


def _header_length(request: "Request") -> int | None:
    from starlette.exceptions import HTTPException

    text = request.headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise HTTPException(400, f"expected a number of bytes in the header {HEADER_LENGTH}, got {text[:40]!r}")
    return int(text)


def _check_name(model: ServedModel, name: str, version: str | None) -> None:
    from starlette.exceptions import HTTPException

    if name != model.name:
        raise HTTPException(404, f"expected the model '{model.name}', got '{name[:80]}'")
    if version not in (None, model.version):
        raise HTTPException(404, f"expected version '{model.version}' of '{name}', got '{str(version)[:80]}'")


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse({"error": text}, status, headers)


async def _explain(_: "Request", error: Any) -> "Response":  # noqa: ANN401 - an HTTPException, known only lazily
    return _error(error.status_code, str(error.detail), error.headers)


async def _hide(*_: object) -> "Response":
    return _error(500, "the server failed to answer; its log says why")


_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string"},
        "parameters": {"type": "object"},
        "data": {"type": "array"},
    },
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {"type": "array", "items": _TENSOR},
                        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"description": "The tensors are not what the model takes; the text says what was expected."},
    401: {"description": "The key is missing or wrong."},
    404: {"description": "No such model or version."},
    408: {"description": "The body took too long."},
    413: {"description": "The body is longer than the server allows."},
}
