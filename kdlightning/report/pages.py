"""A report as Markdown and as one self-contained HTML file; both are made from the same cells."""

import base64
import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from kdlightning.report import text
from kdlightning.report.figures import Picture
from kdlightning.report.generators import GeneratorRun
from kdlightning.report.pools import SHOWN, LeftOut
from kdlightning.report.privacy import QUANTILES, Privacy
from kdlightning.report.rows import RUN_FILE, Problem, Row, Run

TITLE = "Distillation results"
COLUMNS = (
    "Method",
    "Role",
    "Teacher → student",
    "Access",
    "Accuracy % ± std (seeds)",
    "Agreement %",
    "Parameters",
    "MACs",
    "Queries",
    "Bytes up / down",
    "Seconds",
)
_RUN_COLUMNS = ("Method", "Teacher → student", "Seed", "Accuracy %", "Best on validation %", "Configuration", "File")
GENERATOR_COLUMNS = (
    "Generator / critic",
    "Method",
    "Data set",
    "Access",
    "Measured with",
    "Seed",
    "FID",
    "KID",
    "Class entropy",
    "Rarest class %",
    "Classes",
    "Diversity",
    "Confidence %",
    "Queries",
    "Seconds",
    "Local images",
)
_PRIVACY_COLUMNS = (
    "Images",
    "Distance in",
    "Number",
    *(f"{percent} %" if percent else "Least" for percent in QUANTILES),
    "Near a local image %",
    "Copies",
)
_NUMBERS = frozenset({*COLUMNS[4:], *_RUN_COLUMNS[2:5], *GENERATOR_COLUMNS[5:], *_PRIVACY_COLUMNS[2:]})
_FOOTNOTE = (
    "Accuracy is test accuracy at the last checkpoint: mean ± sample standard deviation over seeds, with the number "
    "of seeds in parentheses. Agreement is the share of test images on which student and teacher name the same class. "
    "A query is one image answered by the teacher; evaluation is not counted. "
    "Queries and bytes of a student are what its transfer set cost plus its own. "
    "Seconds are training time."
)
_BEST_NOTE = "“Best on validation” is the test accuracy of the validation-selected checkpoint; no table above uses it."
_GENERATOR_NOTE = (
    "FID and KID compare features of generated and of local images, lower is better; values that are measured with two "
    "feature extractors cannot be compared. Class entropy is 1 where all classes are generated alike often and 0 for "
    "one class only; “Classes” is the histogram. Diversity is the mean distance of two generated images over that of "
    "two local ones, in features: well below 1 means that they look alike. Confidence is the mean top probability. "
    "Queries are those of the generator's training."
)
_PRIVACY_NOTE = (
    "Least, 1 %, 5 % and 50 % are quantiles of the L2 distance to the nearest local image. “Near” means at most as far "
    "as the nearest 1 % of held-out real images; their line says what a pool that knows nothing of the local images "
    "would have. privacy.png in the pool's directory shows the nearest pairs; it is not copied here, because it "
    "contains local images."
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What both pages say.

    Attributes:
        created: when the report was made.
        sources: the directories that were searched.
        rows: the comparison, sorted as it is to be shown.
        runs: the runs that the rows were made from.
        notes: sentences that a reader must know.
        problems: files that could not be read.
        pictures: the figures, written beside the pages.
        generators: the runs that trained a generator.
        privacy: how near pools come to local images, each with its figure.
        pools: what could not be used of collected pools.
    """

    created: datetime
    sources: Sequence[Path]
    rows: Sequence[Row]
    runs: Sequence[Run]
    notes: Sequence[str]
    problems: Sequence[Problem]
    pictures: Sequence[Picture]
    generators: Sequence[GeneratorRun] = ()
    privacy: Sequence[tuple[Privacy, Picture]] = ()
    pools: Sequence[LeftOut] = ()


class _Table(NamedTuple):
    columns: tuple[str, ...]
    cells: Sequence[tuple[str, ...]]
    roles: list[str]


def write_markdown(report: Report) -> str:
    """The report as Markdown; figures are referenced by their file names.

    Args:
        report: what to say.

    Returns:
        The page.
    """
    lines = [f"# {TITLE}", "", *(f"- {_escape(name)}: {_escape(value)}" for name, value in _facts(report)), ""]
    for headline, items in _warnings(report):
        lines += [f"> **{headline}**", ">", *(f"> - {_escape(item)}" for item in items), ""]
    for dataset, table in _tables(report.rows):
        lines += [f"## {_escape(dataset)}", "", *_markdown_table(table), ""]
    if report.rows:
        lines += [f"*{_FOOTNOTE}*", ""]
    if report.generators:
        lines += [
            "## Generators",
            "",
            *_markdown_table(_generator_table(report.generators)),
            "",
            f"*{_GENERATOR_NOTE}*",
            "",
        ]
    if report.privacy:
        lines += ["## Privacy: nearest local image", ""]
    for entry, picture in report.privacy:
        statements = [_escape(entry.statement(space)) for space in entry.spaces]
        lines += [f"### {_escape(_pool_name(entry))}", "", *(line for said in statements for line in (said, ""))]
        lines += [*_markdown_table(_privacy_table(entry)), "", *_markdown_picture(picture)]
    if report.privacy:
        lines += [f"*{_PRIVACY_NOTE}*", ""]
    if report.pools:
        lines += ["## Pools: files that were left out", ""]
    for pool in report.pools:
        lines += [
            f"### {_escape(pool.dataset)}",
            "",
            _escape(pool.statement),
            "",
            *_markdown_table(_pool_table(pool)),
            "",
        ]
    if report.pictures:
        lines += ["## Figures", ""]
    for picture in report.pictures:
        lines += [f"### {_escape(picture.title)}", "", *_markdown_picture(picture)]
    lines += ["## Runs", "", *_markdown_table(_run_table(report)), "", f"*{_BEST_NOTE}*", ""]
    return "\n".join(lines)


def write_html(report: Report) -> str:
    """The report as one HTML file without references to other files; figures are data URIs.

    Args:
        report: what to say.

    Returns:
        The page.
    """
    e = html.escape
    facts = "".join(f"<dt>{e(name)}</dt><dd>{e(value)}</dd>" for name, value in _facts(report))
    body = [f"<header><h1>{e(TITLE)}</h1><dl>{facts}</dl></header>"]
    for headline, items in _warnings(report):
        body.append(f"<aside><strong>{e(headline)}</strong><ul>{_elements('li', items)}</ul></aside>")
    for dataset, table in _tables(report.rows):
        body.append(f"<section><h2>{e(dataset)}</h2>{_html_table(table)}</section>")
    if report.rows:
        body.append(f"<p class=note>{e(_FOOTNOTE)}</p>")
    if report.generators:
        made = f"{_html_table(_generator_table(report.generators))}<p class=note>{e(_GENERATOR_NOTE)}</p>"
        body.append(f"<section><h2>Generators</h2>{made}</section>")
    if report.privacy:
        parts = "".join(
            f"<h3>{e(_pool_name(entry))}</h3>{_elements('p', map(entry.statement, entry.spaces))}"
            f"{_html_table(_privacy_table(entry))}{_html_picture(picture)}"
            for entry, picture in report.privacy
        )
        note = f"<p class=note>{e(_PRIVACY_NOTE)}</p>"
        body.append(f"<section><h2>Privacy: nearest local image</h2>{parts}{note}</section>")
    for pool in report.pools:
        files = f"<details><summary>Files</summary>{_html_table(_pool_table(pool))}</details>"
        body.append(f"<section><h2>{e(pool.dataset)}: pool</h2><p>{e(pool.statement)}</p>{files}</section>")
    for picture in report.pictures:
        body.append(_html_picture(picture, heading=f"<h2>{e(picture.title)}</h2>"))
    runs = f"{_html_table(_run_table(report))}<p class=note>{e(_BEST_NOTE)}</p>"
    number = _plural(len(report.runs) + len(report.generators), "run")
    body.append(f"<details><summary>{number} behind these numbers</summary>{runs}</details>")
    return _PAGE.format(title=e(TITLE), style=_STYLE, body="\n".join(body))


def _facts(report: Report) -> list[tuple[str, str]]:
    """When, from where, with which code, on what."""
    runs: list[Run | GeneratorRun] = [*report.runs, *report.generators]
    versions: dict[str, set[str]] = {}
    for run in runs:
        for package, version in (run.versions or {}).items():
            versions.setdefault(package, set()).add(str(version))
    return [
        ("Made", report.created.strftime("%Y-%m-%d %H:%M %Z").strip()),
        ("From", ", ".join(map(str, report.sources))),
        ("Commit", _listed(run.commit for run in runs)),
        ("Hardware", _listed(run.hardware for run in runs)),
        ("Versions", ", ".join(f"{k} {' and '.join(sorted(v))}" for k, v in sorted(versions.items())) or "not stated"),
    ]


def _warnings(report: Report) -> list[tuple[str, list[str]]]:
    """Headlines with their items, in the order of their weight."""
    warnings = []
    for noun, is_run in (("run", True), ("transfer set", False)):
        items = [f"{p.path}: {p.reason}" for p in report.problems if (p.path.name == RUN_FILE) is is_run]
        if items:
            warnings.append((f"{_plural(len(items), noun)} could not be read", items))
    if report.notes:
        warnings.append((f"{_plural(len(report.notes), 'thing')} to know", list(report.notes)))
    return warnings


def _tables(rows: Sequence[Row]) -> list[tuple[str, _Table]]:
    tables = []
    for dataset, group in groupby(rows, key=lambda row: row.dataset):
        members = list(group)
        sizes = {row.student: row.parameters for row in members if row.role == "teacher" and row.parameters}
        cells = [_cells(row, sizes) for row in members]
        tables.append((dataset, _Table(COLUMNS, cells, [row.role for row in members])))
    return tables


def _cells(row: Row, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """One line of a data set's table, unescaped; ``sizes`` are the teachers' numbers of parameters."""
    parameters = text.count(row.parameters)
    teacher = sizes.get(row.teacher or "")
    if row.role != "teacher" and row.parameters and teacher:
        parameters += f" ({teacher / row.parameters:.1f}× smaller)"
    return (
        row.label,
        row.role,
        row.student if row.role == "teacher" or row.teacher is None else f"{row.teacher} → {row.student}",
        row.access or text.DASH,
        text.accuracy(row),
        text.percent(row.agreement),
        parameters,
        text.scaled(row.macs),
        text.count(row.queries),
        f"{text.scaled(row.bytes_up, 'B')} / {text.scaled(row.bytes_down, 'B')}",
        text.seconds(row.seconds),
    )


def _generator_table(generators: Sequence[GeneratorRun]) -> _Table:
    cells = [
        (
            f"{run.generator or text.DASH} / {run.critic or text.DASH}",
            run.label,
            run.dataset or text.DASH,
            run.access or text.DASH,
            run.features or text.DASH,
            text.DASH if run.seed is None else str(run.seed),
            text.decimal(run.fid),
            text.decimal(run.kid),
            text.decimal(run.class_entropy),
            text.percent(run.class_least),
            text.bars(run.class_histogram),
            text.decimal(run.diversity),
            text.percent(run.confidence),
            text.count(run.queries),
            text.seconds(run.seconds),
            text.count(run.train_images),
        )
        for run in generators
    ]
    return _Table(GENERATOR_COLUMNS, cells, ["generator"] * len(cells))


def _pool_name(entry: Privacy) -> str:
    return f"{entry.dataset}: {entry.label}"


def _privacy_table(entry: Privacy) -> _Table:
    """Two lines for each space: the pool, and the held-out images with what a pool like them would have."""
    cells = []
    for space in entry.spaces:
        where = "pixels" if space.space == "pixels" else f"{space.space} ({entry.network or text.DASH})"
        pool, held_out = ([text.decimal(curve[q]) for q in QUANTILES] for curve in (space.pool, space.held_out))
        share, copies = text.percent(space.share), text.count(space.copies)
        cells.append(("pool", where, text.count(entry.pool_images), *pool, share, copies))
        number, expected = text.count(entry.held_out_images), text.percent(space.expected)
        cells.append(("held-out real", where, number, *held_out, expected, text.DASH))
    return _Table(_PRIVACY_COLUMNS, cells, ["student", "reference"] * len(entry.spaces))


def _pool_table(pool: LeftOut) -> _Table:
    shown = pool.files[:SHOWN]
    return _Table(("File", "Reason"), shown, ["student"] * len(shown))


def _run_table(report: Report) -> _Table:
    cells = [
        (
            f"{run.method} ({run.variant})" if run.variant else run.method,
            run.student if run.role == "teacher" or run.teacher is None else f"{run.teacher} → {run.student}",
            str(run.seed),
            text.percent(run.accuracy),
            text.percent(run.accuracy_best),
            run.config or text.DASH,
            str(run.path),
        )
        for run in report.runs
    ]
    for made in report.generators:
        networks = " → ".join(name for name in (made.teacher, made.generator) if name) or text.DASH
        seed = text.DASH if made.seed is None else str(made.seed)
        cells.append((made.label, networks, seed, text.DASH, text.DASH, made.config or text.DASH, str(made.path)))
    return _Table(_RUN_COLUMNS, cells, [*(run.role for run in report.runs), *("generator" for _ in report.generators)])


def _listed(values: Iterable[str | None]) -> str:
    return ", ".join(sorted({value or "not stated" for value in values}))


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _escape(content: str) -> str:
    """Text that Markdown shows as it is, on one line and within one table cell."""
    marked = re.sub(r"([\\`*_\[\]|~])", r"\\\1", " ".join(content.split()))
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown_table(table: _Table) -> list[str]:
    rules = ("--:" if column in _NUMBERS else ":--" for column in table.columns)
    lines = [table.columns, tuple(rules), *(tuple(map(_escape, cells)) for cells in table.cells)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _markdown_picture(picture: Picture) -> list[str]:
    return [f"![{_escape(picture.title)}]({picture.name})", "", _escape(picture.caption), ""]


def _html_picture(picture: Picture, heading: str = "") -> str:
    source = f"data:image/png;base64,{base64.b64encode(picture.png).decode('ascii')}"
    return (
        f'<figure>{heading}<img alt="{html.escape(picture.title)}" src="{source}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )


def _html_table(table: _Table) -> str:
    classes = [" class=number" if column in _NUMBERS else "" for column in table.columns]

    def line(tag: str, cells: Iterable[str], show: Callable[[str], str] = html.escape) -> str:
        return "".join(f"<{tag}{kind}>{show(cell)}</{tag}>" for kind, cell in zip(classes, cells, strict=True))

    head = line("th", table.columns)
    rows = (f"<tr class={role}>{line('td', cells)}</tr>" for role, cells in zip(table.roles, table.cells, strict=True))
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def _elements(tag: str, items: Iterable[str]) -> str:
    return "".join(f"<{tag}>{html.escape(item)}</{tag}>" for item in items)


_STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #66686d; --line: #e2e2e5; --page: #fff; --band: #f6f6f8;
  --warn: #fff6df; --warn-line: #d9a400; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --soft: #a0a2a8; --line: #36373b; --page: #18191b; --band: #212226;
    --warn: #2e2817; --warn-line: #a98200; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; -webkit-text-size-adjust: 100%; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .8rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem 1rem; margin: 0; font-size: .875rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
aside { margin: 1.2rem 0; padding: .7rem 1rem; background: var(--warn); border-left: 3px solid var(--warn-line);
  font-size: .875rem; overflow-wrap: anywhere; }
aside ul { margin: .3rem 0 0; padding-left: 1.1rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .75rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; background: var(--band); }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--page); }
th:first-child { background: var(--band); }
tbody tr:last-child td { border-bottom: 0; }
.number { text-align: right; }
.teacher td { font-weight: 600; }
.reference td { color: var(--soft); }
.note { color: var(--soft); font-size: .8125rem; max-width: 50rem; }
figure { margin: 0; }
img { display: block; width: 100%; max-width: 42rem; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: .5rem; }
figcaption { color: var(--soft); font-size: .8125rem; margin-top: .4rem; }
details { margin-top: 2.5rem; }
summary { cursor: pointer; margin-bottom: .6rem; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
