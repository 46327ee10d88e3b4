"""How fast a server may be asked, kept by all processes that ask it together. Knows no server and no header."""

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kdlightning.accounting.tariff import Usage

_WINDOW = 60.0  # seconds
_LOOK = 5.0  # seconds after which one who waits looks again: what others were thought to need is settled meanwhile


@dataclass(frozen=True)
class Pace:
    """The most requests and tokens in any 60 seconds, of all processes that share a ledger; None for no such limit.

    What the server says in headers of how much it still allows is kept as well, whether or not there are limits.

    Args:
        requests_per_minute: a request that is sent again counts again.
        tokens_per_minute: input and output tokens together. A request counts with the most that it may take, until its
            reply has told the truth.

    Raises:
        ValueError: a number that is not positive.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"pace: expected {name} above 0, or None for no limit, got {value}")


class Room(NamedTuple):
    """What a server still allows of something, and when (seconds since 1970) it will allow all of it again."""

    left: int
    until: float


class Ticket(NamedTuple):
    """A request that may be sent: the second in which it counts, and the tokens with which it does."""

    second: int
    tokens: int


class Pacer:
    """Lets requests pass one by one, so that no limit is overstepped.

    Args:
        pace: limits.
        file: what is kept for all processes; None for this process alone. It may be deleted when nobody asks.
        clock: seconds since 1970, the same for all.
    """

    def __init__(self, pace: Pace, file: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._pace, self._file, self._clock = pace, file, clock
        self._lock, self._own = threading.Lock(), dict[str, Any]()
        self._waiting: dict[int, float] = {}  # by thread, until when
        self._paused = 0.0

    @property
    def waiting(self) -> float:
        """Seconds until a request that waits in this process may pass; 0 where none does."""
        return max(0.0, min(self._waiting.copy().values(), default=self._paused) - self._clock())

    def wait(self, usage: Usage, sleep: Callable[[float], object], longest: float) -> Ticket | None:
        """Come back when a request with so many tokens at most may be sent, which counts from then on.

        Args:
            usage: tokens.
            sleep: waits for so many seconds, or less; true if nothing shall be sent any more: None then comes back.
            longest: seconds.

        Raises:
            TimeoutError: the wait would be longer; its argument is how long, in seconds.
        """
        if not self._active:
            return Ticket(0, 0)
        while True:
            with self._state() as state:
                now = self._clock()
                if (delay := self._delay(state, usage, now)) <= 0:
                    return _count(state, usage, now)
            if delay > longest:
                raise TimeoutError(delay)
            self._waiting[threading.get_ident()] = now + delay
            try:
                if sleep(min(delay, _LOOK)):
                    return None
            finally:
                del self._waiting[threading.get_ident()]

    def settle(self, ticket: Ticket, usage: Usage) -> None:
        """A request took so many tokens."""
        if sum(usage) != ticket.tokens and ticket.second:
            with self._state() as state:
                for entry in state["sent"]:
                    if int(entry[0]) == ticket.second:
                        entry[2] += sum(usage) - ticket.tokens

    def hear(self, rooms: Mapping[str, Room]) -> None:
        """What a server has said: room for ``requests``, ``tokens``, ``input_tokens`` or ``output_tokens``."""
        if rooms:
            with self._state() as state:
                state["rooms"] |= {name: list(room) for name, room in rooms.items()}

    def pause(self, seconds: float) -> None:
        """Nobody may send anything for so many seconds: the server has asked for it."""
        self._paused = self._clock() + seconds
        with self._state() as state:
            state["until"] = max(state["until"], self._paused)

    @property
    def _active(self) -> bool:
        """Whether there is anything to keep: most servers have no limits."""
        return self._pace != Pace() or bool(self._own) or (self._file is not None and self._file.exists())

    def _delay(self, state: dict[str, Any], usage: Usage, now: float) -> float:
        """Seconds until the request may be sent, as far as it is known; 0 or less for at once."""
        state["sent"] = sent = [entry for entry in state["sent"] if now < entry[0] + _WINDOW]
        delays: list[float] = [state["until"] - now]
        for column, more, limit in (
            (1, 1, self._pace.requests_per_minute),
            (2, sum(usage), self._pace.tokens_per_minute),
        ):
            over = 0 if limit is None else sum(entry[column] for entry in sent) + min(more, limit) - limit
            for entry in sent:
                if over <= 0:
                    break
                over -= entry[column]
                delays.append(entry[0] + _WINDOW - now)
        needs = {"requests": 1, "tokens": sum(usage), **usage._asdict()}
        delays += [until - now for name, (left, until) in state["rooms"].items() if left < max(1, needs[name])]
        return max(delays)

    @contextmanager
    def _state(self) -> Iterator[dict[str, Any]]:
        """What is kept, to be looked at and changed by one thread of one process at a time.

        Where the file cannot be read or written (a full disk), this process keeps the pace by itself: an answer that
        is on its way is worth more.
        """
        with self._lock, self._opened() as file:
            before = b"" if file is None else os.pread(file, 1 << 20, 0)
            self._own = _read(before) if file is not None or not self._own else self._own
            yield self._own
            after = json.dumps(self._own).encode()
            if file is not None and after != before:
                with suppress(OSError):  # in one piece: a kill leaves this or that
                    os.pwrite(file, after.ljust(len(before)), 0)

    @contextmanager
    def _opened(self) -> Iterator[int | None]:
        """The file, locked; None without one."""
        descriptor = None
        with suppress(OSError):
            if self._file is not None:
                descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _read(data: bytes) -> dict[str, Any]:
    """What a file holds; nothing, where it is new or was spoilt: then the server itself will say what is too much."""
    with suppress(ValueError, TypeError, KeyError):
        told = json.loads(data)
        sent = [[float(last), int(requests), int(tokens)] for last, requests, tokens in told["sent"]]
        rooms = {name: [int(left), float(until)] for name, (left, until) in told["rooms"].items()}
        return {"sent": sent, "rooms": rooms, "until": float(told["until"])}
    return {"sent": [], "rooms": {}, "until": 0.0}


def _count(state: dict[str, Any], usage: Usage, now: float) -> Ticket:
    """Count a request, with others of the same second by the last of them, and out of the room that the server told."""
    if not state["sent"] or int(state["sent"][-1][0]) != int(now):
        state["sent"].append([now, 0, 0])
    last = state["sent"][-1]
    last[:] = [now, last[1] + 1, last[2] + sum(usage)]
    needs = {"requests": 1, "tokens": sum(usage), **usage._asdict()}
    state["rooms"] = {
        name: [left - needs[name], until] for name, (left, until) in state["rooms"].items() if now < until
    }
    return Ticket(int(now), sum(usage))
