"""Teachers that are asked in batch jobs: the same questions at a lower price, and hours until they are answered."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor

from kdlightning.accounting.accounts import Cost
from kdlightning.accounting.jobs import JobLedger, Queued
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.accounting.options import group_of
from kdlightning.accounting.rows import compress, pack, unpack
from kdlightning.accounting.spool import Settlement
from kdlightning.remote.connection import AttemptError, Patience, RemoteTeacherError
from kdlightning.remote.credentials import bare
from kdlightning.remote.jobs import Jobs, JobServer, Result
from kdlightning.remote.keeper import Asked, JobKeeper, Ties, Verdict
from kdlightning.remote.networked import NetworkedTeacher
from kdlightning.remote.protocol import Array
from kdlightning.remote.replies import outcomes_of
from kdlightning.teachers.answers import AnswerError

_PAUSE = 1.0  # seconds between two looks for the answers of a run that is asking at this moment


class BatchTeacher(NetworkedTeacher):
    """A teacher whose questions go into batch jobs. A subclass calls :meth:`_ask_in` at the end of its constructor.

    ``TeacherAnswers`` has all images asked before it labels the first: jobs are written down in the ledger, submitted
    (:class:`~kdlightning.remote.jobs.Jobs` says how), waited for and fetched, and every image is settled by itself. A
    run that ends meanwhile leaves its jobs running, and the same command fetches them: nothing is paid twice. What
    expires or fails is not paid, and goes into another job. The price is that of batch jobs (``price: {batch: 0.5}``),
    and a budget has to hold for the worst case of what is submitted. ``pace`` and ``concurrency`` do not matter.

    Methods that ask again and again, by what they were answered, refuse it.
    """

    in_jobs: ClassVar[bool] = True
    _books: ClassVar[type[QueryLedger]] = JobLedger
    _usual: ClassVar[Patience] = Patience(read_timeout=600.0)  # a job is long
    _keeper: JobKeeper | None = None

    def _ask_in(self, server: Callable[..., JobServer], url: str, jobs: Jobs | None) -> None:
        """Make the keeper of the jobs at this server.

        Raises:
            ValueError: there is no ledger.
        """
        if not isinstance(self._ledger, JobLedger):
            raise ValueError(f"{type(self).__name__}: expected a ledger, where its jobs are written down, got none")
        if self._connection is None:
            return
        ties = Ties(
            self._identity, bare(self._address), partial(self._bill.worst, 1), self._judge,
            self._charge, self._meter.settle, self._allowed, self._counted,
            self._connection.stopped, self._patience.ask_again,
        )  # fmt: skip
        self._keeper = JobKeeper(server(self._connection, url), self._ledger, group_of(Jobs, jobs, "jobs"), ties)

    @property
    def status(self) -> str:
        """The job that is waited for, and how far it is."""
        return "" if self._keeper is None else self._keeper.line

    def ahead(self, images: Callable[[], Iterable[Tensor | list[Tensor]]], told: Callable[[], object]) -> None:
        """Have all images answered, as far as budget and patience go; what they refuse is said when it is asked for."""

        def asked(each: Tensor | list[Tensor]) -> list[Asked]:
            return self._asked(*self._encoded([one[None] for one in each] if isinstance(each, list) else each))

        self._work(lambda: map(asked, images()), told)

    def _work(self, images: Callable[[], Iterable[Sequence[Asked]]], told: Callable[[], object] = bool) -> None:
        before = self._tally.counts.copy()
        if self._keeper is not None:
            self._keeper.work(images, told)
        self._tally.counts = before  # whoever looks the answers up counts them

    def _asked(self, images: Iterable[bytes], shape: Sequence[int]) -> list[Asked]:
        bodies = ((one, self._request([one], tuple(shape)).body) for one in dict.fromkeys(images))
        return [(one, body or b"") for one, body in bodies]

    def _ask_once(self, ledger: QueryLedger, images: list[bytes], shape: tuple[int, ...]) -> list[Array]:
        """Answers from the ledger; those that are missing by jobs, which are waited for."""
        if self._keeper is None or self._connection is None:
            return super()._ask_once(ledger, images, shape)
        answers: dict[bytes, Array] = {}
        missing, tried = images, False
        while True:
            found = zip(missing, self._look_up(ledger, missing), strict=True)
            answers |= {one: answer for one, answer in found if answer is not None}
            missing = [one for one in dict.fromkeys(missing) if one not in answers]
            if not missing:
                return [answers[one] for one in images]
            if why := next(filter(None, map(self._keeper.failed, missing)), ""):
                told = f"{bare(self._address)}: nothing has come of {len(missing)} images, in any of their jobs ({why})"
                raise RemoteTeacherError(f"{told}. They are not answered: run the same command to ask them again")
            if tried and self._keeper.refusal is not None:
                raise self._keeper.refusal
            if tried and self._connection.stopped.wait(_PAUSE):  # another run asks about them at this moment
                raise RemoteTeacherError(f"{bare(self._address)}: stopped")
            self._work(partial(self._pairs, missing, shape))
            tried = True

    def _pairs(self, images: list[bytes], shape: tuple[int, ...]) -> list[list[Asked]]:
        return [self._asked(images, shape)]

    def _allowed(self) -> float:
        """Images that the budget allows."""
        return math.inf if self.budget is None else self.budget - self.paid.queries

    def _judge(self, one: Queued, result: Result) -> Verdict | None:
        """A reply is read as if it had been sent alone; so is a refusal that may be due to the image."""
        reply, reserved = result.reply, one.reserved
        images = (one.image,)
        if reply is None:
            error = AttemptError(result.said, paid=False, status=result.status)
            if (row := self._instead(error, 1, last=False)) is None:
                return None
            settled = Settlement(one.request, "answered", images, Cost(reserved.bytes_up).units(), (pack(row),))
            return Verdict(settled)
        cost = self._bill.true(1, reserved, reply).units()
        try:
            (row,) = self._decode(reply, 1)
        except (AnswerError, RemoteTeacherError) as error:
            kept = compress(self._to_keep(reply, read=False), 1)
            return Verdict(Settlement(one.request, "lost", images, cost, (), kept), error)
        kept = compress(self._to_keep(reply, read=True), 1)
        return Verdict(Settlement(one.request, "answered", images, cost, (pack(row),), kept))

    def _counted(self, settled: list[Settlement]) -> None:
        """Count what became of images; a RemoteTeacherError where too many got no answer."""
        answered = [what for what in settled if what.state == "answered"]
        if self._patience.ask_again:
            self._asked_again.update(image for what in answered for image in what.images)
        self._tally.count(outcomes_of([unpack(data) for what in answered for data in what.answers]))
