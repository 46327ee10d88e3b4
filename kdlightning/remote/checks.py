"""Whether what a server answered is what was agreed, and what it means."""

import numpy as np
import torch

from kdlightning.remote.protocol import Array, ProtocolError


def check_scores(scores: Array, outputs: str, number: int, classes: int | None) -> Array:
    """Probabilities ``(N, K)``, float32, of scores that are declared to be ``logits`` or ``probabilities``.

    Raises:
        ProtocolError: another shape or kind, values that are not finite, or probabilities that are none.
    """
    wanted = f"{outputs} of shape [{number}, {classes or 'K'}]"
    shape = (number, classes or (scores.shape[1] if scores.ndim == 2 else 0))
    if scores.shape != shape or not scores.size or scores.dtype.kind != "f":
        raise ProtocolError(f"expected {wanted}, got {scores.dtype} of shape {list(scores.shape)}")
    if not np.isfinite(scores).all():
        raise ProtocolError(f"expected {wanted}, got values that are not finite (NaN or infinite)")
    if outputs == "logits":
        return torch.from_numpy(np.array(scores, dtype=np.float32)).softmax(dim=1).numpy()
    total = scores.sum(axis=1, dtype=np.float64)
    if scores.min() < 0 or abs(total - 1).max() > 1e-3:
        got = f"a least value of {scores.min():g} and a sum of {total[abs(total - 1).argmax()]:g}"
        advice = "declare outputs=logits if that is what the server answers"
        raise ProtocolError(f"expected {wanted}, none negative and each row's sum 1, got {got}; {advice}")
    return np.array(scores, dtype=np.float32)


def check_labels(values: Array, labels: dict[str, int] | None, number: int, classes: int | None) -> Array:
    """Class indices ``(N,)``, int64, of such indices, or of the texts that ``labels`` maps to them.

    Raises:
        ProtocolError: another shape or kind, an unknown text, or no index of a class.
    """
    if values.shape not in ((number,), (number, 1)):
        raise ProtocolError(f"expected one label for each of {number} images, got shape {list(values.shape)}")
    values = values.reshape(number)
    if labels is not None:
        unknown = sorted({str(text) for text in values} - labels.keys())
        if unknown:
            raise ProtocolError(f"expected labels among {list(labels)[:20]}, got {unknown[:5]}")
        return np.array([labels[str(text)] for text in values], dtype=np.int64)
    if values.dtype.kind not in "iu":
        raise ProtocolError(f"expected class indices, got {values.dtype}; declare outputs=text if they are label texts")
    if int(values.min()) < 0 or (classes is not None and int(values.max()) >= classes):
        raise ProtocolError(f"expected class indices 0 to {classes or 'K'} - 1, got {values.min()}..{values.max()}")
    return values.astype(np.int64)


def index_of(labels: list[str] | dict[str, int]) -> dict[str, int]:
    """The class index of each label text.

    Raises:
        ValueError: a text that comes twice, or indices that leave out a class.
    """
    index = dict(labels) if isinstance(labels, dict) else {text: number for number, text in enumerate(labels)}
    if len(index) < len(labels) or set(index.values()) != set(range(len(set(index.values())))) or not index:
        raise ValueError(f"expected labels for the classes 0 to K - 1, each text once, got {labels}")
    return index
