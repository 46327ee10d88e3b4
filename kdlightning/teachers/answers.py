"""Whether answers are what was agreed: one check for all teachers, from the first answer on."""

from typing import Literal

import torch
from torch import Tensor

_NOISE = 2.0**-8  # what a sum of probabilities may be off by: bfloat16 keeps no more
_EXACT = 1e-5  # rows nearer to 1 than this stay as they are, to the bit
_DIGITS = (2, 3, 4, 5)  # one digit would explain nearly anything


class AnswerError(ValueError):
    """An answer is not what was agreed. Asking again would not help, and asking on would be paid for nothing."""


def check_logits(logits: Tensor, number: int, classes: int | None) -> Tensor:
    """Logits ``(N, K)`` of as many images, as they are.

    Raises:
        AnswerError: another shape or kind, or a row that no softmax takes: NaN, or infinite.
    """
    _check_shape(logits, "logits", number, classes)
    if not logits.amax(dim=1).isfinite().all():
        raise AnswerError(f"expected logits of shape {list(logits.shape)}, got values that are not finite (NaN, inf)")
    return logits


def soft_answer(
    scores: Tensor, outputs: Literal["logits", "probabilities", "sigmoids"], number: int, classes: int | None
) -> Tensor:
    """Probabilities ``(N, K)``, float32, of what is declared to be logits, probabilities or independent sigmoids.

    Probabilities may be percentages, and rounded: their sum may be off by what their digits explain, and becomes 1.
    Sigmoids, a score of its own for each class, are divided by their sum.

    Raises:
        AnswerError: another shape or kind, values that are not finite, or probabilities that are none.
    """
    if outputs == "logits":
        return check_logits(scores.float(), number, classes).softmax(dim=1)
    _check_shape(scores, outputs, number, classes)
    if not scores.isfinite().all():
        raise AnswerError(f"expected probabilities of shape {list(scores.shape)}, got values that are not finite")
    values = scores.double()
    total = values.sum(dim=1, keepdim=True)
    if outputs == "sigmoids":
        if float(scores.min()) < 0 or not (total > 0).all():
            raise AnswerError(f"expected scores of at least 0, and one above it in each row, got {scores[:5].tolist()}")
        return (values / total).float()
    if (total > 50).all():
        values, total = values / 100, total / 100
    off = (total - 1).abs()
    least, worst = float(scores.min()), float(off.max())
    if least < 0 or (worst > _NOISE and worst > rounding_of(values)):
        wanted = f"{outputs} of shape {list(scores.shape)}, none negative and each row's sum 1"
        got = f"a least value of {least:g} and a sum of {float(scores.double().sum(dim=1)[off.argmax()]):g}"
        raise AnswerError(f"expected {wanted}, got {got}; {_NEGATIVE if least < 0 else _NO_SHARES}")
    return torch.where(off > _EXACT, values / total, values).float()


def hard_answer(values: Tensor, number: int, classes: int | None) -> Tensor:
    """Class indices ``(N,)``, int64, of whole numbers of any kind, ``(N,)`` or ``(N, 1)``.

    Raises:
        AnswerError: another shape, numbers that are not whole, or no index of a class.
    """
    if values.shape not in ((number,), (number, 1)):
        raise AnswerError(f"expected one label for each of {number} images, got shape {list(values.shape)}")
    values = values.reshape(number)
    if values.is_floating_point():
        if not (values == values.round()).all() or not values.abs().max() < 2**24:
            raise AnswerError(f"expected class indices, got {values[:5].tolist()}")
    elif values.dtype == torch.bool:
        raise AnswerError("expected class indices, got bool")
    index = values.long()
    low, high = int(index.min()), int(index.max())
    if low < 0 or (classes is not None and high >= classes):
        one = f"; if the first class is 1, give outputs=text and labels={{'1': 0, ..., '{classes}': {high - 1}}}"
        advice = one if low > 0 and high == classes else ""
        raise AnswerError(f"expected class indices 0 to {(classes or 'K')} - 1, got {low}..{high}{advice}")
    return index


_NEGATIVE = "declare outputs=logits if these are logits or log-probabilities"
_NO_SHARES = (
    "a score of its own for each class, or those of the best classes alone, are no distribution: have the server "
    "answer a softmax over all classes, or take its best label by the hard-label teacher; outputs=sigmoids divides "
    "independent scores by their sum"
)


def _check_shape(scores: Tensor, outputs: str, number: int, classes: int | None) -> None:
    shape = (number, classes or (scores.shape[1] if scores.ndim == 2 else 0))
    if scores.shape != shape or not scores.numel() or not scores.is_floating_point():
        got = f"{str(scores.dtype).removeprefix('torch.')} of shape {list(scores.shape)}"
        raise AnswerError(f"expected {outputs} of shape [{number}, {classes or 'K'}], got {got}")


def rounding_of(values: Tensor) -> float:
    """How far a sum may be off if all of these are rounded, to as many digits as they have."""
    for digits in _DIGITS:
        if ((values - values.round(decimals=digits)).abs() < 1e-7).all():
            return min(0.5, values.shape[1] / 2 * 10.0**-digits)
    return 0.0
