"""What a server does with the body of a request: tensors in, the declared access out. No HTTP here."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from kdlightning.networks import fingerprint
from kdlightning.remote.protocol import Array, ProtocolError, read, shorten, write
from kdlightning.teachers.blackbox import BlackBoxTeacher, HardLabelTeacher, SoftLabelTeacher

Response = Literal["soft", "hard", "logits"]
INPUT = "images"
_OUTPUT = {"soft": "probabilities", "hard": "label", "logits": "logits"}


class _LogitsTeacher(BlackBoxTeacher):
    """What no method of the package may ask for, but servers elsewhere disclose: pre-softmax activations ``(N, K)``."""

    access = "logits"

    def _disclose(self, logits: Tensor) -> Tensor:
        return logits.float()

    def _answer_bytes(self) -> int:
        return 4 * (self.num_classes or 0)


_ACCESS: dict[str, type[SoftLabelTeacher | HardLabelTeacher | _LogitsTeacher]] = {
    "soft": SoftLabelTeacher, "hard": HardLabelTeacher, "logits": _LogitsTeacher,
}  # fmt: skip


class ServedModel:
    """A network, what it discloses and what it accepts.

    Args:
        network: pixels ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.
        name: under which it is served.
        response: class probabilities (soft), the top-1 index (hard) or logits.
        shape: ``(C, H, W)`` of the images; None to ask the network for ``in_channels`` and ``image_size``. A ValueError
            if it does not tell, or does not take such images.
        max_batch: the most images in one request.
        device: where to compute.
        count_file: where to count the images answered, also across restarts; None to count in memory.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        response: Response,
        *,
        shape: tuple[int, int, int] | None = None,
        max_batch: int = 1024,
        device: str = "cpu",
        count_file: str | Path | None = None,
    ) -> None:
        self.name, self.response, self.max_batch = name, response, max_batch
        self.version = fingerprint(network)[:16]
        self.shape = shape or _own_shape(network)
        self._device = torch.device(device)
        self._teacher = _ACCESS[response](network)
        self._teacher.rehearse(self.shape, self._device)
        self.num_classes = self._teacher.num_classes
        if count_file is not None:
            self._teacher.share(count_file)

    @property
    def answered(self) -> int:
        """Images answered so far."""
        return self._teacher.paid.queries

    def metadata(self) -> dict[str, Any]:
        """The protocol's description of a model."""
        kind, shape = ("INT64", [-1]) if self.response == "hard" else ("FP32", [-1, self.num_classes])
        told = {"num_classes": self.num_classes}
        output = {"name": _OUTPUT[self.response], "datatype": kind, "shape": shape, "parameters": told}
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": "kdlightning_pytorch",
            "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, *self.shape]}],
            "outputs": [output],
            "parameters": {"max_batch": self.max_batch, "pixels": "[0, 1]"},
        }

    def infer(self, body: bytes, header_length: int | None) -> tuple[bytes, int | None]:
        """Answer one request, a body and the length of its JSON if binary tensors follow, by another such pair.

        A ProtocolError if the request is not one that can be answered; no image was counted then.
        """
        message, tensors = read(body, header_length, "inputs")
        binary = self._wants_binary(message)
        answer = self._teacher.query(self._pixels(tensors).to(self._device)).cpu().numpy()
        reply = {"model_name": self.name, "model_version": self.version}
        if isinstance(message.get("id"), str):
            reply["id"] = message["id"]
        return write(reply, "outputs", {_OUTPUT[self.response]: answer}, binary=binary)

    def _pixels(self, tensors: dict[str, Array]) -> Tensor:
        """The images of a request, checked."""
        if set(tensors) != {INPUT}:
            raise ProtocolError(f"expected one input named '{INPUT}', got {shorten(sorted(tensors))}")
        images = tensors[INPUT]
        wanted = f"FP32 of shape [N, {', '.join(map(str, self.shape))}] with 1 <= N <= {self.max_batch}"
        if images.dtype != np.float32 or images.shape[1:] != self.shape or not 0 < len(images) <= self.max_batch:
            raise ProtocolError(f"input '{INPUT}': expected {wanted}, got {images.dtype} of {list(images.shape)}")
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            raise ProtocolError(f"input '{INPUT}': expected pixels in [0, 1], got [{low:g}, {high:g}]")
        return torch.tensor(images)

    def _wants_binary(self, message: dict[str, Any]) -> bool:
        """Whether the answer is to be bytes: asked for of this output, or of all."""
        name, outputs = _OUTPUT[self.response], message.get("outputs") or []
        if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
            raise ProtocolError(f"expected 'outputs' to be a list of requested tensors, got {shorten(outputs)}")
        unknown = [output.get("name") for output in outputs if output.get("name") != name]
        if unknown:
            raise ProtocolError(f"expected only the output '{name}' to be requested, got {shorten(unknown)}")
        for holder, key in [(output, "binary_data") for output in outputs] + [(message, "binary_data_output")]:
            parameters = holder.get("parameters") or {}
            if not isinstance(parameters, dict) or not isinstance(parameters.get(key, False), bool):
                raise ProtocolError(f"expected the parameter {key} to be true or false, got {shorten(parameters)}")
            if key in parameters:
                return bool(parameters[key])
        return False


def _own_shape(network: nn.Module) -> tuple[int, int, int]:
    channels, size = getattr(network, "in_channels", None), getattr(network, "image_size", None)
    if not isinstance(channels, int) or not isinstance(size, int):
        raise ValueError(f"{type(network).__name__} does not tell the shape of its images; give it (--shape C H W)")
    return channels, size, size
