"""``python -m kdlightning report``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdlightning.commands.disk import told
from kdlightning.report import ReportError, print_generators, print_table, read_report

_DESCRIPTION = """\
Compare finished runs: tables with mean and standard deviation over seeds, accuracy against queries, generators, the
distances between a teacher's classes, and how near a pool of generated images comes to local ones.

Every RUNS directory is searched recursively for result.json (one per finished run), manifest.json (one per transfer
set) and privacy.json (beside a pool's manifest). Nothing is trained, no teacher is asked, no GPU is needed."""

_EPILOG = """\
files written into DIR (an earlier report there is replaced):
  report.md, report.html      the tables and figures; the HTML file is self-contained
  results.csv, results.json   one row per method, variant, role, data set, teacher, student, access and point
  comparisons.json            rows against their baselines, seed by seed
  generators.json             the runs that trained a generator, if there are any
  transfer-sets.json          queries, rows and seconds of every transfer set, if there are any
  *.png                       the figures, and accuracy against each number of the runs' points

examples:
  kdlightning report runs/
  kdlightning report runs/db3kd runs/mekd --output comparison
  kdlightning report runs/db3kd --baseline 'DB3KD (noise)'
  kdlightning report runs/db3kd --against results/digits-db3kd.json
  WANDB_MODE=online kdlightning report runs/ --wandb"""


def main(argv: Sequence[str]) -> int:
    """Write a report and print its table; 2 when there was nothing to report or W&B could not start."""
    parser = argparse.ArgumentParser(
        prog="kdlightning report", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("runs", metavar="RUNS", nargs="+", type=Path, help="directory with finished runs")
    parser.add_argument("--output", metavar="DIR", type=Path, help="where to write (default: report in the first RUNS)")
    parser.add_argument(
        "--wandb", action="store_true", help="also log to Weights & Biases: offline, unless WANDB_MODE says otherwise"
    )
    parser.add_argument(
        "--baseline", metavar="ROW", action="append", default=[],
        help="compare all other rows with this one, seed by seed: method and variant as the table has them, with as "
        "much of student and access as tells it from others: 'DB3KD (noise) | LeNet5Half'; may be repeated (default: "
        "the references)",
    )  # fmt: skip
    parser.add_argument(
        "--against", metavar="FILE", type=Path,
        help="a results.json that was kept: say which rows are the same networks to the bit, which have the same "
        "accuracies, and which differ",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    try:
        report = read_report(arguments.runs, arguments.baseline, arguments.against)
        output = report.write(arguments.output)
    except (ReportError, OSError) as error:
        if (said := error if isinstance(error, ReportError) else told(error)) is None:
            raise
        sys.stderr.write(f"kdlightning report: {said}\n")
        return 2
    if report.problems:
        files = "".join(f"\n  {problem.path}: {problem.reason}" for problem in report.problems)
        sys.stderr.write(f"kdlightning report: could not be read and is left out:{files}\n")
    for note in report.notes:
        sys.stderr.write(f"kdlightning report: note: {note}\n")
    print_table(report.rows)
    print_generators(report.generators)
    if arguments.baseline:
        sys.stdout.writelines(f"{one.statement}\n" for one in report.compared)
        if len(report.compared) > 1:
            number = f"{len(report.compared)} comparisons: p is not corrected for their number"
            sys.stdout.write(f"{number}; by Holm's correction it stands in {output / 'comparisons.json'}\n")
    sys.stdout.writelines(f"{said}\n" for said in report.reruns)
    sys.stdout.write(f"{output / 'report.html'}\n")
    try:
        if arguments.wandb:
            report.log(output)
    except ReportError as error:
        sys.stderr.write(f"kdlightning report: {error}\n")
        return 2
    return 0
