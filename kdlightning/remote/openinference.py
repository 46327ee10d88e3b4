"""Teachers behind the Open Inference Protocol: Triton, KServe, MLServer, OpenVINO Model Server, `kdlightning serve`."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from kdlightning.accounting.accounts import Limits
from kdlightning.remote.checks import check_labels, check_scores, index_of
from kdlightning.remote.connection import Connection, Patience, RemoteTeacherError, Reply, Request
from kdlightning.remote.credentials import bare, check_url, read_secret
from kdlightning.remote.description import Description, Tensors, describe
from kdlightning.remote.networked import NetworkedTeacher, describe_labels, known_teacher
from kdlightning.remote.protocol import DATATYPES, HEADER_LENGTH, Array, ProtocolError, read, write
from kdlightning.teachers.blackbox import HardLabelTeacher, SoftLabelTeacher

_OUTPUTS = {"soft": ("logits", "probabilities"), "hard": ("index", "text")}


class RemoteTeacher(NetworkedTeacher):
    """A model on a server that speaks the Open Inference Protocol (KServe V2 over REST).

    The server's and the model's metadata are read and checked when this is constructed. Known images are answered from
    the ledger; the others are sent in batches, with retries, and paid whenever they may have been answered.

    Args:
        url: of the server, such as ``https://host:8000``: what stands before ``/v2``.
        model: its name on the server.
        outputs: what the output tensor holds. Soft labels: ``logits`` or ``probabilities``. Hard labels: the ``index``
            of the class, or its label as ``text``.
        labels: for ``text``: the labels in the order of the classes, or the class index of each.
        version: of the model; None for the server's choice. It must not change while this teacher lives. Give it where
            the metadata does not tell (MLServer), so that the ledger does not mix versions.
        num_classes: K, where the metadata does not tell.
        api_key_env: environment variable with the key that is sent as ``Authorization: Bearer``.
        api_key_file: file with that key.
        tensors: how the server wants images.
        max_batch: the most images in a request; a lower limit that the server announces counts.
        concurrency: the most requests under way.
        patience: time-outs and retries.
        budget: the most images that may be paid; None for no limit.
        budget_bytes: the most bytes sent and received; the ledger counts them for each run directory.
        budget_price: the most money, counted likewise.
        price: of one image.
        ledger: path of the query ledger, shared by all runs that name it; None for none: then repeated images are paid
            again, and what an interrupted query has been answered is lost.
        known_as: who answers, in identity and ledger; None for the url. While it stays, the ledger's answers stay
            valid although the server moves.
        offline: ask nobody: answer from the ledger, and refuse images that it does not have.

    Raises:
        ValueError: arguments that do not fit together or the server, an unsafe url, or no key where one is named.
        RemoteTeacherError: the server cannot be asked, or does not serve such a model.
        ImportError: the extra ``remote`` is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        outputs: Literal["logits", "probabilities", "index", "text"],
        *,
        labels: list[str] | dict[str, int] | None = None,
        version: str | None = None,
        num_classes: int | None = None,
        api_key_env: str | None = None,
        api_key_file: str | None = None,
        tensors: Tensors | None = None,
        max_batch: int = 256,
        concurrency: int = 4,
        patience: Patience | None = None,
        budget: int | None = None,
        budget_bytes: int | None = None,
        budget_price: float | None = None,
        price: float = 0.0,
        ledger: str | None = "ledger.sqlite",
        known_as: str | None = None,
        offline: bool = False,
    ) -> None:
        if outputs not in _OUTPUTS[self.access] or (outputs == "text") != (labels is not None):
            raise ValueError(
                f"{type(self).__name__}: expected outputs {' or '.join(_OUTPUTS[self.access])}, and labels with text "
                f"only, got outputs={outputs} {'without' if labels is None else 'with'} labels"
            )
        key = None if offline else read_secret(api_key_env, api_key_file)
        base = f"{check_url(url, secret=key is not None)}/v2"
        path = f"{base}/models/{quote(model, safe='')}"
        self._outputs, self._labels = outputs, None if labels is None else index_of(labels)
        self._tensors, self._ids = tensors or Tensors(), itertools.count(1)
        self._address = f"{path if version is None else f'{path}/versions/{quote(version)}'}/infer"
        identity = {"network": f"{known_as or base}/models/{model}", "name": model, "access": self.access}
        identity |= {"outputs": outputs} | describe_labels(self._labels)
        connection: Connection | None = None
        if offline:
            identity = known_teacher(ledger, identity | ({} if version is None else {"version": version}))
            datatype = identity["datatype"]
            self._agreed = Description(identity["version"], "", None, datatype, None, None, False, None)
        else:
            headers, secrets = ({}, []) if key is None else ({"Authorization": f"Bearer {key}"}, [key])
            connection = Connection(headers, secrets, patience or Patience(), concurrency)
            self._agreed = describe(connection, base, path, self._tensors, outputs, version)
            identity |= {"version": self._agreed.version, "datatype": self._agreed.datatype}
        self._version = self._agreed.version
        self._set_up(
            identity,
            connection,
            num_classes=self._agree_on_classes(num_classes),
            max_batch=min(max_batch, self._agreed.max_batch or max_batch),
            concurrency=concurrency,
            budget=budget,
            limits=Limits(None, budget_bytes, budget_price),
            ledger=ledger,
            price=price,
        )

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``(C, H, W)`` of the images that the server announces; None where it leaves that open."""
        shape = tuple(self._agreed.shape or ())
        if len(shape) != 3 or min(shape) < 1 or self._tensors.layout == "flat":
            return None
        return shape if self._tensors.layout == "NCHW" else (shape[2], shape[0], shape[1])

    def _agree_on_classes(self, configured: int | None) -> int | None:
        """K by the configuration, the labels and the server, as far as they tell."""
        told = {
            "num_classes": configured,
            "labels": None if self._labels is None else max(self._labels.values()) + 1,
            "server": self._agreed.classes,
        }
        counts = {count for count in told.values() if count is not None}
        if len(counts) > 1:
            raise ValueError(f"{bare(self._address)}: expected one number of classes, got {told}")
        return counts.pop() if counts else None

    def _encode(self, images: Tensor) -> list[bytes]:
        wanted, shape = self._agreed.shape, self._shape(tuple(images.shape[1:]))
        if wanted is not None and any(side not in (-1, own) for side, own in zip(wanted, shape, strict=True)):
            raise ValueError(
                f"{bare(self._address)}: expected images as {list(wanted)}, got {list(shape)}: "
                "let the datamodule make that size, or serve the network for yours (serve --shape C H W)"
            )
        pixels = images.to(torch.float64 if self._agreed.datatype == "FP64" else torch.float32)
        if self._tensors.scale != 1:
            pixels = pixels * self._tensors.scale
        if self._agreed.datatype == "UINT8":
            pixels = pixels.round()
        if self._tensors.layout == "NHWC":
            pixels = pixels.movedim(1, -1)
        array = pixels.contiguous().numpy().astype(DATATYPES[self._agreed.datatype], copy=False)
        return [image.tobytes() for image in array]

    def _request(self, images: Sequence[bytes], shape: tuple[int, ...]) -> Request:
        agreed, number = self._agreed, str(next(self._ids))
        dtype = np.dtype(DATATYPES[agreed.datatype])
        pixels = np.frombuffer(b"".join(images), dtype).reshape(len(images), *self._shape(shape))
        message: dict[str, Any] = {"id": number}
        if agreed.output is not None:
            parameters = {"parameters": {"binary_data": True}} if agreed.binary else {}
            message["outputs"] = [{"name": agreed.output, **parameters}]
        elif agreed.binary:
            message["parameters"] = {"binary_data_output": True}
        body, length = write(message, "inputs", {agreed.input: pixels}, binary=agreed.binary)
        if length is None:
            return Request("POST", self._address, {"Content-Type": "application/json"}, body)
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(length)}
        return Request("POST", self._address, headers, body)

    def _read(self, reply: Reply, number: int) -> Array:
        text = reply.headers.get(HEADER_LENGTH)
        message, tensors = read(reply.body, int(text) if text is not None and text.isdigit() else None, "outputs")
        self._check_version(str(message.get("model_version") or ""))
        name = self._agreed.output
        if name is None and len(tensors) == 1:
            (name,) = tensors
        if name not in tensors:
            raise ProtocolError(f"expected the output {name or 'tensor alone'}, got {sorted(tensors)}")
        if self.access == "soft":
            return check_scores(tensors[name], self._outputs, number, self.num_classes)
        return check_labels(tensors[name], self._labels, number, self.num_classes)

    def _check_version(self, version: str) -> None:
        """The same model from the first answer to the last, where the server says which it is."""
        self._version = self._version or version
        if version and version != self._version:
            raise RemoteTeacherError(
                f"{bare(self._address)}: expected answers of version {self._version}, got one of version {version}: "
                "the model was changed in the middle of the run. What it answered before is kept. Have the version "
                "restored and run the same command to go on, or start a new run with the new version"
            )

    def _shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """The shape ``(C, H, W)`` of an image as the server wants it."""
        channels, height, width = image
        shapes = {"NCHW": image, "NHWC": (height, width, channels), "flat": (channels * height * width,)}
        return shapes[self._tensors.layout]


class RemoteSoftLabelTeacher(RemoteTeacher, SoftLabelTeacher):
    """Class probabilities of a model on a server; its arguments are `RemoteTeacher`'s."""


class RemoteHardLabelTeacher(RemoteTeacher, HardLabelTeacher):
    """Top-1 class indices of a model on a server; its arguments are `RemoteTeacher`'s."""
