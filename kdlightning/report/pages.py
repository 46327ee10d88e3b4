"""A report's files: Markdown and one self-contained HTML page, from the templates beside this file, data, figures."""

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from kdlightning.report import tables, text
from kdlightning.report.curves import find_curves
from kdlightning.report.figures import Picture, draw_confusions, draw_curves, draw_figures, draw_privacy
from kdlightning.report.findings import RUN_FILE, TRANSFER_SET_FILE, Findings, read_confusions, read_pools, read_runs
from kdlightning.report.headline import headline
from kdlightning.report.paired import compare_all
from kdlightning.report.records import GeneratorRun, ReportError, Run
from kdlightning.report.reruns import recognise
from kdlightning.report.rows import KEYS, load_rows, summarise
from kdlightning.report.tracking import log_to_wandb


def _escape(content: str) -> str:
    """Text that Markdown shows as it is, on one line and within one table cell."""
    marked = re.sub(r"([\\`*_\[\]|~])", r"\\\1", " ".join(content.split()))
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_TEMPLATES = Environment(
    loader=PackageLoader("kdlightning.report"), autoescape=select_autoescape(["html"]), undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip
_TEMPLATES.filters["md"] = _escape
_NOTES: Any = _TEMPLATES.get_template("notes.j2").module  # what a reader has to know about a table


_UNFOLDED = 12  # comparisons that a page shows unasked


class Part(NamedTuple):
    """What stands together in a section; what is empty is left out."""

    title: str = ""
    headline: str | None = None
    statements: Sequence[str] = ()
    table: tables.Table | None = None
    pictures: Sequence[Picture] = ()
    grid: str = "figures"  #: ``"matrices"`` stand closer to each other
    note: str = ""
    folded: bool = False  #: an HTML page shows the title only, until it is asked for more


class Report:
    """What both pages say of the findings in the directories that were searched, the sources.

    Attributes:
        rows: one per comparison, seeds averaged.
        compared: rows against the baselines, seed by seed.
        reruns: what became of kept rows.
        notes: what a reader must know.
        problems: files that could not be read.
    """

    def __init__(
        self, sources: Sequence[Path], findings: Findings, baselines: Sequence[str] = (), against: Path | None = None
    ) -> None:
        self.created = datetime.now(UTC)
        self.sources, self.findings = sources, findings
        self.finished: tuple[Run | GeneratorRun, ...] = (*findings.runs, *findings.generators)
        self.generators = findings.generators
        self.rows, self.notes = summarise(findings.runs)
        self.compared, uncompared = compare_all(self.rows, baselines)
        self.notes += uncompared
        self.against = against
        self.reruns = recognise(self.rows, load_rows(against)) if against else []
        finished = [run.path.resolve() for run in self.finished]
        empty = [root for root in sources if not any(path.is_relative_to(root.resolve()) for path in finished)]
        self.notes += [f"No finished run was found in {root}." for root in empty]
        self.notes += [
            f"{name}: {told['unanswered']:,} of {told['rows']:,} images got no answer; no student has learnt from them."
            for name, told in findings.manifests.items()
            if told.get("unanswered")
        ]
        confusions, unclear = read_confusions(findings.runs)
        self.pools, unread = read_pools(findings.runs)
        self.problems = [*findings.problems, *unread, *unclear]
        self.pictures = draw_figures(self.rows, findings.transfer_sets)
        curves = find_curves(self.rows)
        self.curves = list(zip(curves, draw_curves(curves), strict=True))
        self.confusions = list(zip(confusions, draw_confusions(confusions), strict=True))
        self.privacy = list(zip(findings.privacy, draw_privacy(findings.privacy), strict=True))
        self.drawn = [*self.pictures, *(picture for _, picture in (*self.curves, *self.confusions, *self.privacy))]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """When, from where, with which code, on what."""
        stated = sorted({pair for run in self.finished for pair in (run.versions or {}).items()})
        packages = [
            f"{name} {' and '.join(each[1] for each in pairs)}" for name, pairs in groupby(stated, lambda p: p[0])
        ]
        return [
            ("Made", self.created.strftime("%Y-%m-%d %H:%M %Z").strip()),
            ("From", ", ".join(map(str, self.sources))),
            ("Commit", ", ".join(sorted({run.commit or "not stated" for run in self.finished}))),
            ("Hardware", ", ".join(sorted({run.hardware or "not stated" for run in self.finished}))),
            ("Versions", ", ".join(packages) or "not stated"),
        ]

    @property
    def warnings(self) -> list[tuple[str, list[str]]]:
        """Headlines with their items, in the order of their weight."""
        nouns = {RUN_FILE: "run", TRANSFER_SET_FILE: "transfer set"}
        failed: dict[str, list[str]] = {noun: [] for noun in (*nouns.values(), "other file")}
        for path, reason in self.problems:
            failed[nouns.get(path.name, "other file")].append(f"{path}: {reason}")
        warnings = [(f"{text.plural(len(items), noun)} could not be read", items) for noun, items in failed.items()]
        warnings.append((f"{text.plural(len(self.notes), 'thing')} to know", list(self.notes)))
        return [(said, items) for said, items in warnings if items]

    @property
    def sections(self) -> list[tuple[str, list[Part]]]:
        """Titles with what stands below: a section for each data set, then generators, privacy, pools and runs."""
        names = [*(row.dataset for row in self.rows), *(picture.dataset for picture in self.pictures)]
        sections = [(name, self._comparison(name)) for name in dict.fromkeys(names)]
        if self.rows:
            sections[-1][1].append(Part(note=_NOTES.rows))
        made = Part(table=tables.generator_table(self.generators), note=_NOTES.generators)
        bills = Part(table=tables.bill_table(self.findings.bills), note=_NOTES.bills)
        near = [
            Part(f"{entry.dataset}: {entry.label}", None, entry.statements, tables.privacy_table(entry), [picture])
            for entry, picture in self.privacy
        ]
        pools: list[Part] = []
        for pool in self.pools:
            pools.append(Part(pool.dataset, statements=[pool.statement]))
            pools.append(Part("Files", table=tables.file_table(pool), folded=True))
        behind = f"{text.plural(len(self.finished), 'run')} behind these numbers"
        sections += [
            (f"Beside {self.against}", [Part(statements=self.reruns)] if self.reruns else []),
            ("Generators", [made] if self.generators else []),
            ("Costs", [bills] if self.findings.bills else []),
            ("Privacy: nearest local image", [*near, Part(note=_NOTES.privacy)] if near else []),
            ("Pools: files that were left out", pools),
            ("Runs", [Part(behind, table=tables.run_table(self.finished), note=_NOTES.runs, folded=True)]),
        ]
        return [(title, parts) for title, parts in sections if parts]

    def _comparison(self, dataset: str) -> list[Part]:
        rows = [row for row in self.rows if row.dataset == dataset]
        pictures = [picture for picture in self.pictures if picture.dataset == dataset]
        rank = {row.key: place for place, row in enumerate(rows)}
        confusions = [pair for pair in self.confusions if pair[0].dataset == dataset]
        confusions.sort(key=lambda pair: rank.get(pair[0].key, 0))
        best: dict[str, Picture] = {}
        for entry, picture in confusions:
            best.setdefault(entry.method, picture)
        others = [picture for _, picture in confusions if picture not in best.values()]
        groups = {"Classes taken for others: the best student of each method": list(best.values())}
        groups[text.plural(len(others), "other student")] = others
        first = Part("", headline(rows), table=tables.comparison(rows) if rows else None, pictures=pictures)
        seen = [Part(title, pictures=some, grid="matrices", folded=some is others) for title, some in groups.items()]
        pairs = [one for one in self.compared if one.dataset == dataset]
        table = tables.paired_table(pairs)
        against = Part("Paired comparisons", table=table, note=_NOTES.paired, folded=len(pairs) > _UNFOLDED)
        curves = [
            Part(picture.title, table=tables.curve_table(curve), pictures=[picture], note=_NOTES.curves)
            for curve, picture in self.curves
            if picture.dataset == dataset
        ]
        return [first, *curves, *([against] if pairs else []), *(part for part in seen if part.pictures)]

    def write(self, output: Path | None = None) -> Path:
        """Write ``report.md``, ``report.html``, ``results.csv``, ``results.json`` and PNG figures.

        Where rows were compared, also ``comparisons.json``; where generators were trained, ``generators.json``; where
        there are transfer sets, ``transfer-sets.json``. An earlier report in the same directory is replaced; each file
        appears complete or not at all.

        Args:
            output: directory to write into; None for ``report`` in the first of the sources.

        Returns:
            The directory that was written into.
        """
        output = output or self.sources[0] / "report"
        output.mkdir(parents=True, exist_ok=True)
        files = {picture.name: picture.png for picture in self.drawn}
        files["results.json"] = _as_json([row.model_dump() for row in self.rows])
        if self.compared:
            files["comparisons.json"] = _as_json(
                [{**one._asdict(), "statement": one.statement} for one in self.compared]
            )
        if self.generators:
            files["generators.json"] = _as_json([run.record() for run in self.generators])
        if self.findings.manifests:
            files["transfer-sets.json"] = _as_json(self.findings.manifests)
        table = io.StringIO()
        writer = csv.DictWriter(table, KEYS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.flat() for row in self.rows)
        files["results.csv"] = table.getvalue().encode()
        files["report.md"], files["report.html"] = write_markdown(self).encode(), write_html(self).encode()
        for name, content in files.items():
            draft = output / f".{name}.{os.getpid()}"  # a reader sees the old file or the new one, never a part
            draft.write_bytes(content)
            draft.replace(output / name)
        return output

    def log(self, output: Path) -> None:
        """Log the comparison to Weights & Biases, into the project ``WANDB_PROJECT`` or "kdlightning".

        Args:
            output: where `write` has put it.

        Raises:
            ReportError: W&B could not start.
        """
        log_to_wandb(
            self.rows,
            [output / picture.name for picture in self.drawn],
            os.environ.get("WANDB_PROJECT", "kdlightning"),
            name=output.resolve().name,
            transfer_sets=self.findings.transfer_sets,
            confusions=[entry for entry, _ in self.confusions],
            generators=self.generators,
        )


def write_markdown(report: Report) -> str:
    """The report as Markdown; figures are referenced by their file names."""
    return _TEMPLATES.get_template("report.md").render(report=report)


def write_html(report: Report) -> str:
    """The report as one HTML file that refers to no other; its script sorts tables, all else works without it."""
    return _TEMPLATES.get_template("report.html").render(report=report)


def write_report(
    runs: Sequence[Path], output: Path | None = None, *, baselines: Sequence[str] = (), wandb: bool = False
) -> Path:
    """Compare finished runs: `read_report`, and what `Report.write` makes of it; the directory that was written into.

    Raises:
        ReportError: there is no finished run, no such baseline, or W&B could not start.
    """
    report = read_report(runs, baselines)
    written = report.write(output)
    if wandb:
        report.log(written)
    return written


def read_report(runs: Sequence[Path], baselines: Sequence[str] = (), against: Path | None = None) -> Report:
    """What finished runs have to say.

    Args:
        runs: directories, searched recursively for ``result.json`` (a finished run), ``manifest.json`` (a transfer
            set) and ``privacy.json`` (how near its images come to local ones); ``confusion.json`` beside a run is used.
        baselines: rows that all others are compared with, seed by seed, such as ``"DB3KD (noise)"``; none for the
            references.
        against: a kept ``results.json``: which rows are the same networks again, or have the same accuracies.

    Raises:
        ReportError: there is no finished run, no such baseline, or no such file.
    """
    if not runs:
        raise ReportError("No directories were given; name the ones that finished runs wrote into.")
    findings = read_runs(runs)
    if not (findings.runs or findings.generators):
        searched = ", ".join(map(str, runs))
        failed = "".join(f"\n  could not be read: {problem.path}: {problem.reason}" for problem in findings.problems)
        raise ReportError(
            f"No finished run: looked for {RUN_FILE} in {searched} and below; a run writes it when it ends.{failed}"
        )
    return Report(runs, findings, baselines, against)


def _as_json(content: object) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
