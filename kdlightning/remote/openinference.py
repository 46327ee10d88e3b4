"""Teachers behind the Open Inference Protocol: Triton, KServe, MLServer, OpenVINO Model Server, `kdlightning serve`."""

import itertools
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from kdlightning.accounting.options import group_of
from kdlightning.remote.connection import Connection, Reply, Request
from kdlightning.remote.credentials import bare, check_url, read_secret
from kdlightning.remote.description import Description, Tensors, describe
from kdlightning.remote.networked import NetworkedTeacher
from kdlightning.remote.protocol import (
    DATATYPES,
    HEADER_LENGTH,
    Array,
    ProtocolError,
    header_length,
    read,
    shorten,
    write,
)
from kdlightning.remote.reading import Outputs
from kdlightning.remote.scores import scores_in
from kdlightning.teachers.blackbox import HardLabelTeacher, SoftLabelTeacher, TopKTeacher, at_least_one
from kdlightning.teachers.outcomes import Reading


class RemoteTeacher(NetworkedTeacher):
    """A model on a server that speaks the Open Inference Protocol (KServe V2 over REST).

    The server's and the model's metadata are read and checked when this is constructed. Known images are answered from
    the ledger; the others are sent in batches, with retries, and paid whenever they may have been answered.

    Args:
        url: of the server, such as ``https://host:8000``: what stands before ``/v2``.
        model: its name on the server.
        outputs: what the output tensor holds. Soft labels: ``logits`` or ``probabilities``. Hard labels: the ``index``
            of the class, or its label as ``text``.
        api_key_env: environment variable with the key that is sent as ``Authorization: Bearer``.
        api_key_file: file with that key.
        tensors: how the server wants images.
        max_batch: the most images in a request; a lower limit that the server announces counts.
        options: those of :class:`NetworkedTeacher`. Give a ``version`` where the metadata does not tell (MLServer), so
            that the ledger does not mix versions.

    Raises:
        ValueError: arguments that do not fit together or the server, an unsafe url, or no key where one is named.
        RemoteTeacherError: the server cannot be asked, or does not serve such a model.
    """

    def __init__(
        self,
        url: str,
        model: str,
        outputs: Outputs,
        *,
        api_key_env: str | None = None,
        api_key_file: str | None = None,
        tensors: Tensors | None = None,
        max_batch: int = 256,
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        super().__init__(**options)
        self._answer_with(outputs, max_batch)
        if outputs == "tokens":
            raise ValueError(
                f"{type(self).__name__}: tokens are of chat completions; ask these by HTTPSoftLabelTeacher"
            )
        if self._labels is not None and outputs != "text":
            raise ValueError(f"{type(self).__name__}: expected labels with text only, got outputs={outputs}")
        key = None if self._offline else read_secret(api_key_env, api_key_file)
        base = f"{check_url(url, secret=key is not None)}/v2"
        path, version = f"{base}/models/{quote(model, safe='')}", self._version
        self._tensors, self._ids = group_of(Tensors, tensors, "tensors"), itertools.count(1)
        self._address = f"{path if version is None else f'{path}/versions/{quote(version)}'}/infer"
        identity = {"network": f"{self._known_as or base}/models/{model}", "name": model}
        asked = {"output": self._tensors.output, "pixels": self._tensors.pixels.text}
        asked["classification"] = str(self._tensors.classification or "")
        identity |= {key: value for key, value in asked.items() if value}
        if self._offline:
            known = self._identify(**identity, **({} if version is None else {"version": version}))
            layout = self._tensors.layout or known.get("layout", "NCHW")
            self._agreed = Description(known["version"], "", None, known["datatype"], None, None, False, None, layout)
        else:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            self._connection = Connection(base, headers, self._patience, self._concurrency)
            agreed = self._agreed = describe(self._connection, base, path, self._tensors, outputs, version)
            if self._tensors.layout is None and agreed.layout != "NCHW":
                identity["layout"] = agreed.layout
            self._identify(agreed.classes, **identity, version=agreed.version, datatype=agreed.datatype)
            self._max_batch = min(max_batch, agreed.max_batch or max_batch)
        self._version = self._agreed.version

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``(C, H, W)`` of the images that the server announces; None where it leaves that open."""
        shape = tuple(self._agreed.shape or ())
        if len(shape) != 3 or min(shape) < 1 or self._agreed.layout == "flat":
            return None
        return shape if self._agreed.layout == "NCHW" else (shape[2], shape[0], shape[1])

    def _encode(self, images: Tensor) -> list[bytes]:
        wanted, shape = self._agreed.shape, self._shape(tuple(images.shape[1:]))
        if wanted is not None and any(side not in (-1, own) for side, own in zip(wanted, shape, strict=True)):
            advice = "let the datamodule make that size, or serve the network for yours (serve --shape C H W)"
            raise ValueError(f"{bare(self._address)}: expected images as {list(wanted)}, got {list(shape)}: {advice}")
        datatype = self._agreed.datatype
        pixels = self._tensors.pixels.of(images.to(torch.float64 if datatype == "FP64" else torch.float32))
        if datatype == "UINT8":
            pixels = pixels.round()
        if self._agreed.layout == "NHWC":
            pixels = pixels.movedim(1, -1)
        if datatype == "BF16":
            array = pixels.bfloat16().contiguous().view(torch.int16).numpy()
        else:
            array = pixels.contiguous().numpy().astype(DATATYPES[datatype], copy=False)
        return [image.tobytes() for image in array]

    def _request(self, images: Sequence[bytes], shape: tuple[int, ...]) -> Request:
        agreed, number = self._agreed, str(next(self._ids))
        sides = self._shape(shape)
        if agreed.batch is not None:
            images = [*images, *[images[-1]] * (agreed.batch - len(images))]
        sides = sides if agreed.batch == 0 else (len(images), *sides)
        pixels = np.frombuffer(b"".join(images), np.dtype(DATATYPES[agreed.datatype])).reshape(sides)
        message: dict[str, Any] = {"id": number}
        if agreed.output is not None:
            best = self._tensors.classification
            told: dict[str, int] = {"binary_data": True} if agreed.binary else {}
            told |= {} if best is None else {"classification": best}
            message["outputs"] = [{"name": agreed.output, **({"parameters": told} if told else {})}]
        elif agreed.binary:
            message["parameters"] = {"binary_data_output": True}
        body, length = write(message, "inputs", {agreed.input: pixels}, binary=agreed.binary)
        headers = {"Content-Type": "application/json"}
        if length is not None:
            headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(length)}
        return Request("POST", self._address, headers, body, number)

    def _read(self, reply: Reply, number: int) -> Array | list[Reading]:
        message, tensors = read(reply.body, header_length(reply.headers.get(HEADER_LENGTH.lower())), "outputs")
        if reply.number and str(message.get("id") or reply.number) != reply.number:
            raise ProtocolError(f"expected the answer to request {reply.number}, got that to {shorten(message['id'])}")
        if version := str(message.get("model_version") or ""):
            self._check_version(version)
        name = self._agreed.output
        if name is None and len(tensors) == 1:
            (name,) = tensors
        if name not in tensors:
            raise ProtocolError(f"expected the output {name or 'tensor alone'}, got {sorted(tensors)}")
        answer = tensors[name]
        if self._agreed.batch == 0 and (answer.ndim < 2 or len(answer) != 1):
            answer = answer[None]
        answer = answer[:number] if len(answer) == self._agreed.batch else answer
        if self.access == "hard" or answer.dtype.kind != "O":
            return answer
        if answer.ndim != 2 or len(answer) != number:
            raise ProtocolError(f"expected {number} rows of texts value:index, got the shape {list(answer.shape)}")
        return [scores_in(row, None, "", "") for row in answer.tolist()]

    def _shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """The shape ``(C, H, W)`` of an image as the server wants it."""
        channels, height, width = image
        shapes = {"NCHW": image, "NHWC": (height, width, channels), "flat": (channels * height * width,)}
        return shapes[self._agreed.layout]


class RemoteSoftLabelTeacher(RemoteTeacher, SoftLabelTeacher):
    """Class probabilities of a model on a server.

    Its arguments are those of :class:`~kdlightning.remote.openinference.RemoteTeacher`.
    """


class RemoteHardLabelTeacher(RemoteTeacher, HardLabelTeacher):
    """Top-1 class indices of a model on a server.

    Its arguments are those of :class:`~kdlightning.remote.openinference.RemoteTeacher`.
    """


class RemoteTopKTeacher(RemoteTeacher, TopKTeacher):
    """The best classes of a model on a server with their probabilities, and the mass of all others.

    With ``tensors.classification`` the server names them itself, as ``value:index``; without, they are the best of its
    tensor.

    Args:
        url: see :class:`~kdlightning.remote.openinference.RemoteTeacher`.
        model: likewise.
        outputs: likewise; of ``logits`` of some classes the mass of the others stays unknown.
        k: the most classes of an answer.
        options: the others of :class:`~kdlightning.remote.openinference.RemoteTeacher`.

    Raises:
        ValueError: k is below 1; and as there.
    """

    def __init__(self, url: str, model: str, outputs: Outputs, k: int, **options: Any) -> None:  # noqa: ANN401
        self.k = at_least_one(k)
        super().__init__(url, model, outputs, **options)
