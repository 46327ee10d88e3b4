"""The comparison as a table in the terminal."""

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdlightning.report import text
from kdlightning.report.generators import GeneratorRun
from kdlightning.report.rows import Row

_STYLES = {"teacher": "bold", "reference": "dim", "student": ""}


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print one compact table per data set.

    Args:
        rows: the rows, those of one data set next to each other.
        console: where to print; None for the terminal.
    """
    console = console or Console(width=max(100, Console().width))  # narrower, names would be broken up
    for dataset, members in groupby(rows, key=lambda row: row.dataset):
        title = Text(dataset, style="bold")
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
        table.pad_edge, table.collapse_padding = False, True  # two blanks between columns: it all fits into 100
        table.add_column("Method", overflow="fold")
        table.add_column("Student", overflow="fold")
        table.add_column("Access", no_wrap=True)
        for heading in ("Accuracy %\n± std (seeds)", "Agreement\n%", "Parameters", "Queries", "Seconds"):
            table.add_column(heading, justify="right", no_wrap=True)
        previous = None
        for row in members:
            if previous not in (None, row.role):
                table.add_section()
            previous = row.role
            cells = (
                row.label,
                row.student,
                row.role if row.role == "teacher" else row.access or text.DASH,
                text.accuracy(row),
                text.percent(row.agreement),
                text.count(row.parameters),
                text.count(row.queries),
                text.seconds(row.seconds),
            )
            table.add_row(*map(Text, cells), style=_STYLES[row.role])  # Text: names are not markup
        console.print(table)


def print_generators(generators: Sequence[GeneratorRun], console: Console | None = None) -> None:
    """Print one table of all generators; nothing if there are none.

    Args:
        generators: the runs.
        console: where to print; None for the terminal.
    """
    if not generators:
        return
    console = console or Console(width=max(100, Console().width))
    title = Text("Generators", style="bold")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.pad_edge, table.collapse_padding = False, True
    for heading in ("Method", "Generator / critic", "Access", "Measured with"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "Access")
    for heading in ("FID", "KID", "Class\nentropy", "Queries", "Seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in generators:
        cells = (
            run.label,
            f"{run.generator or text.DASH} / {run.critic or text.DASH}",
            run.access or text.DASH,
            run.features or text.DASH,
            text.decimal(run.fid),
            text.decimal(run.kid),
            text.decimal(run.class_entropy),
            text.count(run.queries),
            text.seconds(run.seconds),
        )
        table.add_row(*map(Text, cells))
    console.print(table)
