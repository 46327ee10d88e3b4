"""The page of results: a template whose tables, figures, numbers and comparisons come from records.

``results/page.md`` is the page, with numbers and tables left out. A table is a block of YAML::

    ```table
    record: mnist-db3kd                  # results/mnist-db3kd.json
    columns: {student: student, method: method, "ours, %": accuracy, queries: queries, "paper, %": paper}
    rows:
    - {row: DB3KD (sd) | LeNet5Half, as: sd, method: DB3KD-SD, paper: "99.15"}
    - {student: LeNet5Half, method: DB3KD-MBD, paper: "99.52"}
    ```

``row`` names a record's row by its method, and as much of student, role and access as tells it from the others;
``NAME: ...`` in front takes it from another record. A row without ``row`` was not run. A column shows what is measured
(`MEASURED`), which cannot be typed, or else a text of the row's own, or the record's. Texts that start with "paper"
are the papers' numbers.

A figure of accuracy against queries is another block, of rows by the names that they were given, and what to call them
there; a figure keeps a digest of what it shows, and is drawn again when that has changed::

    ```figure
    file: results-mnist.png
    title: MNIST, all methods
    rows: {sd: "DB3KD (SD)", teacher: teacher}
    ```

Accuracy against a number of the rows' points is a figure and a table, of all rows that an address without it means::

    ```curve
    file: results-mnist-images.png
    title: MNIST, DB3KD
    record: mnist-db3kd-curves
    axis: images
    rows: {DB3KD (bd): BD, Supervised | reference: labels only, Supervised | teacher: teacher}
    ```

The first screen is a table of regimes; a cell's rows are addresses with their record, or names. Of the baselines it
shows the best by its mean; a cell without ``ours`` was not run::

    ```summary
    columns: ["MNIST, few"]
    rows:
      DB3KD:
      - {ours: db-half-bd, labels: db-half-labels, baselines: [db-half-noise, db-half-kd], teacher: db-teacher}
    ```

What may be said of two rows is never typed: ``{{compare mnist-db3kd-curves: DB3KD (bd) | DB3KD (noise) | images=200}}``
is the sentence that a report has for them (`kdlightning.report.Comparison`), and ``{{compare a | b}}`` that for rows
with names. Parts behind the two tell both from other rows. ``quoted.yaml`` has sentences for the README, too.

A number in the prose is ``{{sd.mean}}``, of the row that was called ``sd`` anywhere on the page; ``{{NAME.key.0}}`` is
an entry of another JSON file (``mean``, ``min`` and ``max`` of a list). ``{{a.mean - b.mean}}`` is in points,
``{{a.queries / 10000}}`` a ratio, and several signs work from left to right. After a colon stands how it is written:
``{{a.seconds / 60: 1}}`` with one decimal, ``{{x: %0}}`` a fraction in percent, without decimals.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from kdlightning.report import Row, compare, find, load_rows, text
from kdlightning.report.accuracy import mean_of

RECORDS = Path(__file__).parents[1] / "results"
NOT_RUN = "not run"
BLOCK = r"^```{}\n(.*?)^```$"


class PageError(ValueError):
    """The page cannot be made; the message says what was looked for and what there is."""


def _accuracy(row: Row) -> str:
    """Mean ± standard deviation in percent; the mean alone of one seed, and the number of seeds where it is two."""
    spread = f" ± {text.percent(row.accuracy_std)}" if len(row.seeds) > 1 else ""
    return f"{text.percent(row.accuracy_mean)}{spread}{' (2 seeds)' if len(row.seeds) == 2 else ''}"


def _asked(show: Callable[[Row], str]) -> Callable[[Row], str]:
    """Queries and bytes; a dash for a white box, which is not asked but opened."""
    return lambda row: text.DASH if row.access == "white" else show(row)


MEASURED: Mapping[str, Callable[[Row], str]] = {
    "accuracy": _accuracy,
    "mean": lambda row: text.percent(row.accuracy_mean),
    "std": lambda row: text.percent(row.accuracy_std),
    "accuracies": lambda row: ", ".join(map(text.percent, row.accuracies or ())),
    "agreement": lambda row: text.percent(row.agreement),
    "parameters": lambda row: text.count(row.parameters),
    "queries": _asked(lambda row: text.count(row.queries)),
    "bytes": _asked(lambda row: text.scaled(row.bytes_up, "B")),
    "seconds": lambda row: text.seconds(row.seconds),
    "seeds": lambda row: ", ".join(map(str, row.seeds)),
}
_NUMBERS: Mapping[str, Callable[[Row], float | None]] = {
    "mean": lambda row: row.accuracy_mean,
    "std": lambda row: row.accuracy_std,
    "agreement": lambda row: row.agreement,
    "parameters": lambda row: row.parameters,
    "queries": lambda row: row.queries,
    "bytes": lambda row: row.bytes_up,
    "seconds": lambda row: row.seconds,
}
_FRACTIONS = ("mean", "std", "agreement")
_SUMMARIES: Mapping[str, Callable[[list[float]], float]] = {"mean": fmean, "min": min, "max": max}


class Page:
    """A template with its records: which rows have names, and which records are used.

    Args:
        template: the page with placeholders and table blocks.
        records: directory with the JSON files.

    Attributes:
        tables: the table blocks, parsed.
        figures: file name → the rows to draw.
        shown: every row of a record that a table shows.
    """

    def __init__(self, template: str, records: Path = RECORDS) -> None:
        self.template, self.records = template, records
        self.shown: list[Row] = []
        self._files: dict[str, object] = {}
        self._named: dict[str, tuple[Row | None, dict[str, str]]] = {}
        self.tables = _blocks("table", template)
        self._rendered = [self._table(table) for table in self.tables]
        self._pictures = _blocks("figure", template)
        self.figures: dict[str, list[Row]] = {entry["file"]: self._drawn(entry) for entry in self._pictures}
        self._curves = [self._curve(entry) for entry in _blocks("curve", template)]
        self._summaries = [self._summary(entry) for entry in _blocks("summary", template)]

    @property
    def used(self) -> set[str]:
        """Names of the files that have been read."""
        return set(self._files)

    def write(self) -> str:
        """The page in Markdown."""
        filled = _replace("table", self._rendered, self.template)
        filled = _replace("summary", self._summaries, _replace("curve", self._curves, filled))
        return self.fill(_replace("figure", ["![{title}]({file})".format(**entry) for entry in self._pictures], filled))

    def fill(self, prose: str) -> str:
        """Replace the placeholders of a text.

        Raises:
            PageError: a name or a key does not exist.
        """
        return re.sub(r"\{\{(.+?)\}\}", lambda match: self._value(match[1]), prose)

    def _read(self, name: str) -> object:
        """A JSON file, as rows if it is a report's."""
        if name not in self._files:
            path = self.records / f"{name}.json"
            if not path.is_file():
                raise PageError(f"{name}: neither the name of a row (as: ...) nor a file {path}")
            content = json.loads(path.read_text())
            is_report = isinstance(content, list) and "accuracy_mean" in content[0]
            self._files[name] = load_rows(path) if is_report else content
        return self._files[name]

    def _row(self, address: str, record: str) -> tuple[str, Row]:
        """A record's name and its row."""
        record, address = self._split(address, record)
        found = find(self._rows(record), address)
        if len(found) != 1:
            raise PageError(f"{record}: {len(found)} rows are '{address}'; there are{self._known(record)}")
        return record, found[0]

    def _split(self, address: str, record: str = "") -> tuple[str, str]:
        """The record that an address names, or else this one, and the rest of it."""
        other, colon, rest = address.partition(": ")
        return (other, rest) if colon and (self.records / f"{other}.json").is_file() else (record, address)

    def _rows(self, record: str) -> list[Row]:
        content = self._read(record)
        return [row for row in content if isinstance(row, Row)] if isinstance(content, list) else []

    def _known(self, record: str) -> str:
        told = [
            (row.label, row.student, row.role, row.access or "", *(f"{name}={one}" for name, one in row.point.items()))
            for row in self._rows(record)
        ]
        return "".join(f"\n  {' | '.join(parts)}" for parts in told)

    def _meant(self, reference: str) -> Row:
        """The row of a name or of an address with its record."""
        row = self._named[reference][0] if reference in self._named else self._row(reference, "")[1]
        if row is None:
            raise PageError(f"{reference}: this row was not run")
        return row

    def _compare(self, told: str) -> str:
        """The sentence on two rows."""
        record, rest = self._split(told)
        first, second, *parts = (part.strip() for part in rest.split("|"))
        if not record:
            return compare(self._meant(first), self._meant(second)).statement
        rows = []
        for label in (first, second):
            # labels alone have no access and no queries: a part that leaves nothing of one side is the other's
            found = find(self._rows(record), label)
            for part in parts:
                found = find(found, f"{label} | {part}") or found
            rows += found if len(found) == 1 else []
        unknown = [part for part in parts if not any(find(rows, f"{row.label} | {part}") for row in rows)]
        if len(rows) != 2 or unknown:
            raise PageError(f"{record}: '{rest}' are no two rows; there are{self._known(record)}")
        return compare(*rows).statement

    def _curve(self, entry: Mapping[str, Any]) -> str:
        """A figure and a table."""
        file, axis, record = entry["file"], entry["axis"], entry["record"]
        arms: dict[str, dict[float, Row]] = {}
        self.figures[file] = []
        for address, name in entry["rows"].items():
            found = find(self._rows(record), address)
            if not found or any(axis not in row.point and row.role == "student" for row in found):
                raise PageError(f"{file}: no rows with {axis} are '{address}'; there are{self._known(record)}")
            for row in found:
                point = {axis: row.point[axis]} if axis in row.point else {}
                if point and arms.setdefault(name, {}).setdefault(row.point[axis], row) is not row:
                    raise PageError(f"{file}: two rows are '{address}' at {axis} {row.point[axis]}: tell them apart")
                told = {"method": name, "variant": None, "access": None, "point": point}
                self.figures[file].append(row.model_copy(update=told))
            self.shown += found
        rows = [row for arm in arms.values() for row in arm.values()]
        table = "\n".join([*_arms(axis, arms), *_origin([(record, row) for row in rows])])
        return f"![{entry['title']}]({file})\n\n{table}"

    def _summary(self, entry: Mapping[str, Any]) -> str:
        """A table of regimes."""
        lines = [["", *entry["columns"]], [":--" for _ in ("", *entry["columns"])]]
        for method, cells in entry["rows"].items():
            if len(cells) != len(entry["columns"]):
                raise PageError(f"summary: {method} has {len(cells)} cells for {len(entry['columns'])} columns")
            lines.append([method, *map(self._regime, cells)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def _regime(self, cell: Mapping[str, Any] | None) -> str:
        if not cell or "ours" not in cell:
            return NOT_RUN
        ours = self._meant(cell["ours"])
        rest = [max(map(self._meant, cell["baselines"]), key=mean_of)] if cell.get("baselines") else []
        told = [("labels only", self._meant(cell["labels"]))] if "labels" in cell else []
        told += [(f"best other, {row.label}", row) for row in rest]
        told += [("teacher", self._meant(cell["teacher"]))] if "teacher" in cell else []
        return "<br>".join([f"**{_accuracy(ours)}** {ours.label}", *(f"{_accuracy(row)} {name}" for name, row in told)])

    def _table(self, table: Mapping[str, Any]) -> str:
        columns: dict[str, str] = table["columns"]
        lines = [list(columns), ["--:" if _is_number(source) else ":--" for source in columns.values()]]
        sources: list[tuple[str, Row]] = []
        for entry in table["rows"]:
            if typed := set(entry) & set(MEASURED):
                raise PageError(f"{sorted(typed)} cannot be typed, they are a record's: {entry}")
            row = None
            if "row" in entry:
                sources.append(self._row(entry["row"], table.get("record", "")))
                row = sources[-1][1]
            if name := entry.get("as"):
                if name in self._named:
                    raise PageError(f"two rows are called '{name}'")
                self._named[name] = (row, entry)
            lines.append([_cell(source, row, entry) for source in columns.values()])
        self.shown += [row for _, row in sources]
        return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *_origin(sources)])

    def _drawn(self, entry: Mapping[str, Any]) -> list[Row]:
        """The rows of a figure under the names that they have there."""
        found = {name: self._named.get(name, (None, {}))[0] for name in entry["rows"]}
        if missing := [name for name, row in found.items() if row is None]:
            raise PageError(f"{entry['file']}: no row that was run is called {', '.join(missing)}")
        return [
            row.model_copy(update={"method": entry["rows"][name], "variant": None})
            for name, row in found.items()
            if row
        ]

    def _value(self, expression: str) -> str:
        if expression.startswith("compare "):
            return self._compare(expression.removeprefix("compare "))
        body, _, form = (part.strip() for part in expression.partition(":"))
        terms = re.split(r"\s+([-/])\s+", body)
        if len(terms) == 1 and not form:
            return self._shown(body)
        value = self._number(terms[0])
        for sign, term in zip(terms[1::2], terms[2::2], strict=True):
            value = value / self._number(term) if sign == "/" else value - self._number(term)
        if not form and "-" in terms and terms[0].rpartition(".")[2] in _FRACTIONS:
            return f"{100 * value:.2f}"
        return f"{100 * value:,.{form[1:]}f}" if form.startswith("%") else f"{value:,.{form or 0}f}"

    def _shown(self, address: str) -> str:
        """One value as it is always written."""
        name, _, key = address.partition(".")
        if name not in self._named:
            value = self._number(address)
            return f"{value:,}" if isinstance(value, int) else f"{value:g}"
        row, entry = self._named[name]
        if key not in MEASURED:
            return str(entry[key])
        if row is None:
            raise PageError(f"{address}: this row was not run")
        return MEASURED[key](row)

    def _number(self, address: str) -> float:
        if re.fullmatch(r"[\d.]+", address):
            return float(address)
        name, _, key = address.partition(".")
        if name in self._named:
            row, _ = self._named[name]
            value = _NUMBERS[key](row) if row and key in _NUMBERS else None
            if value is None:
                raise PageError(f"{address}: no such number; there are {', '.join(_NUMBERS)}")
            return value
        content = self._read(name)
        try:
            for part in key.split("."):
                content = _entry(content, part)
        except (KeyError, IndexError, ValueError):
            raise PageError(f"{address}: results/{name}.json has no such entry") from None
        if not isinstance(content, int | float):
            raise PageError(f"{address}: expected a number, got {content!r}")
        return content


def _blocks(kind: str, template: str) -> list[dict[str, Any]]:
    found = re.findall(BLOCK.format(kind), template, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block) for block in found]


def _replace(kind: str, texts: list[str], template: str) -> str:
    remaining = iter(texts)
    return re.sub(BLOCK.format(kind), lambda _: next(remaining), template, flags=re.MULTILINE | re.DOTALL)


def _entry(content: object, part: str) -> object:
    if isinstance(content, dict):
        return content[part]
    if isinstance(content, list):
        return _SUMMARIES[part](content) if part in _SUMMARIES else content[int(part)]
    raise KeyError(part)


def _origin(sources: list[tuple[str, Row]]) -> list[str]:
    """Where a table's numbers are from, and how long all of its networks were trained."""
    if not sources:
        return []
    rows = [row for _, row in sources]
    links = [f"[{name}.json](../results/{name}.json)" for name in dict.fromkeys(name for name, _ in sources)]
    commits = sorted({row.commit or "not stated" for row in rows})
    hardware = sorted({row.hardware for row in rows if row.hardware})
    versions = sorted({f"{package} {number}" for row in rows for package, number in (row.versions or {}).items()})
    timed = [row for row in {id(row): row for row in rows}.values() if row.seconds is not None]
    minutes = sum(len(row.seeds) * (row.seconds or 0) for row in timed) / 60
    trained = f"{sum(len(row.seeds) for row in timed)} networks, {minutes:.0f} min"
    told = [", ".join(links), f"commit {', '.join(commits)}", trained, ", ".join([*hardware, *versions])]
    return ["", f"<small>{'; '.join(told)}</small>"]


def _arms(axis: str, arms: Mapping[str, Mapping[float, Row]]) -> list[str]:
    """The lines of a table: an arm each, a column for each number, the best of a column in bold."""
    numbers = sorted({number for rows in arms.values() for number in rows})
    best = {one: max((rows[one] for rows in arms.values() if one in rows), key=mean_of) for one in numbers}

    def cell(row: Row | None, number: float) -> str:
        return NOT_RUN if row is None else f"**{_accuracy(row)}**" if row is best[number] else _accuracy(row)

    lines = [[axis, *map(text.decimal, numbers)], [":--", *("--:" for _ in numbers)]]
    lines += [[name, *(cell(rows.get(one), one) for one in numbers)] for name, rows in arms.items()]
    return [f"| {' | '.join(line)} |" for line in lines]


def _is_number(source: str) -> bool:
    return source in MEASURED or source.startswith("paper")


def _cell(source: str, row: Row | None, entry: Mapping[str, str]) -> str:
    if source in MEASURED:
        return MEASURED[source](row) if row else NOT_RUN if source in ("accuracy", "mean") else ""
    if source in entry:
        return entry[source]
    own = {"student": row.student, "method": row.label, "access": row.access} if row else {}
    return own.get(source) or text.DASH
