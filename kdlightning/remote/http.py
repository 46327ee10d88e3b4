"""Teachers behind any JSON API, by configuration."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from kdlightning.remote.bill import longest_answer
from kdlightning.remote.connection import Connection, Reply, Request
from kdlightning.remote.credentials import bare, check_url, fill_in, fill_in_address, fill_in_request
from kdlightning.remote.networked import NetworkedTeacher, Outputs
from kdlightning.remote.pixels import Numbers, Pixels
from kdlightning.remote.protocol import Array, ProtocolError, parse_value
from kdlightning.remote.template import Form, Layout, RequestTemplate, at, encode, labels_of, scores_of
from kdlightning.teachers.blackbox import HardLabelTeacher, SoftLabelTeacher

_KEYS = ("label", "score")


class HTTPTeacher(NetworkedTeacher):
    """A classifier behind any API that takes and answers JSON.

    Nothing is known of such an API beforehand: try one image (``kdlightning teacher try``) before a run.

    A request for several images at once, with labels in the answers::

        url: https://api.example.org/v1/classify
        headers: {Authorization: "Bearer env:EXAMPLE_KEY"}
        request: {instances: [{b64: "{image}"}]}   # this list gets one element per image
        results: predictions                       # the list with one entry per image
        answer: label                              # what to take of an entry
        outputs: text
        labels: [airplane, automobile, bird]
        max_batch: 32

    Args:
        url: where requests are sent.
        request: any JSON value with ``{image}`` once in it; see `RequestTemplate` for several images.
        outputs: what an image's answer is. Soft labels: ``logits`` or ``probabilities``, as a list, an object of scores
            by label, or a list of objects with label and score. Hard labels: ``index`` of the class, or ``text``.
        answer: path of one image's answer in its entry, such as ``outputs.0.scores``; empty for the whole entry.
        results: path of the list with an entry for each image; None where the answer is one image's entry.
        label_key: name of the label in objects with label and score.
        score_key: name of the score in them.
        method: of the requests.
        headers: more headers. ``env:NAME`` and ``file:PATH`` in a value stand for the secret there; so they do at the
            end of a text in ``request``, and as a parameter of ``url``.
        image: ``png`` (8 bits per channel, so pixels are rounded) or ``jpeg`` (lossy), both in base64; or ``list``.
        layout: of the lists.
        scale: what a pixel of 1.0 is in the lists; a pixel p is (scale * p - mean) / std there.
        mean: of each channel, in the order in which they are sent, or one number for all.
        std: likewise.
        channels: the order of the colours in the lists.
        quality: of the JPEG.
        version_path: path of the model's version in an answer. It must not change, and be ``version`` if that is given.
        max_batch: the most images in a request.
        options: those of :class:`NetworkedTeacher`.

    Raises:
        ValueError: arguments that do not fit together, an unsafe url, a secret in the configuration, or none where one
            is named.
    """

    def __init__(
        self,
        url: str,
        request: Any,  # noqa: ANN401 - any JSON value
        outputs: Outputs,
        *,
        answer: str = "",
        results: str | None = None,
        label_key: str = _KEYS[0],
        score_key: str = _KEYS[1],
        method: Literal["POST", "PUT"] = "POST",
        headers: dict[str, str] | None = None,
        image: Form = "png",
        layout: Layout = "HWC",
        scale: float = 1.0,
        mean: Numbers = None,
        std: Numbers = None,
        channels: Literal["RGB", "BGR"] = "RGB",
        quality: int = 95,
        version_path: str | None = None,
        max_batch: int = 1,
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        super().__init__(outputs, max_batch, **options)
        if max_batch > 1 and results is None:
            raise ValueError("several images in a request need `results`, the path of the list with their answers")
        filled, secrets = fill_in(headers or {}, read=not self._offline)
        body, more = fill_in_request(request, read=not self._offline)
        check_url(url, secret=False)
        address, most = (url, []) if self._offline else fill_in_address(url)
        check_url(url, secret=bool(secrets + more + most))
        self._address, self._target, self._method = url, address, method
        self._template = RequestTemplate(body, image, batch=max_batch > 1)
        pixels = Pixels(scale, mean, std, channels)
        if image != "list" and pixels != Pixels():
            raise ValueError(f"scale, mean, std and channels are of images as lists (image: list), got image={image}")
        self._form = image, layout, pixels, quality
        self._keys, self._entry, self._results = (label_key, score_key), answer, results
        self._version_path, self._bill.longest = version_path, longest_answer(request)
        if not self._offline:
            self._connection = Connection(url, filled, self._patience, self._concurrency)
        self._identify(
            network=self._known_as or url,
            name=bare(url),
            version=self._version or "",
            **({"pixels": pixels.text} if pixels.text else {}),
            answer=f"{results or ''}:{answer}",
            request=hashlib.sha256(json.dumps(request).encode()).hexdigest()[:16],
            **({} if self._keys == _KEYS else {"keys": ":".join(self._keys)}),
        )

    def _encode(self, images: Tensor) -> list[bytes]:
        return encode(images.float(), *self._form)

    def _request(self, images: Sequence[bytes], shape: tuple[int, ...]) -> Request:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        return Request(self._method, self._target, headers, self._template.fill(images))

    def _read(self, reply: Reply, number: int) -> Array:
        value = parse_value(reply.body)
        if self._version_path is not None:
            self._check_version(str(at(self._version_path, value)))
        entries = [value] if self._results is None else at(self._results, value)
        if not isinstance(entries, list) or len(entries) != number:
            found = f"a list of {len(entries)}" if isinstance(entries, list) else type(entries).__name__
            raise ProtocolError(f"expected a list of {number} answers, one for each image, got {found}")
        answers = [at(self._entry, entry) for entry in entries]
        if self.access == "hard":
            return labels_of(answers, text=self._outputs == "text")
        return scores_of(answers, self._labels, self._keys)


class HTTPSoftLabelTeacher(HTTPTeacher, SoftLabelTeacher):
    """Class probabilities from any JSON API.

    Its arguments are those of :class:`~kdlightning.remote.http.HTTPTeacher`.
    """


class HTTPHardLabelTeacher(HTTPTeacher, HardLabelTeacher):
    """Top-1 class indices from any JSON API.

    Its arguments are those of :class:`~kdlightning.remote.http.HTTPTeacher`.
    """
