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
from kdlightning.report.records import Confusion, GeneratorRun, Run
from kdlightning.report.rows import summarise
from kdlightning.report.tables import Table

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


class Section(NamedTuple):
    """A data set's part of a page."""

    dataset: str  #: its name
    headline: str | None  #: the best student in a sentence; None where there is none
    table: Table | None  #: the comparison; None where there are figures only
    pictures: list[Picture]  #: its figures, confusions apart
    confusions: list[tuple[Confusion, Picture]]  #: who is taken for whom, by the best student of each method
    others: list[tuple[Confusion, Picture]]  #: the same of all other students


class Report:
    """What both pages say of the runs that were found.

    Args:
        sources: the directories that were searched.
        findings: what lies in them.
    """

    def __init__(self, sources: Sequence[Path], findings: Findings) -> None:
        self.created = datetime.now(UTC)
        self.sources = sources
        self.runs, self.generators = findings.runs, findings.generators
        self.rows, self.notes = summarise(self.runs)
        finished = [run.path.resolve() for run in self.finished]
        empty = [root for root in sources if not any(path.is_relative_to(root.resolve()) for path in finished)]
        self.notes += [f"No finished run was found in {root}." for root in empty]
        confusions, unclear = read_confusions(self.runs)
        self.pools, unread = read_pools(self.runs)
        self.problems = [*findings.problems, *unread, *unclear]
        self.pictures = draw_figures(self.rows, findings.transfer_sets)
        self.confusions = list(zip(confusions, draw_confusions(confusions), strict=True))
        self.privacy = list(zip(findings.privacy, draw_privacy(findings.privacy), strict=True))

    @property
    def finished(self) -> list[Run | GeneratorRun]:
        """All runs, those of generators last."""
        return [*self.runs, *self.generators]

    @property
    def drawn(self) -> list[Picture]:
        """All figures."""
        return [*self.pictures, *(picture for _, picture in (*self.confusions, *self.privacy))]

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
    def sections(self) -> list[Section]:
        """A part of the page for each data set."""
        names = [*(row.dataset for row in self.rows), *(picture.dataset for picture in self.pictures)]
        return [self._section(dataset) for dataset in dict.fromkeys(names)]

    def _section(self, dataset: str) -> Section:
        rows = [row for row in self.rows if row.dataset == dataset]
        rank = {row.key: place for place, row in enumerate(rows)}
        confusions = sorted(
            (pair for pair in self.confusions if pair[0].dataset == dataset), key=lambda pair: rank.get(pair[0].key, 0)
        )
        best = {entry.method: entry for entry, _ in reversed(confusions)}
        return Section(
            dataset,
            headline(rows),
            tables.comparison(rows) if rows else None,
            [picture for picture in self.pictures if picture.dataset == dataset],
            [pair for pair in confusions if best[pair[0].method] is pair[0]],
            [pair for pair in confusions if best[pair[0].method] is not pair[0]],
        )


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
    return environment.get_template(template).render(report=report, notes=_NOTES, tables=tables, plural=text.plural)


def _listed(values: Iterable[str | None]) -> str:
    return ", ".join(sorted({value or "not stated" for value in values}))


def _escape(content: str) -> str:
    """Text that Markdown shows as it is, on one line and within one table cell."""
    marked = re.sub(r"([\\`*_\[\]|~])", r"\\\1", " ".join(content.split()))
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
