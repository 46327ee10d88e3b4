"""The figures of a report: accuracy against queries, distances and confusions of classes, nearness to local images."""

import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdlightning.report.accuracy import plot_accuracy
from kdlightning.report.canvas import COLOURS, GREY, new_figure, new_row, style, thousands
from kdlightning.report.confusion import Confusion
from kdlightning.report.privacy import Privacy
from kdlightning.report.rows import Row, TransferSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DISTANCES = {"sd": "sample distance", "bd": "boundary distance", "mbd": "minimal boundary distance"}
_ANNOTATED_CLASSES = 20  # more cells than 20 x 20 are too small for their numbers
_NAMED_CLASSES = 40  # more names than these overlap on an axis


class Picture(NamedTuple):
    """A figure, ready to be written.

    Attributes:
        name: file name, ``"accuracy-digits.png"``.
        title: what it shows.
        caption: what a reader has to know about it.
        png: the file's content.
    """

    name: str
    title: str
    caption: str
    png: bytes


def draw_figures(rows: Sequence[Row], transfer_sets: Sequence[TransferSet]) -> list[Picture]:
    """Draw everything there is to draw.

    Args:
        rows: rows of any number of data sets.
        transfer_sets: transfer sets with distances.

    Returns:
        Accuracy against queries for each data set with a student that asked; then, for each transfer set, the
        distances between classes and their course with the queries, where it holds them.
    """
    pictures: list[Picture] = []
    names: Counter[str] = Counter()

    def add(kind: str, subject: str, title: str, caption: str, figure: "Figure") -> None:
        pictures.append(_picture(names, kind, subject, title, caption, figure))

    for dataset in dict.fromkeys(row.dataset for row in rows):
        members = [row for row in rows if row.dataset == dataset]
        if (figure := plot_accuracy(members)) is not None:
            caption = "Mean over seeds; bars are one sample standard deviation."
            if figure.legends:
                caption += " Points that would hide others stand aside, with a line to their place."
            if unknown := sum(row.role == "student" and row.queries is None for row in members):
                caption += f" Without a place on the axis, as their queries are not known: {unknown} of the students."
            add("accuracy", dataset, f"Accuracy against queries, {dataset}", caption, figure)
    for entry in transfer_sets:
        kind, subject = _distance(entry), f"{entry.dataset}-{entry.path.name}"
        source = f"Transfer set {entry.path.name}" + (f", {entry.queries:,} queries." if entry.queries else ".")
        if entry.mean_distance is not None:
            caption = f"{source} Mean L2 distance of pixels in [0, 1]; blank: no such pair."
            add("distances", subject, f"Class-by-class {kind}, {entry.dataset}", caption, plot_distances(entry))
        if entry.distance_curve is not None:
            caption = f"{source} The band is one standard deviation."
            title = f"{kind.capitalize()} against queries per pair, {entry.dataset}"
            add("curve", subject, title, caption, plot_distance_curve(entry))
    return pictures


def draw_privacy(entries: Sequence[Privacy]) -> list[Picture]:
    """Draw how near pools come to local images.

    Args:
        entries: pools with different images.

    Returns:
        One figure for each.
    """
    names: Counter[str] = Counter()
    caption = (
        "Share of images (logarithmic) whose nearest local image is within a distance. Grey: the distance within which "
        "{level:g} % of held-out real images lie. A pool that holds copies rises left of it."
    )
    return [
        _picture(
            names,
            "privacy",
            f"{entry.dataset}-{entry.label}",
            f"Distance to the nearest local image, {entry.dataset}, {entry.label}",
            caption.format(level=100 * entry.level),
            plot_privacy(entry),
        )
        for entry in entries
    ]


def draw_confusions(confusions: Sequence[Confusion]) -> list[Picture]:
    """Draw which classes students take for which.

    Args:
        confusions: any number.

    Returns:
        One figure for each.
    """
    names: Counter[str] = Counter()
    caption = (
        "Share of each class's test images, in percent, by the class that the student sees; blank: none. Seeds: {}."
    )
    return [
        _picture(
            names,
            "confusion",
            f"{entry.dataset}-{entry.label}",
            f"Classes taken for others, {entry.dataset}, {entry.label}",
            caption.format(", ".join(map(str, entry.seeds))),
            plot_confusion(entry),
        )
        for entry in confusions
    ]


def plot_distances(transfer_set: TransferSet) -> "Figure":
    """Heat map of the mean distances (Fig. 5 of DB3KD).

    Args:
        transfer_set: a transfer set with ``mean_distance``.

    Returns:
        The figure: rows are the teacher's class of an image, columns are target classes, row 0 is on top.
    """
    return _plot_classes(
        distance_matrix(transfer_set),
        transfer_set.class_names,
        x="target class",
        y="teacher's class of the image",
        values=f"mean {_distance(transfer_set)} (L2)",
    )


def plot_confusion(confusion: Confusion) -> "Figure":
    """Heat map of the classes that a student takes for others.

    Args:
        confusion: counts of test images.

    Returns:
        The figure: rows are classes by the label, columns those by the student, row 0 is on top; each row's shares in
        percent.
    """
    counts = np.array(confusion.counts, dtype=np.float64)
    images = np.maximum(counts.sum(1, keepdims=True), 1)  # a class without images has an empty row
    shares = np.where(counts > 0, 100 * counts / images, np.nan)
    return _plot_classes(
        shares, confusion.class_names, x="class by the student", y="class by the label", values="share of the row (%)"
    )


def _plot_classes(matrix: npt.NDArray[np.float64], names: Sequence[str], *, x: str, y: str, values: str) -> "Figure":
    """Heat map of K classes against K classes; NaN is blank."""
    classes = len(matrix)
    annotated = classes <= _ANNOTATED_CLASSES
    side = min(max(2.6, 0.46 * classes), 9.2) if annotated else 6.4
    with style():
        figure, axes = new_figure(side + 1.6, side + 0.9)
        image = axes.imshow(np.ma.masked_invalid(matrix), cmap="cividis")
        if annotated:
            _annotate_cells(axes, matrix)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if classes <= _NAMED_CLASSES:
            turned = sum(map(len, names)) > 2.5 * classes
            axes.set_xticks(range(classes), names, rotation=90 if turned else 0, fontsize=10 if annotated else 7)
            axes.set_yticks(range(classes), names, fontsize=10 if annotated else 7)
        index = " (index)" if classes > _NAMED_CLASSES else ""
        axes.set_xlabel(f"{x}{index}")
        axes.set_ylabel(f"{y}{index}")
        bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
        bar.set_label(values)
    return figure


def distance_matrix(transfer_set: TransferSet) -> npt.NDArray[np.float64]:
    """The mean distances as an array.

    Args:
        transfer_set: a transfer set with ``mean_distance``.

    Returns:
        ``(K, K)``: row = teacher's class of the image, column = target class; NaN where there is no pair.
    """
    return np.array(transfer_set.mean_distance, dtype=np.float64)  # None becomes NaN


def plot_distance_curve(transfer_set: TransferSet) -> "Figure":
    """Mean distance against queries per pair (Fig. 5a of DB3KD).

    Args:
        transfer_set: a transfer set with ``distance_curve``.

    Returns:
        The figure, with a logarithmic abscissa when the queries span two powers of ten.
    """
    queries, mean, std = np.array(transfer_set.distance_curve, dtype=np.float64)
    with style():
        figure, axes = new_figure(6.2, 3.8)
        axes.fill_between(queries, np.maximum(mean - std, 0), mean + std, color=COLOURS[0], alpha=0.15, linewidth=0)
        axes.plot(queries, mean, color=COLOURS[0], linewidth=1.8, marker="o", markersize=3.5)
        axes.annotate(
            f"{mean[-1]:.2f}",
            (queries[-1], mean[-1]),
            (0, 6),
            textcoords="offset points",
            ha="right",
            color=COLOURS[0],
        )
        if queries.min() > 0 and queries.max() >= 100 * queries.min():
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda queries, _: thousands(queries))
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.set_xlabel("queries per pair")
        axes.set_ylabel(f"mean {_distance(transfer_set)} (L2)")
    return figure


def plot_privacy(entry: Privacy) -> "Figure":
    """Cumulative distribution of the distance to the nearest local image, of pool images and of held-out real ones.

    Args:
        entry: the distances.

    Returns:
        The figure, one panel for each space; the ordinate begins at 1 %.
    """
    spaces = {"pixels": "pixels in [0, 1]", "features": f"{entry.network}'s features"}
    with style():
        figure, panels = new_row(3.6 * len(entry.spaces) + 0.6, 3.4, len(entry.spaces))
        percents = np.arange(1, 101)
        for axes, space in zip(panels, entry.spaces, strict=True):
            for values, colour, name in (
                (space.held_out, COLOURS[0], f"held-out real images ({entry.held_out_images:,})"),
                (space.pool, COLOURS[1], f"pool images ({entry.pool_images:,})"),
            ):
                axes.plot(values[1:], percents, color=colour, linewidth=1.8, label=name)
            axes.axvline(space.threshold, color=GREY, linewidth=0.9, linestyle=(0, (5, 3)))
            axes.set_yscale("log")
            axes.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
            axes.minorticks_off()
            axes.set_ylim(0.9, 110)
            axes.set_xlim(left=0)
            axes.grid(axis="y")
            axes.set_xlabel(f"L2 distance, {spaces.get(space.space, space.space)}")
        panels[0].set_ylabel("share of images (%)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _picture(names: Counter[str], kind: str, subject: str, title: str, caption: str, figure: "Figure") -> Picture:
    """A figure under a safe file name of its own; ``names`` counts those that were given."""
    slug = f"{kind}-{re.sub(r'[^a-z0-9]+', '-', subject.lower()).strip('-')}".rstrip("-")
    names[slug] += 1  # two subjects may share a slug
    name = f"{slug}.png" if names[slug] == 1 else f"{slug}-{names[slug]}.png"
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png")
    return Picture(name, title, caption, buffer.getvalue())


def _distance(transfer_set: TransferSet) -> str:
    kind = transfer_set.robustness or "distance"
    return _DISTANCES.get(kind.lower(), kind)


def _annotate_cells(axes: "Axes", matrix: npt.NDArray[np.float64]) -> None:
    """Write each distance into its cell, light on the dark half of the colour map and dark on the light half."""
    low, high = np.nanmin(matrix), np.nanmax(matrix)
    decimals = 1 if high >= 10 else 2
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8.5 if len(matrix) <= 12 else 6.5}
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            dark = value < (low + high) / 2 or low == high  # one distance only is drawn as the lowest
            colour = "white" if dark else "black"
            cell = axes.text(column, row, f"{value:.{decimals}f}", color=colour, **style)
            cell.set_in_layout(False)  # it lies within the axes; asking for its extent takes time
