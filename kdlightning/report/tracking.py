"""The comparison as one run of Weights & Biases."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdlightning.report.rows import KEYS, ReportError, Row


def log_to_wandb(
    rows: Sequence[Row],
    figures: Sequence[Path],
    project: str = "kdlightning",
    *,
    name: str = "report",
    directory: Path | None = None,
) -> None:
    """Log the comparison as one run: a table, the figures, and a bar and a scatter chart per data set.

    Offline unless the environment's ``WANDB_MODE`` says otherwise, and never a question on the terminal.

    Args:
        rows: the comparison.
        figures: image files.
        project: W&B's project.
        name: the run's name.
        directory: where W&B keeps the run; None for its own choice (``WANDB_DIR``, else the working directory).

    Raises:
        ReportError: ``WANDB_MODE`` is online and W&B knows no key.
    """
    os.environ.setdefault("WANDB_MODE", "offline")
    import wandb  # seconds, and nothing else in a report needs it

    settings = wandb.Settings(console="off")
    try:
        with _nobody_to_ask():
            run = wandb.init(project=project, name=name, job_type="report", dir=directory, settings=settings)
    except wandb.errors.UsageError as error:
        raise ReportError(
            f"W&B could not start ({error}). Run `wandb login`, set WANDB_API_KEY, or leave WANDB_MODE=offline."
        ) from error
    with run:
        table = wandb.Table(columns=list(KEYS), allow_mixed_types=True)
        for row in rows:
            table.add_data(*row.flat().values())
        run.log({"results": table, **{f"figures/{path.stem}": wandb.Image(str(path)) for path in figures}})
        for dataset in dict.fromkeys(row.dataset for row in rows):
            members = [row for row in rows if row.dataset == dataset]
            bars = [[f"{row.label}, {row.student}", 100 * row.accuracy_mean] for row in members]
            chart = wandb.Table(columns=["row", "accuracy %"], data=bars)
            run.log({f"accuracy/{dataset}": wandb.plot.bar(chart, "row", "accuracy %", title=f"Accuracy, {dataset}")})
            points = [[row.queries, 100 * row.accuracy_mean] for row in members if row.queries]
            if points:
                chart = wandb.Table(columns=["queries", "accuracy %"], data=points)
                title = f"Accuracy against queries, {dataset}"
                run.log({f"queries/{dataset}": wandb.plot.scatter(chart, "queries", "accuracy %", title=title)})


@contextmanager
def _nobody_to_ask() -> Iterator[None]:
    """Take the terminal away from standard input: without one, W&B raises instead of asking for a key."""
    terminal = sys.stdin
    with Path(os.devnull).open(encoding="utf-8") as nobody:
        sys.stdin = nobody
        try:
            yield
        finally:
            sys.stdin = terminal
