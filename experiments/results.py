"""docs/results.md and its figures, made of results/page.md and the records beside it; nothing is measured here.

    python experiments/results.py            # writes docs/results.md, docs/results-*.png and a column of the README
    python experiments/results.py --check    # 1 if they would be written differently, or a record has no commit

A record is the ``results.json`` of ``python -m kdlightning report``, kept as ``results/NAME.json``. What a report's
rows do not hold (a pool's cost, a generator's quality) is in other JSON files there.

What may stand in ``results/page.md`` is told in ``resultspage.py``.
"""

import argparse
import hashlib
import io
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from resultspage import RECORDS, Page, PageError

from kdlightning.report import Row, find_curves, plot_curve
from kdlightning.report.accuracy import plot_accuracy

ROOT = Path(__file__).parents[1]
TEMPLATE, QUOTED, PAGE, README = (
    ROOT / name for name in ("results/page.md", "results/quoted.yaml", "docs/results.md", "README.md")
)
HELPS, NOT_MEASURED = "where it helps", "not measured yet"
DIGEST = "rows"  # what a figure's file calls the digest of its rows
COMMIT_NOT_STATED = {  # records of before a commit was asked for
    "digits-kd3", "digits-kd3-half", "digits-shaderkd", "digits-shaderkd-privacy",
    "mnist-kd3", "mnist-mekd-baselines", "mnist-zsdb3kd",
}  # fmt: skip


def digest(rows: list[Row]) -> str:
    """What a figure of these rows shows, in 16 digits."""
    shown = [
        (row.label, row.role, row.student, row.access, row.accuracy_mean, row.accuracy_std, row.queries) for row in rows
    ]
    points = [(row.point, row.accuracies) for row in rows if row.point]  # bands are of the seeds
    return hashlib.sha256(json.dumps([*shown, *points]).encode()).hexdigest()[:16]


def is_drawn(path: Path, rows: list[Row]) -> bool:
    """Whether a figure is there and shows these rows."""
    return path.is_file() and Image.open(path).info.get(DIGEST) == digest(rows)


def draw(path: Path, rows: list[Row]) -> None:
    """Accuracy against queries, or against the number of the rows' points, as a PNG of 64 colours.

    Raises:
        PageError: no student of these rows has asked anything.
    """
    curves = find_curves(rows)
    figure = plot_curve(curves[0]) if curves else plot_accuracy(rows)
    if figure is None:
        raise PageError(f"{path.name}: no student of its rows has asked a teacher anything")
    buffer, facts = io.BytesIO(), PngInfo()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    facts.add_text(DIGEST, digest(rows))
    Image.open(buffer).convert("RGB").quantize(64).save(path, optimize=True, pnginfo=facts)


def helps(document: str, said: Mapping[str, str]) -> str:
    """A document whose table with the column `HELPS` says this of methods, by the first one that a line links to."""
    lines, inside = document.splitlines(keepends=True), False
    for place, line in enumerate(lines):
        inside = line.startswith("|") and (inside or line.rstrip(" |\n").endswith(HELPS))
        cells = line.split(" | ")
        if inside and (named := re.search(r"\[`(\w+)`\]", line)):
            lines[place] = " | ".join([*cells[:-1], f"{said.get(named[1], NOT_MEASURED)} |\n"])
    return "".join(lines)


def without_commit(records: Path = RECORDS) -> list[str]:
    """The records with a row that does not say of which commit it is, beside those of before this was asked."""
    lacking = []
    for path in sorted(records.glob("*.json")):
        content = json.loads(path.read_text())
        rows = content if isinstance(content, list) else []
        commits = [str(row.get("commit")) for row in rows if "accuracy_mean" in row]
        if any(commit in ("None", "mixed") or "not stated" in commit for commit in commits):
            lacking.append(path.stem)
    return [name for name in lacking if name not in COMMIT_NOT_STATED]


def said(page: Page) -> dict[str, str]:
    """Method → the sentence on where it helps, of those that were measured."""
    texts = yaml.safe_load(QUOTED.read_text())["helps"]
    return {method: page.fill(text) for method, text in texts.items() if text}


def main(argv: list[str]) -> int:
    """Write the page and the README's column, or compare them; the exit code."""
    parser = argparse.ArgumentParser(description="docs/results.md out of results/page.md and the records.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if anything is not up to date")
    arguments = parser.parse_args(argv)
    if lacking := without_commit():
        raise PageError(f"no record without a commit: run from a checkout, and report again: {', '.join(lacking)}")
    page = Page(TEMPLATE.read_text())
    written = {PAGE: page.write(), README: helps(README.read_text(), said(page))}
    old = {
        PAGE.with_name(name): rows for name, rows in page.figures.items() if not is_drawn(PAGE.with_name(name), rows)
    }
    if arguments.check:
        return int(bool(old) or any(path.read_text() != content for path, content in written.items()))
    for path, rows in old.items():
        draw(path, rows)
    for path, content in written.items():
        path.write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
