"""On what terms a teacher will answer, as far as it is known without asking."""

from typing import NamedTuple

from kdlightning.accounting.accounts import Limits


class Terms(NamedTuple):
    """What images will cost, and what may be spent; None where nobody knows."""

    price: float  # of an image
    bytes_up: tuple[float, float] | None  # the fewest and the most that an image is sent as
    bytes_down: float | None  # of its answer: known, or the mean of the answers in the ledger
    known: int | None  # answers in the ledger, whoever paid for them; None without a ledger
    limits: Limits  # the most that may be spent
    spent: Limits  # what has been, by the same account
    offline: bool = False  # nobody is asked: whatever is answered, the ledger answers
