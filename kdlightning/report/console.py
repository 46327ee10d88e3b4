"""The comparison as tables in the terminal."""

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from kdlightning.report.records import GeneratorRun, Row
from kdlightning.report.tables import Table, comparison, generator_table

_STYLES = {"teacher": "bold", "reference": "dim"}
_ROWS = ("Method", "Student", "Access", "Accuracy % ± std (seeds)", "Agreement %", "Parameters", "Queries", "Seconds")
_GENERATORS = (
    *("Method", "Generator / critic", "Access", "Measured with"),
    *("FID", "KID", "Class entropy", "Queries", "Seconds"),
)


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print one compact table per data set, whose rows are next to each other."""
    for dataset, members in groupby(rows, key=lambda row: row.dataset):
        _print(comparison(list(members), ratios=False), dataset, _ROWS, console)


def print_generators(generators: Sequence[GeneratorRun], console: Console | None = None) -> None:
    """Print one table of all generators; nothing if there are none."""
    if generators:
        _print(generator_table(generators), "Generators", _GENERATORS, console)


def _print(table: Table, title: str, headings: Sequence[str], console: Console | None) -> None:
    """Some of the columns, with a rule where the kind of the items changes."""
    known = {column.heading: column for column in table.columns}
    chosen = [known[heading] for heading in headings]
    drawn = RichTable(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    drawn.pad_edge, drawn.collapse_padding = False, True  # two blanks between columns: it all fits into 100
    for column in chosen:
        fixed = column.value is not None or column.title == "Access"
        drawn.add_column(column.title, justify="right" if column.value else "left", no_wrap=fixed, overflow="fold")
    for kind, items in groupby(table.items, key=table.kind):
        for item in items:  # Text: names are not markup
            drawn.add_row(*(Text(column.show(item)) for column in chosen), style=_STYLES.get(kind))
        drawn.add_section()
    console = console or Console(width=max(100, Console().width))  # narrower, names would be broken up
    console.print(drawn)
