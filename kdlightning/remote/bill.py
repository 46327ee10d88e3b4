"""What requests cost: at the most before they are sent, and truly by the tokens that their replies tell."""

import logging
import math
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from kdlightning.accounting.accounts import Cost
from kdlightning.accounting.tariff import Tariff, Usage
from kdlightning.accounting.terms import Prices
from kdlightning.remote.connection import Reply
from kdlightning.remote.paths import at
from kdlightning.remote.protocol import ProtocolError, parse_value

_log = logging.getLogger(__name__)
MARGIN = 1.25  # what is reserved over the most tokens that were seen
_UNKNOWN = (
    "the price is by tokens, but a reply tells none: what was reserved counts as its price; name the places of their "
    "numbers with price.usage"
)
# input, output: the paths that are there add up. OpenAI's and Gemini's numbers of input have the cached in them
_KNOWN = (
    (("usage.prompt_tokens",), ("usage.completion_tokens",)),
    (
        ("usage.input_tokens", "usage.cache_creation_input_tokens", "usage.cache_read_input_tokens"),
        ("usage.output_tokens",),
    ),
    (
        ("usageMetadata.promptTokenCount", "usageMetadata.toolUsePromptTokenCount"),
        ("usageMetadata.candidatesTokenCount", "usageMetadata.thoughtsTokenCount"),
    ),
)
_LONGEST = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "maxOutputTokens",
    "max_new_tokens",
    "num_predict",
)


def usage_of(body: bytes, paths: tuple[str, str] | None = None) -> Usage | None:
    """The tokens that a reply tells, at two paths or where OpenAI, Anthropic and Gemini have them; None if it does not.

    Of Anthropic's the input that was cached counts, too, and of Gemini's the thoughts, which are billed as output.
    """
    known = _KNOWN if paths is None else (((paths[0],), (paths[1],)),)
    if not any(ins[0].partition(".")[0].encode() in body for ins, _ in known):
        return None  # the answers of most servers, and long ones, are not parsed once more
    try:
        reply = parse_value(body)
    except ProtocolError:
        return None
    for ins, outs in known:
        if _count(reply, ins[0]) is not None:
            return Usage(*(sum(_count(reply, path) or 0 for path in side) for side in (ins, outs)))
    return None


def longest_answer(request: Any) -> int | None:  # noqa: ANN401 - any JSON value
    """The most output tokens that a request allows, by the option that its API has for them; None without one."""
    inner = request.values() if isinstance(request, dict) else request if isinstance(request, list) else ()
    found = [longest_answer(value) for value in inner]
    found += [value for name, value in request.items() if name in _LONGEST] if isinstance(request, dict) else []
    return max((value for value in found if isinstance(value, int) and value > 0), default=None)


class Bill:
    """The costs of one teacher's requests.

    Args:
        tariff: the prices.
        counts: whether tokens are reserved before any reply has told of some; they are where they cost anything.
        jobs: whether the requests are those of batch jobs, which cost a share of the price.

    Attributes:
        longest: the most output tokens of a request, where it sets a limit.
    """

    def __init__(self, tariff: Tariff, *, counts: bool = False, jobs: bool = False) -> None:
        self.tariff = tariff
        self._price = partial(tariff.price, batch=jobs)
        self.longest: int | None = None
        self._paid = [0] * len(Cost._fields)
        self._counts, self._lock, self._told = counts or tariff.by_tokens, threading.Lock(), False
        self._request, self._image = [0.0, 0.0], [0.0, 0.0]  # the most tokens, in and out: in a request, for an image

    def learn(self, seen: Iterable[tuple[int, int, int]]) -> None:
        """Images, input and output tokens of requests: what is reserved is for the largest, and a margin."""
        with self._lock:
            for images, *tokens in seen:
                self._counts = True
                self._request = [max(pair) for pair in zip(self._request, tokens, strict=True)]
                each = (number / images for number in tokens)
                self._image = [max(pair) for pair in zip(self._image, each, strict=True)]

    def worst(self, images: int, size: int) -> Cost:
        """The most that a request of so many images and bytes is thought to cost."""
        usage = Usage(0, 0)
        if self._counts:
            with self._lock:
                largest = [max(most, images * each) for most, each in zip(self._request, self._image, strict=True)]
            usage = Usage(*(
                math.ceil(MARGIN * number) if any(largest) else images * unseen
                for number, unseen in zip(largest, self.tariff.unseen, strict=True)
            ))  # fmt: skip
            usage = usage if self.longest is None else usage._replace(output_tokens=self.longest)
        return Cost(size, 0, self._price(images, usage), *usage)

    def true(self, images: int, reserved: Cost, reply: Reply) -> Cost:
        """What a request did cost, by its reply; where that does not tell of tokens, the price that was reserved."""
        usage = usage_of(reply.body, self.tariff.usage)
        if usage is not None:
            self.learn([(images, *usage)])
            return Cost(reserved.bytes_up, reply.size, self._price(images, usage), *usage)
        if self.tariff.by_tokens and not self._told:
            _log.warning("teacher: %s", _UNKNOWN)
            self._told = True
        return Cost(reserved.bytes_up, reply.size, reserved.price)

    def charges(self, status: int | None) -> bool:
        """Whether a request that was answered by this status is billed."""
        return status not in self.tariff.unbilled

    def pay(self, cost: Cost) -> None:
        """Count what was paid, for :attr:`paid`."""
        with self._lock:
            self._paid = [one + more for one, more in zip(self._paid, cost.units(), strict=True)]

    @property
    def paid(self) -> Cost:
        """What this process has paid."""
        return Cost(*self._paid)._replace(price=self._paid[2] / 1e9)

    def prices(self, seen: Sequence[tuple[int, int, int, int]], batch: int) -> Prices | None:
        """Of an image, in requests of ``batch`` images, by the requests of a ledger; None where nobody knows.

        Args:
            seen: how many requests, their images, input and output tokens.
            batch: where the price is not by tokens, the most images of a request.
        """
        if not self.tariff.by_tokens:
            one, many = self._price(1), self._price(batch) / batch
            return Prices(min(one, many), many, max(one, many))
        if not seen:
            return None
        number = sum(row[0] for row in seen)
        images, tokens_in, tokens_out = (sum(row[0] * row[k] for row in seen) for k in (1, 2, 3))
        each = [self._price(row[1], Usage(*row[2:])) / row[1] for row in seen]
        mean = sum(row[0] * row[1] * price for row, price in zip(seen, each, strict=True)) / images
        return Prices(min(each), mean, max(each), tokens_in / images, tokens_out / images, number)


def _count(reply: Any, path: str) -> int | None:  # noqa: ANN401 - any JSON value
    try:
        number = at(path, reply)
    except ProtocolError:
        return None
    return int(number) if isinstance(number, (int, float)) and not isinstance(number, bool) and number >= 0 else None
