"""The figures of a report: accuracy against queries, distances and confusions of classes, nearness to local images.

Matplotlib is imported when a figure is drawn, and without pyplot: nothing global, no display needed.
"""

import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdlightning.report.confusion import Confusion
from kdlightning.report.privacy import Privacy
from kdlightning.report.rows import Row, TransferSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Okabe & Ito's palette without yellow and black: told apart with every common colour blindness, also on white
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_INK, _GREY, _PALE = "#222222", "#6b6b6b", "#e6e6e6"
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": _INK,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.minor.size": 0,
    "grid.color": _PALE,
    "grid.linewidth": 0.8,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.1,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
}
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


def plot_accuracy(rows: Sequence[Row]) -> "Figure | None":
    """Accuracy of each student against its queries (logarithmic), with teachers and references as lines.

    Students without queries stand at a tick of their own, "0", left of the axis' first power of ten.

    Args:
        rows: rows of one data set.

    Returns:
        The figure, or None when no student asked anything.
    """
    students = [row for row in rows if row.role == "student" and row.queries is not None]
    asked = [float(row.queries) for row in students if row.queries]
    if not asked:
        return None
    with _style():
        figure, axes = _new(6.2, 4.2)
        axes.set_xscale("log")
        low, high = math.floor(math.log10(min(asked))), math.ceil(math.log10(max(asked)) + 0.05)
        free = any(row.queries == 0 for row in students)
        axes.set_xlim(10.0 ** (low - 0.25 - free), 10.0**high)
        exponents = np.arange(low, high + 1, max(1, (high - low) // 5))
        ticks = [10.0**exponent for exponent in exponents]
        labels = [_thousands(tick) for tick in ticks]
        zero = 10.0 ** (low - 0.8)
        if free:
            ticks, labels = [zero, *ticks], ["0", *labels]
            axes.axvline(10.0 ** (low - 0.4), color=_GREY, linewidth=0.8, linestyle=(0, (1, 3)))
        axes.set_xticks(ticks, labels)
        points = [row.queries or zero for row in students]
        _draw_points(axes, students, points)
        lines = [row for row in rows if row.role != "student"]
        for row in lines:
            style = "-" if row.role == "teacher" else (0, (5, 3))
            axes.axhline(100 * row.accuracy_mean, color=_GREY, linewidth=0.9, linestyle=style, zorder=1)
        _limit_percent(axes)
        axes.grid(axis="y")
        axes.set_xlabel("queries (images answered by the teacher)")
        axes.set_ylabel("test accuracy (%)")
        networks = {row.student for row in rows if row.role != "teacher"}
        _label_lines(figure, axes, lines, name_students=len(networks) > 1)
        _label_points(figure, axes, students, points)
    return figure


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
    with _style():
        figure, axes = _new(side + 1.6, side + 0.9)
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
    with _style():
        figure, axes = _new(6.2, 3.8)
        axes.fill_between(queries, np.maximum(mean - std, 0), mean + std, color=_COLOURS[0], alpha=0.15, linewidth=0)
        axes.plot(queries, mean, color=_COLOURS[0], linewidth=1.8, marker="o", markersize=3.5)
        axes.annotate(
            f"{mean[-1]:.2f}",
            (queries[-1], mean[-1]),
            (0, 6),
            textcoords="offset points",
            ha="right",
            color=_COLOURS[0],
        )
        if queries.min() > 0 and queries.max() >= 100 * queries.min():
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda queries, _: _thousands(queries))
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
    with _style():
        figure, panels = _new_row(3.6 * len(entry.spaces) + 0.6, 3.4, len(entry.spaces))
        percents = np.arange(1, 101)
        for axes, space in zip(panels, entry.spaces, strict=True):
            for values, colour, name in (
                (space.held_out, _COLOURS[0], f"held-out real images ({entry.held_out_images:,})"),
                (space.pool, _COLOURS[1], f"pool images ({entry.pool_images:,})"),
            ):
                axes.plot(values[1:], percents, color=colour, linewidth=1.8, label=name)
            axes.axvline(space.threshold, color=_GREY, linewidth=0.9, linestyle=(0, (5, 3)))
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
    with _style():
        figure.savefig(buffer, format="png")
    return Picture(name, title, caption, buffer.getvalue())


def _new(width: float, height: float) -> "tuple[Figure, Axes]":
    figure, panels = _new_row(width, height, 1)
    return figure, panels[0]


def _new_row(width: float, height: float, columns: int) -> "tuple[Figure, list[Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, sharey=True, squeeze=False)[0])


@contextmanager
def _style() -> Iterator[None]:
    from matplotlib import rc_context

    style: Mapping[Any, Any] = _STYLE
    with rc_context(dict(style)):
        yield


def _distance(transfer_set: TransferSet) -> str:
    kind = transfer_set.robustness or "distance"
    return _DISTANCES.get(kind.lower(), kind)


def _limit_percent(axes: "Axes") -> None:
    """Let no tick stand outside 0 … 100 %, while markers at the ends keep their room."""
    bottom, top = axes.get_ylim()
    room = 0.05 * (top - bottom)
    bottom, top = max(bottom - room, -room), min(top + room, 100 + room)
    axes.set_yticks([tick for tick in axes.get_yticks() if max(bottom, 0) <= tick <= min(top, 100)])
    axes.set_ylim(bottom, top)


def _thousands(queries: float) -> str:
    """A tick's label: ``"500"``, ``"20k"``, ``"1M"``."""
    from matplotlib.ticker import EngFormatter

    return str(EngFormatter(sep="")(queries))


def _draw_points(axes: "Axes", rows: Sequence[Row], points: Sequence[float]) -> None:
    """One marker with its error bar per row: a colour per method, a marker per row of the method."""
    methods = list(dict.fromkeys(row.method for row in rows))
    seen: Counter[str] = Counter()
    for row, x, name in zip(rows, points, _short_names(rows), strict=True):
        colour = _COLOURS[methods.index(row.method) % len(_COLOURS)]
        marker = _MARKERS[seen[row.method] % len(_MARKERS)]
        y, std = 100 * row.accuracy_mean, 100 * row.accuracy_std
        axes.plot([x, x], [y - std, y + std], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
        axes.plot(x, y, marker, color=colour, markersize=7.5, markeredgecolor="white", label=name, zorder=3)
        seen[row.method] += 1


def _short_names(rows: Sequence[Row]) -> list[str]:
    """Method and variant, with the student where there are several, teacher and access where rows need them."""
    names = [row.label for row in rows]
    for key in ("student", "teacher", "access"):
        needed = key == "student" or len(set(names)) < len(names)
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
            color=_INK if row.role == "teacher" else _GREY,
            arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0},
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


def _label_points(figure: "Figure", axes: "Axes", rows: Sequence[Row], points: Sequence[float]) -> None:
    """Write each point's name beside it; if one name finds no free place, use a legend for all of them."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    taken = []
    for row, x in zip(rows, points, strict=True):
        ends = [(x, 100 * (row.accuracy_mean + sign * row.accuracy_std)) for sign in (-1, 1)]
        taken.append(Bbox(axes.transData.transform(ends)).padded(4 / 72 * figure.dpi))  # 4 pt: half a marker
    placed: list[Annotation] = []
    for row, x, name in zip(rows, points, _short_names(rows), strict=True):
        label = _place(axes, (x, 100 * row.accuracy_mean), name, frame, taken)
        if label is None:
            for earlier in placed:
                earlier.remove()
            figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9, handletextpad=0.2)
            return
        placed.append(label)
        taken.append(label.get_window_extent())


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
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6})
            box = label.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                return label
            label.remove()
    return None


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
