"""What images will cost, as a remote teacher's settings and its ledger tell before it is asked."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kdlightning.accounting.accounts import Limits
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.accounting.terms import Terms
from kdlightning.remote.bill import Bill


def image_bytes(size: Callable[[Tensor, int], int], shape: Sequence[int], batch: int) -> tuple[float, float]:
    """The fewest and the most bytes that an image ``(C, H, W)`` is sent as, in requests of up to ``batch`` images.

    They may depend on its pixels: a black one is taken for the shortest, noise for the longest. ``size``: bytes of a
    request for so many copies of an image ``(1, C, H, W)``.
    """
    black, noise = torch.zeros(1, *shape), torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    alone = size(black, 1)
    return float(size(black, 2) - alone if batch > 1 else alone), float(size(noise, 1))


def by_ledger(
    terms: Terms, ledger: Path, teacher: Mapping[str, str], count: str | Path, bill: Bill, batch: int
) -> Terms:
    """Terms with what a ledger has seen of a teacher, and what the run of this ``count`` has spent there."""
    with QueryLedger(ledger, readonly=True) as book:
        book.pay_for(count)
        spent, told, known, seen = book.spent, book.totals(teacher), book.known(teacher), book.usage(teacher)
    answered = told.unique + told.twice
    return terms._replace(
        price=bill.prices(seen, batch),
        bytes_down=told.bytes_down / answered if answered else None,
        known=known,
        spent=Limits(max(terms.spent.queries or 0, spent.paid), spent.bytes_up + spent.bytes_down, spent.price),
    )
