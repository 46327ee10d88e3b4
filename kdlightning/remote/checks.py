"""From what was read to what an access discloses: a distribution, a label, or that there is no answer."""

import numpy as np
import torch

from kdlightning.remote.protocol import Array
from kdlightning.remote.reading import Outputs
from kdlightning.remote.scores import classified
from kdlightning.remote.words import Words
from kdlightning.teachers.answers import AnswerError, hard_answer, soft_answer
from kdlightning.teachers.outcomes import Outcome, Reading

_NONE = np.dtype(np.int8)  # of no answer: its outcome, and nothing else is an int8 without dimensions


def none_row(outcome: Outcome) -> Array:
    """What stands in place of an image's answer, in a ledger, too."""
    return np.array(outcome, dtype=_NONE)


def is_none(row: Array) -> bool:
    """Whether a row is no answer."""
    return row.dtype == _NONE and row.ndim == 0


def stacked(rows: list[Array], classes: int, *, hard: bool) -> Array:
    """Probabilities ``(N, K)``, float32, or class indices ``(N,)``, int64; negative throughout where no answer is."""
    width = max((len(row) for row in rows if not hard and not is_none(row)), default=classes or 1)
    shape, dtype = ((), np.int64) if hard else ((width,), np.float32)
    return np.stack([np.full(shape, -int(row), dtype) if is_none(row) else row.astype(dtype) for row in rows])


def disclosed(reading: Reading, outputs: Outputs, classes: int | None) -> Array:
    """Of an answer that was read, its class probabilities ``(K,)``, float32, or its class index ``()``, int64.

    Raises:
        AnswerError: it is no distribution over all classes, or no class.
    """
    if outputs in ("index", "text"):
        return check_labels(np.array([reading.best]), None, 1, classes).reshape(())
    scores = reading.scores
    if reading.classes is not None and scores is not None:
        known = dict(zip(reading.classes, scores, strict=True))
        every = range(classes or max(known) + 1)
        lacking, total = [index for index in every if index not in known], sum(scores)
        whole = outputs == "probabilities" and min(abs(total - 1), abs(total / 100 - 1)) < 2.0**-8
        if lacking and outputs != "tokens" and not whole:
            raise AnswerError(f"expected a score of every class, got none of {lacking[:10]}: ask for all classes")
        if surplus := sorted(known.keys() - set(every)):
            raise AnswerError(f"expected class indices 0 to {len(every)} - 1, got {surplus[:5]}")
        scores = tuple(known.get(index, 0.0) for index in every)
    if outputs == "tokens":
        outputs = "sigmoids"
    return check_scores(np.array([scores], dtype=np.float64), outputs, 1, classes).reshape(-1)


def check_scores(scores: Array, outputs: Outputs, number: int, classes: int | None) -> Array:
    """Probabilities ``(N, K)``, float32, of scores; see `soft_answer`, which raises an `AnswerError`."""
    if scores.dtype.kind != "f":
        wanted = f"{outputs} of shape [{number}, {classes or 'K'}]"
        raise AnswerError(f"expected {wanted}, got {scores.dtype} of shape {list(scores.shape)}")
    return soft_answer(torch.from_numpy(np.array(scores)), outputs, number, classes).numpy()  # type: ignore[arg-type]


def check_labels(values: Array, words: Words | None, number: int, classes: int | None) -> Array:
    """Class indices ``(N,)``, int64, of such indices, or of the texts whose labels are known.

    A text may be ``value:index`` or ``value:index:label``; of several in a row, the best comes first.

    Raises:
        AnswerError: another shape or kind, an unknown text, or no index of a class.
    """
    texts = values.dtype.kind == "O"
    if texts and values.ndim == 2 and classified(list(values.flat)) is not None:
        values = values[:, 0]
    if values.shape not in ((number,), (number, 1)):
        raise AnswerError(f"expected one label for each of {number} images, got shape {list(values.shape)}")
    if words is not None:
        values = _mapped([_text(value) for value in values.flat], words)
    elif texts:
        if (found := classified(list(values.flat))) is None:
            raise AnswerError(f"expected class indices, got texts, {list(values.flat)[:5]}; declare outputs=text")
        values = np.array([index for _, index, _ in found], dtype=np.int64)
    elif values.dtype.kind == "u":
        values = values.astype(np.int64)
    return hard_answer(torch.from_numpy(np.array(values)), number, classes).numpy()


def _text(value: object) -> str:
    """A label as text: of a whole number without decimals."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _mapped(texts: list[str], words: Words) -> Array:
    found = [words.index(text) for text in texts]
    for place, text in enumerate(texts):
        if found[place] is None and (parts := classified([text])) is not None and parts[0][2]:
            found[place] = words.index(parts[0][2])
    if unknown := sorted({text for text, index in zip(texts, found, strict=True) if index is None}):
        raise AnswerError(f"expected labels among {list(words.labels)[:20]}, got {unknown[:5]}")
    return np.array(found, dtype=np.int64)
