"""What any loader yields, as the package's one kind of batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdlightning.types import Batch

_KEYS = {
    "image": ("image", "images", "img", "pixel_values"),  # the last three are Hugging Face's
    "label": ("label", "labels", "target"),
    "index": ("index",),
    "answer": ("answer",),
}
_EXPECTED = "expected (image, label), a dict such as {'image': ..., 'label': ...} or a kdlightning.types.Batch"


def as_batch(given: Any) -> Batch:  # noqa: ANN401 - whatever a loader yields
    """A loader's batch as a `Batch`: float32 pixels in [0, 1], int64 labels.

    A `Batch` of float pixels stays as it is: those of the package's datamodules cost nothing.

    Args:
        given: images ``(N, C, H, W)``, uint8 or float in [0, 1], alone or as ``(image,)``; ``(image, label)``, in a
            tuple or list; a mapping with ``image`` (or ``pixel_values``, ``images``, ``img``) and perhaps ``label`` (or
            ``labels``, ``target``), ``index`` and ``answer``; or a `Batch`.

    Returns:
        The batch; its ``index`` is -1 for every image where the loader gives none.

    Raises:
        TypeError: none of these.
        ValueError: images or labels of another shape, kind or range; in a sentence that says what to do.
    """
    if isinstance(given, Batch) and given.image.is_floating_point():
        return given
    parts = given._asdict() if isinstance(given, Batch) else _parts(given)
    image, label = _pixels(parts.get("image")), parts.get("label")
    index = parts.get("index")
    if index is None:
        index = torch.full((len(image),), -1, device=image.device)
    label = None if label is None else _labels(label, len(image))
    return Batch(image, index, label, _answers(parts.get("answer"), len(image)))


def _parts(given: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever a loader yields
    if isinstance(given, Tensor):
        return {"image": given}
    if isinstance(given, (tuple, list)) and len(given) in (1, 2):
        return dict(zip(("image", "label"), given, strict=False))
    if isinstance(given, Mapping):
        found = {part: given[key] for part, keys in _KEYS.items() for key in keys if given.get(key) is not None}
        if "image" in found:
            return found
        raise TypeError(f"{_EXPECTED}, got a dict with {', '.join(map(repr, given))}: give the images as 'image'")
    number = f" of {len(given)}" if isinstance(given, (tuple, list)) else ""
    raise TypeError(f"{_EXPECTED}, got a {type(given).__name__}{number}: let the loader's collate_fn make one of these")


def _pixels(image: Any) -> Tensor:  # noqa: ANN401 - whatever stands where an image should
    if not isinstance(image, Tensor):
        got = type(image).__name__
        raise TypeError(f"images: expected a tensor (N, C, H, W), got a {got}: add a transform such as ToTensor")
    shape = tuple(image.shape)
    if image.ndim != 4:
        remedy = "unsqueeze(1) adds the channel of grey images" if image.ndim == 3 else "one image needs unsqueeze(0)"
        raise ValueError(f"images: expected (N, C, H, W), got {shape}: {remedy if image.ndim in (2, 3) else 'reshape'}")
    if shape[3] in (1, 3) and shape[1] not in (1, 3):
        raise ValueError(f"images: expected (N, C, H, W), got {shape}: permute(0, 3, 1, 2) puts channels first")
    if image.dtype == torch.uint8:
        return image.float().div(255)
    if not image.is_floating_point():
        got = str(image.dtype).removeprefix("torch.")
        raise ValueError(f"images: expected uint8 or float pixels in [0, 1], got {got}: give .to(torch.uint8)")
    low, high = (float(value) for value in torch.aminmax(image.detach())) if image.numel() else (0.0, 0.0)
    if not 0 <= low <= high <= 1:
        remedy = "leave Normalize out of the transforms, it belongs into the network (kdlightning.networks.Normalize)"
        if low >= 0 and 2 < high <= 255:
            remedy = "divide by 255"
        elif not low <= high:
            remedy = "some are not finite"
        elif low > -0.5 and high < 1.5:
            remedy = "clamp_(0, 1) what a transform has let out"
        raise ValueError(f"images: expected pixels in [0, 1], got [{low:.4g}, {high:.4g}]: {remedy}")
    return image.float()


def _labels(label: Any, number: int) -> Tensor:  # noqa: ANN401 - whatever stands where labels should
    if not isinstance(label, Tensor):
        got = type(label).__name__
        raise TypeError(f"labels: expected a tensor of class indices (N,), got a {got}: let the dataset give integers")
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    if label.shape != (number,) or label.is_floating_point() or label.is_complex():
        kind = str(label.dtype).removeprefix("torch.")
        remedy = "argmax(1) of one-hot rows" if label.ndim == 2 else "long() of whole numbers"
        got = f"{kind} {tuple(label.shape)} for {number} images"
        raise ValueError(f"labels: expected class indices (N,), integers from 0, got {got}: give {remedy}")
    least = int(label.min()) if number else 0
    if least < 0:
        raise ValueError(f"labels: expected class indices from 0, got {least}; images without labels come alone")
    indices: Tensor = label.long()
    return indices


def _answers(answer: Any, number: int) -> Tensor | None:  # noqa: ANN401 - whatever stands where answers should
    if answer is None:
        return None
    if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != number or not answer.is_floating_point():
        got = f"{tuple(answer.shape)} of {answer.dtype}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise ValueError(f"answers: expected floats (N, K), a row for each of {number} images, got {got}")
    return answer.float()
