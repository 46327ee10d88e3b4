"""What a server grants a client: seconds for a head and for taking an answer, a connection, bytes of memory."""

import asyncio
import heapq
import itertools
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_HEAD_SECONDS = 10.0  # without a request, or with half a head
_TAKE_SECONDS = 60.0  # in which nothing of an answer is taken
_CONNECTIONS = 512
_GRACE = 1.0  # seconds in which nobody is slow
_SHORT = 1 << 16  # bytes, of which all connections together have no more than memory


class GuardedProtocol(H11Protocol):
    """HTTP/1.1, as uvicorn's, which waits for no client for ever and leaves room for the next connection.

    Where more connections are open than may be (512, or half of the descriptors), the one that has waited longest for
    its head is closed, then the one that has waited longest for its body.
    """

    _opened = 0.0
    _head: asyncio.TimerHandle | None = None
    _take: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._opened = self.loop.time()
        self._watch()
        if len(self.connections) > min(_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2):
            others = [other for other in self.connections if isinstance(other, GuardedProtocol)]
            waiting = [other for other in others if other._idle] or [o for o in others if o.cycle.more_body]
            min(waiting, key=lambda other: other._opened, default=self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        for timer in (self._head, self._take):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Read on; a byte now and then is no head."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next head."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """The client takes nothing of its answer."""
        super().pause_writing()
        if self._take is None:
            self._take = self.loop.call_later(_TAKE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if self._take is not None:
            self._take.cancel()
            self._take = None

    @property
    def _idle(self) -> bool:
        """Whether no request is to be answered."""
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        if self._idle and self._head is None:
            self._head = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)
        elif not self._idle and self._head is not None:
            self._head.cancel()
            self._head = None


class Room:
    """Bytes of bodies in memory, of all requests together.

    Args:
        most: how many; who is slowest to bring a body gives way to the others.
    """

    def __init__(self, most: int) -> None:
        self._most, self._places = most, set[Place]()

    def place(self) -> "Place":
        """For one body, until it is answered."""
        return Place(self)

    def make(self, asking: "Place") -> bool:
        """Whether there is room, which may be had by sending away others."""
        while sum(place.held for place in self._places) > self._most:
            now = asyncio.get_running_loop().time()
            slow = [place for place in self._places if place.clock is not None and place is not asking]
            late = [place for place in slow if now - place.begun > _GRACE]
            if not late:
                return False
            min(late, key=lambda place: place.held / (now - place.begun)).give_way(now)
        return True

    def enter(self, place: "Place") -> None:
        """Count a place."""
        self._places.add(place)

    def leave(self, place: "Place") -> None:
        """Count it no longer."""
        self._places.discard(place)


class Place:
    """One body's bytes in a :class:`Room`, from the first to the answer; a context."""

    def __init__(self, room: Room) -> None:
        self._room, self.held = room, 0
        self.begun = asyncio.get_running_loop().time()
        self.clock: asyncio.Timeout | None = None  # while it is read

    def __enter__(self) -> "Place":
        self._room.enter(self)
        return self

    def __exit__(self, *_: Any) -> None:  # noqa: ANN401 - an exception's
        self._room.leave(self)

    def take(self, size: int) -> bool:
        """So many bytes more; False where there is no room for them. A short body always finds some."""
        self.held += size
        return self.held <= _SHORT or self._room.make(self)

    def give_way(self, now: float) -> None:
        """Be given up, as if its time were over."""
        assert self.clock is not None
        self.clock.reschedule(now)
        self.clock, self.held = None, 0


class Turns:
    """One at a time, and who costs least goes first: a queue of long bodies holds up no short one."""

    def __init__(self) -> None:
        self._busy, self._number = False, itertools.count()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def turn(self, cost: float) -> AsyncIterator[None]:
        """Wait for a turn, and have it as long as the context lasts."""
        if self._busy:
            mine = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (cost, next(self._number), mine))
            try:
                await mine
            except asyncio.CancelledError:
                if mine.done() and not mine.cancelled():
                    self._next()  # it was given the turn that it does not take
                raise
        self._busy = True
        try:
            yield
        finally:
            self._next()

    def _next(self) -> None:
        self._busy = False
        while self._waiting and not self._busy:
            _, _, other = heapq.heappop(self._waiting)
            if not other.done():
                other.set_result(None)
                self._busy = True
