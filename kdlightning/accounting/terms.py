"""On what terms a teacher will answer, as far as it is known without asking."""

from typing import NamedTuple

from kdlightning.accounting.accounts import Limits


class Terms(NamedTuple):
    """What images will cost, and what may be spent.

    Attributes:
        price: of an image.
        bytes_up: the fewest and the most bytes that an image is sent as; None where nobody knows.
        bytes_down: bytes of its answer: known, or the mean of the answers in the ledger; None where nobody knows.
        known: answers in the ledger, whoever paid for them; None without a ledger.
        limits: the most that may be spent.
        spent: what has been, by the same account.
        offline: nobody is asked: whatever is answered, the ledger answers.
    """

    price: float
    bytes_up: tuple[float, float] | None
    bytes_down: float | None
    known: int | None
    limits: Limits
    spent: Limits
    offline: bool = False
