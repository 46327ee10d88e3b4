"""What teachers behind a connection share: known images from the ledger, the rest in batches, every attempt paid."""

import hashlib
import itertools
import logging
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kdlightning.accounting.accounts import Budget, Cost, Limits, budget_of
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.accounting.meter import QueryMeter
from kdlightning.accounting.options import group_of
from kdlightning.accounting.pace import Pace
from kdlightning.accounting.tariff import Tariff, tariff_of
from kdlightning.accounting.terms import Terms
from kdlightning.remote.bill import Bill
from kdlightning.remote.checks import is_none, stacked
from kdlightning.remote.connection import (
    AttemptError,
    Connection,
    Patience,
    RemoteTeacherError,
    Reply,
    Request,
    together,
)
from kdlightning.remote.credentials import bare
from kdlightning.remote.foresight import by_ledger, image_bytes
from kdlightning.remote.gate import Gate
from kdlightning.remote.identity import asked, digest, known_teacher
from kdlightning.remote.protocol import Array
from kdlightning.remote.reading import OUTPUTS, Outputs
from kdlightning.remote.replies import ReadingTeacher, outcomes_of
from kdlightning.remote.unanswered import Unanswered
from kdlightning.remote.words import Words, index_of
from kdlightning.types import Answers

if TYPE_CHECKING:
    from kdlightning.remote.wire import Received

_log = logging.getLogger(__name__)
_SUSPECTS = 3  # images refused alone, before any was answered, after which the request is at fault itself


class NetworkedTeacher(ReadingTeacher):
    """A teacher on a server. A subclass says how images are written and sent, and how their answers are read.

    Images that the ledger knows are answered from it and cost nothing. The rest is sent in batches, several at a time;
    each attempt is counted before it is sent, and each answer is in the ledger before it is used, with the reply that
    it was read from: where ``outputs``, ``labels`` or an answer's path are mended, that is read again, for free.
    An attempt that may have been answered stays counted. What another run asks at this moment is waited for.

    A subclass says what is answered (:meth:`_answer_with`), sets ``_address`` and, unless offline, ``_connection``, and
    then calls :meth:`_identify`.

    Args:
        labels: the label texts in the order of the classes, or the class index of each; for ``text``, and (JSON APIs)
            for scores that come by label.
        version: of the model; None for the server's choice, or where it is not known. Answers of another version are
            other answers for the ledger. It must not change while this teacher lives.
        num_classes: K, where the server does not tell.
        concurrency: the most requests under way.
        patience: time-outs and retries.
        budget: the most images that may be paid, or limits of images, bytes and money; None for no limit.
        price: of one image, or a price list by images, requests and tokens. What a budget of money has to hold for
            is reserved before a request is sent, and its true cost counts once its reply has told the tokens.
        pace: requests and tokens a minute, of all runs that share the ledger; None for what the server says in headers.
        ledger: path of the query ledger, shared by all runs that name it; None for none: then repeated images are paid
            again, and what an interrupted query has been answered is lost.
        known_as: who answers, in identity and ledger; None for the url. While it stays, the ledger's answers stay
            valid although the server moves.
        offline: ask nobody: answer from the ledger, and refuse images that it does not have.
        max_unanswered: the largest share of images that may get no answer, judged after 50 of them; above it, or where
            not one of the first five got one, a RemoteTeacherError quotes what came instead.

    Raises:
        ValueError: arguments that do not fit together.
        ImportError: the extra ``remote`` is not installed.
    """

    _connection: Connection | None = None
    _ledger: QueryLedger | None = None
    _books: ClassVar[type[QueryLedger]] = QueryLedger
    _usual: ClassVar[Patience] = Patience()

    def __init__(
        self,
        *,
        labels: list[str] | dict[str, int] | None = None,
        version: str | None = None,
        num_classes: int | None = None,
        concurrency: int = 4,
        patience: Patience | None = None,
        budget: int | Budget | None = None,
        price: float | Tariff = 0.0,
        pace: Pace | None = None,
        ledger: str | None = "ledger.sqlite",
        known_as: str | None = None,
        offline: bool = False,
        max_unanswered: float = 0.2,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency: expected at least 1, got {concurrency}")
        most = budget_of(budget)
        self._limits = Limits(None, most.bytes, most.price)
        if ledger is None and (self._limits != Limits() or offline):
            raise ValueError("limits of bytes or price, and answers without a server (offline), need a ledger")
        self._labels = None if labels is None else index_of(labels)
        self._version, self._classes, self._known_as, self._offline = version, num_classes or 0, known_as, offline
        self._concurrency, self._pace = concurrency, group_of(Pace, pace, "pace")
        self._patience = self._usual if patience is None else group_of(Patience, patience, "patience")
        self._meter, self._ledger_path = QueryMeter(most.queries), ledger
        self._bill = Bill(tariff_of(price), counts=self._pace.tokens_per_minute is not None, jobs=self.in_jobs)
        self._lock = threading.Lock()  # the meter's own keeps out processes, not threads
        self._words = None if self._labels is None else Words(self._labels)
        if not 0 <= max_unanswered <= 1:
            raise ValueError(f"max_unanswered: expected a share from 0 to 1, got {max_unanswered}")
        self._most, self._asked_again = max_unanswered, set()

    def _answer_with(self, outputs: Outputs, max_batch: int) -> None:
        """Settle what is answered, and the most images in a request.

        A ValueError for ``outputs`` that are not of this access, or texts without labels; for no image in a request.
        """
        named = outputs in ("text", "tokens")
        if outputs not in OUTPUTS[self.access] or (named and self._labels is None):
            wanted = f"outputs {' or '.join(OUTPUTS[self.access])}, and labels with text"
            got = f"outputs={outputs} {'without' if self._labels is None else 'with'} labels"
            raise ValueError(f"{type(self).__name__}: expected {wanted}, got {got}")
        if max_batch < 1:
            raise ValueError(f"max_batch: expected at least 1, got {max_batch}")
        self._outputs, self._max_batch = outputs, max_batch

    def _identify(self, classes: int | None = None, /, **identity: str) -> dict[str, str]:
        """Settle who answers, and open the ledger; K as the server tells.

        The identity is who it is and how images are written for it, no secret; offline, what is known of it. It comes
        back without fingerprint; offline, that of the one such teacher in the ledger.

        Raises:
            ValueError: another number of classes is configured; offline, no such teacher, or several.
        """
        self._tally = Unanswered(self._most, bare(self._address))
        identity |= {"access": self.access, "outputs": self._outputs, **({"k": str(self.k)} if self.k else {})}
        labelled = None
        if self._labels is not None:  # replies read with other labels are other answers
            labelled = max(self._labels.values()) + 1
            identity["labels"] = hashlib.sha256(repr(sorted(self._labels.items())).encode()).hexdigest()[:16]
        told = {"num_classes": self._classes or None, "labels": labelled, "server": classes}
        if len(counts := {count for count in told.values() if count is not None}) > 1:
            raise ValueError(f"{bare(self._address)}: expected one number of classes, got {told}")
        self._classes = max(counts, default=0)
        if self._ledger_path is not None:
            self._ledger = self._books(self._ledger_path, self._limits, readonly=self._offline)
            if self._offline:
                identity = known_teacher(self._ledger, identity)
            self._bill.learn(row[1:] for row in self._ledger.usage(identity))
        if self._connection is not None:
            self._gate = Gate(self._connection, self._pace, bare(self._address), self._ledger_path)
        mark = digest(identity)
        self._identity, self._fingerprint = identity, lambda: mark
        return identity

    def read_otherwise(self, fingerprint: str) -> bool:
        """Whether the ledger has a teacher of this fingerprint who was asked just so; see the base class."""
        teachers = [] if self._ledger is None else self._ledger.teachers()
        return fingerprint in {digest(who) for who in teachers if asked(who) == asked(self._identity)}

    def share(self, path: str | Path) -> None:
        """Count in this file from now on; what the ledger limits holds for all that count there."""
        if self._ledger is not None and not self.shared:
            self._ledger.pay_for(path)
        super().share(path)

    def resume(self, asked: int | None, earlier: Answers, shape: Sequence[int]) -> None:
        """Go on; see the base class. What was on its way at a kill is paid, by the ledger or, without, the count."""
        own = (asked or 0, 0, 0) if self._ledger is None else self._ledger.spent.at_least(asked or 0)
        kept = None if asked is None else Answers(*map(sum, zip(earlier, own, strict=True)))
        self._meter.resume(kept, unknown=self._ledger is None)

    @property
    def remembers(self) -> bool:
        """Whether it has a ledger."""
        return self._ledger is not None

    def interrupt(self, stop: bool) -> None:
        """Begin no further request, though a query is under way, or do so again."""
        if self._connection is not None:
            (self._connection.stopped.set if stop else self._connection.stopped.clear)()

    def terms(self, shape: Sequence[int], count: str | Path) -> Terms:
        """What images will cost, by this teacher's settings and its ledger; see the base class."""
        price = self._bill.prices([], self._max_batch)
        terms = super().terms(shape, count)._replace(price=price, bytes_down=None, jobs=self.in_jobs)
        if self._connection is None:
            terms = terms._replace(offline=True)
        else:
            terms = terms._replace(bytes_up=image_bytes(self._size, shape, self._max_batch))
        if self._ledger is None:
            return terms._replace(spent=Limits(self._meter.counted(count, unknown=True).queries))
        terms = terms._replace(limits=self._limits._replace(queries=self.budget))
        return by_ledger(terms, self._ledger.path, self._identity, count, self._bill, self._max_batch)

    @property
    def waiting(self) -> float:
        """Seconds that a request waits for the server's rate limit."""
        return 0.0 if self._connection is None else self._gate.waiting

    @property
    def cost(self) -> Cost:
        """What was paid: money and tokens by the account of the ledger; without one, by this process."""
        spent = self._bill.paid if self._ledger is None else self._ledger.spent
        return Cost(*self.paid[1:], spent.price, spent.input_tokens, spent.output_tokens)

    def _size(self, image: Tensor, number: int) -> int:
        """Bytes of a request for so many copies of an image ``(1, C, H, W)``."""
        return len(self._request(self._encode(image) * number, tuple(image.shape[1:])).body or b"")

    @property
    def labels(self) -> dict[str, int] | None:
        """The class index of each label text, where there are such."""
        return self._labels

    def listen(self, listener: Callable[[Request, dict[str, str], "Received"], None]) -> None:
        """Show every request, the headers of all requests, and what came to somebody; they may hold secrets."""
        if self._connection is not None:
            self._connection.listener = listener

    def close(self) -> None:
        """Close connections and ledger. Another query opens what it needs again, except connections."""
        if self._connection is not None:
            self._connection.close()
        if self._ledger is not None:
            self._ledger.close()

    @abstractmethod
    def _encode(self, images: Tensor) -> list[bytes]:
        """The bytes that stand for each image ``(C, H, W)`` in a request; the ledger knows images by them.

        Raises:
            ValueError: the server does not take such images. Nothing is charged.
        """

    @abstractmethod
    def _request(self, images: Sequence[bytes], shape: tuple[int, ...]) -> Request:
        """A request for some encoded images, each of this shape ``(C, H, W)``."""

    def _answer(self, images: Tensor) -> Tensor:
        return self._answer_encoded(*self._encoded(images)).to(images.device)

    def _answer_each(self, images: list[Tensor]) -> Tensor:
        if not self.any_size:
            return super()._answer_each(images)
        return self._answer_encoded(*self._encoded(images)).to(images[0].device)

    def _encoded(self, images: Tensor | list[Tensor]) -> tuple[list[bytes], tuple[int, ...]]:
        """The bytes that stand for images ``(N, C, H, W)``, or for each of ``(1, C, H, W)``, and the shape of one."""
        parts = images if isinstance(images, list) else [images]
        return [one for part in parts for one in self._encode(part.detach().cpu())], tuple(parts[0].shape[1:])

    def _answer_encoded(self, encoded: list[bytes], shape: tuple[int, ...]) -> Tensor:
        ledger = self._ledger
        rows = self._ask_all(encoded, shape) if ledger is None else self._ask_once(ledger, encoded, shape)
        answer = stacked(rows, 2 * self.k + 1 if self.k else self._classes, hard=self.access == "hard")
        if self.access == "soft" and not all(map(is_none, rows)):
            self._classes = self._classes or answer.shape[1]
        return torch.from_numpy(answer)

    def _ask_once(self, ledger: QueryLedger, images: list[bytes], shape: tuple[int, ...]) -> list[Array]:
        """Answers from the ledger, where images are missing after they are asked: here, or by another run at work."""
        answers: dict[bytes, Array] = {}
        missing, pause, told = images, 0.02, time.monotonic() + 5
        while True:
            found = zip(missing, self._look_up(ledger, missing), strict=True)
            answers |= {one: answer for one, answer in found if answer is not None}
            missing = [one for one in dict.fromkeys(missing) if one not in answers]
            if missing:
                mine = ledger.claim(self._identity, missing, again=self._patience.ask_again)
                try:
                    fresh = self._ask_all(mine, shape)
                except BaseException:
                    ledger.unclaim(self._identity, mine)
                    raise
                answers |= dict(zip(mine, fresh, strict=True))
                missing = [one for one in missing if one not in answers]
            if not missing:
                return [answers[one] for one in images]
            if time.monotonic() > told:
                if jobs := ledger.jobs(self._identity, missing):
                    raise RemoteTeacherError(
                        f"{bare(self._address)}: {len(missing)} images are in the batch job {', '.join(jobs)}, which "
                        "is submitted and will be paid: fetch its answers first, by the command that has submitted it"
                    )
                _log.warning("teacher: waiting for %d images that another run is asking about", len(missing))
                told = time.monotonic() + 60
            time.sleep(pause)
            pause = min(1.5 * pause, 1.0)

    def _ask_all(self, images: list[bytes], shape: tuple[int, ...]) -> list[Array]:
        """The rows of images, asked batch by batch: one at a time, until one has been what was agreed.

        If one fails, those under way are still waited for and kept.
        """
        if not images:
            return []
        if self._connection is None:
            absent = f"{len(images)} images are not in the ledger and no server is asked (offline)"
            raise RemoteTeacherError(f"{absent}; the run that filled the ledger asked other images")
        if self.budget is not None and self.paid.queries + len(images) > self.budget:
            self._charge(len(images), 0, 0)  # refuses, with the figures, before a part of it is paid
            self._charge(-len(images), 0, 0)  # unless another process has been given back its own meanwhile
        batches = [images[at : at + self._max_batch] for at in range(0, len(images), self._max_batch)]
        rows: dict[int, list[Array]] = {}
        held: list[RemoteTeacherError] = []  # of single images that were refused before any was answered
        number = 0
        while number < len(batches) and not (self._understood and self._concurrency > 1):
            batch = batches[number]
            try:
                rows[number] = self._ask_batch(batch, shape)
            except RemoteTeacherError as error:
                if self._understood or not self._is_about_images(error, paid=False):
                    raise
                if len(batch) > 1:
                    batches[number : number + 1] = [[image] for image in batch]
                    continue
                held.append(error)
                if len(held) == min(_SUSPECTS, len(batches)):
                    raise held[0] from held[0].__cause__
            number += 1
        left = [number for number in range(len(batches)) if number not in rows]
        ask, stopped = partial(self._ask_batch, shape=shape), self._connection.stopped
        asked = together(ask, [batches[number] for number in left], self._concurrency, stopped)
        rows |= dict(zip(left, asked, strict=True))
        return [row for number in range(len(batches)) for row in rows[number]]

    def _ask_batch(self, images: Sequence[bytes], shape: tuple[int, ...]) -> list[Array]:
        """The rows of images; where a request is refused because of what is in it, half by half, until it is known."""
        assert self._connection is not None
        request, tries = self._request(images, shape), itertools.count(1)
        try:
            return self._connection.send(request, partial(self._attempt, images, len(request.body or b""), tries))
        except RemoteTeacherError as error:
            if len(images) == 1 or not self._understood or not self._is_about_images(error):
                raise
        half = len(images) // 2
        return [row for part in (images[:half], images[half:]) for row in self._ask_batch(part, shape)]

    def _attempt(
        self, images: Sequence[bytes], size: int, tries: Iterator[int], exchange: Callable[[], Reply]
    ) -> list[Array]:
        """Pay for images sent as so many bytes, exchange them for a reply, and keep its answers."""
        number, ledger, cost = len(images), self._ledger, self._bill.worst(len(images), size)
        reservation, reply, last = None, None, next(tries) >= self._patience.garbled
        ticket = self._gate.enter(cost)
        self._charge(number, size, 0)
        try:
            if ledger is not None:
                reservation = ledger.reserve(self._identity, images, cost)
        except BaseException:
            self._charge(-number, -size, 0)
            raise
        try:
            reply = exchange()
            self._charge(0, 0, reply.size)
            cost = self._bill.true(number, cost, reply)
            self._gate.settle(ticket, cost)
            rows, read = self._decode(reply, number), True
        except BaseException as error:
            paid = not isinstance(error, AttemptError) or (error.paid and self._bill.charges(error.status))
            if (row := self._instead(error, number, last=last)) is None:
                if not paid:
                    self._charge(-number, -size, 0)
                self._bill.pay(cost if paid else Cost(0))
                if ledger is not None and reservation is not None and paid:
                    ledger.write_off(reservation, cost, reply and self._to_keep(reply, read=False))
                elif ledger is not None and reservation is not None:
                    ledger.release(reservation)
                raise
            rows, read, cost = [row], False, cost if paid else Cost(size)
        self._bill.pay(cost)
        if ledger is not None and reservation is not None:
            ledger.record(reservation, rows, cost, reply and self._to_keep(reply, read=read))
        if self._patience.ask_again:
            self._asked_again.update(hashlib.sha256(image).digest() for image in images)
        self._tally.count(outcomes_of(rows))
        return rows

    def _charge(self, queries: int, bytes_up: int, bytes_down: int) -> None:
        with self._lock:
            self._meter.charge(queries, bytes_up, bytes_down)
