"""The comparison as one run of Weights & Biases."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdlightning.report.confusion import Confusion
from kdlightning.report.generators import GeneratorRun
from kdlightning.report.rows import KEYS, ReportError, Row, TransferSet

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
    ``queries/`` charts of each data set; ``confusion/`` a chart of each student; ``distances/`` a table of each
    transfer set with distances, whose heat map is a figure.

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
    with run:
        run.log(
            {
                "results": _results(wandb, rows),
                **{f"figures/{path.stem}": wandb.Image(str(path)) for path in figures},
                **{f"images/{key}": wandb.Image(str(path)) for key, path in _newest_grids(generators).items()},
                **_accuracies(wandb, rows),
                **_queries(wandb, rows),
                **_confusions(wandb, confusions),
                **_distances(wandb, transfer_sets),
            }
        )


def _results(wandb: Any, rows: Sequence[Row]) -> Any:  # noqa: ANN401 - W&B is imported late
    """All of the comparison as a table."""
    table = wandb.Table(columns=list(KEYS), allow_mixed_types=True)
    for row in rows:
        table.add_data(*row.flat().values())
    return table


def _accuracies(wandb: Any, rows: Sequence[Row]) -> dict[str, Any]:  # noqa: ANN401
    """A bar chart of each data set."""
    panels = {}
    for dataset, members in _by_dataset(rows).items():
        bars = [[f"{row.label}, {row.student}", 100 * row.accuracy_mean] for row in members]
        table = wandb.Table(columns=["row", "accuracy %"], data=bars)
        panels[f"accuracy/{dataset}"] = wandb.plot.bar(table, "row", "accuracy %", title=f"Accuracy, {dataset}")
    return panels


def _queries(wandb: Any, rows: Sequence[Row]) -> dict[str, Any]:  # noqa: ANN401
    """A scatter chart of each data set with a row that has asked."""
    panels = {}
    for dataset, members in _by_dataset(rows).items():
        points = [[row.queries, 100 * row.accuracy_mean] for row in members if row.queries]
        if points:
            table = wandb.Table(columns=["queries", "accuracy %"], data=points)
            title = f"Accuracy against queries, {dataset}"
            panels[f"queries/{dataset}"] = wandb.plot.scatter(table, "queries", "accuracy %", title=title)
    return panels


def _confusions(wandb: Any, confusions: Sequence[Confusion]) -> dict[str, Any]:  # noqa: ANN401
    """W&B's own confusion matrix of each student; of more classes than it can show, the figure alone."""
    panels = {}
    columns = ["Actual", "Predicted", "nPredictions"]  # as W&B's chart calls them
    for entry in confusions:
        names = entry.class_names
        if len(names) ** 2 <= _CHART_ROWS:
            cells = [[names[i], names[j], n] for i, row in enumerate(entry.counts) for j, n in enumerate(row)]
            panels[f"confusion/{entry.dataset}, {entry.label}"] = wandb.plot_table(
                "wandb/confusion_matrix/v1",
                wandb.Table(columns=columns, data=cells),
                {column: column for column in columns},
                {"title": f"{entry.label}, {entry.dataset}"},
            )
    return panels


def _distances(wandb: Any, transfer_sets: Sequence[TransferSet]) -> dict[str, Any]:  # noqa: ANN401
    """A table of the pairs of classes of each transfer set; blank pairs are left out."""
    panels = {}
    for entry in transfer_sets:
        names = entry.class_names
        pairs = [
            [names[i], names[j], distance]
            for i, row in enumerate(entry.mean_distance or ())
            for j, distance in enumerate(row)
            if distance is not None
        ]
        if pairs:
            columns = ["class of the image", "target class", "mean distance"]
            panels[f"distances/{entry.dataset}-{entry.path.name}"] = wandb.Table(columns=columns, data=pairs)
    return panels


def _newest_grids(generators: Sequence[GeneratorRun]) -> dict[str, Path]:
    """The last grid of images that each generator's run has beside it, by data set and the run's directory."""
    grids = {}
    for run in generators:
        drawn = sorted((run.path.parent / "images").glob("epoch-*.png"))
        if drawn:
            grids[f"{run.dataset}-{run.path.parent.name}"] = drawn[-1]
    return grids


def _by_dataset(rows: Sequence[Row]) -> dict[str, list[Row]]:
    datasets: dict[str, list[Row]] = {}
    for row in rows:
        datasets.setdefault(row.dataset, []).append(row)
    return datasets


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
