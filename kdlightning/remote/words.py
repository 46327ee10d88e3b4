"""From what a teacher says in words to a class: folding, synonyms, and how refusals begin."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from kdlightning.remote.paths import unfenced
from kdlightning.remote.protocol import shorten
from kdlightning.teachers.outcomes import Outcome, Reading

Match = Literal["exact", "contains"]
_QUOTES = " \t\r\n\"'`*_.,;:!?()[]<>«»“”‘’„"
_REFUSALS = (
    "i am sorry", "i m sorry", "sorry", "i can t", "i cannot", "i can not", "i am unable", "i m unable", "unable to",
    "i am not able", "i m not able", "i won t", "i will not", "i must decline", "i decline", "as an ai",
)  # fmt: skip


def _words_of(text: str) -> str:
    """Letters, digits and what combines with them, in one case; one space for all between."""
    return " ".join(re.sub(r"[^\w]|_", " ", unicodedata.normalize("NFKC", text).casefold()).split())


def _uncased(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_QUOTES)


def _cased(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split()).strip(_QUOTES)


def _as_is(text: str) -> str:
    return text


_FOLDS: tuple[Callable[[str], str], ...] = (_words_of, _uncased, _cased, _as_is)


class Words:
    """Reads class labels in texts.

    Case, white space, punctuation, quotes, Markdown and code fences do not count, as far as that leaves the labels of
    different classes different: ``C`` and ``C++`` keep their punctuation, ``US`` and ``us`` their case. A label between
    two slashes, ``/tabby|siamese/``, is a regular expression, and no case counts in it.

    Args:
        labels: the class index of each label text; several texts may have the same.
        match: a text is a label (``exact``), or has one in it, whole words of it (``contains``). The longest label
            counts: there is no ``dog`` in a ``hot dog``, if that is a label, too.

    Raises:
        ValueError: a regular expression that is none.
    """

    def __init__(self, labels: Mapping[str, int], match: Match = "exact") -> None:
        self._match, self._as_given = match, dict(labels)
        self._patterns: list[tuple[re.Pattern[str], int]] = []
        for text, index in labels.items():
            if len(text) > 2 and text[0] == text[-1] == "/":
                try:
                    self._patterns.append((re.compile(text[1:-1], re.IGNORECASE), index))
                except re.error as error:
                    raise ValueError(f"labels: {text} is no regular expression ({error})") from error
        plain = {text: index for text, index in labels.items() if not (len(text) > 2 and text[0] == text[-1] == "/")}
        self._fold = next((fold for fold in _FOLDS if _keeps_apart(fold, plain)), _as_is)
        self._plain = {self._fold(text): index for text, index in plain.items()}
        longest = sorted(self._plain, key=len, reverse=True)
        self._any = re.compile("|".join(rf"(?<!\w){re.escape(one)}(?!\w)" for one in longest) or r"(?!)")

    def index(self, label: str) -> int | None:
        """The class of a text that is a label; None if it is none."""
        if label in self._as_given:
            return self._as_given[label]
        own = {index for pattern, index in self._patterns if pattern.fullmatch(label.strip())}
        own |= {self._plain[one] for one in (self._fold(label),) if one in self._plain}
        return own.pop() if len(own) == 1 else None

    def read(self, text: str) -> Reading:
        """A label, or a refusal, or what cannot be read: no known label, or those of more than one class."""
        text = unfenced(text)
        if (index := self.index(text)) is not None:
            return Reading((index,))
        if declines(text):
            return Reading.none(Outcome.REFUSED, shorten(text))
        if self._match == "contains":
            classes = {index for pattern, index in self._patterns if pattern.search(text)}
            classes |= {self._plain[found] for found in self._any.findall(self._fold(text))}
            if len(classes) == 1:
                return Reading((classes.pop(),))
            if classes:
                return Reading.none(Outcome.UNREADABLE, f"{shorten(text)}, which has labels of {len(classes)} classes")
        return Reading.none(Outcome.UNREADABLE, shorten(text))

    @property
    def labels(self) -> dict[str, int]:
        """The class index of each label text, as it was given."""
        return self._as_given

    def folded(self, text: str) -> str:
        """A text as labels are compared, for what may be the beginning of one."""
        return self._fold(text)

    @property
    def plain(self) -> dict[str, int]:
        """The class of each folded label that is no regular expression."""
        return self._plain


def declines(text: str) -> bool:
    """Whether a text says nothing, or begins as models do that do not answer (in English)."""
    said = _words_of(text)
    return not said or f"{said} ".startswith(tuple(f"{words} " for words in _REFUSALS))


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


def _keeps_apart(fold: Callable[[str], str], labels: Mapping[str, int]) -> bool:
    """Whether labels of different classes stay different, and none becomes empty."""
    folded: dict[str, int] = {}
    return all(fold(text) and folded.setdefault(fold(text), index) == index for text, index in labels.items())
