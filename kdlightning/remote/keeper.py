"""Keeps batch jobs: written down, submitted, waited for, fetched and settled, so that nothing is paid twice."""

import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

from kdlightning.accounting.accounts import Cost
from kdlightning.accounting.jobs import Job, JobLedger, Queued
from kdlightning.accounting.meter import QueryBudgetExceededError
from kdlightning.accounting.spool import Settlement
from kdlightning.accounting.store import LedgerError
from kdlightning.remote.connection import AttemptError, RemoteTeacherError
from kdlightning.remote.jobs import Jobs, JobServer, Result, State
from kdlightning.remote.protocol import ProtocolError

_log = logging.getLogger(__name__)
_CHUNK = 500  # images settled in one transaction

_BEGUN = State("submitted", over=False)

Asked = tuple[bytes, bytes]  # an image as the ledger knows it, and the body of the request about it


class Verdict(NamedTuple):
    """What a result means for its image: the ledger's settlement, and an error that shall end the run afterwards."""

    settlement: Settlement
    error: Exception | None = None


@dataclass
class Ties:
    """What a keeper has from its teacher.

    Args:
        identity: who is asked, for the ledger.
        where: who it is, for messages.
        worst: the most that a request of so many bytes costs.
        judge: what a result means; None where it is to be asked again.
        charge: counts images and bytes sent and received; a QueryBudgetExceededError where the budget ends.
        kept: is told that the ledger has all that was charged.
        allowed: how many images it allows.
        counted: is told what was settled; a RemoteTeacherError where too many images got no answer.
        stopped: set when the run shall end.
        again: whether images without answer are asked again.
    """

    identity: Mapping[str, str]
    where: str
    worst: Callable[[int], Cost]
    judge: Callable[[Queued, Result], Verdict | None]
    charge: Callable[[int, int, int], None]
    kept: Callable[[], None]
    allowed: Callable[[], float]
    counted: Callable[[list[Settlement]], None]
    stopped: threading.Event
    again: bool = False


@dataclass
class _Watch:
    """A job under way: its number among those of this run, since when it is looked at, and what was seen last."""

    number: int
    images: int
    since: float = field(default_factory=time.monotonic)
    state: State = _BEGUN


class JobKeeper:
    """Has images answered in jobs. What is open in the ledger is kept, too, whoever has submitted it.

    Args:
        server: where jobs go.
        ledger: where they are written down.
        jobs: how they are made.
        ties: to the teacher.

    Attributes:
        refusal: what the budget has not allowed at the last :meth:`work`.
    """

    def __init__(self, server: JobServer, ledger: JobLedger, jobs: Jobs, ties: Ties) -> None:
        self._server, self._ledger, self._jobs, self._ties = server, ledger, jobs, ties
        self._most = min(jobs.images, server.most_images), min(int(jobs.megabytes * 1e6), server.most_bytes)
        self._watches: dict[int, _Watch] = {}  # by the job's number in the ledger
        self._failed: Counter[bytes] = Counter()  # images, by SHA-256, of which nothing came, and how often
        self._answered: set[bytes] = set()
        self._told: Callable[[], object] = bool
        self._at_once, self._next, self._why, self._again = jobs.at_once, 0.0, "", False
        self.refusal: QueryBudgetExceededError | None = None

    @property
    def line(self) -> str:
        """In words: the job that is waited for; empty where none is."""
        waited = [watch for watch in self._watches.copy().values() if not watch.state.over]
        if not waited:
            return ""
        first = min(waited, key=lambda watch: watch.number)
        done = f"{first.state.done:,} of {first.images:,} done"
        seconds = max(0, ceil(self._next - time.monotonic()))
        return f"batch job {first.number} of {len(self._watches)}: {done}, asking again in {seconds} s"

    def failed(self, image: bytes) -> str:
        """Why an image is not asked any more in this run; empty where it is."""
        return self._why if self._failed[_digest(image)] >= self._jobs.attempts else ""

    def work(self, images: Callable[[], Iterable[Sequence[Asked]]], told: Callable[[], object] = bool) -> None:
        """Submit what the ledger does not know and wait for all jobs, until nothing is left that may be submitted.

        ``images`` are gone through as often as something has to be submitted again; ``told`` is called at every look.

        Raises:
            RemoteTeacherError: a job failed as a whole, is unknown to the server, or has not ended in time; a request
                that no other has been answered beside is refused; or the run shall end. Jobs go on without it.
        """
        self._told = told
        self._watches.clear()
        try:
            while self._pass(images()):
                pass
        except BaseException as error:
            with suppress(LedgerError):
                if number := len(self._ledger.open(self._ties.identity)):
                    goes_on = "goes on by itself" if number == 1 else "go on by themselves"
                    text = "teacher: %d batch job%s %s at %s; the same command fetches the answers"
                    _log.warning(text, number, "s" * (number > 1), goes_on, self._ties.where)
            if isinstance(error, ProtocolError):
                raise RemoteTeacherError(f"{self._ties.where}: {error}") from error
            raise

    def _pass(self, batches: Iterable[Sequence[Asked]]) -> bool:
        """Go through the images once and wait for what was submitted; whether there may be more to submit."""
        self.refusal, self._again = None, False
        waiting: dict[bytes, bytes] = {}
        size, before = 0, len(self._answered)
        for batch in batches:
            bodies = {image: body for image, body in batch if image not in waiting and not self.failed(image)}
            missing = self._ledger.missing(self._ties.identity, list(bodies), again=self._ties.again)
            for image in missing:
                if self._ties.again and _digest(image) in self._answered:
                    continue
                length = self._length(bodies[image])
                if waiting and (len(waiting) == self._most[0] or size + length > self._most[1]):
                    self._begin(waiting)
                    waiting, size = {}, 0
                waiting[image] = bodies[image]
                size += length
            if self.refusal is not None:
                break
        if waiting:
            self._begin(waiting)
        self._wait(0)
        return self._again or (self.refusal is not None and len(self._answered) > before)

    def _begin(self, bodies: dict[bytes, bytes]) -> None:
        """Write a job down, submit it, and write down what the server calls it."""
        self._wait(self._at_once - 1)
        images = self._allowed(list(bodies))
        if not images:
            return
        worst = [self._ties.worst(self._length(bodies[image])) for image in images]
        self._ties.charge(len(images), sum(cost.bytes_up for cost in worst), 0)
        job: Job | None = None
        try:
            job, refusal = self._ledger.begin(self._ties.identity, images, worst, again=self._ties.again)
        finally:
            kept = () if job is None else job.queued
            sent = sum(one.reserved.bytes_up for one in kept) - sum(cost.bytes_up for cost in worst)
            self._ties.charge(len(kept) - len(images), sent, 0)
            self._ties.kept()
        self.refusal = self.refusal or refusal
        if job is not None:
            self._submit(job, {_digest(image): bodies[image] for image in images})

    def _submit(self, job: Job, bodies: Mapping[bytes, bytes]) -> None:
        self._watches[job.number] = watch = _Watch(len(self._watches) + 1, job.images)
        creation = None
        try:
            lines = [self._server.line(job.mark(one), bodies[one.image]) for one in job.queued]
            creation = self._server.creation(job.tag, lines)
            name = self._server.submit(creation)
        except RemoteTeacherError as error:
            cause = error.__cause__
            if creation is not None and isinstance(cause, AttemptError) and cause.paid:
                _log.warning("teacher: a batch job may have been submitted, and is looked for: %s", error)
                return
            self._settle(job, [_released(one) for one in job.queued])
            watch.state = watch.state._replace(over=True)
            if error.status != 429 or not (others := len(self._ledger.open(self._ties.identity))):
                raise
            self._wait_for_room(others, str(error))
        else:
            self._ledger.name(job, name)
            _log.info("teacher: batch job %s with %d images is submitted", name, job.images)

    def _wait(self, most: int) -> None:
        """Look at the open jobs, now and then, until there are at most so many."""
        while len(jobs := self._ledger.open(self._ties.identity)) > most:
            for job in jobs:
                self._watches.setdefault(job.number, _Watch(len(self._watches) + 1, job.images))
            for number in self._watches.keys() - {job.number for job in jobs}:  # another process has settled them
                self._watches[number].state = self._watches[number].state._replace(over=True)
            waited = [job for job in jobs if not self._advance(job, self._watches[job.number])]
            if len(waited) <= most:
                return
            for job in waited:
                self._check_time(job, self._watches[job.number])
            unnamed = any(job.name is None for job in waited)
            self._pause(min(self._jobs.every, self._jobs.settling) if unnamed else self._jobs.every)

    def _advance(self, job: Job, watch: _Watch) -> bool:
        """Look at a job, and settle it where it is over; whether it is."""
        if job.name is None:
            return self._seek(job, watch)
        try:
            watch.state = self._server.look(job.name)
        except RemoteTeacherError as error:
            if error.status != 404:
                raise
            self._forget(job, error)
            return True
        if watch.state.over:
            self._fetch(job, job.name, watch.state)
        return watch.state.over

    def _seek(self, job: Job, watch: _Watch) -> bool:
        """Find a job that may have been submitted; whether it has not been, and is settled so."""
        if self._ledger.submitting(job):
            return False
        name, maybe = self._server.find(job.tag, job.images, job.begun, self._ledger.names())
        if name is not None:
            self._ledger.name(job, name)
            return self._advance(job._replace(name=name), watch)
        if maybe or time.monotonic() - watch.since < self._jobs.settling:
            return False
        _log.warning("teacher: a batch job of %d images was not submitted", job.images)
        self._settle(job, [_released(one) for one in job.queued])
        watch.state, self._again = watch.state._replace(over=True), True
        return True

    def _fetch(self, job: Job, name: str, state: State) -> None:
        """Fetch what became of a job's requests, and settle it; those with replies first, by which others are read."""
        if state.fault:
            self._refused(job, name, state)
            return
        told = {result.mark: result for result in self._server.results(name, state)}
        pairs = [(one, told.get(job.mark(one))) for one in job.queued]
        pairs.sort(key=lambda pair: pair[1] is None or pair[1].reply is None)
        faults: list[Result] = []
        errors: list[Exception] = []
        fresh: list[Settlement] = []
        for at in range(0, len(pairs), _CHUNK):
            settlements = []
            for one, result in pairs[at : at + _CHUNK]:
                verdict = Verdict(_lost(one)) if result is None else self._ties.judge(one, result)
                settlements.append(_released(one) if verdict is None else verdict.settlement)
                errors += [verdict.error] if verdict is not None and verdict.error is not None else []
                faults += [result] if result is not None and verdict is None else []
                if settlements[-1].state != "answered":
                    self._failed[one.image] += 1
                    self._again = True
                    said = "the server has no result for it" if result is None else result.said
                    self._why = self._why or f"batch job {name}: {said}"
            fresh += self._settle(job, settlements)
        if lacking := len(job.queued) - sum(job.mark(one) in told for one in job.queued):
            text = "teacher: batch job %s is over (%s) without a result for %d of its %d images; they count as paid"
            _log.warning(text, name, state.status, lacking, job.images)
        if errors:
            kept = "the replies are kept, and once their reading is mended the same command reads them for free"
            raise RemoteTeacherError(f"{self._ties.where}: batch job {name}: {errors[0]}: {kept}") from errors[0]
        if faults and faults[0].status and not self._answered:
            wrong = f"batch job {name}: nothing was answered: {faults[0].said}"
            raise RemoteTeacherError(f"{self._ties.where}: {wrong}. Nothing of it is paid", faults[0].status)
        self._ties.counted(fresh)

    def _refused(self, job: Job, name: str, state: State) -> None:
        """A job that failed as a whole."""
        self._settle(job, [_released(one) for one in job.queued])
        others = len(self._ledger.open(self._ties.identity))
        if not (state.later and others):
            advice = "lower jobs.images, or wait until other jobs have ended; " if state.later else ""
            told = f"batch job {name} of {job.images} images failed: {state.fault}. Nothing of it is paid"
            raise RemoteTeacherError(f"{self._ties.where}: {told}; {advice}the same command goes on")
        self._wait_for_room(others, state.fault)

    def _wait_for_room(self, others: int, why: str) -> None:
        _log.warning("teacher: a batch job is submitted again when another has ended: %s", why)
        self._at_once, self._again = max(1, others), True

    def _forget(self, job: Job, error: RemoteTeacherError) -> None:
        """A job that the server does not know: its images count as paid."""
        if not self._jobs.forget:
            told = f"batch job {job.name}, with {len(job.queued)} images, is not known there"
            why = "was it deleted, or is this another account's key? jobs.forget=true asks its images again"
            raise RemoteTeacherError(f"{self._ties.where}: {told}: {why}, and they stay paid", 404) from error
        self._settle(job, [_lost(one) for one in job.queued])
        self._watches[job.number].state, self._again = State("forgotten", over=True), True

    def _settle(self, job: Job, settlements: list[Settlement]) -> list[Settlement]:
        """Write down what became of images, and pay for it; what nobody had settled before.

        What is given back is given back before the ledger says so: a kill in between leaves the ledger's count.
        """
        mine = {one.request: one for one in job.queued if one.account == self._ledger.account}
        back = [mine[what.request] for what in settlements if what.state == "released" and what.request in mine]
        self._give_back(back, -1)
        done: set[int] = set()
        try:
            done = self._ledger.settle(self._ties.identity, settlements)
        finally:
            self._give_back([one for one in back if one.request not in done], 1)
        fresh = [what for what in settlements if what.request in done]
        self._ties.charge(0, 0, sum(what.cost[1] for what in fresh if what.cost is not None and what.request in mine))
        self._ties.kept()
        self._answered.update(*(what.images for what in fresh if what.state == "answered"))
        return fresh

    def _give_back(self, images: list[Queued], sign: int) -> None:
        if images:
            self._ties.charge(sign * len(images), sign * sum(one.reserved.bytes_up for one in images), 0)
            self._ties.kept()

    def _allowed(self, images: list[bytes]) -> list[bytes]:
        """As many as the budget of images allows; else what it said is kept."""
        try:
            self._ties.charge(len(images), 0, 0)
        except QueryBudgetExceededError as error:
            self.refusal = error
            return images[: max(0, int(self._ties.allowed()))]
        self._ties.charge(-len(images), 0, 0)
        return images

    def _length(self, body: bytes) -> int:
        """Bytes of a line of a job."""
        return len(self._server.line("x" * 24, body)) + 2

    def _check_time(self, job: Job, watch: _Watch) -> None:
        if time.monotonic() - watch.since > 3600 * self._jobs.hours:
            told = f"batch job {job.name or job.tag} has not ended within {self._jobs.hours:g} hours"
            seen = f"it is {watch.state.status}, {watch.state.done:,} of {job.images:,} done"
            raise RemoteTeacherError(
                f"{self._ties.where}: {told} ({seen}). What it answers is kept there: run the same command to wait on"
            )

    def _pause(self, seconds: float) -> None:
        self._next = time.monotonic() + seconds
        _log.info("teacher: %s", self.line)
        self._told()
        if self._ties.stopped.wait(seconds):
            raise RemoteTeacherError(f"{self._ties.where}: stopped")


def _released(one: Queued) -> Settlement:
    return Settlement(one.request, "released", (one.image,), Cost(0).units())


def _lost(one: Queued) -> Settlement:
    return Settlement(one.request, "lost", (one.image,), None)


def _digest(image: bytes) -> bytes:
    return hashlib.sha256(image).digest()
