"""A report as Markdown and as one self-contained HTML file, from the templates beside this file."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from kdlightning.report import tables, text
from kdlightning.report.figures import Picture, draw_confusions, draw_figures, draw_privacy
from kdlightning.report.findings import RUN_FILE, TRANSFER_SET_FILE, Findings, read_confusions, read_pools
from kdlightning.report.headline import headline
from kdlightning.report.records import GeneratorRun, Run
from kdlightning.report.rows import summarise

_NOTES = {
    "rows": "Accuracy is test accuracy at the last checkpoint: mean ± sample standard deviation over seeds, with the "
    "number of seeds in parentheses. Agreement is the share of test images on which student and teacher name the same "
    "class. A query is one image answered by the teacher; evaluation is not counted. Queries and bytes of a student "
    "are what its transfer set cost plus its own. Seconds are training time.",
    "runs": "“Best on validation” is the test accuracy of the validation-selected checkpoint; no table above uses it.",
    "generators": "FID and KID compare features of generated and of local images, lower is better; values that are "
    "measured with two feature extractors cannot be compared. Class entropy is 1 where all classes are generated alike "
    "often and 0 for one class only; “Classes” is the histogram. Diversity is the mean distance of two generated "
    "images over that of two local ones, in features: well below 1 means that they look alike. Confidence is the mean "
    "top probability. Queries are those of the generator's training.",
    "privacy": "Least, 1 %, 5 % and 50 % are quantiles of the L2 distance to the nearest local image. “Near” means at "
    "most as far as the nearest 1 % of held-out real images; their line says what a pool that knows nothing of the "
    "local images would have. privacy.png in the pool's directory shows the nearest pairs; it is not copied here, "
    "because it contains local images.",
}
_BEST = "Classes taken for others: the best student of each method"


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
    """What both pages say of the findings in the directories that were searched, the sources."""

    def __init__(self, sources: Sequence[Path], findings: Findings) -> None:
        self.created = datetime.now(UTC)
        self.sources = sources
        self.finished: tuple[Run | GeneratorRun, ...] = (*findings.runs, *findings.generators)
        self.generators = findings.generators
        self.rows, self.notes = summarise(findings.runs)
        finished = [run.path.resolve() for run in self.finished]
        empty = [root for root in sources if not any(path.is_relative_to(root.resolve()) for path in finished)]
        self.notes += [f"No finished run was found in {root}." for root in empty]
        confusions, unclear = read_confusions(findings.runs)
        self.pools, unread = read_pools(findings.runs)
        self.problems = [*findings.problems, *unread, *unclear]
        self.pictures = draw_figures(self.rows, findings.transfer_sets)
        self.confusions = list(zip(confusions, draw_confusions(confusions), strict=True))
        self.privacy = list(zip(findings.privacy, draw_privacy(findings.privacy), strict=True))
        self.drawn = [*self.pictures, *(picture for _, picture in (*self.confusions, *self.privacy))]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """When, from where, with which code, on what."""
        versions: dict[str, set[str]] = {}
        for run in self.finished:
            for package, version in (run.versions or {}).items():
                versions.setdefault(package, set()).add(version)
        packages = [f"{package} {' and '.join(sorted(known))}" for package, known in sorted(versions.items())]
        return [
            ("Made", self.created.strftime("%Y-%m-%d %H:%M %Z").strip()),
            ("From", ", ".join(map(str, self.sources))),
            ("Commit", _listed(run.commit for run in self.finished)),
            ("Hardware", _listed(run.hardware for run in self.finished)),
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
            sections[-1][1].append(Part(note=_NOTES["rows"]))
        if self.generators:
            table = tables.generator_table(self.generators)
            sections.append(("Generators", [Part(table=table, note=_NOTES["generators"])]))
        if self.privacy:
            parts = [
                Part(f"{entry.dataset}: {entry.label}", None, entry.statements, tables.privacy_table(entry), [picture])
                for entry, picture in self.privacy
            ]
            sections.append(("Privacy: nearest local image", [*parts, Part(note=_NOTES["privacy"])]))
        if self.pools:
            pools = [
                (
                    Part(pool.dataset, statements=[pool.statement]),
                    Part("Files", table=tables.file_table(pool), folded=True),
                )
                for pool in self.pools
            ]
            sections.append(("Pools: files that were left out", [part for pool in pools for part in pool]))
        behind = f"{text.plural(len(self.finished), 'run')} behind these numbers"
        table = tables.run_table(self.finished)
        return [*sections, ("Runs", [Part(behind, table=table, note=_NOTES["runs"], folded=True)])]

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
        parts = [Part("", headline(rows), table=tables.comparison(rows) if rows else None, pictures=pictures)]
        if best:
            parts.append(Part(_BEST, pictures=list(best.values()), grid="matrices"))
        if others:
            parts.append(Part(text.plural(len(others), "other student"), pictures=others, grid="matrices", folded=True))
        return parts


def write_markdown(report: Report) -> str:
    """The report as Markdown; figures are referenced by their file names."""
    return _render("report.md", report)


def write_html(report: Report) -> str:
    """The report as one HTML file that refers to no other; its script sorts tables, all else works without it."""
    return _render("report.html", report)


def _render(template: str, report: Report) -> str:
    environment = Environment(
        loader=PackageLoader("kdlightning.report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = _escape
    return environment.get_template(template).render(report=report)


def _listed(values: Iterable[str | None]) -> str:
    return ", ".join(sorted({value or "not stated" for value in values}))


def _escape(content: str) -> str:
    """Text that Markdown shows as it is, on one line and within one table cell."""
    marked = re.sub(r"([\\`*_\[\]|~])", r"\\\1", " ".join(content.split()))
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
