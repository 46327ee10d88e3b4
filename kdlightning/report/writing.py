"""Directories with finished runs → a directory with the report's files."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from kdlightning.report.findings import RUN_FILE, read_runs
from kdlightning.report.pages import Report, write_html, write_markdown
from kdlightning.report.records import ReportError
from kdlightning.report.rows import KEYS
from kdlightning.report.tracking import log_to_wandb


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
    if not (findings.runs or findings.generators):
        searched = ", ".join(map(str, runs))
        failed = "".join(f"\n  could not be read: {problem.path}: {problem.reason}" for problem in findings.problems)
        raise ReportError(
            f"No finished run: looked for {RUN_FILE} in {searched} and below; a run writes it when it ends.{failed}"
        )
    report = Report(runs, findings)
    output = output or runs[0] / "report"
    output.mkdir(parents=True, exist_ok=True)
    files = {picture.name: picture.png for picture in report.drawn}
    files["results.json"] = _as_json([row.model_dump() for row in report.rows])
    if findings.generators:
        files["generators.json"] = _as_json([run.record() for run in findings.generators])
    if findings.manifests:
        files["transfer-sets.json"] = _as_json(findings.manifests)
    table = io.StringIO()
    writer = csv.DictWriter(table, KEYS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.flat() for row in report.rows)
    files["results.csv"] = table.getvalue().encode()
    files["report.md"], files["report.html"] = write_markdown(report).encode(), write_html(report).encode()
    for name, content in files.items():
        draft = output / f".{name}.{os.getpid()}"  # a reader sees the old file or the new one, never a part
        draft.write_bytes(content)
        draft.replace(output / name)
    if wandb:
        log_to_wandb(
            report.rows,
            [output / picture.name for picture in report.drawn],
            os.environ.get("WANDB_PROJECT", "kdlightning"),
            name=output.resolve().name,
            transfer_sets=findings.transfer_sets,
            confusions=[entry for entry, _ in report.confusions],
            generators=findings.generators,
        )
    return output


def _as_json(content: object) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
