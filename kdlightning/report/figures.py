"""The figures of a report: accuracy against queries, distances and confusions of classes, nearness to local images."""

import re
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.figure import Figure

from kdlightning.report.accuracy import plot_accuracy
from kdlightning.report.canvas import COLOURS, GREY, STYLE, THOUSANDS, as_png, as_svg
from kdlightning.report.curves import AccuracyCurve, find_curves, plot_curve
from kdlightning.report.names import drawable, families, labels, note, one_line
from kdlightning.report.records import Confusion, Privacy, Row, TransferSet

_DISTANCES = {"sd": "sample distance", "bd": "boundary distance", "mbd": "minimal boundary distance"}
_ANNOTATED_CLASSES = 20  # more cells than 20 x 20 are too small for their numbers
_NAMED_CLASSES = 40  # more names than these overlap on an axis
_ACCURACY = (
    "Mean over seeds; bars are one sample standard deviation. Points that would hide others stand aside, with a line "
    "to their place."
)
_CURVE = "Mean over seeds; the band is its 95 % interval. Grey: what does not depend on the number."
_UNKNOWN = "Without a place on the axis, as their queries are not known"
_PRIVACY = (
    "Share of images (logarithmic) whose nearest local image is within a distance. Grey: the distance within which "
    "{:g} % of held-out real images lie. A pool that holds copies rises left of it."
)
_CONFUSION = "Share of each class's test images, in percent, by the class that the student sees; blank: none."
_PERCENT = (1, 2, 5, 10, 20, 50, 100)


class Picture(NamedTuple):
    """A figure, ready to be written."""

    dataset: str  #: whose it is
    name: str  #: file name, ``"accuracy-digits.png"``
    heading: str  #: what stands above it among its like
    title: str  #: what it shows
    caption: str  #: what a reader has to know about it
    png: bytes  #: the file's content
    svg: str  #: the same for an HTML page
    wide: bool  #: more than twice as wide as high


def draw_figures(rows: Sequence[Row], transfer_sets: Sequence[TransferSet]) -> list[Picture]:
    """Accuracy against queries for each data set with a student that asked; then the distances of transfer sets.

    What stands on a curve (`draw_curves`) is not shown again.
    """
    pictures: list[Picture] = []
    drawn = {row.key for curve in find_curves(rows) for row in curve.rows if row.point}
    rows = [row for row in rows if row.key not in drawn]
    for dataset in dict.fromkeys(row.dataset for row in rows):
        members = [row for row in rows if row.dataset == dataset]
        unknown = sum(row.role == "student" and row.queries is None for row in members)
        if figure := plot_accuracy(members):
            caption = _ACCURACY + (f" {_UNKNOWN}: {unknown} of the students." if unknown else "")
            _add(pictures, "accuracy", dataset, "", "Accuracy against queries", caption, figure)
    for entry in transfer_sets:
        kind, name = _distance(entry), entry.path.name
        source = f"Transfer set {name}" + (f", {entry.queries:,} queries." if entry.queries else ".")
        if np.isfinite(distance_matrix(entry)).any():
            caption = f"{source} Mean L2 distance of pixels in [0, 1]; blank: no such pair. {note(entry.class_names)}"
            _add(pictures, "distances", entry.dataset, name, f"Class-by-class {kind}", caption, plot_distances(entry))
        if entry.distance_curve is not None:
            what, caption = (
                f"{kind.capitalize()} against queries per pair",
                f"{source} The band is one standard deviation.",
            )
            _add(pictures, "curve", entry.dataset, name, what, caption, plot_distance_curve(entry))
    return pictures


def draw_curves(curves: Sequence[AccuracyCurve]) -> list[Picture]:
    """Accuracy against a number of the runs' points, a figure for each curve."""
    pictures: list[Picture] = []
    for curve in curves:
        what = ", ".join(part for part in (f"Accuracy against {curve.axis}", curve.student, curve.place) if part)
        _add(
            pictures, "against", curve.rows[0].dataset, f"{curve.axis} {curve.student}", what, _CURVE, plot_curve(curve)
        )
    return pictures


def draw_privacy(entries: Sequence[Privacy]) -> list[Picture]:
    """How near pools come to local images, a figure for each."""
    pictures: list[Picture] = []
    for entry in entries:
        caption, figure = _PRIVACY.format(100 * entry.level), plot_privacy(entry)
        _add(pictures, "privacy", entry.dataset, entry.label, "Distance to the nearest local image", caption, figure)
    return pictures


def draw_confusions(confusions: Sequence[Confusion]) -> list[Picture]:
    """Which classes students take for which, a figure for each."""
    pictures: list[Picture] = []
    for entry in confusions:
        seeds = ", ".join(map(str, entry.seeds))
        caption, figure = f"{_CONFUSION} Seeds: {seeds}. {note(entry.class_names)}", plot_confusion(entry)
        _add(pictures, "confusion", entry.dataset, entry.label, "Classes taken for others", caption, figure)
    return pictures


def _add(
    pictures: list[Picture], kind: str, dataset: str, subject: str, what: str, caption: str, figure: Figure
) -> None:
    """A figure under a safe file name of its own; two subjects may share a slug."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"{kind}-{dataset}-{subject}".lower())[:150].strip("-")  # file systems take 255
    taken = {picture.name for picture in pictures}
    name = next(name for i in count(1) if (name := f"{slug}.png" if i == 1 else f"{slug}-{i}.png") not in taken)
    title = one_line(", ".join([what, dataset, *([subject] if kind in ("privacy", "confusion") else [])]), 200)
    heading, box = subject if kind == "confusion" else title, figure.get_tightbbox()
    wide = box.width > 2 * box.height
    pictures.append(Picture(dataset, name, heading, title, caption.strip(), as_png(figure), as_svg(figure), wide))


def plot_distances(transfer_set: TransferSet) -> Figure:
    """Heat map of the mean distances (Fig. 5 of DB3KD): a row per class of an image, a column per target class."""
    axes = ("target class", "teacher's class of the image", f"mean {_distance(transfer_set)} (L2)")
    return _plot_classes(distance_matrix(transfer_set), transfer_set.class_names, *axes)


def distance_matrix(transfer_set: TransferSet) -> npt.NDArray[np.float64]:
    """The mean distances, ``(K, K)``: row = teacher's class of the image, column = target class; NaN for no pair."""
    return np.array(transfer_set.mean_distance, dtype=np.float64)  # None becomes NaN


def plot_confusion(confusion: Confusion) -> Figure:
    """Heat map of each row's shares in percent: a row per class by the label, a column per class by the student."""
    counts = np.array(confusion.counts, dtype=np.float64)
    images = np.maximum(counts.sum(1, keepdims=True), 1)  # a class without images has an empty row
    axes = ("class by the student", "class by the label", "share of the row (%)")
    return _plot_classes(np.where(counts > 0, 100 * counts / images, np.nan), confusion.class_names, *axes)


@rc_context(STYLE)
def _plot_classes(matrix: npt.NDArray[np.float64], names: Sequence[str], x: str, y: str, values: str) -> Figure:
    """Heat map of K classes against K classes, row 0 on top; NaN is blank."""
    classes = len(matrix)
    annotated = classes <= _ANNOTATED_CLASSES
    side = min(max(2.6, 0.46 * classes), 9.2) if annotated else 6.4
    shown, family = labels(names), families(names)
    turned = sum(map(len, shown)) > 2.5 * classes
    room = 0.08 * max(0, max(map(len, shown)) - 8) if classes <= _NAMED_CLASSES else 0  # inches, of long names
    figure = Figure(figsize=(side + 1.6 + room, side + 0.9 + room * turned))
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(matrix), cmap="cividis", interpolation="none")
    low, high = np.nanmin(matrix), np.nanmax(matrix)
    for (row, column), value in np.ndenumerate(matrix) if annotated else ():
        if np.isfinite(value):
            dark = value < (low + high) / 2 or low == high  # one value only is drawn as the lowest
            cell = axes.text(column, row, f"{value:.{1 if high >= 10 else 2}f}", ha="center", va="center")
            cell.set(color="white" if dark else "black", fontsize=8.5 if classes <= 12 else 6.5)
            cell.set_in_layout(False)  # it lies within the axes; asking for its extent takes time
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if named := classes <= _NAMED_CLASSES:
        size = 10 if annotated else 7
        axes.set_xticks(range(classes), shown, rotation=90 if turned else 0, fontsize=size, family=family)
        axes.set_yticks(range(classes), shown, fontsize=size, family=family)
    axes.set(xlabel=x if named else f"{x} (index)", ylabel=y if named else f"{y} (index)")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, label=values)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return figure


@rc_context(STYLE)
def plot_distance_curve(transfer_set: TransferSet) -> Figure:
    """Mean distance against queries per pair (Fig. 5a of DB3KD), logarithmic when these span two powers of ten."""
    queries, mean, std = np.array(transfer_set.distance_curve, dtype=np.float64)
    figure = Figure(figsize=(6.2, 3.8))
    axes = figure.subplots()
    axes.fill_between(queries, np.maximum(mean - std, 0), mean + std, color=COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(queries, mean, color=COLOURS[0], linewidth=1.8, marker="o", markersize=3.5)
    last, place = f"{mean[-1]:.2f}", (queries[-1], mean[-1])
    axes.annotate(last, place, (0, 6), textcoords="offset points", ha="right", color=COLOURS[0])
    if queries.min() > 0 and queries.max() >= 100 * queries.min():
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(THOUSANDS)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.set(xlabel="queries per pair", ylabel=f"mean {_distance(transfer_set)} (L2)")
    return figure


@rc_context(STYLE)
def plot_privacy(entry: Privacy) -> Figure:
    """Share of pool images and of held-out real ones by the distance to the nearest local image, a panel per space."""
    spaces = {"pixels": "pixels in [0, 1]", "features": f"{drawable(entry.network or '')}'s features"}
    figure = Figure(figsize=(3.6 * len(entry.spaces) + 0.6, 3.4))
    panels = figure.subplots(1, len(entry.spaces), sharey=True, squeeze=False)[0]
    for axes, (name, space) in zip(panels, entry.spaces.items(), strict=True):
        for values, colour, images in (
            (space.held_out, COLOURS[0], f"held-out real images ({entry.held_out_images:,})"),
            (space.pool, COLOURS[1], f"pool images ({entry.pool_images:,})"),
        ):
            axes.plot(values[1:], np.arange(1, 101), color=colour, linewidth=1.8, label=images)
        axes.axvline(space.threshold, color=GREY, linewidth=0.9, linestyle=(0, (5, 3)))
        axes.set(yscale="log", ylim=(0.9, 110), xlabel=f"L2 distance, {spaces.get(name, name)}")
        axes.set_yticks(_PERCENT, [str(one) for one in _PERCENT])
        axes.minorticks_off()
        axes.set_xlim(left=0)
        axes.grid(axis="y")
    panels[0].set_ylabel("share of images (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _distance(transfer_set: TransferSet) -> str:
    kind = transfer_set.robustness or "distance"
    return _DISTANCES.get(kind.lower(), kind)
