"""Finished runs → comparison tables and figures, as Markdown, HTML, CSV, JSON and in W&B; needs no torch."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from kdlightning.report.confusion import Confusion, read_confusions
from kdlightning.report.console import print_generators, print_table
from kdlightning.report.figures import Picture, draw_confusions, draw_figures, draw_privacy
from kdlightning.report.generators import GeneratorRun
from kdlightning.report.pages import Report, write_html, write_markdown
from kdlightning.report.pools import LeftOut, read_pools
from kdlightning.report.privacy import Nearness, Privacy
from kdlightning.report.rows import (
    KEYS,
    RUN_FILE,
    Findings,
    Problem,
    ReportError,
    Row,
    Run,
    TransferSet,
    load_rows,
    read_runs,
    summarise,
)
from kdlightning.report.tracking import log_to_wandb

__all__ = [
    "Confusion",
    "Findings",
    "GeneratorRun",
    "LeftOut",
    "Nearness",
    "Picture",
    "Privacy",
    "Problem",
    "Report",
    "ReportError",
    "Row",
    "Run",
    "TransferSet",
    "draw_confusions",
    "draw_figures",
    "draw_privacy",
    "load_rows",
    "log_to_wandb",
    "print_generators",
    "print_table",
    "read_confusions",
    "read_runs",
    "summarise",
    "write_html",
    "write_markdown",
    "write_report",
]


def write_report(runs: Sequence[Path], output: Path | None = None, *, wandb: bool = False) -> Path:
    """Compare finished runs: ``report.md``, ``report.html``, ``results.csv``, ``results.json`` and PNG figures.

    Where generators were trained, also ``generators.json``; where there are transfer sets, ``transfer-sets.json``. An
    earlier report in the same directory is replaced; each file appears complete or not at all.

    Args:
        runs: directories, searched recursively for ``result.json`` (a finished run), ``manifest.json`` (a transfer
            set) and ``privacy.json`` (how near its images come to local ones); ``confusion.json`` beside a run is used.
        output: directory to write into; None for ``report`` in the first of ``runs``.
        wandb: also log the comparison to Weights & Biases, into the project ``WANDB_PROJECT`` or "kdlightning".

    Returns:
        The directory that was written into.

    Raises:
        ReportError: there is no finished run, or W&B could not start.
    """
    if not runs:
        raise ReportError("No directories were given; name the ones that finished runs wrote into.")
    findings = read_runs(runs)
    finished: list[Run | GeneratorRun] = [*findings.runs, *findings.generators]
    if not finished:
        searched = ", ".join(map(str, runs))
        failed = "".join(f"\n  could not be read: {problem.path}: {problem.reason}" for problem in findings.problems)
        raise ReportError(
            f"No finished run: looked for {RUN_FILE} in {searched} and below; a run writes it when it ends.{failed}"
        )
    rows, notes = summarise(findings.runs)
    notes += [
        f"No finished run was found in {root}." for root in runs if not any(_below(root, run) for run in finished)
    ]
    confusions, unclear = read_confusions(findings.runs)
    pictures = [*draw_figures(rows, findings.transfer_sets), *draw_confusions(confusions)]
    privacy = list(zip(findings.privacy, draw_privacy(findings.privacy), strict=True))
    pools, unread = read_pools(findings.runs)
    report = Report(
        created=datetime.now(UTC),
        sources=runs,
        rows=rows,
        runs=findings.runs,
        notes=notes,
        problems=[*findings.problems, *unread, *unclear],
        pictures=pictures,
        generators=findings.generators,
        privacy=privacy,
        pools=pools,
    )
    output = output or runs[0] / "report"
    output.mkdir(parents=True, exist_ok=True)
    drawn = [*pictures, *(picture for _, picture in privacy)]
    for picture in drawn:
        _replace(output / picture.name, picture.png)
    _replace(output / "results.json", _as_json([asdict(row) for row in rows]))
    if findings.generators:
        _replace(output / "generators.json", _as_json([run.record() for run in findings.generators]))
    if findings.manifests:
        _replace(output / "transfer-sets.json", _as_json(findings.manifests))
    _replace(output / "results.csv", _as_csv(rows).encode())
    _replace(output / "report.md", write_markdown(report).encode())
    _replace(output / "report.html", write_html(report).encode())
    if wandb:
        project = os.environ.get("WANDB_PROJECT", "kdlightning")
        log_to_wandb(
            rows,
            [output / picture.name for picture in drawn],
            project,
            name=output.resolve().name,
            transfer_sets=findings.transfer_sets,
            confusions=confusions,
            generators=findings.generators,
        )
    return output


def _below(root: Path, run: Run | GeneratorRun) -> bool:
    return run.path.resolve().is_relative_to(root.resolve())


def _as_json(content: object) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _as_csv(rows: Sequence[Row]) -> str:
    """The rows with a header; several values in one field are separated by spaces, unknown ones are empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, KEYS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row.flat())
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as draft:
        draft.write(content)
    # a temporary file is its owner's only; a report is as readable as any other new file of this user
    umask = os.umask(0)
    os.umask(umask)
    Path(draft.name).chmod(0o666 & ~umask)
    Path(draft.name).replace(path)
