"""Panels in a row, and curves of accuracies in them."""

import re
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kdlightning.report import Row

Curves = dict[tuple[str, str, str], list[tuple[float, float, float]]]


def collect(rows: Sequence[Row], setting: str, lines: Mapping[str, str]) -> Curves:
    """The points of a figure.

    Args:
        rows: of any method; those whose variant is not ``SETTING=NUMBER`` and one of the labels are left out.
        setting: the abscissa, ``"tau"``.
        lines: what follows the number in a variant, letter by letter → the line's name.

    Returns:
        ``(data set, access, line)`` → points (value, mean accuracy, standard deviation), accuracies in %, sorted.

    Raises:
        ValueError: there is no such row.
    """
    curves: Curves = {}
    for row in rows:
        found = re.fullmatch(rf"{setting}=([\d.]+)(.*)", row.variant or "")
        if found and found[2] in lines:
            point = (float(found[1]), 100 * row.accuracy_mean, 100 * (row.accuracy_std or 0))
            curves.setdefault((row.dataset, row.access or "none", lines[found[2]]), []).append(point)
    if not curves:
        seen = sorted({row.variant or "(none)" for row in rows})
        raise ValueError(f"expected rows with a variant such as '{setting}=...', got only: {'; '.join(seen)}")
    return {key: sorted(points) for key, points in curves.items()}


def new_figure(columns: int) -> tuple[Figure, list[Axes]]:
    """A row of panels, each with its own scale."""
    figure = Figure(figsize=(3.4 * columns, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def draw_line(axes: Axes, points: Sequence[tuple[float, float, float]], name: str) -> None:
    """Mean accuracies with one standard deviation; nothing without points."""
    if points:
        value, mean, std = zip(*points, strict=True)
        axes.errorbar(value, mean, yerr=std, marker="o", markersize=4, linewidth=1.5, capsize=2, label=name)


def finish(figure: Figure, panels: Sequence[Axes]) -> Figure:
    """What curves of accuracies have in common."""
    for axes in panels:
        axes.grid(axis="y", color="#e6e6e6")
        axes.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("test accuracy (%)")
    return figure
