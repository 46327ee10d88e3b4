"""The comparison as one run of Weights & Biases."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdlightning.report.records import Confusion, GeneratorRun, ReportError, Row, TransferSet
from kdlightning.report.rows import KEYS

_CHART_ROWS = 10_000  # that a chart of W&B takes


def log_to_wandb(
    rows: Sequence[Row],
    figures: Sequence[Path],
    project: str = "kdlightning",
    *,
    name: str = "report",
    directory: Path | None = None,
    transfer_sets: Sequence[TransferSet] = (),
    confusions: Sequence[Confusion] = (),
    generators: Sequence[GeneratorRun] = (),
) -> None:
    """Log the comparison as one run, in panels.

    ``results`` is a table; ``figures/`` are the report's; ``images/`` what generators made last; ``accuracy/`` and
    ``queries/`` charts of each data set; ``confusion/`` a chart of each student, where W&B can show so many classes;
    ``distances/`` a table of each transfer set with distances, whose heat map is a figure.

    Offline unless the environment's ``WANDB_MODE`` says otherwise, and never a question on the terminal.

    W&B keeps the run in ``directory``; None is its own choice (``WANDB_DIR``, else the working directory).

    Raises:
        ReportError: ``WANDB_MODE`` is online, and W&B knows no key or is not reached.
    """
    os.environ.setdefault("WANDB_MODE", "offline")
    import wandb  # seconds, and nothing else in a report needs it

    settings = wandb.Settings(console="off")
    try:
        with nobody_to_ask():
            run = wandb.init(project=project, name=name, job_type="report", dir=directory, settings=settings)
    except wandb.errors.Error as error:  # no key, no network
        raise ReportError(
            f"W&B could not start ({error}). Run `wandb login` or set WANDB_API_KEY, see that its server can be "
            "reached, or leave WANDB_MODE=offline. The report itself is written."
        ) from error
    flat = [list(row.flat().values()) for row in rows]
    panels: dict[str, Any] = {"results": wandb.Table(columns=list(KEYS), data=flat, allow_mixed_types=True)}
    panels |= {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures}
    for generator in generators:
        if grids := sorted((generator.path.parent / "images").glob("epoch-*.png")):
            panels[f"images/{generator.dataset}-{generator.path.parent.name}"] = wandb.Image(str(grids[-1]))
    for dataset in dict.fromkeys(row.dataset for row in rows):
        members = [row for row in rows if row.dataset == dataset and row.accuracy_mean is not None]
        bars = [[f"{row.label}, {row.student}", 100 * (row.accuracy_mean or 0)] for row in members]
        table = wandb.Table(columns=["row", "accuracy %"], data=bars)
        panels[f"accuracy/{dataset}"] = wandb.plot.bar(table, "row", "accuracy %", title=f"Accuracy, {dataset}")
        if points := [[row.queries, 100 * (row.accuracy_mean or 0)] for row in members if row.queries]:
            table = wandb.Table(columns=["queries", "accuracy %"], data=points)
            title = f"Accuracy against queries, {dataset}"
            panels[f"queries/{dataset}"] = wandb.plot.scatter(table, "queries", "accuracy %", title=title)
    for entry in confusions:
        if len(entry.class_names) ** 2 <= _CHART_ROWS:
            fields = {name: name for name in ("Actual", "Predicted", "nPredictions")}  # as W&B's chart calls them
            table = wandb.Table(columns=list(fields), data=_pairs(entry.class_names, entry.counts))
            said = {"title": f"{entry.label}, {entry.dataset}"}
            chart = wandb.plot_table("wandb/confusion_matrix/v1", table, fields, said)
            panels[f"confusion/{entry.dataset}, {entry.label}"] = chart
    for measured in transfer_sets:
        if pairs := _pairs(measured.class_names, measured.mean_distance or ()):
            table = wandb.Table(columns=["class of the image", "target class", "mean distance"], data=pairs)
            panels[f"distances/{measured.dataset}-{measured.path.name}"] = table
    with run:
        run.log(panels)


def _pairs(names: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> list[list[Any]]:
    """``[row's class, column's class, value]`` of every cell that is not blank."""
    cells = [(i, j, value) for i, row in enumerate(matrix) for j, value in enumerate(row)]
    return [[names[i], names[j], value] for i, j, value in cells if value is not None]


@contextmanager
def nobody_to_ask() -> Iterator[None]:
    """Take the terminal away from standard input: without one, W&B raises instead of asking for a key."""
    terminal = sys.stdin
    with Path(os.devnull).open(encoding="utf-8") as nobody:
        sys.stdin = nobody
        try:
            yield
        finally:
            sys.stdin = terminal
