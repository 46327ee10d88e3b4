"""Teachers behind any API over HTTP, by configuration: a writer of requests, a reader of replies."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kdlightning.accounting.options import group_of
from kdlightning.remote.bill import longest_answer
from kdlightning.remote.connection import Connection, Reply, Request
from kdlightning.remote.credentials import bare, check_url, fill_in, fill_in_address, fill_in_request
from kdlightning.remote.networked import NetworkedTeacher
from kdlightning.remote.paths import at
from kdlightning.remote.protocol import ProtocolError, parse_value, shorten
from kdlightning.remote.reading import Outputs, Reader
from kdlightning.remote.signing import Signer
from kdlightning.remote.words import Words
from kdlightning.remote.writing import Writer
from kdlightning.teachers.blackbox import HardLabelTeacher, SoftLabelTeacher, TopKTeacher, at_least_one
from kdlightning.teachers.outcomes import Outcome, Reading

_NO_TOKENS = (
    "this model gives no log-probabilities of tokens, or was not asked for them; HTTPHardLabelTeacher takes the label "
    "that it writes: outputs=text, and as reader.answer the path of the text"
)


class HTTPTeacher(NetworkedTeacher):
    """A classifier behind any API that answers JSON.

    Nothing is known of such an API beforehand: try one image (``kdlightning teacher try``) before a run.

    A request for several images at once, with labels in the answers::

        url: https://api.example.org/v1/classify
        headers: {Authorization: "Bearer env:EXAMPLE_KEY"}
        request: {instances: [{b64: "{image}"}]}         # this list gets one element per image
        reader: {results: predictions, answer: label}    # the list with one entry per image, and what to take of one
        outputs: text
        labels: [airplane, automobile, bird]
        max_batch: 32

    An image may get no answer, see :mod:`kdlightning.teachers.outcomes`: the model declines, what it says has no known
    label in it, or the server refuses it (status 400, 413, 415, 422 or 451) though it has answered others.

    Args:
        url: where requests are sent.
        request: any JSON value with ``{image}`` once in it, see `RequestTemplate`; other bodies: `Writer.body`.
        outputs: what an image's answer is. Soft labels: ``logits``, ``probabilities``, ``sigmoids`` (a score of its own
            for each class, which becomes its share of their sum), in any shape of :func:`~kdlightning.remote.scores.\
scores_in`, or ``tokens``, the log-probabilities of a chat completion. Hard labels: ``index`` of the class, or ``text``.
        writer: how images are written.
        reader: where answers are, and how they are read.
        headers: more headers. ``env:NAME`` and ``file:PATH`` in a value stand for the secret there; so they do at the
            end of a text in ``request``, and as a parameter of ``url``.
        sign: what signs each attempt, or gives it a token that expires: :class:`~kdlightning.remote.AWSSignature`,
            :class:`~kdlightning.remote.GoogleToken`.
        max_batch: the most images in a request.
        options: those of :class:`NetworkedTeacher`.

    Raises:
        ValueError: arguments that do not fit together, an unsafe url, a secret in the configuration, or none where one
            is named.
    """

    odd_answers = any_size = True

    def __init__(
        self,
        url: str,
        request: Any,  # noqa: ANN401 - any JSON value
        outputs: Outputs,
        *,
        writer: Writer | None = None,
        reader: Reader | None = None,
        headers: dict[str, str] | None = None,
        sign: Signer | None = None,
        max_batch: int = 1,
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        self._writer, self._reader = group_of(Writer, writer, "writer"), group_of(Reader, reader, "reader")
        super().__init__(**options)
        self._answer_with(outputs, max_batch)
        self._words = None if self._labels is None else Words(self._labels, self._reader.match)
        if max_batch > 1 and self._reader.results is None:
            raise ValueError("several images in a request need reader.results, the path of the list with their answers")
        filled, secrets = fill_in(headers or {}, read=not self._offline)
        body, more = fill_in_request(request, read=not self._offline)
        check_url(url, secret=False)
        address, most = (url, []) if self._offline else fill_in_address(url)
        check_url(url, secret=bool(secrets + more + most) or sign is not None)
        self._address, self._target, self._bill.longest = url, address, longest_answer(request)
        self._template = self._writer.template(body, batch=max_batch > 1)
        told = {name.lower() for name in filled}
        kinds = {"Content-Type": self._template.content_type, "Accept": "application/json"}
        self._kinds = {name: value for name, value in kinds.items() if name.lower() not in told}
        if not self._offline:
            self._connection = Connection(url, filled, self._patience, self._concurrency)
            if sign is not None:
                sign.open()
                self._connection.sign = sign.headers
        self._identify(
            network=self._known_as or url,
            name=bare(url),
            version=self._version or "",
            request=hashlib.sha256(json.dumps(request).encode()).hexdigest()[:16],
            **self._writer.identity,
            **self._reader.identity,
        )

    def _encode(self, images: Tensor) -> list[bytes]:
        return self._writer.encode(images.float())

    def _request(self, images: Sequence[bytes], shape: tuple[int, ...]) -> Request:
        return Request(self._writer.method, self._target, self._kinds, self._template.fill(images))

    def _read(self, reply: Reply, number: int) -> list[Reading]:
        value = parse_value(reply.body)
        try:
            if self._reader.version_path is not None:
                self._check_version(str(at(self._reader.version_path, value)))
            entries = self._reader.entries(value, number)
        except ProtocolError as error:
            if number > 1:
                raise
            return [self._odd(value, error)]
        return [self._read_entry(entry) for entry in entries]

    def _read_entry(self, entry: Any) -> Reading:  # noqa: ANN401 - any JSON value
        try:
            reading = self._reader.read(entry, self._outputs, self._words)
        except ProtocolError as error:
            if self._outputs == "tokens" and not self._understood:
                raise ProtocolError(f"{error}: {_NO_TOKENS}") from None
            return self._odd(entry, error)
        return reading._replace(said=reading.said or shorten(json.dumps(entry), 300))

    @staticmethod
    def _odd(entry: Any, error: ProtocolError) -> Reading:  # noqa: ANN401 - any JSON value
        return Reading.none(Outcome.UNREADABLE, f"{error}. The reply: {shorten(json.dumps(entry), 300)}")


class HTTPSoftLabelTeacher(HTTPTeacher, SoftLabelTeacher):
    """Class probabilities from any JSON API.

    Its arguments are those of :class:`~kdlightning.remote.http.HTTPTeacher`.
    """


class HTTPHardLabelTeacher(HTTPTeacher, HardLabelTeacher):
    """Top-1 class indices from any JSON API.

    Its arguments are those of :class:`~kdlightning.remote.http.HTTPTeacher`.
    """


class HTTPTopKTeacher(HTTPTeacher, TopKTeacher):
    """The best classes with their probabilities, and the mass of all others, from any JSON API.

    Args:
        url: see :class:`~kdlightning.remote.http.HTTPTeacher`.
        request: likewise.
        outputs: likewise; of ``logits`` and ``sigmoids`` of some classes the mass of the others stays unknown.
        k: the most classes of an answer; it may name fewer, and of more the best are kept.
        options: the others of :class:`~kdlightning.remote.http.HTTPTeacher`.

    Raises:
        ValueError: k is below 1; and as there.
    """

    def __init__(self, url: str, request: Any, outputs: Outputs, k: int, **options: Any) -> None:  # noqa: ANN401
        self.k = at_least_one(k)
        super().__init__(url, request, outputs, **options)
