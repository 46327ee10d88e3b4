"""``kdlightning networks``: the catalogue as a table."""

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table


def main(argv: Sequence[str]) -> int:
    """Print every named network with its default input, parameters and multiply-accumulates."""
    told = "List the networks with parameters and multiply-accumulates per image, at their default arguments."
    argparse.ArgumentParser(prog="kdlightning networks", description=told).parse_args(argv)
    from kdlightning.networks.statistics import catalogue

    table = Table("network", "input", Column("parameters", justify="right"), Column("MACs", justify="right"))
    for entry in catalogue():
        table.add_row(entry.name, " x ".join(map(str, entry.input)), f"{entry.parameters:,}", f"{entry.macs:,}")
    Console().print(table)
    return 0
