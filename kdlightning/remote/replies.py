"""What teachers behind a connection do with a reply: read it, say what became of every image, keep it for later."""

import hashlib
import logging
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from kdlightning.accounting.ledger import QueryLedger
from kdlightning.networks.rehearsal import looks_like_probabilities
from kdlightning.remote.checks import check_labels, check_scores, disclosed, is_none, none_row
from kdlightning.remote.connection import AttemptError, Patience, RemoteTeacherError, Reply
from kdlightning.remote.credentials import bare, blacken
from kdlightning.remote.partial import packed, partial_row
from kdlightning.remote.protocol import HEADER_LENGTH, Array, UnreadableReplyError, parse_value, shorten
from kdlightning.remote.reading import Outputs
from kdlightning.remote.unanswered import FIRST, Unanswered
from kdlightning.remote.words import Words
from kdlightning.teachers.answers import AnswerError
from kdlightning.teachers.blackbox import BlackBoxTeacher
from kdlightning.teachers.outcomes import Outcome, Reading, counted

_log = logging.getLogger(__name__)
_FLATTENED = (
    "the teacher's answers are declared to be logits, but each row is non-negative and sums to 1, as probabilities do: "
    "a softmax would flatten them; declare outputs=probabilities if that is what they are"
)
_SHARED = "the teacher's scores, one of its own for each class, are divided by their sum to become a distribution"

_ABOUT_IMAGES = (200, 400, 413, 415, 422, 451)  # statuses of a refusal that may be of one image; 200: said otherwise


class ReadingTeacher(BlackBoxTeacher):
    """Reads replies. A reply has rows, one for each image: what the access discloses, or that there is no answer."""

    _address: str
    _outputs: Outputs
    _words: Words | None
    _version: str | None
    _tally: Unanswered
    _identity: dict[str, str]
    _offline: bool
    _asked_again: set[bytes]  # of the images that got no answer, those asked once more, as SHA-256
    _patience: Patience
    _understood = False  # whether an answer has been what was agreed
    k = 0  #: the most classes of an answer, where it names the best ones only

    @abstractmethod
    def _read(self, reply: Reply, number: int) -> Array | Sequence[Reading]:
        """What a reply says of so many images: scores ``(N, K)`` or labels ``(N,)``, or a reading of each.

        Raises:
            ProtocolError: it says nothing of the kind.
        """

    def _decode(self, reply: Reply, number: int) -> list[Array]:
        """The rows in a reply, as they were agreed; an `AnswerError`, with the reply, if they are not."""
        try:
            answer = self._read(reply, number)
            rows = self._checked(answer, number) if not isinstance(answer, Sequence) else list(map(self._row, answer))
        except UnreadableReplyError:
            raise
        except AnswerError as error:
            text = reply.body.split(b"\0", 1)[0]  # binary tensors come after their JSON
            raise AnswerError(f"{error}. The reply: {shorten(text, 300)}") from None
        self._understood = self._understood or not all(map(is_none, rows))
        return rows

    def _checked(self, answer: Array, number: int) -> list[Array]:
        """The rows of tensors, which are all answers or none."""
        if self.access == "hard":
            words = self._words if self._outputs == "text" else None
            return list(check_labels(answer, words, number, self.num_classes))
        checked = check_scores(answer, self._outputs, number, self.num_classes)
        self._warn(answer)
        if self.access == "topk":
            return [packed(range(len(row)), row.tolist(), 0.0, self.k) for row in checked]
        return list(checked)

    def _row(self, reading: Reading) -> Array:
        """What one image's answer is disclosed as."""
        outcome, said = reading.outcome, reading.said
        if reading.answered:
            try:
                row = self._disclosed(reading)
            except AnswerError as error:
                if not self.odd_answers or self._outputs == "index":  # other numbers than agreed, not an odd answer
                    raise
                outcome, said = Outcome.UNREADABLE, f"{error}. The reply: {reading.said}"
            else:
                if row.ndim:
                    self._classes = self._classes or (len(row) if self.access == "soft" else 0)
                    self._warn(np.array([reading.scores]))
                return row
        self._tally.quote(f"{outcome.name.lower()}: {said}")
        return none_row(outcome)

    def _disclosed(self, reading: Reading) -> Array:
        if self.access == "topk":
            return partial_row(reading, self._outputs, self.num_classes, self.k)
        return disclosed(reading, self._outputs, self.num_classes)

    def _warn(self, scores: Array) -> None:
        if not self._understood and self._outputs == "logits" and looks_like_probabilities(torch.tensor(scores)):
            warnings.warn(_FLATTENED, stacklevel=2)
        if not self._understood and self._outputs == "sigmoids":
            _log.warning(_SHARED)

    def _to_keep(self, reply: Reply, *, read: bool) -> bytes | None:
        """A reply for the ledger; None for one that is better asked again (no JSON), or that repeats a secret."""
        length = reply.headers.get(HEADER_LENGTH.lower(), "")
        if not read and not length:
            try:
                parse_value(reply.body)
            except UnreadableReplyError:
                return None
        if blacken(text := reply.body.decode(errors="replace")) != text:
            return None
        return f"{length}\n".encode() + reply.body

    def _read_again(self, kept: bytes, number: int) -> list[Array]:
        """The rows in a reply from the ledger."""
        length, _, body = kept.partition(b"\n")
        return self._decode(Reply({HEADER_LENGTH.lower(): length.decode()} if length else {}, body, 0), number)

    def _look_up(self, ledger: QueryLedger, images: list[bytes]) -> list[Array | None]:
        """The rows that the ledger has; without those that are no answers, where these are asked again."""
        try:
            found = ledger.lookup(self._identity, images, self._read_again)
        except AnswerError as error:
            kept = f"this is a reply that was paid for, kept in {ledger.path}"
            mended = "once its reading is mended (outputs, labels, answer), the same command reads it for free"
            raise RemoteTeacherError(f"{bare(self._address)}: {error}: {kept}; {mended}, else it asks anew") from error
        if self._patience.ask_again and not self._offline:
            pairs = zip(images, found, strict=True)
            found = [None if row is not None and is_none(row) and self._is_due(one) else row for one, row in pairs]
        known = outcomes_of([row for row in found if row is not None])
        silent = [one for one, row in zip(images, found, strict=True) if row is not None and is_none(row)]
        if silent and not self._tally.quoted:
            for reply, number in ledger.replies(self._identity, silent[:FIRST]):
                with suppress(AnswerError):
                    self._read_again(reply, number)  # for its words
        self._understood = self._understood or Outcome.ANSWERED in known
        self._tally.count(known)
        return found

    def _is_due(self, image: bytes) -> bool:
        """Whether an image without an answer was not asked again yet, by this process."""
        return hashlib.sha256(image).digest() not in self._asked_again

    def _is_about_images(self, error: Exception, *, paid: bool = True) -> bool:
        """Whether a request, or its answer, is refused in a way that may be due to one of its images."""
        status = getattr(error, "status", None)
        return self.odd_answers and status in _ABOUT_IMAGES and (paid or status != 200)

    def _instead(self, error: BaseException, number: int, *, last: bool) -> Array | None:
        """What stands for the answer to one image that a server refuses which has answered others."""
        if number > 1 or not self._understood or not self.odd_answers:
            return None
        if isinstance(error, AttemptError) and error.status in _ABOUT_IMAGES:
            self._tally.quote(f"refused: {error}")
            return none_row(Outcome.REFUSED)
        if isinstance(error, UnreadableReplyError) and last:
            self._tally.quote(f"unreadable: {error}")
            return none_row(Outcome.UNREADABLE)
        return None

    def _check_version(self, version: str) -> None:
        """The same model from the first answer to the last."""
        self._version = self._version or version
        if version != self._version:
            raise RemoteTeacherError(
                f"{bare(self._address)}: expected answers of version {self._version}, got one of version {version}: "
                "the model was changed in the middle of the run. What it answered before is kept. Have the version "
                "restored and run the same command to go on, or start a new run and set `version` to the new one"
            )

    def _unanswered(self, answer: Tensor) -> RemoteTeacherError:
        found = counted(answer)
        return RemoteTeacherError(
            f"{bare(self._address)}: {found['refused'] + found['unreadable']} of {len(answer)} images got no answer "
            f"({found['refused']} refused, {found['unreadable']} unreadable), and what is asked here needs every one."
            f"{self._tally.quoted} What was paid for is kept. Have the teacher answer a label in any case (constrain "
            "its output), mend the reading (labels, answer, match), or use what can leave images out: TeacherAnswers "
            "with what trains on its transfer set, KD, MEKD, DFND, the selections"
        )


def outcomes_of(rows: Sequence[Array]) -> list[Outcome]:
    """What became of each row's image."""
    return [Outcome(int(row)) if is_none(row) else Outcome.ANSWERED for row in rows]
