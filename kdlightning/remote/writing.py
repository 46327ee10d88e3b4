"""The writer of a JSON API's requests, by configuration: what an image is sent as, and what body it stands in."""

import base64
import copy
import io
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from kdlightning.remote.pixels import Numbers, Pixels

Form = Literal["png", "jpeg", "list"]
Layout = Literal["HWC", "CHW", "flat"]
BodyKind = Literal["json", "raw", "base64", "multipart"]
PLACEHOLDER = "{image}"
_MODES = {1: "L", 3: "RGB"}
_TYPES = {
    "json": "application/json", "raw": "application/octet-stream", "base64": "application/x-www-form-urlencoded",
}  # fmt: skip


@dataclass(frozen=True)
class Writer:
    """How an image is written, and the body of a request around it.

    Args:
        image: ``png`` (8 bits per channel, so pixels are rounded) or ``jpeg`` (lossy); or ``list``, of numbers.
        layout: of the lists.
        scale: what a pixel of 1.0 is in the lists; a pixel p is (scale * p - mean) / std there.
        mean: of each channel, in the order in which they are sent, or one number for all.
        std: likewise.
        channels: the order of the colours in the lists.
        quality: of the JPEG.
        body: ``json``; or, of one image, the file itself (``raw``), its ``base64`` text and nothing else, or a
            ``multipart`` form, whose fields ``request`` has, an object.
        method: of the requests.

    Raises:
        ValueError: arguments that do not fit together.
    """

    image: Form = "png"
    layout: Layout = "HWC"
    scale: float = 1.0
    mean: Numbers = None
    std: Numbers = None
    channels: Literal["RGB", "BGR"] = "RGB"
    quality: int = 95
    body: BodyKind = "json"
    method: Literal["POST", "PUT"] = "POST"

    def __post_init__(self) -> None:
        if self.image != "list" and self.pixels != Pixels():
            told = f"scale, mean, std and channels are of images as lists (image: list), got image={self.image}"
            raise ValueError(told)
        if self.image == "list" and self.body != "json":
            raise ValueError(f"an image as a list is sent in a body of JSON, got body={self.body}")

    @property
    def pixels(self) -> Pixels:
        """What a pixel is sent as, in lists."""
        return Pixels(self.scale, self.mean, self.std, self.channels)

    @property
    def identity(self) -> dict[str, str]:
        """What a ledger says of the way requests are written, besides the request itself."""
        pixels = {"pixels": self.pixels.text} if self.pixels.text else {}
        return pixels if self.body == "json" else {**pixels, "body": self.body}

    def encode(self, images: Tensor) -> list[bytes]:
        """Images ``(N, C, H, W)`` in [0, 1], on the CPU: each as JSON, or as a file where that is sent.

        Raises:
            ValueError: a number of channels that no such file has.
        """
        if self.image == "list":
            values = images if self.pixels == Pixels() else self.pixels.of(images.double())
            if self.layout != "CHW":
                values = values.movedim(1, -1) if self.layout == "HWC" else values.flatten(1)
            return [json.dumps(image, separators=(",", ":")).encode() for image in values.tolist()]
        files = self._files(images)
        return [b'"' + base64.b64encode(file) + b'"' for file in files] if self.body == "json" else files

    def _files(self, images: Tensor) -> list[bytes]:
        from PIL import Image

        channels = images.shape[1]
        if channels not in _MODES:
            raise ValueError(f"expected images of 1 or 3 channels for {self.image}, got {channels}; send them as lists")
        options = {"quality": self.quality, "subsampling": 0} if self.image == "jpeg" else {"compress_level": 1}
        files = []
        for image in (images * 255).round().byte().movedim(1, -1).contiguous().numpy():
            file = io.BytesIO()
            form = Image.fromarray(image[:, :, 0] if channels == 1 else image, _MODES[channels])
            form.save(file, self.image, **options)
            files.append(file.getvalue())
        return files

    def template(self, request: Any, *, batch: bool) -> "RequestTemplate | BareTemplate | FormTemplate":  # noqa: ANN401
        """What fills requests; a ValueError where the request does not fit the body."""
        if self.body == "json":
            return RequestTemplate(request, self.image, batch=batch)
        if batch:
            raise ValueError(f"a body of {self.body} holds one image; set max_batch to 1")
        if self.body == "multipart":
            return FormTemplate(request, self.image)
        return BareTemplate(request, self.body)


class RequestTemplate:
    """A JSON value with the text ``{image}`` once in it.

    A text that holds more than the placeholder, such as ``data:image/png;base64,{image}``, keeps the rest. For several
    images in a request (``batch``), the element with the placeholder of the nearest list around it is repeated.

    Raises:
        ValueError: the placeholder is not there exactly once, there is no list for a batch, or text around a list.
    """

    content_type = _TYPES["json"]

    def __init__(self, template: Any, form: Form, *, batch: bool) -> None:  # noqa: ANN401 - any JSON value
        made = [copy.deepcopy(template)]
        places = list(_places(made[0], made, 0))
        number = json.dumps(template).count(PLACEHOLDER) if places else 0
        if number != 1:
            raise ValueError(f"expected {PLACEHOLDER} once in the request, found it {number} times")
        text, around, position = places[0]
        if batch and around is made:
            raise ValueError(f"several images in a request need a list around {PLACEHOLDER}; set max_batch to 1")
        if form == "list" and text != PLACEHOLDER:
            raise ValueError(f"an image as a list has no room in the text {text!r}")
        self._alone, quoted = text == PLACEHOLDER, json.dumps(PLACEHOLDER)
        self._before, _, self._after = json.dumps(around[position]).partition(quoted if self._alone else PLACEHOLDER)
        around[position] = PLACEHOLDER
        self._head, _, self._tail = json.dumps(made[0]).partition(quoted)

    def fill(self, images: Sequence[bytes]) -> bytes:
        """The body of a request for images, each given as JSON: a text, or lists."""
        values = (json.dumps(json.loads(image)) for image in images)
        filled = (f"{self._before}{value if self._alone else value[1:-1]}{self._after}" for value in values)
        return f"{self._head}{', '.join(filled)}{self._tail}".encode()


class BareTemplate:
    """The image's file, or its base64 text, and nothing else; a ValueError where the request says more."""

    def __init__(self, request: Any, body: BodyKind) -> None:  # noqa: ANN401 - any JSON value
        if request != PLACEHOLDER:
            raise ValueError(f"a body of {body} is the image alone: expected request={PLACEHOLDER}, got {request!r}")
        self.content_type, self._base64 = _TYPES[body], body == "base64"

    def fill(self, images: Sequence[bytes]) -> bytes:
        """The body of a request for one image, given as a file."""
        (image,) = images
        return base64.b64encode(image) if self._base64 else image


class FormTemplate:
    """A multipart form: texts by field, and the image's file in the one that is ``{image}`` (RFC 7578).

    Raises:
        ValueError: no object of texts, or not one image in it.
    """

    def __init__(self, fields: Any, form: Form) -> None:  # noqa: ANN401 - any JSON value
        if not isinstance(fields, Mapping) or list(fields.values()).count(PLACEHOLDER) != 1:
            wanted = f"an object of fields, one of which is {PLACEHOLDER}"
            raise ValueError(f"a multipart form has {wanted}: expected such a request, got {fields!r}")
        if odd := [name for name in fields if '"' in name or "\n" in name or "\r" in name]:
            raise ValueError(f"a multipart form: expected names of fields without quotes and line ends, got {odd}")
        self._fields, self._form = dict(fields), form
        self._boundary = f"kdlightning-{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(self._fields)).hex}"
        self.content_type = f"multipart/form-data; boundary={self._boundary}"

    def fill(self, images: Sequence[bytes]) -> bytes:
        """The body of a request for one image, given as a file."""
        (image,) = images
        lines: list[bytes] = []
        for name, value in self._fields.items():
            described = f'--{self._boundary}\r\nContent-Disposition: form-data; name="{name}"'
            if value == PLACEHOLDER:
                described += f'; filename="image.{self._form}"\r\nContent-Type: image/{self._form}'
            text = value if isinstance(value, str) else json.dumps(value)
            lines += [described.encode(), b"", image if value == PLACEHOLDER else text.encode()]
        return b"\r\n".join([*lines, f"--{self._boundary}--".encode(), b""])


def _places(value: Any, around: list[Any], position: int) -> Iterator[tuple[str, list[Any], int]]:  # noqa: ANN401
    """All texts with the placeholder, each with the nearest list around it and the position in that."""
    if isinstance(value, str) and PLACEHOLDER in value:
        yield value, around, position
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _places(inner, around, position)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _places(inner, value, number)
