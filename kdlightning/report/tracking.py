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

    Args:
        rows: the comparison.
        figures: image files.
        project: W&B's project.
        name: the run's name.
        directory: where W&B keeps the run; None for its own choice (``WANDB_DIR``, else the working directory).
        transfer_sets: sets with distances.
        confusions: which classes students take for which.
        generators: runs that may have images beside them.

    Raises:
        ReportError: ``WANDB_MODE`` is online and W&B knows no key.
    """
    os.environ.setdefault("WANDB_MODE", "offline")
    import wandb  # seconds, and nothing else in a report needs it

    settings = wandb.Settings(console="off")
    try:
        with nobody_to_ask():
            run = wandb.init(project=project, name=name, job_type="report", dir=directory, settings=settings)
    except wandb.errors.UsageError as error:
        raise ReportError(
            f"W&B could not start ({error}). Run `wandb login`, set WANDB_API_KEY, or leave WANDB_MODE=offline."
        ) from error
    panels: dict[str, Any] = {"results": wandb.Table(columns=list(KEYS), allow_mixed_types=True)}
    for row in rows:
        panels["results"].add_data(*row.flat().values())
    panels |= {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures}
    panels |= {f"images/{key}": wandb.Image(str(path)) for key, path in _newest_grids(generators).items()}
    for dataset in dict.fromkeys(row.dataset for row in rows):
        panels |= _charts(wandb, dataset, [row for row in rows if row.dataset == dataset])
    for entry in confusions:
        if len(entry.class_names) ** 2 <= _CHART_ROWS:
            panels[f"confusion/{entry.dataset}, {entry.label}"] = _confusion(wandb, entry)
    for transfer_set in transfer_sets:
        if table := _distances(wandb, transfer_set):
            panels[f"distances/{transfer_set.dataset}-{transfer_set.path.name}"] = table
    with run:
        run.log(panels)


def _charts(wandb: Any, dataset: str, rows: Sequence[Row]) -> dict[str, Any]:  # noqa: ANN401 - W&B is imported late
    """A bar chart of accuracies, and one of accuracies against queries if a row has asked."""
    bars = [[f"{row.label}, {row.student}", 100 * row.accuracy_mean] for row in rows]
    table = wandb.Table(columns=["row", "accuracy %"], data=bars)
    charts = {f"accuracy/{dataset}": wandb.plot.bar(table, "row", "accuracy %", title=f"Accuracy, {dataset}")}
    if points := [[row.queries, 100 * row.accuracy_mean] for row in rows if row.queries]:
        table = wandb.Table(columns=["queries", "accuracy %"], data=points)
        title = f"Accuracy against queries, {dataset}"
        charts[f"queries/{dataset}"] = wandb.plot.scatter(table, "queries", "accuracy %", title=title)
    return charts


def _confusion(wandb: Any, entry: Confusion) -> Any:  # noqa: ANN401
    """W&B's own confusion matrix."""
    names, columns = entry.class_names, ["Actual", "Predicted", "nPredictions"]  # as W&B's chart calls them
    cells = [[names[i], names[j], n] for i, row in enumerate(entry.counts) for j, n in enumerate(row)]
    table, fields = wandb.Table(columns=columns, data=cells), {column: column for column in columns}
    title = {"title": f"{entry.label}, {entry.dataset}"}
    return wandb.plot_table("wandb/confusion_matrix/v1", table, fields, title)


def _distances(wandb: Any, entry: TransferSet) -> Any:  # noqa: ANN401
    """A table of the pairs of classes; blank pairs are left out, and None is a set without any."""
    names = entry.class_names
    cells = [(i, j, distance) for i, row in enumerate(entry.mean_distance or ()) for j, distance in enumerate(row)]
    pairs = [[names[i], names[j], distance] for i, j, distance in cells if distance is not None]
    columns = ["class of the image", "target class", "mean distance"]
    return wandb.Table(columns=columns, data=pairs) if pairs else None


def _newest_grids(generators: Sequence[GeneratorRun]) -> dict[str, Path]:
    """The last grid of images that each generator's run has beside it, by data set and the run's directory."""
    grids = ((run, sorted((run.path.parent / "images").glob("epoch-*.png"))) for run in generators)
    return {f"{run.dataset}-{run.path.parent.name}": drawn[-1] for run, drawn in grids if drawn}


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
