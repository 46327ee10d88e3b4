"""The server's description for machines: an OpenAPI document of the addresses, with this model's tensors."""

from typing import Any

from kdlightning import __version__
from kdlightning.remote.protocol import HEADER_LENGTH
from kdlightning.serving.model import INPUT, ServedModel

_Schema = dict[str, Any]


def document(model: ServedModel, *, key: bool) -> _Schema:
    """OpenAPI 3.1.

    Args:
        model: what is served.
        key: whether clients need one.
    """
    name = {"name": "name", "in": "path", "required": True, "schema": {"enum": [model.name]}}
    version = {"name": "version", "in": "path", "required": True, "schema": {"enum": [model.version]}}
    paths: dict[str, _Schema] = {
        "/v2": {"get": _get("The server", ["name", "version", "extensions"])},
        "/v2/health/live": {"get": _get("Whether the server lives", ["live"]) | {"security": []}},
        "/v2/health/ready": {"get": _get("Whether the server is ready", ["ready"]) | {"security": []}},
        "/metrics": {"get": _operation("The count of answered images", {"text/plain": {"schema": {"type": "string"}}})},
    }
    for place, parameters in (("", [name]), ("/versions/{version}", [name, version])):
        fields = ["name", "versions", "platform", "inputs", "outputs"]
        at = f"/v2/models/{{name}}{place}"
        paths[at] = {"get": _get("The model", fields, 404), "parameters": parameters}
        paths[f"{at}/ready"] = {
            "get": _get("Whether the model is ready", ["name", "ready"], 404),
            "parameters": parameters,
        }
        paths[f"{at}/infer"] = {"post": _infer(model), "parameters": parameters}
    return {
        "openapi": "3.1.0",
        "info": {"title": "kdlightning: Open Inference Protocol", "version": __version__},
        "paths": paths,
        "security": [{"key": []}] if key else [],
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if key else {},
    }


def _get(summary: str, fields: list[str], *failures: int) -> _Schema:
    return _operation(summary, {"application/json": {"schema": {"type": "object", "required": fields}}}, *failures)


def _operation(summary: str, content: _Schema, *failures: int) -> _Schema:
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    refused = {"content": {"application/json": {"schema": error}}}
    responses = {"200": {"description": summary, "content": content}}
    for status in (401, *failures):
        responses[str(status)] = {"description": _FAILURES[status], **refused}
    return {"summary": summary, "responses": responses}


def _infer(model: ServedModel) -> _Schema:
    about = model.metadata()
    (output,) = about["outputs"]
    numbers = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": INPUT},
            "datatype": {"const": "FP32"},
            "shape": {"type": "array", "items": {"type": "integer"}, "examples": [[1, *model.shape]]},
            "data": numbers | {"description": "flat, or nested as the shape says"},
        },
    }
    request = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}},
            "inputs": {"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
            "outputs": {"type": "array", "maxItems": 1, "items": {"properties": {"name": {"const": output["name"]}}}},
        },
    }
    one = {"name": INPUT, "shape": [1, *model.shape], "datatype": "FP32"}
    count = model.shape[0] * model.shape[1] * model.shape[2]
    example = {"inputs": [one | {"data": [0.5] * count}]} if count <= 4096 else None
    binary = {"schema": {"type": "string", "format": "binary"}}
    json_body: _Schema = {"schema": request} | ({} if example is None else {"example": example})
    answer = {"type": "object", "required": ["model_name", "model_version", "outputs"]}
    content = {"application/json": {"schema": answer}, "application/octet-stream": binary}
    length = {"name": HEADER_LENGTH, "in": "header", "schema": {"type": "integer", "minimum": 1}}
    return {
        **_operation("Answer images", content, 400, 404, 408, 413),
        "parameters": [length | {"description": "bytes of the JSON in front of binary tensors"}],
        "requestBody": {
            "required": True,
            "content": {"application/json": json_body, "application/octet-stream": binary},
        },
    }


_FAILURES = {
    400: "The tensors are not what the model takes; the text says what was expected",
    401: "The key is missing or wrong",
    404: "No such model or version",
    408: "The body took too long",
    413: "The body is longer than the server allows",
}
