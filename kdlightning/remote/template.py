"""Requests and answers of any JSON API, by configuration: where images go in, and where answers are found."""

import base64
import copy
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from kdlightning.remote.pixels import Pixels
from kdlightning.remote.protocol import Array, ProtocolError, shorten

Form = Literal["png", "jpeg", "list"]
Layout = Literal["HWC", "CHW", "flat"]
PLACEHOLDER = "{image}"
_MODES = {1: "L", 3: "RGB"}


class RequestTemplate:
    """A JSON value with the text ``{image}`` once in it.

    A text that holds more than the placeholder, such as ``data:image/png;base64,{image}``, keeps the rest. For several
    images in a request (``batch``), the element with the placeholder of the nearest list around it is repeated.

    Raises:
        ValueError: the placeholder is not there exactly once, there is no list for a batch, or text around a list.
    """

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


def at(path: str, value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """What is in a JSON value at a path: names and positions with dots between (``outputs.0.scores``), or empty.

    Raises:
        ProtocolError: nothing is.
    """
    steps = [step for step in path.split(".") if step]
    for number, step in enumerate(steps):
        try:
            value = value[int(step) if isinstance(value, list) else step]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            before = f"{'.'.join(steps[:number])!r} of " if number else ""
            wanted = f"'{step}' of the path '{path}' in {before}the answer"
            raise ProtocolError(f"expected {wanted}, got {shorten(json.dumps(value))}") from error
    return value


def encode(images: Tensor, form: Form, layout: Layout, pixels: Pixels, quality: int) -> list[bytes]:
    """Images ``(N, C, H, W)`` in [0, 1], on the CPU, each as JSON; the rest is as `HTTPTeacher` has it.

    Raises:
        ValueError: a number of channels that no such file has.
    """
    if form == "list":
        values = images if pixels == Pixels() else pixels.of(images.double())
        if layout != "CHW":
            values = values.movedim(1, -1) if layout == "HWC" else values.flatten(1)
        return [json.dumps(image, separators=(",", ":")).encode() for image in values.tolist()]
    from PIL import Image

    channels = images.shape[1]
    if channels not in _MODES:
        raise ValueError(f"expected images of 1 or 3 channels for {form}, got {channels}; send them as lists")
    options = {"quality": quality, "subsampling": 0} if form == "jpeg" else {"compress_level": 1}
    encoded = []
    for image in (images * 255).round().byte().movedim(1, -1).contiguous().numpy():
        file = io.BytesIO()
        Image.fromarray(image[:, :, 0] if channels == 1 else image, _MODES[channels]).save(file, form, **options)
        encoded.append(b'"' + base64.b64encode(file.getvalue()) + b'"')
    return encoded


def scores_of(answers: list[Any], labels: dict[str, int] | None, keys: tuple[str, str]) -> Array:
    """Scores ``(N, K)`` in the order of the classes.

    An answer is a list of numbers, or, where ``labels`` has the class index of each label, an object of numbers by
    label or a list of objects with a label and a score, which ``keys`` names.

    Raises:
        ProtocolError: it is none of these, a label is unknown, a class has no score, or rows of different lengths.
    """
    rows = [_row(answer, labels, keys) for answer in answers]
    if len(lengths := {len(row) for row in rows}) != 1:
        raise ProtocolError(f"expected as many scores for every image, got {sorted(lengths)}")
    return np.array(rows, dtype=np.float64)


def _row(value: Any, labels: dict[str, int] | None, keys: tuple[str, str]) -> list[float]:  # noqa: ANN401
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        value = {str(entry.get(keys[0])): entry.get(keys[1]) for entry in value}
    if isinstance(value, dict):
        if labels is None:
            raise ProtocolError(f"expected a list of scores, got scores by label, {shorten(value)}; give `labels`")
        unknown = sorted(value.keys() - labels.keys())
        if unknown:
            raise ProtocolError(f"expected labels among {list(labels)[:20]}, got {unknown[:5]}")
        by_class = {labels[label]: score for label, score in value.items()}
        missing = sorted(set(labels.values()) - by_class.keys())
        if missing:
            raise ProtocolError(f"expected a score of every class, got none of {missing[:10]}: ask for all classes")
        value = [by_class[number] for number in sorted(by_class)]
    if not isinstance(value, list) or not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value):
        raise ProtocolError(f"expected a list of scores, got {shorten(value)}")
    return [float(score) if abs(score) < 1e300 else math.inf for score in value]


def labels_of(values: list[Any], *, text: bool) -> Array:
    """Labels ``(N,)``: texts, or whole numbers; a `ProtocolError` if they are something else."""
    if text and all(isinstance(value, (str, int)) and not isinstance(value, bool) for value in values):
        return np.array([str(value) for value in values], dtype=object)
    if not text and all(type(value) is int and abs(value) < 2**62 for value in values):
        return np.array(values, dtype=np.int64)
    raise ProtocolError(f"expected {'label texts' if text else 'class indices'}, got {shorten(values)}")


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
