"""The Open Inference Protocol's messages (KServe V2 over REST): JSON tensors and the binary tensor data extension.

- specification: https://github.com/kserve/open-inference-protocol/tree/main/specification/protocol
- extension: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol/binary-tensor-data-extension

Client and server share this module; it knows bytes and numpy arrays, and nothing of HTTP.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from kdlightning.remote.credentials import blacken
from kdlightning.teachers.answers import AnswerError

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY_EXTENSION = "binary_tensor_data"  # as Triton announces it among a server's extensions
BF16 = np.dtype([("bf16", "<u2")])  # numpy has no such numbers; they are read as float32
DATATYPES: dict[str, Any] = {
    "BOOL": "|b1", "UINT8": "|u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "|i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
    "BF16": BF16,
}  # fmt: skip
FLOATS = ("BF16", "FP16", "FP32", "FP64")
INTEGERS = tuple(name for name in DATATYPES if "INT" in name)
TEXT = "BYTES"
_NAMES = {np.dtype(code): name for name, code in DATATYPES.items()}
_KINDS = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}  # JSON numbers that a datatype of this kind takes

_RANK = 16  # dimensions of a tensor; numpy has 64

Array = np.ndarray[Any, np.dtype[Any]]
Part = Literal["inputs", "outputs"]


class ProtocolError(AnswerError):
    """A message is not what the protocol says. The text tells what was expected and what came."""


class UnreadableReplyError(ProtocolError):
    """Not even a message: an intermediary may be at fault, and asking again may help."""


def write(
    message: Mapping[str, Any], part: Part, tensors: Mapping[str, Array], *, binary: bool
) -> tuple[bytes, int | None]:
    """A request's or a response's body, of its fields and its tensors by name; text is an array of objects (``str``).

    With it the length of the JSON in it, in front of the values as bytes (``binary``); None without these.
    """
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, tensor in tensors.items():
        entry: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "datatype": _NAMES.get(tensor.dtype, TEXT)}
        if binary:
            blobs.append(_to_bytes(tensor))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = widened(tensor).reshape(-1).tolist()
        described.append(entry)
    header = json.dumps({**message, part: described}, separators=(",", ":"), allow_nan=False).encode()
    return (b"".join([header, *blobs]), len(header)) if binary else (header, None)


def read(body: bytes, header_length: int | None, part: Part) -> tuple[dict[str, Any], dict[str, Array]]:
    """A message's fields, and the tensors of one part by name; the length is the JSON's, None where all is JSON.

    Raises:
        ProtocolError: it is not such a body.
    """
    if header_length is not None and not 0 < header_length <= len(body):
        raise ProtocolError(f"expected {HEADER_LENGTH} between 1 and the body's {len(body)} bytes, got {header_length}")
    message = parse_json(body if header_length is None else body[:header_length])
    entries = message.get(part)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ProtocolError(f"expected a list of tensors named '{part}', got {shorten(entries)}")
    at = len(body) if header_length is None else header_length
    tensors: dict[str, Array] = {}
    for entry in entries:
        name, shape, size = _description(entry)
        if size is None:
            tensors[name] = _from_json(name, entry, shape)
        else:
            if at + size > len(body):
                raise ProtocolError(f"tensor '{name}': expected {size} bytes of binary data, got {len(body) - at}")
            tensors[name] = _from_bytes(name, entry["datatype"], shape, body[at : at + size])
            at += size
    if at != len(body):
        raise ProtocolError(f"expected no bytes after the last tensor, got {len(body) - at}")
    return message, tensors


def widened(tensor: Array) -> Array:
    """The same numbers in a kind that numpy has."""
    return (tensor["bf16"].astype(np.uint32) << 16).view(np.float32) if tensor.dtype == BF16 else tensor


def header_length(text: str | None) -> int | None:
    """What the header says of a message: the length of its JSON; None without it. A `ProtocolError` for no number."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ProtocolError(f"expected a number of bytes in the header {HEADER_LENGTH}, got {shorten(text, 40)}")
    return int(text)


def parse_json(text: bytes) -> dict[str, Any]:
    """A JSON object; a `ProtocolError` if it is none."""
    value = parse_value(text)
    if not isinstance(value, dict):
        raise ProtocolError(f"expected a JSON object, got {shorten(value)}")
    return value


def parse_value(text: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """A JSON value; a `ProtocolError` if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableReplyError(f"expected JSON, got {shorten(text)} ({error})") from None


def shorten(value: object, length: int = 120) -> str:
    """A value as it is shown in a message: no secret, on one line, not longer than this."""
    text = blacken(value.decode(errors="replace") if isinstance(value, bytes) else str(value))
    text = " ".join(text[: 2 * length].split())
    return repr(text if len(text) <= length else text[:length] + "…") if text else "nothing"


def _description(entry: dict[str, Any]) -> tuple[str, tuple[int, ...], int | None]:
    """A tensor's name, shape and, of a binary one, size in bytes, checked."""
    name, shape, datatype = entry.get("name"), entry.get("shape"), entry.get("datatype")
    if not isinstance(name, str):
        raise ProtocolError(f"expected a tensor with a 'name', got {shorten(name)}")
    if (
        not isinstance(shape, list) or len(shape) > _RANK
        or not all(type(side) is int and 0 <= side < 2**31 for side in shape)
    ):  # fmt: skip
        wanted = f"a shape of whole numbers >= 0, not more than {_RANK}"
        raise ProtocolError(f"tensor '{name}': expected {wanted}, got {shorten(shape)}")
    if not isinstance(datatype, str) or (datatype not in DATATYPES and datatype != TEXT):
        raise ProtocolError(f"tensor '{name}': expected a datatype among {[*DATATYPES, TEXT]}, got {shorten(datatype)}")
    parameters = entry.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None and (type(size) is not int or size < 0):
        raise ProtocolError(f"tensor '{name}': expected binary_data_size to be a number of bytes, got {shorten(size)}")
    if (size is None) == ("data" not in entry):
        raise ProtocolError(f"tensor '{name}': expected either 'data' or the parameter binary_data_size")
    return name, tuple(shape), size


def _from_json(name: str, entry: dict[str, Any], shape: tuple[int, ...]) -> Array:
    datatype = entry["datatype"]
    try:
        values = np.asarray(entry["data"], dtype=object if datatype == TEXT else None)
    except (ValueError, OverflowError) as error:
        raise ProtocolError(f"tensor '{name}': expected data of shape {list(shape)}, got ragged lists") from error
    count = int(np.prod(shape, dtype=object))
    if values.size != count or (values.ndim != 1 and values.shape != shape):
        raise ProtocolError(f"tensor '{name}': expected {count} values for the shape {shape}, got {values.shape}")
    if datatype == TEXT:
        if not all(isinstance(value, str) for value in values.flat):
            raise ProtocolError(f"tensor '{name}': expected text, got {shorten(entry['data'])}")
        return values.reshape(shape)
    dtype = np.dtype(DATATYPES["FP32" if datatype == "BF16" else datatype])
    if values.size and values.dtype.kind not in _KINDS[dtype.kind]:
        raise ProtocolError(f"tensor '{name}': expected {datatype} numbers, got {shorten(entry['data'])}")
    if dtype.kind in "iu" and values.size:
        limits = np.iinfo(dtype)
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise ProtocolError(f"tensor '{name}': expected {datatype} numbers, got {values.min()} to {values.max()}")
    with np.errstate(over="ignore"):  # becomes infinite, which whoever reads the values refuses
        return values.astype(dtype).reshape(shape)


def _from_bytes(name: str, datatype: str, shape: tuple[int, ...], data: bytes) -> Array:
    count = int(np.prod(shape, dtype=object))
    if datatype == TEXT:
        texts, at = [], 0
        while at < len(data):  # each behind its length in four bytes
            start, size = at + 4, int.from_bytes(data[at : at + 4], "little")
            at = start + size
            if at > len(data):
                raise ProtocolError(f"tensor '{name}': expected each text behind its length (4 bytes); the data is cut")
            texts.append(data[start:at].decode(errors="replace"))
        if len(texts) != count:
            raise ProtocolError(f"tensor '{name}': expected {count} texts for {list(shape)}, got {len(texts)}")
        return np.array(texts, dtype=object).reshape(shape)
    dtype = np.dtype(DATATYPES[datatype])
    if len(data) != count * dtype.itemsize:
        wanted = f"{count * dtype.itemsize} bytes for {datatype} of shape {list(shape)}"
        raise ProtocolError(f"tensor '{name}': expected {wanted}, got {len(data)}")
    return widened(np.frombuffer(data, dtype)).reshape(shape)


def _to_bytes(tensor: Array) -> bytes:
    if tensor.dtype in _NAMES:
        return tensor.tobytes()
    texts = [str(text).encode() for text in tensor.flat]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)
