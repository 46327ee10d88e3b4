"""A vendor's price list: what a request costs by its images and tokens. Knows no server and no reply."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from kdlightning.accounting.options import group_of

_NANO = 10**9


class Usage(NamedTuple):
    """Tokens of a request, as its reply tells them."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Tariff:
    """What answers cost, in any one currency.

    A request costs ``request + images * image + (input_tokens * input + output_tokens * output) / per``, computed
    exactly and then rounded to a billionth; in a batch job ``batch`` times that.

    Args:
        image: price of an image.
        request: price of a request, however many images it has.
        input: price of ``per`` input tokens; those of the images are among them.
        output: price of ``per`` output tokens.
        per: how many tokens these two prices are for. Vendors name them for 1,000,000 or for 1,000.
        batch: the share of all this that a batch job costs: 0.5 for half the price.
        unbilled: statuses 5xx that the vendor does not bill; such a request is not paid. 4xx never are. A gateway's 502
            or 504 may follow an answer that it lost.
        usage: paths of a request's input and output tokens in its reply, such as ``[meta.tokens_in, meta.tokens_out]``;
            None for those of OpenAI, Anthropic and Gemini, whichever are there.
        unseen: input and output tokens of an image for which a budget of money has to suffice as long as no reply has
            told how many there are.

    Raises:
        ValueError: a price that is negative or no number, or tokens below 1.
    """

    image: float = 0.0
    request: float = 0.0
    input: float = 0.0
    output: float = 0.0
    per: int = 1_000_000
    batch: float = 1.0
    unbilled: Sequence[int] = (500, 503, 529)
    usage: tuple[str, str] | None = None
    unseen: tuple[int, int] = (20_000, 4_000)

    def __post_init__(self) -> None:
        object.__setattr__(self, "unbilled", tuple(self.unbilled))
        for name in ("image", "request", "input", "output", "batch"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"tariff: expected {name} of at least 0, got {value}")
        if self.per < 1 or min(self.unseen) < 1:
            raise ValueError(f"tariff: expected at least 1 token, got per {self.per} and unseen {list(self.unseen)}")

    @property
    def by_tokens(self) -> bool:
        """Whether tokens cost anything."""
        return bool(self.input or self.output)

    def price(self, images: int, usage: Usage = Usage(0, 0), *, batch: bool = False) -> float:  # noqa: B008 - immutable
        """Of a request with so many images and tokens; a whole number of billionths."""
        tokens = usage.input_tokens * _exact(self.input) + usage.output_tokens * _exact(self.output)
        whole = _exact(self.request) + images * _exact(self.image) + tokens / self.per
        return round((whole * _exact(self.batch) if batch else whole) * _NANO) / _NANO


def tariff_of(price: "float | Tariff | Mapping[str, Any]") -> Tariff:
    """A price list, or that of a price of an image: then all that may have been answered is billed.

    Raises:
        ValueError: a negative price.
        TypeError: anything else.
    """
    if isinstance(price, float | int) and not isinstance(price, bool):
        return Tariff(image=price, unbilled=())
    if price is None or isinstance(price, str | bool):
        raise TypeError(f"price: expected that of an image, or a price list such as {{'input': 2.5}}, got {price!r}")
    return group_of(Tariff, price, "price")


def _exact(price: float) -> Fraction:
    """As it is written: 0.1 is a tenth."""
    return Fraction(repr(price)) if isinstance(price, float) else Fraction(price)
