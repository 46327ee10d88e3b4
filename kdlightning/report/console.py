"""The comparison as tables in the terminal."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console

from kdlightning.report.records import GeneratorRun
from kdlightning.report.rows import Row
from kdlightning.report.tables import comparison, generator_table

_ROWS = ("Method", "Student", "Access", "Accuracy % ± std (seeds)", "Agreement %", "Parameters", "Queries", "Seconds")
_GENERATORS = (
    *("Method", "Generator / critic", "Access", "Measured with"),
    *("FID", "KID", "Class entropy", "Queries", "Seconds"),
)


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print one compact table per data set, whose rows are next to each other."""
    for dataset, members in groupby(rows, key=lambda row: row.dataset):
        _wide(console).print(comparison(list(members), ratios=False).for_terminal(dataset, _ROWS))


def print_generators(generators: Sequence[GeneratorRun], console: Console | None = None) -> None:
    """Print one table of all generators; nothing if there are none."""
    if generators:
        _wide(console).print(generator_table(generators).for_terminal("Generators", _GENERATORS))


def _wide(console: Console | None) -> Console:
    return console or Console(width=max(100, Console().width))  # narrower, names would be broken up
