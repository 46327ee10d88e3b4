"""What a server of the Open Inference Protocol says of itself and its model, checked before anything is paid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from kdlightning.remote.connection import Connection, RemoteTeacherError, Request
from kdlightning.remote.credentials import bare
from kdlightning.remote.protocol import BINARY_EXTENSION, FLOATS, INTEGERS, TEXT, parse_json, shorten

_PIXELS = ("FP32", "FP64", "FP16", "UINT8")
_DIMENSIONS = {"NCHW": 4, "NHWC": 4, "flat": 2}
_ATTEMPTS = 3  # that a server is not there is told soon when a run starts
_KINDS = {"logits": FLOATS, "probabilities": FLOATS, "index": INTEGERS, "text": (TEXT,)}


@dataclass(frozen=True)
class Tensors:
    """How a server wants images. None: as its metadata says.

    Args:
        input: name of the input tensor.
        output: name of the output tensor.
        datatype: of the input.
        layout: order of its dimensions; ``flat`` is ``(N, C * H * W)``.
        scale: what a pixel of 1.0 is sent as.
        binary: send and ask for values as bytes (the binary tensor data extension) instead of JSON.

    Raises:
        ValueError: a scale that is not positive.
    """

    input: str | None = None
    output: str | None = None
    datatype: Literal["FP16", "FP32", "FP64", "UINT8"] | None = None
    layout: Literal["NCHW", "NHWC", "flat"] = "NCHW"
    scale: float = 1.0
    binary: bool | None = None

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"expected a positive scale, got {self.scale}")


class Description(NamedTuple):
    """What is agreed with the server. None: it does not say; an empty version: it has none.

    The shape is that of one image as the server wants it, -1 for any side; ``classes`` is K.
    """

    version: str
    input: str
    output: str | None
    datatype: str
    shape: tuple[int, ...] | None
    classes: int | None
    binary: bool
    max_batch: int | None


def describe(at: Connection, base: str, path: str, tensors: Tensors, outputs: str, version: str | None) -> Description:
    """Read the metadata of the server at ``base`` and of the model at ``path``, and check that the settings fit them.

    Raises:
        ValueError: something does not fit: what the server says and what to change.
        RemoteTeacherError: the server cannot be asked, or does not describe itself by the protocol.
    """

    def ask(url: str) -> dict[str, Any]:
        return at.send(Request("GET", url, {}), lambda exchange: parse_json(exchange().body), _ATTEMPTS)

    extensions = ask(base).get("extensions") or []
    model = ask(path if version is None else f"{path}/versions/{version}")
    where = bare(path)
    one = _only(model, "inputs", tensors.input, where)
    answer = _only(model, "outputs", tensors.output, where)
    if one is None and (tensors.input is None or tensors.datatype is None):
        raise ValueError(f"{where} does not describe its input; give tensors.input and tensors.datatype")
    name, datatype = (str(tensors.input), str(tensors.datatype)) if one is None else (one["name"], one.get("datatype"))
    shape = None if one is None else _image_shape(one, tensors, where)
    if datatype not in _PIXELS or tensors.datatype not in (None, datatype):
        raise ValueError(f"{where}: expected pixels of datatype {tensors.datatype or _PIXELS}, the server's {datatype}")
    if datatype == "UINT8" and not 1 < tensors.scale <= 255:
        raise ValueError(f"{where} takes whole numbers (UINT8): set tensors.scale to 255, got {tensors.scale:g}")
    return Description(
        version=version or _version(model, path, ask),
        input=name,
        output=tensors.output if answer is None else answer["name"],
        datatype=datatype,
        shape=shape,
        classes=None if answer is None else _classes(answer, outputs, where),
        binary=BINARY_EXTENSION in extensions if tensors.binary is None else tensors.binary,
        max_batch=_told(model, "max_batch"),
    )


def _only(model: dict[str, Any], part: str, name: str | None, where: str) -> dict[str, Any] | None:
    """The one tensor of a part of the metadata; None if it lists none."""
    found = model.get(part) or []
    if not isinstance(found, list) or not all(isinstance(t, dict) and isinstance(t.get("name"), str) for t in found):
        raise RemoteTeacherError(f"{where}: expected metadata with a list of {part}, got {shorten(found)}")
    names = [tensor["name"] for tensor in found]
    if part == "inputs" and len(found) > 1:
        raise ValueError(f"{where}: expected a model of images alone, its inputs are {names}")
    if name is not None and found and name not in names:
        raise ValueError(f"{where}: expected '{name}' among its {part}, which are {names}")
    if name is None and len(found) > 1:
        raise ValueError(f"{where} has several outputs: set tensors.output to one of {names}")
    return next((tensor for tensor in found if name in (None, tensor["name"])), None)


def _image_shape(tensor: dict[str, Any], tensors: Tensors, where: str) -> tuple[int, ...]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(isinstance(side, int) for side in shape):
        raise RemoteTeacherError(f"{where}: expected a shape of input '{tensor['name']}', got {shorten(shape)}")
    if len(shape) != (wanted := _DIMENSIONS[tensors.layout]):
        is_not = f"layout {tensors.layout} has {wanted} dimensions, the input's shape is {shape}"
        raise ValueError(f"{where}: {is_not}; set tensors.layout")
    return tuple(shape[1:])


def _classes(tensor: dict[str, Any], outputs: str, where: str) -> int | None:
    """K by the output's own account, once its datatype fits."""
    datatype, shape = tensor.get("datatype"), tensor.get("shape")
    if datatype not in _KINDS[outputs]:
        told = f"needs a tensor of {' or '.join(_KINDS[outputs])}, the server's '{tensor['name']}' is {datatype}"
        advice = "correct `outputs`, or take the teacher class of the other access"
        raise ValueError(f"{where}: outputs={outputs} {told}; {advice}")
    last = shape[-1] if isinstance(shape, list) and shape else None
    if outputs in ("logits", "probabilities") and isinstance(last, int) and last > 0:
        return last
    return _told(tensor, "num_classes")


def _told(part: dict[str, Any], name: str) -> int | None:
    """A number above 0 among the parameters of the model or a tensor."""
    parameters = part.get("parameters")
    value = parameters.get(name) if isinstance(parameters, dict) else None
    return value if isinstance(value, int) and value > 0 else None


def _version(model: dict[str, Any], path: str, ask: Callable[[str], object]) -> str:
    """The one version that the model has. MLServer lists versions of other things there; those it does not serve."""
    versions = []
    for version in map(str, model.get("versions") or []):
        try:
            ask(f"{path}/versions/{quote(version, safe='')}")
            versions.append(version)
        except RemoteTeacherError as error:
            if error.status not in (400, 404):
                raise
    if len(versions) > 1:
        raise ValueError(f"{bare(path)} has several versions: set `version` to one of {versions}")
    return versions[0] if versions else ""
