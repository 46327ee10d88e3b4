"""What stands in for a teacher that is not there yet, so that its cost can be told all the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kdlightning.accounting.accounts import Budget, Limits, budget_of
from kdlightning.accounting.meter import QueryMeter
from kdlightning.accounting.tariff import Tariff, tariff_of
from kdlightning.accounting.terms import Prices, Terms
from kdlightning.teachers.blackbox import BlackBoxTeacher, HardLabelTeacher, SoftLabelTeacher, TopKTeacher


class AbsentTeacher(BlackBoxTeacher):
    """Has a teacher's terms, as far as its settings tell, and answers nothing.

    The settings are those of the teacher that it stands for; ``remote``: what an image is sent as is not known.
    """

    def __init__(
        self,
        budget: int | Budget | None = None,
        price: float | Tariff = 0.0,
        num_classes: int | None = None,
        *,
        remote: bool = False,
    ) -> None:
        self._identity = {"network": "absent", "name": "absent", "access": self.access}
        self._fingerprint = lambda: ""
        most = budget_of(budget)
        self._meter, self._classes = QueryMeter(most.queries), num_classes or 0
        self._limits, self._price, self._remote = Limits(most.queries, most.bytes, most.price), tariff_of(price), remote

    def terms(self, shape: Sequence[int], count: str | Path) -> Terms:
        """As the settings say; what another run has spent in a ledger is not known."""
        price = None if self._price.by_tokens else Prices.fixed(self._price.price(1))
        terms = super().terms(shape, count)._replace(price=price, limits=self._limits)
        return terms._replace(bytes_up=None, bytes_down=None) if self._remote else terms

    def _answer(self, images: Tensor) -> Tensor:
        raise RuntimeError("this teacher only stands in for one that is not there: it answers nothing")


class AbsentSoftLabelTeacher(AbsentTeacher, SoftLabelTeacher):
    """Stands in for a teacher that answers probabilities."""


class AbsentHardLabelTeacher(AbsentTeacher, HardLabelTeacher):
    """Stands in for a teacher that answers labels."""


class AbsentTopKTeacher(AbsentTeacher, TopKTeacher):
    """Stands in for a teacher that answers the best classes."""

    def __init__(self, k: int = 1, **settings: Any) -> None:  # noqa: ANN401 - AbsentTeacher's
        super().__init__(**settings)
        self.k = k
