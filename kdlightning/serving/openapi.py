"""The server's description for machines: an OpenAPI document of the addresses, with this model's tensors."""

import math
from http import HTTPStatus
from typing import Any

from kdlightning import __version__
from kdlightning.remote.protocol import HEADER_LENGTH
from kdlightning.serving.model import INPUT, ServedModel

_Schema = dict[str, Any]
_BINARY: _Schema = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def document(model: ServedModel, *, key: bool) -> _Schema:
    """OpenAPI 3.1 of what is served, to clients that need a key or do not."""
    told = {part: {"name": part, "in": "path", "required": True, "schema": {"enum": [getattr(model, part)]}}
            for part in ("name", "version")}  # fmt: skip
    paths: dict[str, _Schema] = {
        "/v2": {"get": _get("The server", "name", "version", "extensions")},
        "/v2/health/live": {"get": _get("Whether the server lives", "live") | {"security": []}},
        "/v2/health/ready": {"get": _get("Whether the server is ready", "ready") | {"security": []}},
        "/metrics": {"get": _operation("The count of answered images", {"text/plain": {"schema": {"type": "string"}}})},
    }
    for at, parts in (("/v2/models/{name}", ["name"]), ("/v2/models/{name}/versions/{version}", ["name", "version"])):
        operations = {
            "": {"get": _get("The model", "name", "versions", "platform", "inputs", "outputs", failures=(404,))},
            "/ready": {"get": _get("Whether the model is ready", "name", "ready", failures=(404,))},
            "/infer": {"post": _infer(model)},
        }
        for place, operation in operations.items():
            paths[at + place] = {**operation, "parameters": [told[part] for part in parts]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "kdlightning: Open Inference Protocol", "version": __version__},
        "paths": paths,
        "security": [{"key": []}] if key else [],
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if key else {},
    }


def _object(*required: str, **properties: _Schema) -> _Schema:
    """JSON Schema of an object: names that must be there, and what is known of them and of others."""
    return {"type": "object", **({"required": [*required]} if required else {}),
            **({"properties": properties} if properties else {})}  # fmt: skip


def _json(schema: _Schema) -> _Schema:
    return {"application/json": {"schema": schema}}


def _get(summary: str, *fields: str, failures: tuple[int, ...] = ()) -> _Schema:
    return _operation(summary, _json(_object(*fields)), *failures)


def _operation(summary: str, content: _Schema, *failures: int) -> _Schema:
    refused = {"content": _json(_object("error", error={"type": "string"}))}
    responses = {str(status): {"description": HTTPStatus(status).phrase, **refused} for status in (401, *failures)}
    return {"summary": summary, "responses": {"200": {"description": summary, "content": content}, **responses}}


def _infer(model: ServedModel) -> _Schema:
    (output,) = model.metadata()["outputs"]
    shape, pixel = [1, *model.shape], {"type": "number", "minimum": 0, "maximum": 1}
    tensor = _object(
        "name", "shape", "datatype", "data", name={"const": INPUT}, datatype={"const": "FP32"},
        shape={"type": "array", "items": {"type": "integer"}, "examples": [shape]},
        data={"type": "array", "items": pixel, "description": "flat, or nested as the shape says"},
    )  # fmt: skip
    request = _object(
        "inputs", id={"type": "string"}, parameters=_object(binary_data_output={"type": "boolean"}),
        inputs={"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
        outputs={"type": "array", "maxItems": 1, "items": {"properties": {"name": {"const": output["name"]}}}},
    )  # fmt: skip
    body = _json(request)
    if (count := math.prod(shape)) <= 4096:
        one = {"name": INPUT, "shape": shape, "datatype": "FP32", "data": [0.5] * count}
        body["application/json"]["example"] = {"inputs": [one]}
    length = {"name": HEADER_LENGTH, "in": "header", "schema": {"type": "integer", "minimum": 1}}
    answer = _json(_object("model_name", "model_version", "outputs")) | _BINARY
    return {
        **_operation("Answer images", answer, 400, 404, 408, 413),
        "parameters": [length | {"description": "bytes of the JSON in front of binary tensors"}],
        "requestBody": {"required": True, "content": body | _BINARY},
    }
