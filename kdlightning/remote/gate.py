"""Through it a teacher's requests pass at a pace that the server allows."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

from kdlightning.accounting.accounts import Cost
from kdlightning.accounting.pace import Pace, Pacer, Ticket
from kdlightning.accounting.tariff import Usage
from kdlightning.remote.connection import AttemptError, Connection
from kdlightning.remote.limits import retry_after, rooms


class Gate:
    """Holds the requests to a pace and to what the server says in the heads of its replies.

    Args:
        connection: to the server.
        pace: limits.
        address: of the server: who asks it shares its limits.
        ledger: path of the ledger beside which they are kept for all processes; None for none.
    """

    def __init__(self, connection: Connection, pace: Pace, address: str, ledger: str | Path | None) -> None:
        name = hashlib.sha256(address.encode()).hexdigest()[:8]
        path = None if ledger is None else Path(ledger).resolve()
        self._pacer = Pacer(pace, path and path.with_name(f"{path.name}-pace-{name}"))
        self._stopped, self._longest = connection.stopped, connection.patience.total
        connection.heard = self._hear

    @property
    def waiting(self) -> float:
        """Seconds until a request that waits may pass; 0 where none does."""
        return self._pacer.waiting

    def enter(self, worst: Cost) -> Ticket:
        """Wait until a request of this cost at most may be sent.

        Raises:
            AttemptError: that would take longer than patience lasts, or nothing shall be sent any more.
        """
        try:
            ticket = self._pacer.wait(Usage(*worst[3:]), self._stopped.wait, self._longest)
        except TimeoutError as error:
            raise AttemptError("its rate limit is used up", paid=False, again=False, wait=error.args[0]) from None
        if ticket is None:
            raise AttemptError("stopped", paid=False, again=False)
        return ticket

    def settle(self, ticket: Ticket, true: Cost) -> None:
        """A request did cost this."""
        self._pacer.settle(ticket, Usage(*true[3:]))

    def _hear(self, status: int, headers: Mapping[str, str]) -> None:
        self._pacer.hear(rooms(headers, time.time()))
        wait = retry_after(headers.get("retry-after"))
        if status >= 400 and wait and wait <= self._longest:  # a longer one ends the patience
            self._pacer.pause(wait)
