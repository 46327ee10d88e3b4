"""What a server of the Open Inference Protocol says of itself and its model, checked before anything is paid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from kdlightning.remote.connection import Connection, RemoteTeacherError, Request
from kdlightning.remote.credentials import bare, blacken
from kdlightning.remote.pixels import Numbers, Pixels
from kdlightning.remote.protocol import BINARY_EXTENSION, FLOATS, INTEGERS, TEXT, parse_json, shorten

_PIXELS = ("FP32", "FP64", "FP16", "BF16", "UINT8")
_ATTEMPTS = 3  # that a server is not there is told soon when a run starts
_ABSENT = (404, 405, 501)  # a server without metadata
_UNTOLD = "if this server does not describe its models, give tensors.input and tensors.datatype"
_KINDS = {
    "logits": FLOATS, "probabilities": FLOATS, "sigmoids": FLOATS, "index": (*INTEGERS, *FLOATS, TEXT),
    "text": (TEXT, *INTEGERS),
}  # fmt: skip


@dataclass(frozen=True)
class Tensors:
    """How a server wants images. None: as its metadata says.

    A pixel p in [0, 1] is sent as (scale * p - mean) / std: with a scale of 1, ``mean: [0.485, 0.456, 0.406]`` and
    ``std: [0.229, 0.224, 0.225]`` are those of most networks that were trained on ImageNet.

    Args:
        input: name of the input tensor.
        output: name of the output tensor.
        datatype: of the input. With ``input``, a server without metadata can be asked, too.
        layout: order of its dimensions; ``flat`` is ``(N, C * H * W)``.
        scale: what a pixel of 1.0 is before the mean is taken off.
        mean: of each channel, in the order in which they are sent, or one number for all.
        std: likewise.
        channels: the order in which the colours are sent.
        binary: send and ask for values as bytes (the binary tensor data extension) instead of JSON.
        classification: ask for so many best classes as texts ``value:index:label`` (the classification extension)
            instead of the output's tensor; soft labels need all K of them.

    Raises:
        ValueError: a scale or deviation that is not positive; whole numbers (UINT8) that would be normalised.
    """

    input: str | None = None
    output: str | None = None
    datatype: Literal["BF16", "FP16", "FP32", "FP64", "UINT8"] | None = None
    layout: Literal["NCHW", "NHWC", "flat"] | None = None
    scale: float = 1.0
    mean: Numbers = None
    std: Numbers = None
    channels: Literal["RGB", "BGR"] = "RGB"
    binary: bool | None = None
    classification: int | None = None

    def __post_init__(self) -> None:
        self.pixels  # noqa: B018 - checks them
        if self.classification is not None and self.classification < 1:
            raise ValueError(f"tensors.classification: expected at least 1 class, got {self.classification}")

    @property
    def pixels(self) -> Pixels:
        """What a pixel is sent as."""
        return Pixels(self.scale, self.mean, self.std, self.channels)


class Description(NamedTuple):
    """What is agreed with the server. None: it does not say; an empty version: it has none.

    The shape is that of one image as the server wants it, -1 for any side; ``classes`` is K. ``batch``: images in every
    request, no more and no less; 0 for one without a dimension of its own; None for any number.
    """

    version: str
    input: str
    output: str | None
    datatype: str
    shape: tuple[int, ...] | None
    classes: int | None
    binary: bool
    max_batch: int | None
    layout: str = "NCHW"
    batch: int | None = None


def describe(at: Connection, base: str, path: str, tensors: Tensors, outputs: str, version: str | None) -> Description:
    """Read the metadata of the server at ``base`` and of the model at ``path``, and check that the settings fit them.

    Raises:
        ValueError: something does not fit: what the server says and what to change.
        RemoteTeacherError: the server cannot be asked, or does not describe itself by the protocol.
    """
    try:
        return _agree(at, base, path, tensors, outputs, version)
    except ValueError as error:  # may quote what the server says
        raise ValueError(blacken(str(error))) from None


def _agree(at: Connection, base: str, path: str, tensors: Tensors, outputs: str, version: str | None) -> Description:
    def ask(url: str) -> dict[str, Any]:
        return at.send(Request("GET", url, {}), lambda exchange: parse_json(exchange().body), _ATTEMPTS)

    def ask_if_there(url: str, *, needed: bool) -> dict[str, Any]:
        try:
            return ask(url)
        except RemoteTeacherError as error:
            if error.status not in _ABSENT:
                raise
            if needed:
                raise RemoteTeacherError(f"{error}; {_UNTOLD}", error.status) from None
            return {}

    where = bare(path)
    extensions = ask_if_there(base, needed=False).get("extensions")
    told = tensors.input is not None and tensors.datatype is not None
    model = ask_if_there(path if version is None else f"{path}/versions/{version}", needed=not told)
    one = _only(model, "inputs", tensors.input, where)
    answer = _only(model, "outputs", tensors.output, where)
    if one is None and not told:
        raise ValueError(f"{where} does not describe its input; give tensors.input and tensors.datatype")
    name, datatype = (str(tensors.input), str(tensors.datatype)) if one is None else (one["name"], one.get("datatype"))
    batch, shape, layout = (None, None, tensors.layout or "NCHW") if one is None else _image_shape(one, tensors, where)
    if datatype not in _PIXELS or tensors.datatype not in (None, datatype):
        wanted = tensors.datatype or " or ".join(_PIXELS)
        raise ValueError(f"{where}: expected pixels of datatype {wanted}, the server's {_short(datatype)}")
    if datatype == "UINT8" and (not 1 < tensors.scale <= 255 or tensors.mean is not None or tensors.std is not None):
        advice = "set tensors.scale to 255, and neither mean nor std"
        raise ValueError(f"{where} takes whole numbers (UINT8): {advice}, got a scale of {tensors.scale:g}")
    most = [number for number in (_told(model, "max_batch"), None if batch is None else max(1, batch)) if number]
    return Description(
        version=version or blacken(_version(model, path, ask)),  # stands in the ledger
        input=name,
        output=tensors.output if answer is None else answer["name"],
        datatype=datatype,
        shape=shape,
        classes=None if answer is None or tensors.classification else _classes(answer, outputs, where),
        binary=_is_list(extensions, BINARY_EXTENSION) if tensors.binary is None else tensors.binary,
        max_batch=min(most, default=None),
        layout=layout,
        batch=batch,
    )


def _is_list(value: Any, of: str) -> bool:  # noqa: ANN401 - any JSON value
    return isinstance(value, list) and of in value


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


def _image_shape(
    tensor: dict[str, Any], tensors: Tensors, where: str
) -> tuple[int | None, tuple[int, ...], Literal["NCHW", "NHWC", "flat"]]:
    """Images in every request, see `Description`, and the shape of one of them and its layout."""
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int and side < 2**31 for side in shape):
        raise RemoteTeacherError(f"{where}: expected a shape of input '{tensor['name']}', got {shorten(shape)}")
    one = 1 if tensors.layout == "flat" else 3  # dimensions of an image
    if len(shape) not in (one, one + 1):
        is_not = f"layout {tensors.layout or 'NCHW'} has {one + 1} dimensions, the input's shape is {shape}"
        raise ValueError(f"{where}: {is_not}; set tensors.layout")
    batch, image = (0, shape) if len(shape) == one else (shape[0] if shape[0] > 0 else None, shape[1:])
    colours = [len(image) == 3 and image[place] in (1, 3) for place in (0, -1)]
    layout = tensors.layout or ("NHWC" if colours == [False, True] else "NCHW")
    return batch, tuple(side if side > 0 else -1 for side in image), layout


def _classes(tensor: dict[str, Any], outputs: str, where: str) -> int | None:
    """K by the output's own account, once its datatype fits."""
    datatype, shape = tensor.get("datatype"), tensor.get("shape")
    last = shape[-1] if isinstance(shape, list) and shape else None
    scores = outputs == "index" and datatype in FLOATS and type(last) is int and last > 1
    if datatype not in _KINDS[outputs] or scores:
        wanted = "one number for an image" if scores else f"a tensor of {' or '.join(_KINDS[outputs])}"
        told = f"the server's '{tensor['name']}' is {_short(datatype)} of shape {shorten(shape)}"
        advice = "correct `outputs`, or take the teacher class of the other access"
        raise ValueError(f"{where}: outputs={outputs} needs {wanted}, {told}; {advice}")
    if outputs in ("logits", "probabilities") and type(last) is int and last > 0:
        return last
    return _told(tensor, "num_classes")


def _short(name: object) -> str:
    return shorten(name).strip("'")


def _told(part: dict[str, Any], name: str) -> int | None:
    """A number above 0 among the parameters of the model or a tensor."""
    parameters = part.get("parameters")
    value = parameters.get(name) if isinstance(parameters, dict) else None
    return value if type(value) is int and value > 0 else None


def _version(model: dict[str, Any], path: str, ask: Callable[[str], object]) -> str:
    """The one version that the model has. MLServer lists versions of other things there; those it does not serve."""
    versions, listed = [], model.get("versions")
    for version in map(str, listed if isinstance(listed, list) else []):
        try:
            ask(f"{path}/versions/{quote(version, safe='')}")
            versions.append(version)
        except RemoteTeacherError as error:
            if error.status not in (400, 404):
                raise
    if len(versions) > 1:
        raise ValueError(f"{bare(path)} has several versions: set `version` to one of {versions}")
    return versions[0] if versions else ""
