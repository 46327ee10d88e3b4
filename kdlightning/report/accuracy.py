"""Accuracy against queries, for any number of students: names beside the points, or numbers and a list."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdlightning.report.canvas import COLOURS, GREY, INK, PAPER, new_figure, style, thousands
from kdlightning.report.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_ACCESSES = dict(zip(("hard", "soft", "white"), COLOURS, strict=False))
_LEAST = 1e-4  # share of images; what an axis without 0 and 100 % shows of them


def plot_accuracy(rows: Sequence[Row]) -> "Figure | None":
    """Accuracy of each student against its queries (logarithmic), with teachers and references as lines.

    Students without queries stand at a tick of their own, "0", left of the axis' first power of ten. Where names find
    no place beside their points, the points have numbers and the names are in a list beside the axes, best first.
    None when no student of these rows, which are of one data set, asked anything.
    """
    students = [row for row in rows if row.role == "student" and row.queries is not None]
    if not any(row.queries for row in students):
        return None
    lines = [row for row in rows if row.role != "student"]
    with style():
        return _plot_named(students, lines) or _plot_numbered(students, lines)


def _plot_named(students: Sequence[Row], lines: Sequence[Row]) -> "Figure | None":
    """Accuracy against queries with every name beside its point; None if one finds no place."""
    figure, axes = new_figure(6.2, 4.2)
    points = _query_axis(axes, students)
    _draw_points(axes, students, points)
    for row in lines:
        axes.axhline(100 * row.accuracy_mean, **_line_style(row))
    _limit_percent(axes)
    networks = {row.student for row in (*students, *lines) if row.role != "teacher"}
    _label_lines(figure, axes, lines, name_students=len(networks) > 1)
    return figure if _label_points(figure, axes, students, points) else None


def _plot_numbered(students: Sequence[Row], lines: Sequence[Row]) -> "Figure":
    """Accuracy against queries with a number in every point, and a list of what they are, best first."""
    from matplotlib.lines import Line2D

    students = sorted(students, key=lambda row: -row.accuracy_mean)
    lines = list({(row.role, row.label, row.student, row.accuracy_mean): row for row in lines}.values())
    figure, axes = new_figure(12.4, max(4.2, 0.18 * (len(students) + len(lines)) + 0.8))
    points = _query_axis(axes, students)
    wrong = [1 - row.accuracy_mean for row in students]
    if max(wrong) >= 10 * max(min(wrong), _LEAST):  # on an even axis most would lie on top of each other
        _logit_percent(axes, [1 - row.accuracy_mean for row in (*students, *lines)])
    else:
        axes.scatter(points, [100 * row.accuracy_mean for row in students], alpha=0)
        _limit_percent(axes)
    paints = [_ACCESSES.get(row.access or "", GREY) for row in students]
    handles = [Line2D([], [], color=paint, marker="o", linestyle="") for paint in paints]
    handles += [axes.axhline(100 * row.accuracy_mean, **_line_style(row)) for row in lines]
    names = [f"{i}  {name}" for i, name in enumerate(_short_names(students, always=("access",)), 1)]
    names += [f"{'teacher' if row.role == 'teacher' else row.label}, {row.student}" for row in lines]
    entries = [f"{name}  {100 * row.accuracy_mean:.2f}" for name, row in zip(names, (*students, *lines), strict=True)]
    look = {"frameon": False, "fontsize": 8, "labelspacing": 0.35, "handletextpad": 0.3}
    legend = figure.legend(handles, entries, loc="outside right upper", **look)
    figure.draw_without_rendering()
    figure.set_figwidth(6.2 + legend.get_window_extent().width / figure.dpi)
    figure.draw_without_rendering()
    spots = axes.transData.transform([(x, 100 * row.accuracy_mean) for row, x in zip(students, points, strict=True)])
    shifted = axes.transData.inverted().transform(_aside(spots.tolist(), 13 / 72 * figure.dpi))[:, 0]
    for i, (row, paint, x, place) in enumerate(zip(students, paints, points, shifted, strict=True), 1):
        y, std = 100 * row.accuracy_mean, 100 * row.accuracy_std
        axes.plot([x, place], [y, y], color=GREY, linewidth=0.6, zorder=1.5)
        axes.plot([place, place], [max(y - std, 100 * _LEAST), min(y + std, 100 - 100 * _LEAST)], color=paint)
        axes.plot(place, y, "o", color=paint, markersize=11, markeredgecolor=PAPER, zorder=3)
        axes.annotate(str(i), (place, y), ha="center", va="center", fontsize=7, color="white", zorder=4)
    return figure


def _query_axis(axes: "Axes", students: Sequence[Row]) -> list[float]:
    """A logarithmic axis of queries, with a place for 0 where a student has none; where each student stands."""
    axes.set_xscale("log")
    asked = [float(row.queries) for row in students if row.queries]
    low, high = math.floor(math.log10(min(asked))), math.ceil(math.log10(max(asked)) + 0.05)
    free = any(row.queries == 0 for row in students)
    axes.set_xlim(10.0 ** (low - 0.25 - free), 10.0**high)
    ticks = [10.0**exponent for exponent in range(low, high + 1, max(1, (high - low) // 5))]
    labels = [thousands(tick) for tick in ticks]
    zero = 10.0 ** (low - 0.8)
    if free:
        ticks, labels = [zero, *ticks], ["0", *labels]
        axes.axvline(10.0 ** (low - 0.4), color=GREY, linewidth=0.8, linestyle=(0, (1, 3)))
    axes.set_xticks(ticks, labels)
    axes.grid(axis="y")
    axes.set_xlabel("queries (images answered by the teacher)")
    axes.set_ylabel("test accuracy (%)")
    return [row.queries or zero for row in students]


def _line_style(row: Row) -> dict[str, Any]:
    """Teachers are solid lines, references dashed ones."""
    return {"color": GREY, "linewidth": 0.9, "linestyle": "-" if row.role == "teacher" else (0, (5, 3)), "zorder": 1}


def _logit_percent(axes: "Axes", wrong: Sequence[float]) -> None:
    """An axis of percent on which 99 % is as far from 99.9 % as 9 % is from 50 %."""
    from matplotlib.ticker import FixedLocator, NullLocator

    def logit(percent: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        share = np.clip(np.asarray(percent, dtype=np.float64) / 100, _LEAST, 1 - _LEAST)
        return np.log10(share / (1 - share))

    def expit(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(100 / (1 + 10.0 ** -np.asarray(value, dtype=np.float64)))

    axes.set_yscale("function", functions=(logit, expit))
    low, high = logit(np.array([100 * (1 - max(wrong)), 100 * (1 - min(wrong))]))
    room = 0.08 * (high - low)
    axes.set_ylim(*expit(np.array([low - room, high + room])))
    ticks = [0.1, 1, 2, 5, 10, 20, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.99]
    shown = [tick for tick in ticks if low - room <= logit(np.array(tick)) <= high + room]
    axes.yaxis.set_major_locator(FixedLocator(shown))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda percent, _: f"{percent:g}")


def _limit_percent(axes: "Axes") -> None:
    """Let no tick stand outside 0 … 100 %, while markers at the ends keep their room."""
    bottom, top = axes.get_ylim()
    room = 0.05 * (top - bottom)
    bottom, top = max(bottom - room, -room), min(top + room, 100 + room)
    axes.set_yticks([tick for tick in axes.get_yticks() if max(bottom, 0) <= tick <= min(top, 100)])
    axes.set_ylim(bottom, top)


def _aside(spots: Sequence[Sequence[float]], least: float) -> list[tuple[float, float]]:
    """Move points sideways, each as little as it takes, until all are ``least`` apart; earlier ones go first."""
    placed: list[tuple[float, float]] = []
    for x, y in spots:
        steps = (side * step * least / 4 for step in range(40 * len(spots)) for side in (1, -1))
        free = (x + shift for shift in steps if all(math.hypot(x + shift - u, y - v) >= least for u, v in placed))
        placed.append((next(free, x), y))
    return placed


def _draw_points(axes: "Axes", rows: Sequence[Row], points: Sequence[float]) -> None:
    """One marker with its error bar per row: a colour per method, a marker per row of the method."""
    methods = list(dict.fromkeys(row.method for row in rows))
    seen: Counter[str] = Counter()
    for row, x, name in zip(rows, points, _short_names(rows), strict=True):
        colour = COLOURS[methods.index(row.method) % len(COLOURS)]
        marker = _MARKERS[seen[row.method] % len(_MARKERS)]
        y, std = 100 * row.accuracy_mean, 100 * row.accuracy_std
        axes.plot([x, x], [y - std, y + std], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
        axes.plot(x, y, marker, color=colour, markersize=7.5, markeredgecolor=PAPER, label=name, zorder=3)
        seen[row.method] += 1


def _short_names(rows: Sequence[Row], *, always: Sequence[str] = ()) -> list[str]:
    """Method and variant, with the student where there are several, teacher and access where rows need them."""
    names = [row.label for row in rows]
    for key in dict.fromkeys(("student", *always, "teacher", "access")):
        needed = key in ("student", *always) or len(set(names)) < len(names)
        if needed and len({getattr(row, key) for row in rows}) > 1:
            names = [f"{name}, {getattr(row, key) or 'none'}" for name, row in zip(names, rows, strict=True)]
    return names


def _label_lines(figure: "Figure", axes: "Axes", rows: Sequence[Row], *, name_students: bool) -> None:
    """Name each horizontal line in the right margin, one below the other where lines are close."""
    if not rows:
        return
    ordered = sorted(rows, key=lambda row: row.accuracy_mean)
    bottom, top = axes.get_ylim()
    figure.draw_without_rendering()  # constrained layout settles here
    gap = 9.5 / 72 * figure.dpi * 1.15 / axes.get_window_extent().height
    wanted = [(100 * row.accuracy_mean - bottom) / (top - bottom) for row in ordered]
    for row, line, place in zip(ordered, wanted, _spread(wanted, gap), strict=True):
        if row.role == "teacher":
            name = f"teacher {row.student}"
        else:
            name = f"{row.label}, {row.student}" if name_students else row.label
        axes.annotate(
            f"{name} {100 * row.accuracy_mean:.1f}",
            xy=(1.0, line),
            xytext=(1.035, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=INK if row.role == "teacher" else GREY,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0},
            annotation_clip=False,
        )


def _spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Move sorted positions apart until neighbours are ``gap`` apart, as little as a sweep each way allows."""
    up = list(wanted)
    for i in range(1, len(up)):
        up[i] = max(up[i], up[i - 1] + gap)
    down = list(wanted)
    for i in reversed(range(len(down) - 1)):
        down[i] = min(down[i], down[i + 1] - gap)
    return [(a + b) / 2 for a, b in zip(up, down, strict=True)]


def _label_points(figure: "Figure", axes: "Axes", rows: Sequence[Row], points: Sequence[float]) -> bool:
    """Write each point's name beside it; False if one finds no free place."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    taken = []
    for row, x in zip(rows, points, strict=True):
        ends = [(x, 100 * (row.accuracy_mean + sign * row.accuracy_std)) for sign in (-1, 1)]
        taken.append(Bbox(axes.transData.transform(ends)).padded(4 / 72 * figure.dpi))  # 4 pt: half a marker
    for row, x, name in zip(rows, points, _short_names(rows), strict=True):
        label = _place(axes, (x, 100 * row.accuracy_mean), name, frame, taken)
        if label is None:
            return False
        taken.append(label.get_window_extent())
    return True


def _place(
    axes: "Axes", point: tuple[float, float], name: str, frame: "Bbox", taken: "Sequence[Bbox]"
) -> "Annotation | None":
    """Write a name at the first free place around a point; None if there is none inside the frame."""
    sides = {"left": ((8, 0), (7, 9), (7, -9)), "right": ((-8, 0), (-7, 9), (-7, -9)), "center": ((0, 14), (0, -14))}
    for alignment, offsets in sides.items():
        for offset in offsets:
            label = axes.annotate(
                name, point, offset, textcoords="offset points", ha=alignment, va="center", fontsize=9
            )
            label.set_in_layout(False)
            label.set_bbox({"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.6})
            box = label.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                return label
            label.remove()
    return None
