"""Accuracy against a number of the runs' points: images, queries, a share of the pool; one line for each arm."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from kdlightning.report import text
from kdlightning.report.accuracy import mean_of, percent_axis
from kdlightning.report.canvas import COLOURS, GREY, STYLE, THOUSANDS
from kdlightning.report.names import drawable, families
from kdlightning.report.paired import half_width
from kdlightning.report.records import Row

_LOG = 20  # times the least value from which on an axis is logarithmic
_MARKS = "osD^vP"
_LONGEST = 40


class Arm(NamedTuple):
    """What is measured at several points."""

    name: str  #: method and variant, with the access and the teacher where there are several
    rows: dict[float, Row]  #: by the number on the axis


class AccuracyCurve(NamedTuple):
    """The arms of one data set and student against one number, with all others the same."""

    axis: str  #: the number's name
    student: str
    place: str  #: the others in words
    arms: tuple[Arm, ...]
    lines: tuple[Row, ...] = ()  #: teachers, and references that do not depend on the number

    @property
    def numbers(self) -> list[float]:
        """Where anything was measured, sorted."""
        return sorted({number for arm in self.arms for number in arm.rows})

    @property
    def rows(self) -> list[Row]:
        """All that is shown."""
        return [*(row for arm in self.arms for row in arm.rows.values()), *self.lines]

    def best(self, number: float) -> Row | None:
        """The row with the highest mean there; None where there are less than two."""
        there = [arm.rows[number] for arm in self.arms if number in arm.rows]
        return max(there, key=mean_of) if len(there) > 1 else None


def find_curves(rows: Iterable[Row]) -> list[AccuracyCurve]:
    """Every number of which an arm of some data set's rows has at least two values, with the others held.

    A row with fewer other numbers (labels alone have no queries) stands in each curve that it fits into.
    """
    rows = [row for row in rows if row.accuracy_mean is not None]
    pointed = [row for row in rows if row.point and row.role != "teacher"]
    kinds = dict.fromkeys((row.dataset, row.student, axis) for row in pointed for axis in row.point)
    return [curve for kind in kinds for curve in _of(rows, pointed, *kind)]


def _of(rows: Sequence[Row], pointed: Sequence[Row], dataset: str, student: str, axis: str) -> Iterable[AccuracyCurve]:
    members = [row for row in pointed if (row.dataset, row.student) == (dataset, student) and axis in row.point]
    held = list(dict.fromkeys(tuple(sorted(row.point.items() - {(axis, row.point[axis])})) for row in members))
    for others in held:
        if any(set(others) < set(more) for more in held):
            continue
        there = [row for row in members if row.point.items() <= {*others, (axis, row.point[axis])}]
        arms = _arms(there, axis)
        if all(len(arm.rows) < 2 for arm in arms):
            continue
        teachers = {row.teacher for row in there}
        lines = [
            row for row in rows if row.dataset == dataset and axis not in row.point and (
                (row.role == "teacher" and row.student in teachers)
                or (row.role == "reference" and row.student == student and row.point.items() <= set(others))
            )
        ]  # fmt: skip
        place = ", ".join(f"{name} {text.decimal(value)}" for name, value in others)
        yield AccuracyCurve(axis, student, place, arms, tuple(lines))


def _arms(rows: Sequence[Row], axis: str) -> tuple[Arm, ...]:
    groups: dict[tuple[str, ...], dict[float, Row]] = {}
    for row in rows:
        groups.setdefault((row.label, row.access or "", row.teacher or ""), {})[row.point[axis]] = row
    keys = list(groups)

    def name(key: tuple[str, ...]) -> str:
        words = [key[0]]
        for place in (1, 2):
            if len({other[place] for other in keys if other[:place] == key[:place]}) > 1:
                words.append(key[place])
        return ", ".join(words)

    return tuple(Arm(name(key), dict(sorted(found.items()))) for key, found in groups.items())


@rc_context(STYLE)
def plot_curve(curve: AccuracyCurve) -> Figure:
    """Mean accuracies with bands of 95 % intervals, logarithmic where the numbers span a factor of twenty.

    Teachers and references that do not depend on the number are lines. The list beside the axes is in the order of the
    means at the greatest number that all arms share, or else have.
    """
    figure = Figure(figsize=(6.2, 4.2))
    axes = figure.subplots()
    percent_axis(axes, [row for arm in curve.arms for row in arm.rows.values()], curve.lines)
    low, high = axes.get_ylim()
    for place, arm in enumerate(curve.arms):
        paint, mark = COLOURS[place % len(COLOURS)], _MARKS[(place // len(COLOURS)) % len(_MARKS)]
        numbers, means = list(arm.rows), [100 * mean_of(row) for row in arm.rows.values()]
        halves = [100 * half_width(row.accuracies or ()) for row in arm.rows.values()]
        ends = list(zip(means, halves, strict=True))
        lower, upper = [max(mean - half, low) for mean, half in ends], [min(mean + half, high) for mean, half in ends]
        axes.fill_between(numbers, lower, upper, color=paint, alpha=0.15, linewidth=0)
        axes.plot(numbers, means, color=paint, linewidth=1.8, marker=mark, markersize=4, label=_label(arm.name))
    for row in curve.lines:
        name = f"{'teacher' if row.role == 'teacher' else row.label}, {row.student}  {100 * mean_of(row):.2f}"
        dashes = "-" if row.role == "teacher" else (0, (5, 3))
        axes.axhline(100 * mean_of(row), color=GREY, linewidth=0.9, linestyle=dashes, zorder=1, label=_label(name))
    _number_axis(axes, curve)
    shared = [number for number in curve.numbers if all(number in arm.rows for arm in curve.arms)]
    last = max(shared, default=0.0)
    heights = [mean_of(arm.rows.get(last, list(arm.rows.values())[-1])) for arm in curve.arms]
    heights += [mean_of(row) for row in curve.lines]
    handles, names = axes.get_legend_handles_labels()
    order = sorted(range(len(heights)), key=lambda i: -heights[i])
    axes.legend(
        [handles[i] for i in order], [names[i] for i in order], loc="upper left", bbox_to_anchor=(1.01, 1.02),
        frameon=False, labelspacing=0.4, prop={"size": 9, "family": families(names)},
    )  # fmt: skip
    return figure


def _label(name: str) -> str:
    return drawable(name, _LONGEST)


def _number_axis(axes: Axes, curve: AccuracyCurve) -> None:
    numbers = curve.numbers
    wide = numbers[0] > 0 and numbers[-1] >= _LOG * numbers[0]
    if wide:
        axes.set_xscale("log")
    places = [math.log(one) if wide else one for one in numbers]
    ticks: list[float] = []
    for number, place in zip(numbers, places, strict=True):  # those that would overlap are left out
        near = math.log(ticks[-1]) if ticks and wide else ticks[-1] if ticks else -math.inf
        if place - near >= (places[-1] - places[0]) / 12:
            ticks.append(number)
    axes.set_xticks(ticks, [THOUSANDS(one) if one >= 1000 else f"{one:g}" for one in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(curve.axis)
