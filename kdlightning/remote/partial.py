"""From what was read to a row of the k best classes, what they weigh and what the others weigh."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from kdlightning.remote.checks import check_scores
from kdlightning.remote.protocol import Array
from kdlightning.remote.reading import Outputs
from kdlightning.teachers.answers import AnswerError, rounding_of
from kdlightning.teachers.outcomes import Reading


def partial_row(reading: Reading, outputs: Outputs, classes: int | None, k: int) -> Array:
    """Of an answer that was read, a row ``(2k + 1,)``, float32, of :class:`~kdlightning.functional.topk.TopK`.

    Probabilities leave what is missing to 1 as the rest; a sum above 1 by rounding becomes 1. Logits and sigmoids of
    some classes say nothing of the others: they become shares of the classes that are there, and the rest is unknown.
    Log-probabilities of tokens leave other tokens as the rest. Scores of all classes are what they are as soft labels.

    Raises:
        AnswerError: no scores, scores that are not finite or below 0, a sum that is too large, or no class.
    """
    scores = np.array(reading.scores or (), dtype=np.float64)
    named = range(len(scores)) if reading.classes is None else reading.classes
    if not len(scores) or not np.isfinite(scores).all():
        raise AnswerError(f"expected scores of some classes, got {scores.tolist()[:5]}")
    if wrong := sorted({index for index in named if index < 0 or (classes and index >= classes)}):
        raise AnswerError(f"expected class indices 0 to {classes or 'K'} - 1, got {wrong[:5]}")
    if outputs != "tokens" and (reading.classes is None or len(named) == classes):
        whole = check_scores(scores[np.argsort(list(named))][None], outputs, 1, classes)[0]
        return packed(range(len(whole)), whole.tolist(), 0.0, k)
    rest: float | None = None
    if outputs == "logits":
        shares = np.exp(scores - scores.max())
        scores = shares / shares.sum()
    elif outputs == "sigmoids":
        if scores.min() < 0 or not scores.sum() > 0:
            raise AnswerError(f"expected scores of at least 0, and one above it, got {scores.tolist()[:5]}")
        scores = scores / scores.sum()
    else:
        scores, rest = _probabilities(scores, reading.rest)
    return packed(named, scores.tolist(), rest, k)


def packed(named: Sequence[int], scores: Sequence[float], rest: float | None, k: int) -> Array:
    """The k best of named classes as a row ``(2k + 1,)``; the lower index of equals first."""
    best = sorted(zip(named, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))
    kept, dropped = best[:k], math.fsum(score for _, score in best[k:])
    values = [score / (1 - dropped) if rest is None else score for _, score in kept]
    fill = k - len(kept)
    tail = -1.0 if rest is None else rest + dropped
    return np.array([*values, *[0.0] * fill, *[index for index, _ in kept], *[-1] * fill, tail], dtype=np.float32)


def _probabilities(scores: Array, rest: float | None) -> tuple[Array, float]:
    """Probabilities of some classes and the mass of the others, of shares or percentages."""
    if scores.sum() > 50:
        scores = scores / 100
    total = float(scores.sum())
    if scores.min() < 0 or total > 1 + max(2.0**-8, rounding_of(torch.from_numpy(scores[None]))):
        told = f"a least value of {scores.min():g} and a sum of {total:g}"
        advice = "declare outputs=logits, outputs=sigmoids (a score of its own for each class) or reader.percent=true"
        wanted = "expected probabilities of some classes, none negative, their sum at most 1"
        raise AnswerError(f"{wanted}, got {told}; {advice}")
    return (scores / total, 0.0) if total > 1 else (scores, 1 - total if rest is None else rest)
