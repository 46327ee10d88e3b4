"""Requests and answers of any JSON API, by configuration: where images go in, and where answers are found."""

import base64
import copy
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from kdlightning.remote.protocol import Array, ProtocolError, shorten

Form = Literal["png", "jpeg", "list"]
PLACEHOLDER = "{image}"
_MODES = {1: "L", 3: "RGB"}


class RequestTemplate:
    """A JSON value with the text ``{image}`` once in it.

    A text that holds more than the placeholder, such as ``data:image/png;base64,{image}``, keeps the rest. For several
    images in a request, the element with the placeholder of the nearest list around it is repeated for each.

    Args:
        template: the JSON value.
        form: how images are written.
        batch: whether there is more than one image in a request.

    Raises:
        ValueError: the placeholder is not there exactly once, there is no list for a batch, or text around a list.
    """

    def __init__(self, template: Any, form: Form, *, batch: bool) -> None:  # noqa: ANN401 - any JSON value
        places = list(_places(template))
        if len(places) != 1:
            raise ValueError(f"expected {PLACEHOLDER} once in the request, found it {len(places)} times")
        self._template, self._place = template, places[0]
        self._list_at = max((at for at, step in enumerate(self._place) if isinstance(step, int)), default=None)
        if batch and self._list_at is None:
            raise ValueError(f"several images in a request need a list around {PLACEHOLDER}; set max_batch to 1")
        if form == "list" and _at(template, self._place) != PLACEHOLDER:
            raise ValueError(f"an image as a list has no room in the text {_at(template, self._place)!r}")

    def fill(self, images: Sequence[bytes]) -> bytes:
        """The body of a request.

        Args:
            images: each as JSON: a text, or lists.
        """
        values = [json.loads(image) for image in images]
        if self._list_at is None:
            (value,) = values
            return json.dumps(_put(self._template, self._place, value)).encode()
        filled = copy.deepcopy(self._template)
        around, position = _at(filled, self._place[: self._list_at]), self._place[self._list_at]
        inner = self._place[self._list_at + 1 :]
        around[position : position + 1] = [_put(around[position], inner, value) for value in values]
        return json.dumps(filled).encode()


class AnswerPath:
    """Steps into a JSON value: names and positions with dots between, such as ``outputs.0.scores``; empty: itself."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._steps = [int(step) if re.fullmatch(r"-?\d+", step) else step for step in path.split(".") if step]

    def of(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """What is there.

        Raises:
            ProtocolError: nothing is.
        """
        here = value
        for number, step in enumerate(self._steps):
            try:
                here = here[step if isinstance(here, list) else str(step)]
            except (KeyError, IndexError, TypeError) as error:
                before = ".".join(map(str, self._steps[:number]))
                raise ProtocolError(
                    f"expected '{step}' of the path '{self.path}' in {f'{before!r} of ' if before else ''}the answer, "
                    f"got {shorten(json.dumps(here))}"
                ) from error
        return here


@dataclass(frozen=True)
class Writing:
    """How images stand in JSON.

    Args:
        form: ``png`` (8 bits per channel) or ``jpeg`` (lossy) in base64, or nested lists of numbers.
        layout: of the lists.
        scale: what a pixel of 1.0 is in the lists.
        quality: of the JPEG.
    """

    form: Form
    layout: Literal["HWC", "CHW", "flat"]
    scale: float
    quality: int

    def encode(self, images: Tensor) -> list[bytes]:
        """Images ``(N, C, H, W)`` in [0, 1], on the CPU, each as JSON.

        Raises:
            ValueError: a number of channels that no such file has.
        """
        if self.form == "list":
            pixels = images if self.scale == 1 else images.double() * self.scale
            if self.layout != "CHW":
                pixels = pixels.movedim(1, -1) if self.layout == "HWC" else pixels.flatten(1)
            return [json.dumps(image, separators=(",", ":")).encode() for image in pixels.tolist()]
        from PIL import Image

        channels = images.shape[1]
        if channels not in _MODES:
            raise ValueError(f"expected images of 1 or 3 channels for {self.form}, got {channels}; send them as lists")
        options: dict[str, Any] = {"compress_level": 1}
        if self.form == "jpeg":
            options = {"quality": self.quality, "subsampling": 0}
        encoded = []
        for image in (images * 255).round().byte().movedim(1, -1).contiguous().numpy():
            file = io.BytesIO()
            Image.fromarray(image[:, :, 0] if channels == 1 else image, _MODES[channels]).save(
                file, self.form, **options
            )
            encoded.append(b'"' + base64.b64encode(file.getvalue()) + b'"')
        return encoded


def scores_of(value: Any, labels: dict[str, int] | None, keys: tuple[str, str]) -> list[float]:  # noqa: ANN401
    """One image's scores in the order of the classes.

    Args:
        value: a list of numbers, an object of numbers by label, or a list of objects with a label and a score each.
        labels: class index of each label; needed for the latter two.
        keys: names of label and score in such objects.

    Raises:
        ProtocolError: it is none of these, a label is unknown, or a class has no score.
    """
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
    return [float(score) for score in value]


def stack_scores(rows: list[list[float]]) -> Array:
    """Scores ``(N, K)``.

    Raises:
        ProtocolError: rows of different lengths.
    """
    lengths = {len(row) for row in rows}
    if len(lengths) != 1:
        raise ProtocolError(f"expected as many scores for every image, got {sorted(lengths)}")
    return np.array(rows, dtype=np.float64)


def stack_labels(values: list[Any], *, text: bool) -> Array:
    """Labels ``(N,)``: texts, or whole numbers.

    Raises:
        ProtocolError: they are something else.
    """
    if text and all(isinstance(value, (str, int)) and not isinstance(value, bool) for value in values):
        return np.array([str(value) for value in values], dtype=object)
    if not text and all(type(value) is int and abs(value) < 2**62 for value in values):
        return np.array(values, dtype=np.int64)
    raise ProtocolError(f"expected {'label texts' if text else 'class indices'}, got {shorten(values)}")


def _places(value: Any, path: tuple[str | int, ...] = ()) -> Any:  # noqa: ANN401 - any JSON value
    """The paths of all texts with the placeholder."""
    if isinstance(value, str):
        yield from [path] * value.count(PLACEHOLDER)
    elif isinstance(value, (dict, list)):
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*path, step))


def _at(value: Any, path: Sequence[str | int]) -> Any:  # noqa: ANN401 - any JSON value
    for step in path:
        value = value[step]
    return value


def _put(template: Any, path: Sequence[str | int], image: Any) -> Any:  # noqa: ANN401 - any JSON value
    """A copy of a template with an image in its place."""
    if not path:
        return image if template == PLACEHOLDER else template.replace(PLACEHOLDER, image)
    filled = copy.copy(template)
    filled[path[0]] = _put(template[path[0]], path[1:], image)
    return filled
