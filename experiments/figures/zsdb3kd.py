"""The panels of Fig. 6 of ZSDB3KD's paper, drawn from run directories.

    python experiments/figures/zsdb3kd.py evolution --images DIR      # left: pseudo images over the iterations
    python experiments/figures/zsdb3kd.py means --images DIR          # middle: the mean image of every class
    python experiments/figures/zsdb3kd.py iterations REPORT...        # upper right: accuracy against iterations
    python experiments/figures/zsdb3kd.py samples REPORT...           # bottom right: accuracy against images per class

DIR is the transfer set of ``ZSDB3KDImages``, with ``snapshots`` for ``evolution``. REPORT is a report's directory, or
its ``results.json``. Rows are picked by ``result.variant``: ``iterations=10``, ``per_class=400``; others are left out.

.. [Wang2021] Z. Wang. Zero-Shot Knowledge Distillation from a Decision-Based Black-Box Model. ICML 2021.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from drawing.curves import collect, draw_line, finish, new_figure
from drawing.runs import rows_at
from matplotlib.figure import Figure
from torchvision.utils import make_grid

from kdlightning.data import TransferSet
from kdlightning.report import Row


def evolution(images: TransferSet, per_class: int = 1) -> Figure:
    """The first images of every class, a row each, from the first snapshot to the last iteration.

    Args:
        images: of ``ZSDB3KDImages``.
        per_class: rows for every class.

    Raises:
        ValueError: the set has no snapshots.
    """
    after = sorted(int(name.rpartition("_")[2]) for name in images.columns if re.fullmatch(r"image_after_\d+", name))
    if not after:
        raise ValueError(f"{images.path} has no snapshots: make it with snapshots: [0, 5, 10]")
    label = images.column("label")
    rows = torch.cat([torch.nonzero(label == k).squeeze(1)[:per_class] for k in label.unique().tolist()])
    columns = [images.column(f"image_after_{number}")[rows] for number in after] + [images.column("image")[rows]]
    grid = make_grid(torch.stack(columns, 1).flatten(0, 1).float() / 255, nrow=len(columns), padding=1, pad_value=1.0)
    figure, (axes,) = new_figure(1)
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    last = images.manifest["settings"]["iterations"]
    width = grid.shape[2] / len(columns)
    axes.set_xticks([width * (place + 0.5) for place in range(len(columns))], [*map(str, after), str(last)])
    axes.set_yticks([])
    axes.set_xlabel("iterations")
    return figure


def class_means(images: TransferSet) -> dict[int, torch.Tensor]:
    """The mean image ``(C, H, W)`` in [0, 1] of every class that the teacher sees in the set."""
    label, pixels = images.column("label"), images.column("image").float() / 255
    return {k: pixels[label == k].mean(0) for k in label.unique().tolist()}


def means(images: TransferSet) -> Figure:
    """The mean image of every class, each stretched to its own range."""
    grid = make_grid(list(class_means(images).values()), nrow=10, padding=1, normalize=True, scale_each=True)
    figure, (axes,) = new_figure(1)
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(f"mean of {len(images):,} pseudo images, class by class")
    return figure


def accuracy(rows: Sequence[Row], setting: str, name: str) -> Figure:
    """Accuracy against a setting, a panel per data set.

    Args:
        rows: of any method.
        setting: the variants' ``iterations`` or ``per_class``.
        name: the abscissa's.

    Raises:
        ValueError: there is no such row.
    """
    curves = collect(rows, setting, {"": "ZSDB3KD"})
    figure, panels = new_figure(len(curves))
    for axes, ((dataset, access, line), points) in zip(panels, curves.items(), strict=True):
        draw_line(axes, points, line)
        axes.set_title(f"{dataset}, {access}", loc="left")
        axes.set_xlabel(name)
    return finish(figure, panels)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one figure and say where it is."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(dest="figure", required=True)
    for name, what in (("evolution", "left"), ("means", "middle")):
        commands.add_parser(name, help=f"Fig. 6, {what}").add_argument("--images", type=Path, required=True)
    for name, what in (("iterations", "upper right"), ("samples", "bottom right")):
        commands.add_parser(name, help=f"Fig. 6, {what}").add_argument("reports", nargs="+", type=Path)
    for command in commands.choices.values():
        command.add_argument("--output", type=Path, default=Path("figure.png"))
    options = parser.parse_args(argv)
    draw: dict[str, Callable[[argparse.Namespace], Figure]] = {
        "evolution": lambda given: evolution(TransferSet(given.images)),
        "means": lambda given: means(TransferSet(given.images)),
        "iterations": lambda given: accuracy(rows_at(given.reports), "iterations", "iterations of the synthesis"),
        "samples": lambda given: accuracy(rows_at(given.reports), "per_class", "images per class"),
    }
    try:
        figure = draw[options.figure](options)
    except (OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    figure.savefig(options.output, dpi=200)
    sys.stdout.write(f"{options.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
