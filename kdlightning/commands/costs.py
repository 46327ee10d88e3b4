"""What a run will cost: what its method asks, on the terms of its teacher. Nothing here asks."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as L

from kdlightning.accounting.terms import Terms
from kdlightning.methods import TeacherAnswers
from kdlightning.modules import LabellingModule
from kdlightning.modules.viewing import shape_asked, views_of
from kdlightning.teachers import BlackBoxTeacher
from kdlightning.types import Answers, Estimate

_LEEWAY = 1e-9  # prices are sums of floats


class Forecast(NamedTuple):
    """What one run will cost: what its method asks, and what its teacher takes for it."""

    method: str  # class of the module
    estimate: Estimate
    terms: Terms
    may_stop: bool = False  # the run is told to make do with what the budget allows

    @property
    def asked(self) -> tuple[int, int]:
        """The fewest and the most questions still to come."""
        return self.estimate.least - self.estimate.kept, self.estimate.most - self.estimate.kept

    @property
    def paid(self) -> tuple[int, int]:
        """The fewest and the most images that will be paid: all, or those that the ledger does not know."""
        (least, most), terms = self.asked, self.terms
        if terms.offline:
            return 0, 0
        if terms.known is None:
            return least, most
        fewest, differing = self.estimate.distinct or (least, most)
        return max(0, min(least, fewest) - terms.known), min(most, differing)

    @property
    def bytes_up(self) -> tuple[int, int] | None:
        """The fewest and the most bytes sent; None where nobody knows what an image is sent as."""
        (fewest, most), each = self.paid, self.terms.bytes_up
        return None if each is None else (round(fewest * each[0]), round(most * each[1]))

    @property
    def bytes_down(self) -> tuple[int, int] | None:
        """The fewest and the most bytes received; None where nobody knows what an answer takes."""
        (fewest, most), each = self.paid, self.terms.bytes_down
        return None if each is None else (round(fewest * each), round(most * each))

    @property
    def price(self) -> tuple[float, float] | None:
        """The least and the most money; None where nobody knows what an image costs."""
        (fewest, most), each = self.paid, self.terms.price
        return None if each is None and most else (fewest * each.least, most * each.most) if each else (0.0, 0.0)

    @property
    def expected(self) -> tuple[float, float, float] | None:
        """The least money, that of the most images at the mean price, and the most; None where nobody knows it."""
        price, each = self.price, self.terms.price
        return None if price is None or each is None else (price[0], self.paid[1] * each.mean, price[1])

    def objections(self) -> tuple[list[str], list[str]]:
        """Where the budget does not suffice: for sure, and perhaps; one clause for each unit of it."""
        up, down = self.bytes_up or (0, 0), self.bytes_down or (0, 0)
        needs: dict[str, tuple[float, float]] = {
            "queries": self.paid,
            "bytes": (up[0], up[1] + down[1]),
            "units of price": self.price or (0.0, 0.0),
        }
        surely: list[str] = []
        perhaps: list[str] = []
        for (unit, (least, most)), limit, spent in zip(needs.items(), self.terms.limits, self.terms.spent, strict=True):
            if limit is None or (spent or 0) + most <= limit + _LEEWAY:
                continue
            sure = (spent or 0) + least > limit + _LEEWAY
            also = f", of which {_number(spent)} are spent" if spent else ""
            need = ("" if least == most else "at least " if sure else "at most ") + _number(least if sure else most)
            (surely if sure else perhaps).append(f"{need} {unit}, but the budget is {_number(limit)}{also}")
        return surely, perhaps

    def lines(self, rate: float | None = None) -> list[tuple[str, str]]:
        """What to print: names and values; the rate is in images per second."""
        known, kept, terms = self.terms.known, self.estimate.kept, self.terms
        lines = [("queries", span(self.estimate.least, self.estimate.most))]
        if kept:
            lines += [("answered already", f"{kept:,}"), ("to ask", span(*self.asked))]
        if known:
            lines.append(("in the ledger", f"{known:,} answers of this teacher; what they answer costs nothing"))
        if self.paid != self.asked:
            lines.append(("to pay", span(*self.paid)))
        for name, both in (("bytes up", self.bytes_up), ("bytes down", self.bytes_down)):
            lines.append((name, "nobody knows yet" if both is None else span(*both)))
        if terms.jobs:
            lines.append(("asked", "in batch jobs, at their price"))
        lines += self._price_lines()
        if rate:
            lines.append((f"time at {rate:,.4g} images/s", _duration(*(number / rate for number in self.paid))))
        for unit, limit, spent in zip(("queries", "bytes", "price"), terms.limits, terms.spent, strict=True):
            if limit is not None:
                lines.append((f"budget of {unit}", f"{_number(limit)}, {_number(spent or 0)} spent"))
        return lines

    def _price_lines(self) -> list[tuple[str, str]]:
        each, price = self.terms.price, self.price
        if each is None or price is None:
            return [("price", "nobody knows yet: it is by tokens, which `--probe 5` measures")]
        if not each.requests:
            return [("price", span(*price) if each.most else "none is set")]
        seen = f"of {each.requests:,} requests"
        tokens = f"{each.input_tokens:,.1f} in, {each.output_tokens:,.1f} out, the mean {seen}"
        means = span(self.paid[0] * each.mean, self.paid[1] * each.mean)
        return [
            ("tokens an image", tokens),
            ("price", f"{means} by that mean; {_between(*price)} by the cheapest and the dearest"),
        ]


def foresee(trainer: L.Trainer, module: L.LightningModule, data: Any, done: int = 0) -> Forecast | None:  # noqa: ANN401
    """What a run will cost, of which some batches may be ``done``; None where no black box is asked.

    Sets the datamodule up and asks nothing.

    Raises:
        ValueError: nobody knows: the run has no end, or the method does not say.
    """
    teacher = getattr(module, "teacher", None)
    if not isinstance(teacher, BlackBoxTeacher):
        return None
    name = type(module).__name__
    data.prepare_data()
    data.setup("predict" if isinstance(module, LabellingModule) else "fit")
    estimate = getattr(module, "estimate", lambda *_: None)(trainer, data, done)
    if estimate is None:
        raise ValueError(f"{name} does not say how many images it asks: override `estimate` (or `questions`)")
    may_stop = isinstance(module, TeacherAnswers) and module.at_budget == "finish"
    return Forecast(name, estimate, terms_of(trainer, module, data), may_stop)


def terms_of(trainer: L.Trainer, module: Any, data: Any) -> Terms:  # noqa: ANN401
    """The terms of a module's black-box teacher for the images of a datamodule.

    Raises:
        ValueError: the datamodule does not say how large its images are.
    """
    if not hasattr(data, "image_size"):
        raise ValueError(f"{type(data).__name__} does not say how large its images are: channels and image_size")
    labelling = isinstance(module, LabellingModule)
    if getattr(data, "teacher_size", None) is not None:  # how large the originals are stands in the files
        data.prepare_data()
        data.setup("predict" if labelling else "fit")
    directory = module.output if labelling else Path(trainer.default_root_dir)
    shape = shape_asked(data, views_of(module, data))
    terms: Terms = module.teacher.terms(shape, directory / "queries.meter")
    earlier = Answers(0, 0, 0)
    with suppress(FileNotFoundError):  # of a recipe's stage that has not been run
        earlier = getattr(data, "paid", earlier) if labelling else earlier
    return terms._replace(spent=terms.spent._replace(queries=max(terms.spent.queries or 0, earlier.queries)))


def batches_done(checkpoint: Mapping[str, Any]) -> int:
    """How many batches each process had trained on when Lightning wrote a checkpoint."""
    return int(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"])


def span(least: float, most: float) -> str:
    """Two bounds in words."""
    if least == most:
        return _number(most)
    return f"at most {_number(most)}" + (f", at least {_number(least)}" if least else "")


def _between(least: float, most: float) -> str:
    return _number(most) if least == most else f"{_number(least)} to {_number(most)}"


def _number(value: float | None) -> str:
    value = value or 0
    return f"{value:,.0f}" if value == int(value) or value > 10**6 else f"{value:,.10g}"


def _duration(least: float, most: float) -> str:
    def text(seconds: float) -> str:
        units = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))
        size, unit = next((pair for pair in units if seconds >= 2 * pair[0]), units[-1])
        return f"{seconds / size:,.1f} {unit}"

    return text(most) if least == most else f"at most {text(most)}"
