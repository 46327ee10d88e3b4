"""``python -m kdlightning ledger``: look into a query ledger, check it, take its answers elsewhere."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from kdlightning.accounting.ledger import Cost, LedgerError, QueryLedger, Totals
from kdlightning.accounting.spool import Spool
from kdlightning.remote.checks import is_none
from kdlightning.remote.replay import replay
from kdlightning.teachers.outcomes import Outcome

_DESCRIPTION = """\
A query ledger keeps every answer that was paid for. None of these commands asks a teacher or changes the ledger."""

_EPILOG = """\
examples:
  kdlightning ledger show runs/ledger.sqlite
  kdlightning ledger verify runs/ledger.sqlite
  kdlightning ledger export runs/ledger.sqlite --output answers.parquet
  kdlightning ledger replay runs/ledger.sqlite --config runs/kd/config.yaml --output runs/again"""

_COLUMNS = ("teacher", "image", "time", *Cost._fields, "dtype", "shape", "answer", "outcome")
_ROWS = 10_000  # of a Parquet row group


def main(argv: Sequence[str]) -> int:
    """Run a command; exit code 0, 1 if ``verify`` found damage, 2 if it could not do its work; a replay's own."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "replay":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if arguments.command == "replay":
            return replay(arguments.file, arguments.config, arguments.output, rest)
        with QueryLedger(arguments.file, readonly=True) as ledger:
            if arguments.command == "export":
                sys.stdout.write(f"{arguments.output}: {export(ledger, arguments.output):,} answers\n")
                return 0
            return _show(ledger) if arguments.command == "show" else _verify(ledger)
    except BrokenPipeError:
        raise  # the program ends in silence
    except (LedgerError, OSError, ValueError, ImportError) as error:
        sys.stderr.write(f"kdlightning ledger: {error}\n")
        return 2


def export(ledger: QueryLedger, output: str | Path) -> int:
    """Write all answers to a new file, ``*.csv`` or ``*.parquet``, in the order of their recording; how many it were.

    Columns: teacher (JSON), image (SHA-256, hex), time (UTC), bytes_up, bytes_down, price, input_tokens, output_tokens
    (shares of the request that the answer came with, in whole numbers but for the price; together they are the
    request's), dtype, shape and answer (its values in row-major order; all as float64 in Parquet), outcome.

    Raises:
        ValueError: another kind of file.
        FileExistsError: there is such a file.
        ImportError: Parquet without pyarrow.
    """
    output = Path(output)
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    if output.suffix not in writers:
        raise ValueError(f"{output}: expected a name that ends in .csv or .parquet")
    if output.exists():
        raise FileExistsError(f"{output} exists; choose another output, or delete it")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f"{output.name}.{os.getpid()}.tmp")
    try:
        rows = writers[output.suffix](temporary, _rows(ledger))
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdlightning ledger", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str, *, abbrev: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=abbrev)
        command.add_argument("file", metavar="FILE", type=Path, help="the ledger")
        return command

    add("show", "print what was paid to each teacher, and how often an answer was free")
    add("verify", "check the file, every answer and the totals; list requests whose fate is unknown")
    export = add("export", "write all answers with their times and costs to a table")
    export.add_argument("--output", metavar="TABLE", type=Path, required=True, help="a new .csv or .parquet file")
    text = "run a configuration once more from the ledger alone; further arguments are those of fit or predict"
    again = add("replay", text, abbrev=False)
    again.add_argument("--config", type=Path, required=True, help="of the run: config.yaml in its directory")
    again.add_argument("--output", metavar="DIR", type=Path, help="new directory (default: the run's, -replay)")
    return parser


def _show(ledger: QueryLedger) -> int:
    teachers, waiting = ledger.teachers(), len(Spool(ledger.path).files())
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    told = [name for name, value in ledger.totals()._asdict().items() if value or not name.endswith("tokens")]
    for heading in ("Teacher", *(name.replace("_", " ").capitalize() for name in told)):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, teacher in enumerate(teachers, start=1):
        table.add_row(str(number), *_cells(ledger.totals(teacher), told))
    table.add_section()
    table.add_row("all", *_cells(ledger.totals(), told), style="bold")
    Console(width=max(128, Console().width)).print(table)  # narrower, numbers would be broken up
    sys.stdout.write("\n")
    for number, teacher in enumerate(teachers, start=1):
        facts = ", ".join(f"{key} {value}" for key, value in teacher.items() if value)
        lacking = ledger.unanswered(teacher)
        sys.stdout.write(f"{number}: {facts}{f'; {lacking:,} images got no answer' if lacking else ''}\n")
    totals = ledger.totals()
    sys.stdout.write(f"\n{totals.paid:,} images paid for, {totals.repeated:,} answered for free; ")
    sys.stdout.write(f"{ledger.path.stat().st_size:,} bytes of file\n")
    if waiting:
        sys.stdout.write(f"{waiting:,} requests wait in {ledger.path.name}-spool; the next run reads them in\n")
    return 0


def _verify(ledger: QueryLedger) -> int:
    for line in ledger.in_flight():
        sys.stdout.write(f"in flight: {line}; counted as paid\n")
    wrong = ledger.verify()
    for line in wrong:
        sys.stdout.write(f"{line}\n")
    if wrong:
        sys.stderr.write(f"kdlightning ledger: {ledger.path}: {len(wrong)} faults\n")
        return 1
    sys.stdout.write(f"{ledger.path}: {ledger.totals().unique:,} answers as recorded, totals right\n")
    return 0


def _cells(totals: Totals, names: Sequence[str]) -> list[str]:
    return [f"{getattr(totals, name):,.10g}" if name == "price" else f"{getattr(totals, name):,}" for name in names]


def _rows(ledger: QueryLedger) -> Iterator[dict[str, Any]]:
    for entry in ledger.answers():
        teacher, time = json.dumps(entry.teacher, sort_keys=True), datetime.fromtimestamp(entry.time, UTC)
        costs, answer = [getattr(entry, unit) for unit in Cost._fields], entry.answer
        values = answer.dtype.str, list(answer.shape), answer.ravel().tolist()
        outcome = Outcome(int(answer)) if is_none(answer) else Outcome.ANSWERED
        row = teacher, entry.image.hex(), time, *costs, *values, outcome.name.lower()
        yield dict(zip(_COLUMNS, row, strict=True))


def _write_csv(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    number = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        for number, row in enumerate(rows, start=1):  # noqa: B007 - the last number is the number of rows
            writer.writerow(row | {"time": row["time"].isoformat(), "answer": json.dumps(row["answer"])})
    return number


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    try:
        pa, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install pyarrow, or export to .csv") from error
    text, real, whole, time = pa.string(), pa.float64(), pa.int64(), pa.timestamp("us", tz="UTC")
    types = (text, text, time, whole, whole, real, whole, whole, text, pa.list_(pa.int64()), pa.list_(real), text)
    schema, number = pa.schema(list(zip(_COLUMNS, types, strict=True))), 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema))
            number += len(group)
    return number
