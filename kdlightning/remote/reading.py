"""The reader of a JSON API's replies, by configuration: from a reply to one `Reading` for each image."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kdlightning.remote.paths import at, found
from kdlightning.remote.protocol import ProtocolError, shorten
from kdlightning.remote.scores import classified, scores_in
from kdlightning.remote.tokens import label_mass
from kdlightning.remote.words import Match, Words, declines
from kdlightning.teachers.outcomes import Outcome, Reading

Outputs = Literal["logits", "probabilities", "sigmoids", "tokens", "index", "text"]
_SCORES = ("logits", "probabilities", "sigmoids", "tokens")
OUTPUTS = {"soft": _SCORES, "topk": _SCORES, "hard": ("index", "text")}
_BIG = 2**62


@dataclass(frozen=True)
class Reader:
    """Where a reply has its answers, and how they are written.

    A path is names and positions with dots between, such as ``choices.0.message.content``; it goes on inside a text
    that holds JSON. An empty one is the whole value.

    Args:
        results: path of the list with an entry for each image; None where the reply is one image's entry.
        answer: path of one image's answer in its entry.
        label: path of the label in an object with label and score; or, in the answer, of the list of labels.
        score: path of the score, likewise.
        version_path: path of the model's version in the reply. It must not change.
        match: whether a text is a label (``exact``) or has one in it (``contains``), see
            :class:`~kdlightning.remote.words.Words`.
        refused: what says that the model declines: texts by a path in the entry, such as
            ``{choices.0.finish_reason: [content_filter]}``; an empty list for any text there.
        percent: scores are percentages. Those that sum to 100 are seen to be, and a percent sign says it.
    """

    results: str | None = None
    answer: str = ""
    label: str = "label"
    score: str = "score"
    version_path: str | None = None
    match: Match = "exact"
    refused: dict[str, list[str]] = field(default_factory=dict)
    percent: bool = False

    @property
    def identity(self) -> dict[str, str]:
        """What a ledger says of the way replies are read; nothing of it changes what is asked."""
        keys = "" if (self.label, self.score) == ("label", "score") else f"{self.label}:{self.score}"
        percent = "percent" if self.percent else ""
        match = "" if self.match == "exact" else self.match
        refused = repr(sorted(self.refused.items())) if self.refused else ""
        more = {"keys": keys, "reading": " ".join(part for part in (match, percent, refused) if part)}
        return {"answer": f"{self.results or ''}:{self.answer}", **{key: text for key, text in more.items() if text}}

    def entries(self, reply: Any, number: int) -> list[Any]:  # noqa: ANN401 - any JSON value
        """What a reply says of each of so many images; a `ProtocolError` where it does not say it of each."""
        entries = [reply] if self.results is None else at(self.results, reply)
        if not isinstance(entries, list) or len(entries) != number:
            told = f"a list of {len(entries)}" if isinstance(entries, list) else type(entries).__name__
            raise ProtocolError(f"expected a list of {number} answers, one for each image, got {told}")
        return entries

    def read(self, entry: Any, outputs: Outputs, words: Words | None) -> Reading:  # noqa: ANN401 - any JSON value
        """What one image was answered; a `ProtocolError` where it is not what the configuration says."""
        if (why := self._declined(entry)) is not None:
            return Reading.none(Outcome.REFUSED, why)
        value = at(self.answer, entry)
        if value is None or (isinstance(value, str) and declines(value)):
            return Reading.none(Outcome.REFUSED, shorten("" if value is None else value))
        if outputs == "tokens":
            assert words is not None
            return label_mass(value, words)
        if outputs == "index":
            return self._index(value)
        if outputs == "text":
            return self._text(value, words)
        reading = scores_in(value, words, self.label, self.score)
        if self.percent and reading.scores is not None:
            reading = reading._replace(scores=tuple(score / 100 for score in reading.scores))
        return reading

    def _declined(self, entry: Any) -> str | None:  # noqa: ANN401 - any JSON value
        for path, texts in self.refused.items():
            value = found(path, entry)
            if value and (not texts or str(value).casefold() in {text.casefold() for text in texts}):
                return f"{path}: {shorten(value)}"
        if isinstance(entry, Mapping) and entry.get("error") and found(self.answer, entry) in (None, entry):
            return shorten(entry["error"])
        return None

    def _index(self, value: Any) -> Reading:  # noqa: ANN401 - any JSON value
        if isinstance(value, str) and (parts := classified([value])) is not None:
            return Reading((parts[0][1],))
        if type(value) is not int or abs(value) >= _BIG:
            raise ProtocolError(f"expected class indices, got {shorten(value)}")
        return Reading((value,))

    def _text(self, value: Any, words: Words | None) -> Reading:  # noqa: ANN401 - any JSON value
        """A label in a text, or the best of labels with scores; those of an open vocabulary may be among them."""
        assert words is not None
        if isinstance(value, (list, dict)):
            best = scores_in(value, words, self.label, self.score, foreign=True)
            return Reading((best.best,))
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise ProtocolError(f"expected label texts, got {shorten(value)}")
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        reading = words.read(text)
        if not reading.answered and (parts := classified([text])) is not None:
            return words.read(parts[0][2] or str(parts[0][1]))
        return reading
