"""How many images of a teacher got no answer, and when that is too many."""

import threading
from collections import Counter
from collections.abc import Iterable

from kdlightning.remote.connection import RemoteTeacherError
from kdlightning.teachers.outcomes import Outcome

_ENOUGH = 50  # images, after which a share says something
FIRST = 5  # images; where not one of them got an answer, something else is at fault than the images


class Unanswered:
    """Counts outcomes, from several threads; quotes the first answers that were none.

    Args:
        most: the largest share of images without an answer; 1 for any.
        where: who answers, for messages.
    """

    def __init__(self, most: float, where: str) -> None:
        self.most, self.where = most, where
        self.counts: Counter[Outcome] = Counter()
        self._quotes: list[str] = []
        self._lock = threading.Lock()

    def quote(self, said: str) -> None:
        """Keep the words that came in place of an answer, those of the first ones."""
        with self._lock:
            if len(self._quotes) < FIRST:
                self._quotes.append(said)

    def count(self, outcomes: Iterable[Outcome]) -> None:
        """Count what became of images.

        Raises:
            RemoteTeacherError: too many of them got no answer: a share above the one allowed, after 50 images at least;
                or none at all of the first five.
        """
        with self._lock:
            self.counts.update(outcomes)
            number, lacking = self.counts.total(), self.counts.total() - self.counts[Outcome.ANSWERED]
        if self.most < 1 and (lacking == number >= FIRST or (number >= _ENOUGH and lacking > self.most * number)):
            share = f"more than max_unanswered={self.most:g} allows" if lacking < number else "not one"
            refused, unreadable = self.counts[Outcome.REFUSED], self.counts[Outcome.UNREADABLE]
            raise RemoteTeacherError(
                f"{self.where}: {lacking} of {number} images got no answer ({refused} refused, {unreadable} "
                f"unreadable), {share}.{self.quoted} What was paid for is kept. Once the reading is mended (labels, "
                "answer, match), the same command reads it again for free; max_unanswered lets more go without"
            )

    @property
    def quoted(self) -> str:
        """The first answers that were none."""
        return "".join(f" {number}. {text};" for number, text in enumerate(self._quotes, start=1))
