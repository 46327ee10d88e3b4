"""Accuracy against queries, for any number of students: a number in every point, and a list of what they are."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter

from kdlightning.report.canvas import COLOURS, GREY, PAPER, STYLE, THOUSANDS
from kdlightning.report.names import drawable, families
from kdlightning.report.records import Row

_ACCESSES = dict(zip(("hard", "soft", "white", "topk"), COLOURS, strict=False))
_LEAST = 1e-4  # share of images; the axis ends so far from 0 and 100 %
_LONGEST = 60  # characters of a name in the list
_TICKS = np.array([0.1, 1, 2, 5, 10, 20, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.99])


@rc_context(STYLE)
def plot_accuracy(rows: Sequence[Row]) -> Figure | None:
    """Accuracy of each student against its queries (logarithmic), with teachers and references as lines.

    Students without queries stand at a tick of their own, "0", left of the axis' first power of ten. The list beside
    the axes has the best student first. Points have the colour of their access. None when no student of these rows,
    which are of one data set, asked anything.
    """
    rows = [row for row in rows if row.accuracy_mean is not None]
    students = [row for row in rows if row.role == "student" and row.queries is not None]
    students.sort(key=lambda row: -mean_of(row))
    if not any(row.queries for row in students):
        return None
    lines = {(row.role, row.label, row.student, mean_of(row)): row for row in rows if row.role != "student"}
    figure = Figure(figsize=(6.2, max(4.2, 0.18 * (len(students) + len(lines)) + 0.8)))
    axes = figure.subplots()
    points = _query_axis(axes, students)
    percent_axis(axes, students, lines.values())
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the list stands outside of what was laid out
    spots = axes.transData.transform([(x, 100 * mean_of(row)) for row, x in zip(students, points, strict=True)])
    places = axes.transData.inverted().transform(_aside(spots.tolist(), 13 / 72 * figure.dpi))[:, 0]
    names = _short_names(students)
    for i, (row, name, x, place) in enumerate(zip(students, names, points, places, strict=True), 1):
        paint, y, std = _ACCESSES.get(row.access or "", GREY), 100 * mean_of(row), 100 * _std(row)
        label = f"{i}  {drawable(name, _LONGEST)}  {y:.2f}"
        axes.plot([x, place], [y, y], color=GREY, linewidth=0.6, zorder=1.5)
        axes.plot([place, place], [max(y - std, 100 * _LEAST), min(y + std, 100 - 100 * _LEAST)], color=paint)
        axes.plot(place, y, "o", color=paint, markersize=11, markeredgecolor=PAPER, zorder=3, label=label)
        axes.annotate(str(i), (place, y), ha="center", va="center", fontsize=7, color="white", zorder=4)
    for row in lines.values():
        name = f"{'teacher' if row.role == 'teacher' else row.label}, {row.student}"
        label = f"{drawable(name, _LONGEST)}  {100 * mean_of(row):.2f}"
        dashes = "-" if row.role == "teacher" else (0, (5, 3))
        axes.axhline(100 * mean_of(row), color=GREY, linewidth=0.9, linestyle=dashes, zorder=1, label=label)
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, labelspacing=0.35, markerscale=0.55,
        handletextpad=0.3, prop={"size": 8, "family": families(names)},
    )  # fmt: skip
    return figure


def mean_of(row: Row) -> float:
    """What is drawn of a row; rows without an accuracy are not."""
    return row.accuracy_mean or 0.0


def _std(row: Row) -> float:
    return row.accuracy_std or 0.0


def _query_axis(axes: Axes, students: Sequence[Row]) -> list[float]:
    """A logarithmic axis of queries, with a place for 0 where a student has none; where each student stands."""
    axes.set_xscale("log")
    asked = [float(row.queries) for row in students if row.queries]
    low, high = math.floor(math.log10(min(asked))), math.ceil(math.log10(max(asked)) + 0.05)
    free = any(row.queries == 0 for row in students)
    axes.set_xlim(10.0 ** (low - 0.25 - free), 10.0**high)
    ticks = [10.0**exponent for exponent in range(low, high + 1, max(1, (high - low) // 5))]
    labels = [THOUSANDS(tick) for tick in ticks]
    zero = 10.0 ** (low - 0.8)
    if free:
        ticks, labels = [zero, *ticks], ["0", *labels]
        axes.axvline(10.0 ** (low - 0.4), color=GREY, linewidth=0.8, linestyle=(0, (1, 3)))
    axes.set_xticks(ticks, labels)
    axes.xaxis.set_minor_formatter(NullFormatter())  # on a short axis it would write powers of ten
    axes.set_xlabel("queries (images answered by the teacher)")
    return [row.queries or zero for row in students]


def percent_axis(axes: Axes, students: Sequence[Row], lines: Iterable[Row]) -> None:
    """An axis of percent on which 99 % is as far from 99.9 % as 9 % is from 50 %."""

    def logit(percent: npt.ArrayLike) -> npt.NDArray[np.float64]:
        share = np.clip(np.asarray(percent, dtype=np.float64) / 100, _LEAST, 1 - _LEAST)
        return np.log10(share / (1 - share))

    def expit(value: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(100 / (1 + 10.0 ** -np.asarray(value, dtype=np.float64)))

    # of a bar, at most half of what lies between its point and an end of the axis
    shown = [mean_of(row) for row in lines]
    shown += [max(mean_of(row) - _std(row), mean_of(row) / 2) for row in students]
    shown += [min(mean_of(row) + _std(row), (1 + mean_of(row)) / 2) for row in students]
    low, high = logit([100 * min(shown), 100 * max(shown)])
    room = max(0.08 * (high - low), 0.02)
    axes.set_yscale("function", functions=(logit, expit))
    axes.set_ylim(*expit([low - room, high + room]))
    ticks = _TICKS[(low - room <= logit(_TICKS)) & (logit(_TICKS) <= high + room)]
    if len(ticks) > 3:  # else they are as even as the axis almost is
        axes.yaxis.set_major_locator(FixedLocator(ticks.tolist()))
    axes.yaxis.set_major_formatter(lambda percent, _: f"{percent:g}")
    axes.grid(axis="y")
    axes.set_ylabel("test accuracy (%)")


def _aside(spots: Sequence[Sequence[float]], least: float) -> list[tuple[float, float]]:
    """Move points sideways, each as little as it takes, until all are ``least`` apart; earlier ones go first."""
    placed: list[tuple[float, float]] = []
    for x, y in spots:
        steps = (side * step * least / 4 for step in range(40 * len(spots)) for side in (1, -1))
        free = (x + shift for shift in steps if all(math.hypot(x + shift - u, y - v) >= least for u, v in placed))
        placed.append((next(free, x), y))
    return placed


def _short_names(rows: Sequence[Row]) -> list[str]:
    """Method, variant, point; the student and the access where there are several, the teacher where rows need it."""
    names = [", ".join(part for part in (row.label, row.place) if part) for row in rows]
    for key in ("student", "access", "teacher"):
        needed = key != "teacher" or len(set(names)) < len(names)
        if needed and len({getattr(row, key) for row in rows}) > 1:
            names = [f"{name}, {getattr(row, key) or 'none'}" for name, row in zip(names, rows, strict=True)]
    return names
