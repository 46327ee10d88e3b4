"""Scores in a JSON value, in every shape that APIs have: from what stands there to pairs of label and score."""

import math
import re
from collections.abc import Sequence
from typing import Any

from kdlightning.remote.paths import at, found
from kdlightning.remote.protocol import ProtocolError, shorten
from kdlightning.remote.words import Words
from kdlightning.teachers.outcomes import Reading

_CLASSIFIED = re.compile(r"([^:]*):(\d{1,9})(?::(.*))?", re.DOTALL)  # value:index:label, of the V2 classification
Pairs = list[tuple[Any, float]]


def scores_in(value: Any, words: Words | None, label: str, score: str, *, foreign: bool = False) -> Reading:  # noqa: ANN401
    """Scores of classes, in any of these shapes.

    - a list of numbers, one for each class in order: ``[0.7, 0.3]``
    - an object of numbers by label: ``{"cat": 0.7, "dog": 0.3}``; a number may be in an object, at ``score``
    - a list of objects, with a label and a score at these paths: ``[{"label": "cat", "score": 0.7}, ...]``
    - parallel lists, at these paths of one object: ``{"label": ["cat", "dog"], "score": [0.7, 0.3]}``
    - a list of pairs: ``[["cat", 0.7], ["dog", 0.3]]``
    - a list of texts ``value:index:label``, of which the index counts where there are no labels: ``["0.7:0:cat", ...]``

    A score may be a text, with a percent sign that divides it. Those of one class add up.

    Args:
        value: any JSON value.
        words: knows the labels; None where there are none.
        label: path of the label in an object.
        score: path of the score in it.
        foreign: pass over labels that are unknown, as of an open vocabulary.

    Raises:
        ProtocolError: it is none of these, or a label is unknown.
    """
    if isinstance(value, list) and value and all(_is_number(one) for one in value):
        return Reading(scores=tuple(map(number, value)), rest=0.0)
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return _classified(value, words, foreign)
    pairs = _pairs(value, label, score)
    if pairs is None or not pairs:
        raise ProtocolError(f"expected a list of scores, got {shorten(value)}")
    if words is None:
        raise ProtocolError(f"expected a list of scores, got scores by label, {shorten(value)}; give `labels`")
    return _known([(str(one), number(own)) for one, own in pairs], words, foreign)


def number(value: Any) -> float:  # noqa: ANN401 - any JSON value
    """A score: a number, or a text of one; a `ProtocolError` if it is neither."""
    if isinstance(value, str):
        text = value.strip()
        try:
            return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            raise ProtocolError(f"expected a list of scores, got the text {shorten(value)}") from None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ProtocolError(f"expected a list of scores, got {shorten(value)}")
    return float(value) if abs(value) < 1e300 else math.inf


def classified(texts: Sequence[str]) -> list[tuple[float, int, str | None]] | None:
    """Value, index and label of each text ``value:index`` or ``value:index:label``; None if one is none."""
    parts = [_CLASSIFIED.fullmatch(text) for text in texts]
    return [(_value(one[1]), int(one[2]), one[3]) for one in parts if one] if all(parts) else None


def _value(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _classified(texts: list[str], words: Words | None, foreign: bool) -> Reading:
    if (parts := classified(texts)) is None:
        raise ProtocolError(f"expected a list of scores, got texts, {shorten(texts)}")
    if words is None:
        return Reading.summed([(index, value) for value, index, _ in parts])
    return _known([(str(index) if name is None else name, value) for value, index, name in parts], words, foreign)


def _pairs(value: Any, label: str, score: str) -> Pairs | None:  # noqa: ANN401 - any JSON value
    """What stands for a label and for its score; None where no shape is known."""
    if isinstance(value, dict):
        lists = found(label, value), found(score, value)
        if isinstance(lists[0], list) and isinstance(lists[1], list):
            if len(lists[0]) != len(lists[1]):
                told = f"{len(lists[0])} and {len(lists[1])}"
                raise ProtocolError(f"expected as many of {label} as of {score}, got {told}")
            return list(zip(*lists, strict=True))
        return [(name, at(score, own) if isinstance(own, dict) else own) for name, own in value.items()]
    if not isinstance(value, list):
        return None
    if all(isinstance(one, dict) for one in value):
        return [(at(label, one), at(score, one)) for one in value]
    if all(isinstance(one, list) and len(one) == 2 for one in value):
        return [(one[0], one[1]) for one in value]
    return None


def _known(pairs: list[tuple[str, float]], words: Words, foreign: bool) -> Reading:
    classes = [words.index(label) for label, _ in pairs]
    unknown = sorted({label for (label, _), index in zip(pairs, classes, strict=True) if index is None})
    if unknown and (not foreign or len(unknown) == len({label for label, _ in pairs})):
        raise ProtocolError(f"expected labels among {list(words.labels)[:20]}, got {unknown[:5]}")
    known = zip(classes, pairs, strict=True)
    return Reading.summed([(index, score) for index, (_, score) in known if index is not None])


def _is_number(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        try:
            float(value.strip().removesuffix("%"))
        except ValueError:
            return False
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool)
