"""The tables of a report: their columns are described once, for pages and for the terminal, where they are printed."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from kdlightning.report import text
from kdlightning.report.curves import AccuracyCurve, Arm
from kdlightning.report.paired import Comparison, p_value, points
from kdlightning.report.records import SHOWN, Bill, GeneratorRun, LeftOut, Privacy, Row, Run
from kdlightning.report.rows import teacher_sizes

Value = Callable[[Any], float | None]
_STYLES = {"teacher": "bold", "reference": "dim"}
_ROWS = (
    *("Method", "Point", "Student", "Access"),
    *("Accuracy % ± std (seeds)", "Agreement %", "Parameters", "Queries", "Seconds"),
)
_GENERATORS = (
    *("Method", "Generator / critic", "Access", "Measured with"),
    *("FID", "KID", "Class entropy", "Queries", "Seconds"),
)


class Column(NamedTuple):
    """A column of a table; one with values is one of numbers, aligned right."""

    title: str  #: its heading; a line break stands where the terminal may break it
    show: Callable[[Any], str]  #: item → text, unescaped
    value: Value | None = None  #: item → what it is sorted by
    hidden: str = ""  #: where an HTML page shows it only when asked to: ``"extra"`` everywhere, ``"narrow"`` on phones

    @property
    def heading(self) -> str:
        """The title on one line."""
        return " ".join(self.title.split())

    @property
    def look(self) -> str:
        """The classes of its cells in HTML."""
        return f"{'number' if self.value else 'words'} {self.hidden}".strip()


class Table(NamedTuple):
    """Items, line by line, under columns."""

    columns: Sequence[Column]
    items: Sequence[Any]
    #: item → ``"teacher"``, ``"reference"`` or ``"student"``, which look different
    kind: Callable[[Any], str] = lambda item: getattr(item, "role", "student")


def _words(title: str, key: str, hidden: str = "") -> Column:
    return Column(title, lambda item: getattr(item, key) or text.DASH, hidden=hidden)


def _numbers(title: str, key: str, show: Callable[[Any], str], hidden: str = "") -> Column:
    return Column(title, lambda item: show(getattr(item, key, None)), lambda item: getattr(item, key, None), hidden)


def _seed(seed: int | None) -> str:
    return text.DASH if seed is None else str(seed)


def comparison(rows: Sequence[Row], *, ratios: bool = True) -> Table:
    """The rows of one data set; with ``ratios``, parameters say how much smaller than its teacher a student is."""
    sizes = teacher_sizes(rows) if ratios else {}

    def parameters(row: Row) -> str:
        teacher = sizes.get(row.teacher or "") if row.role != "teacher" else None
        smaller = f" ({teacher / row.parameters:.1f}× smaller)" if teacher and row.parameters else ""
        return f"{text.count(row.parameters)}{smaller}"

    def accuracy(row: Row) -> str:
        return f"{text.spread(row.accuracy_mean, row.accuracy_std, len(row.seeds))} ({len(row.seeds)})"

    def agreement(row: Row) -> str:  # where it is all that was measured, it has to show its spread
        std = row.agreement_std if row.accuracy_mean is None else None
        return text.spread(row.agreement, std, len(row.seeds))

    points = [_words("Point", "place")] if any(row.point for row in rows) else []
    columns = (
        _words("Method", "label"),
        *points,
        _words("Student", "student", "narrow"),
        Column("Access", lambda row: row.role if row.role == "teacher" else row.access or text.DASH),
        Column("Accuracy %\n± std (seeds)", accuracy, lambda row: row.accuracy_mean),
        Column("Agreement\n%", agreement, lambda row: row.agreement),
        Column("Parameters", parameters, lambda row: row.parameters),
        _numbers("Queries", "queries", text.count),
        _words("Role", "role", "extra"),
        _words("Teacher", "teacher", "extra"),
        _numbers("MACs", "macs", text.scaled, "extra"),
        _numbers("Bytes up", "bytes_up", partial(text.scaled, unit="B"), "extra"),
        _numbers("Bytes down", "bytes_down", partial(text.scaled, unit="B"), "extra"),
        _numbers("Seconds", "seconds", text.seconds, "extra"),
    )
    return Table(columns, rows)


def paired_table(compared: Sequence[Comparison]) -> Table:
    """Rows of one data set against their baselines, seed by seed."""

    def interval(one: Comparison) -> str:
        return text.DASH if one.low is None else f"{points(one.low)} to {points(one.high)} ({1 - one.level:.0%})"

    def needed(one: Comparison) -> str:
        return text.DASH if one.p is None else text.count(one.needed) if one.needed else "> 1,000"

    places = [_words("Point", "place")] if any(one.place for one in compared) else []
    columns = (
        _words("Method", "row"),
        _words("Against", "baseline"),
        *places,
        _words("Student", "student", "narrow"),
        _numbers("Difference, points", "difference", points),
        Column("Interval, points", interval, lambda one: one.low),
        Column("Better in", lambda one: f"{one.wins} of {len(one.seeds)} seeds", lambda one: one.wins),
        _numbers("p", "p", p_value),
        _numbers("p (Holm)", "p_holm", p_value),
        Column("Verdict", lambda one: ("worse", "not told apart", "better")[one.verdict + 1]),
        Column("Seeds needed", needed, lambda one: one.needed, "extra"),
        Column("Seeds of one only", lambda one: ", ".join(map(str, one.alone)) or text.DASH, None, "extra"),
    )
    return Table(columns, compared)


def curve_table(curve: AccuracyCurve) -> Table:
    """A line for each arm, a column for each number; a star marks the best of a column."""

    def column(number: float) -> Column:
        best = curve.best(number)

        def show(arm: Arm) -> str:
            row = arm.rows.get(number)
            if row is None:
                return text.DASH
            star = "★ " if row is best else ""
            return f"{star}{text.spread(row.accuracy_mean, row.accuracy_std, len(row.seeds))} ({len(row.seeds)})"

        heading = f"{curve.axis} {text.decimal(number)}"
        return Column(heading, show, lambda arm: arm.rows[number].accuracy_mean if number in arm.rows else None)

    return Table((Column("Method", lambda arm: arm.name), *map(column, curve.numbers)), curve.arms)


def generator_table(generators: Sequence[GeneratorRun]) -> Table:
    """How near the images of generators are to the local ones."""
    columns = (
        Column("Generator / critic", lambda run: f"{run.generator or text.DASH} / {run.critic or text.DASH}"),
        _words("Method", "label", "narrow"),
        _words("Data set", "dataset"),
        _words("Access", "access"),
        _words("Measured with", "features"),
        _numbers("Seed", "seed", _seed, "extra"),
        _numbers("FID", "fid", text.decimal),
        _numbers("KID", "kid", text.decimal),
        _numbers("Class\nentropy", "class_entropy", text.decimal),
        _numbers("Rarest class %", "class_least", text.percent, "extra"),
        Column("Classes", lambda run: text.bars(run.class_histogram)),
        _numbers("Diversity", "diversity", text.decimal, "extra"),
        _numbers("Confidence %", "confidence", text.percent, "extra"),
        _numbers("Queries", "queries", text.count),
        _numbers("Seconds", "seconds", text.seconds, "extra"),
        _numbers("Local images", "train_images", text.count, "extra"),
    )
    return Table(columns, generators)


def privacy_table(entry: Privacy) -> Table:
    """Two lines for each space: the pool, and the held-out images with what a pool like them would have."""

    def quantile(title: str, percent: int) -> Column:
        return Column(title, lambda item: text.decimal(item[3][percent]), lambda item: item[3][percent])

    items = []
    for name, space in entry.spaces.items():
        where = "pixels" if name == "pixels" else f"{name} ({entry.network or text.DASH})"
        items.append(("pool", where, entry.pool_images, space.pool, space.share, space.copies))
        items.append(("held-out real", where, entry.held_out_images, space.held_out, space.share_expected, None))
    columns = (
        Column("Images", lambda item: item[0]),
        Column("Distance in", lambda item: item[1]),
        Column("Number", lambda item: text.count(item[2]), lambda item: item[2]),
        *(quantile(title, percent) for title, percent in (("Least", 0), ("1 %", 1), ("5 %", 5), ("50 %", 50))),
        Column("Near a local image %", lambda item: text.percent(item[4]), lambda item: item[4]),
        Column("Copies", lambda item: text.count(item[5]), lambda item: item[5]),
    )
    return Table(columns, items, lambda item: "student" if item[0] == "pool" else "reference")


def bill_table(bills: Sequence[Bill]) -> Table:
    """What was thought to be paid, and what was."""

    def estimated(bill: Bill) -> str:
        ends = text.money(bill.price_estimated_least), text.money(bill.price_estimated_most)
        between = f" ({ends[0]} to {ends[1]})" if ends[0] != ends[1] else ""
        return f"{text.money(bill.price_estimated)}{between}"

    columns = (
        Column("For", lambda bill: str(bill.path)),
        _numbers("Queries", "queries", text.count),
        _numbers("Input tokens", "input_tokens", text.count),
        _numbers("Output tokens", "output_tokens", text.count),
        Column("Estimated", estimated, lambda bill: bill.price_estimated),
        _numbers("Paid", "price", text.money),
    )
    return Table(columns, bills)


def file_table(pool: LeftOut) -> Table:
    """The first files of a pool that could not be used."""
    columns = (Column("File", lambda file: file[0]), Column("Reason", lambda file: file[1]))
    return Table(columns, pool.unusable[:SHOWN])


def run_table(runs: Sequence[Run | GeneratorRun]) -> Table:
    """Every run behind the numbers, with its file."""

    def networks(run: Run | GeneratorRun) -> str:
        made = run.student if isinstance(run, Run) else run.generator
        teacher = None if isinstance(run, Run) and run.role == "teacher" else run.teacher
        return " → ".join(name for name in (teacher, made) if name) or text.DASH

    columns = (
        _words("Method", "label"),
        Column("Teacher → student", networks),
        _numbers("Seed", "seed", _seed),
        _numbers("Accuracy %", "accuracy", text.percent),
        _numbers("Best on validation %", "accuracy_best", text.percent),
        _words("Configuration", "config"),
        Column("File", lambda run: str(run.path)),
    )
    return Table(columns, runs)


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print one compact table per data set, whose rows are next to each other."""
    for dataset, members in groupby(rows, key=lambda row: row.dataset):
        table = comparison(list(members), ratios=False)
        pointed = any(column.title == "Point" for column in table.columns)  # which takes the place of these
        _print(table, dataset, [one for one in _ROWS if not (pointed and one in ("Parameters", "Seconds"))], console)


def print_generators(generators: Sequence[GeneratorRun], console: Console | None = None) -> None:
    """Print one table of all generators; nothing if there are none."""
    if generators:
        _print(generator_table(generators), "Generators", _GENERATORS, console)


def _print(table: Table, title: str, headings: Sequence[str], console: Console | None) -> None:
    """Some of the columns, with a rule where the kind of the items changes."""
    known = {column.heading: column for column in table.columns}
    chosen = [known[heading] for heading in headings if heading in known]
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
