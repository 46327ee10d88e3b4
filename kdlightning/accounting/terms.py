"""On what terms a teacher will answer, as far as it is known without asking."""

from typing import NamedTuple

from kdlightning.accounting.accounts import Limits


class Prices(NamedTuple):
    """Of an image: the least, the mean and the most, and input and output tokens in the mean, of so many requests."""

    least: float
    mean: float
    most: float
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    requests: int = 0  # which were looked at; 0: a fixed price

    @classmethod
    def fixed(cls, price: float) -> "Prices":
        """The same for every image."""
        return cls(price, price, price)


class Terms(NamedTuple):
    """What images will cost, and what may be spent; None where nobody knows."""

    price: "Prices | None"  # of an image; None where it is by tokens and none were seen
    bytes_up: tuple[float, float] | None  # the fewest and the most that an image is sent as
    bytes_down: float | None  # of its answer: known, or the mean of the answers in the ledger
    known: int | None  # answers in the ledger, whoever paid for them; None without a ledger
    limits: Limits  # the most that may be spent
    spent: Limits  # what has been, by the same account
    jobs: bool = False  # asked in batch jobs, at their price
    offline: bool = False  # nobody is asked: whatever is answered, the ledger answers
