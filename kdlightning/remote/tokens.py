"""From the log-probabilities of tokens to those of class labels, as far as a chat completion's reply tells them."""

import math
from typing import Any, NamedTuple

from kdlightning.remote.paths import found
from kdlightning.remote.protocol import ProtocolError, shorten
from kdlightning.remote.words import Words
from kdlightning.teachers.outcomes import Outcome, Reading

_LISTS = ("top_logprobs", "candidates", "topCandidates")  # where a position has its alternatives: OpenAI, Gemini
_TOKEN, _SCORE = ("token", "text"), ("logprob", "logProbability")


class Place(NamedTuple):
    """One token of the reply: what was written, and the probabilities of all that might have been, as far as told."""

    written: str
    among: dict[str, float]


def label_mass(value: Any, words: Words) -> Reading:  # noqa: ANN401 - any JSON value
    """The probability of each class label, and as the rest what other tokens have, or nobody tells.

    A label may be of several tokens. The first place where the reply writes a label counts, given what stands before;
    without one, its beginning. A token that was written and begins labels is followed through those after it. Another
    one gives its probability to the one label that it begins, or is of the rest where it begins several.

    Args:
        value: ``choices.0.logprobs.content`` of a chat completion: a list of tokens, each with ``token``, ``logprob``
            and ``top_logprobs``; or Gemini's ``logprobsResult`` with ``topCandidates`` and ``chosenCandidates``.
        words: the labels, whose case and punctuation do not count; no regular expressions.

    Raises:
        ProtocolError: no such list.
    """
    places = _places(value)
    starts = [at for at in range(len(places)) if _writes_a_label(places[at:], words)]
    mass: dict[int, float] = {}
    _walk("", 1.0, places[starts[0] if starts else 0 :], words, mass)
    total = math.fsum(mass.values())
    if not total > 0:
        return Reading.none(Outcome.UNREADABLE, shorten("".join(place.written for place in places)))
    return Reading.summed(list(mass.items()), rest=max(0.0, 1.0 - total))


def _walk(text: str, weight: float, places: list[Place], words: Words, mass: dict[int, float]) -> None:
    """Give labels that begin with the text their shares of its weight, by the tokens that may come next."""
    here = words.folded(text)
    whole = words.plain.get(here)
    stays = weight  # with the label that the text is
    for token, probability in places[0].among.items() if places else ():
        longer, own = words.folded(text + token), weight * probability
        written = token == places[0].written
        if longer == here:  # a space, a quotation mark
            if written and whole is None:
                _walk(text + token, own, places[1:], words, mass)
            continue
        begun = {index for label, index in words.plain.items() if label.startswith(longer)}
        if begun or token[:1].isalnum():  # another label, or a word that only begins like one
            stays -= own
        if begun and written:
            _walk(text + token, own, places[1:], words, mass)
        elif len(begun) == 1 or longer in words.plain:
            _add(mass, words.plain.get(longer, min(begun)), own)
    if whole is not None:
        _add(mass, whole, max(0.0, stays))
    elif not places and here:
        begun = {index for label, index in words.plain.items() if label.startswith(here)}
        if len(begun) == 1:  # cut by the most tokens that were asked for
            _add(mass, begun.pop(), weight)


def _writes_a_label(places: list[Place], words: Words) -> bool:
    """Whether a label is written at these places, from the first one on, and ends as a word does."""
    if not places or not words.folded(places[0].written):
        return False
    text = ""
    for at, place in enumerate(places):
        text += place.written
        following = places[at + 1].written[:1] if at + 1 < len(places) else ""
        if words.folded(text) in words.plain and not following.isalnum():
            return True
        if not any(label.startswith(words.folded(text)) for label in words.plain):
            return False
    return False


def _add(mass: dict[int, float], index: int, weight: float) -> None:
    mass[index] = mass.get(index, 0.0) + weight


def _places(value: Any) -> list[Place]:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict) and isinstance(value.get("topCandidates"), list):  # Gemini's: two lists side by side
        chosen = value.get("chosenCandidates") or [{}] * len(value["topCandidates"])
        value = [{**one, **top} for one, top in zip(chosen, value["topCandidates"], strict=False)]
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        raise ProtocolError(f"expected log-probabilities of tokens, got {shorten(value)}")
    return [_place(one) for one in value]


def _place(one: dict[str, Any]) -> Place:
    listed: Any = next((one[name] for name in _LISTS if isinstance(one.get(name), list)), [])
    among = {token: math.exp(min(score, 0.0)) for token, score in map(_token, [*listed, one]) if token is not None}
    if not among:
        raise ProtocolError(f"expected log-probabilities of tokens, got {shorten(one)}")
    written = _token(one)[0]
    return Place(max(among, key=among.__getitem__) if written is None else written, among)


def _token(entry: Any) -> tuple[str | None, float]:  # noqa: ANN401 - any JSON value
    token = next((text for name in _TOKEN if isinstance(text := found(name, entry), str)), None)
    score = next((own for name in _SCORE if isinstance(own := found(name, entry), (int, float))), None)
    return (None, 0.0) if token is None or score is None else (token, float(score))
