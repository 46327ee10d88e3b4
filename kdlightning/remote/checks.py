"""From what a server wrote to numbers that the one check of all teachers takes: label texts become class indices."""

import re
import warnings
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch

from kdlightning.networks.rehearsal import looks_like_probabilities
from kdlightning.remote.protocol import Array
from kdlightning.teachers.answers import AnswerError, hard_answer, soft_answer

_CLASSIFIED = re.compile(r"[^:]*:(\d{1,9})(?::(.*))?", re.DOTALL)  # value:index:label, Triton's classification

_FLATTENED = (
    "the teacher's answers are declared to be logits, but each row is non-negative and sums to 1, as probabilities do: "
    "a softmax would flatten them; declare outputs=probabilities if that is what they are"
)


def check_scores(scores: Array, outputs: Literal["logits", "probabilities"], number: int, classes: int | None) -> Array:
    """Probabilities ``(N, K)``, float32, of scores; see `soft_answer`, which raises an `AnswerError`."""
    if scores.dtype.kind != "f":
        wanted = f"{outputs} of shape [{number}, {classes or 'K'}]"
        raise AnswerError(f"expected {wanted}, got {scores.dtype} of shape {list(scores.shape)}")
    return soft_answer(torch.from_numpy(np.array(scores)), outputs, number, classes).numpy()


def check_labels(values: Array, labels: dict[str, int] | None, number: int, classes: int | None) -> Array:
    """Class indices ``(N,)``, int64, of such indices, or of the texts that ``labels`` maps to them.

    A text may be ``value:index`` or ``value:index:label``; of several in a row, the best comes first.

    Raises:
        AnswerError: another shape or kind, an unknown text, or no index of a class.
    """
    if values.dtype.kind == "O" and values.ndim == 2 and all(_CLASSIFIED.fullmatch(text) for text in values.flat):
        values = values[:, 0]
    if values.shape not in ((number,), (number, 1)):
        raise AnswerError(f"expected one label for each of {number} images, got shape {list(values.shape)}")
    if labels is not None:
        values = _mapped([_text(value) for value in values.flat], labels)
    elif values.dtype.kind == "O":
        found = [_CLASSIFIED.fullmatch(text) for text in values.flat]
        if not all(found):
            raise AnswerError(f"expected class indices, got texts, {list(values.flat)[:5]}; declare outputs=text")
        values = np.array([int(one[1]) for one in found if one], dtype=np.int64)
    elif values.dtype.kind == "u":
        values = values.astype(np.int64)
    return hard_answer(torch.from_numpy(np.array(values)), number, classes).numpy()


def index_of(labels: list[str] | dict[str, int]) -> dict[str, int]:
    """The class index of each label text; a whole number is one.

    Raises:
        ValueError: a text that comes twice, indices that leave out a class, or what YAML took for no text.
    """
    pairs: Iterable[tuple[Any, int]]
    pairs = labels.items() if isinstance(labels, dict) else ((text, number) for number, text in enumerate(labels))
    index = {str(text) if type(text) is int else text: number for text, number in pairs}
    if read_otherwise := [text for text in index if not isinstance(text, str) or text in ("True", "False", "None")]:
        raise ValueError(
            f"labels: expected texts, got {read_otherwise}: YAML takes bare words such as no, yes, on, off, true and "
            "null for something else; write them in quotes"
        )
    if len(index) < len(labels) or set(index.values()) != set(range(len(set(index.values())))) or not index:
        raise ValueError(f"expected labels for the classes 0 to K - 1, each text once, got {labels}")
    return index


def _text(value: object) -> str:
    """A label as text: of a whole number without decimals."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _mapped(texts: list[str], labels: dict[str, int]) -> Array:
    found = [_CLASSIFIED.fullmatch(text) for text in texts]
    texts = [one[2] if one and one[2] and text not in labels else text for one, text in zip(found, texts, strict=True)]
    if unknown := sorted(set(texts) - labels.keys()):
        raise AnswerError(f"expected labels among {list(labels)[:20]}, got {unknown[:5]}")
    return np.array([labels[text] for text in texts], dtype=np.int64)


def warn_of_probabilities(answer: Array) -> None:
    """Warn of what is declared to be logits, and looks like probabilities."""
    if looks_like_probabilities(torch.tensor(answer)):
        warnings.warn(_FLATTENED, stacklevel=3)
