"""The figures of KD³'s paper and its supplement, drawn from run directories.

    python experiments/figures/kd3.py features RUN... [--by teacher student]    # Fig. 3; supplement, Fig. 1
    python experiments/figures/kd3.py images RUN                                # supplement, Fig. 4
    python experiments/figures/kd3.py selection RUN...                          # what every epoch has selected
    python experiments/figures/kd3.py sensitivity DIR... --parameter KEY...     # Fig. 4, Table 4

RUN is a run's directory: its ``config.yaml`` names the pool, the teacher and V_th, its ``network/`` is the student.
``--data FILE`` (YAML or JSON: ``class_path`` and ``init_args``, also below a key ``data``), ``--teacher`` and
``--student`` (runs, or saved networks) come before them; with all three, ``features`` and ``images`` need no run. What
is selected follows from the last weights, by the rule of the training's second half, α = 1; ``--alpha`` is another
share.

DIR is searched for runs. KEY is a setting's dotted name in ``config.yaml``: ``model.init_args.contrastive_weight`` (α),
``model.init_args.temperature`` (τ), ``model.init_args.threshold`` (V_th), ``data.init_args.fraction`` (Table 4). A line
joins runs that differ in it alone, and in seeds; ``--ignore`` names what else may differ.

Beside a figure FIGURE.png, its numbers are in FIGURE.json. Nothing here is trained.

.. [Tang2023] J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. Distribution Shift Matters for Knowledge Distillation with
   Webly Collected Images. ICCV 2023.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import yaml
from drawing import features, selection, sensitivity

from kdlightning.report import Run, read_runs


def cases_of(options: argparse.Namespace) -> list[selection.Case]:
    """Of every run, or of what the command line gives without one."""
    return [selection.case_of(run, options) for run in options.runs or [None]]


def student_runs(options: argparse.Namespace) -> list[Run]:
    """The method's students below the directories; what could not be read is told."""
    findings = read_runs(options.directories)
    for problem in findings.problems:
        sys.stderr.write(f"left out: {problem.path}: {problem.reason}\n")
    return [run for run in findings.runs if run.method == options.method and run.role == "student"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = made.add_subparsers(dest="figure", required=True)
    tsne = commands.add_parser("features", help="Fig. 3; supplement, Fig. 1")
    tsne.add_argument("runs", nargs="*", type=Path)
    tsne.add_argument("--by", nargs="+", choices=("teacher", "student"), default=["teacher"], help="whose features")
    tsne.add_argument("--perplexity", type=float, default=30.0)
    grids = commands.add_parser("images", help="Fig. 4 of the supplement")
    grids.add_argument("runs", nargs="?", type=lambda text: [Path(text)], metavar="run")
    for command, number in ((tsne, 1000), (grids, 36)):
        command.add_argument("--data", type=Path, help="YAML or JSON file, instead of the run's")
        command.add_argument("--teacher", type=Path, help="run, or saved network, instead of the run's")
        command.add_argument("--student", type=Path, help="run, or saved network, instead of the run's")
        command.add_argument("--alpha", type=float, help="the student's share; 1, or 0 for selection=teacher")
        command.add_argument("--threshold", type=float, help="V_th, instead of the run's")
        command.add_argument("--mapping", choices=("linear", "convex"), help="instead of the run's")
        command.add_argument("--least-share", type=float, help="instead of the run's")
        command.add_argument("--selection-temperature", type=float, help="instead of the run's")
        command.add_argument("--original", choices=("train", "val", "test"), default="train", help="images of the task")
        command.add_argument("--number", type=int, default=number, help="images of each kind, at most")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    epochs = commands.add_parser("selection", help="what every epoch has selected")
    epochs.add_argument("runs", nargs="+", type=Path)
    curves = commands.add_parser("sensitivity", help="Fig. 4, Table 4")
    curves.add_argument("directories", nargs="+", type=Path)
    curves.add_argument("--parameter", nargs="+", required=True, help="dotted names in config.yaml, a panel each")
    curves.add_argument("--ignore", nargs="+", default=[], help="settings that may differ along a line")
    curves.add_argument("--method", default="KD3")
    for command in commands.choices.values():
        command.add_argument("--output", type=Path, default=Path("figure.png"))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one figure, write its numbers, and say where they are."""
    options = parser().parse_args(argv)
    draw: dict[str, Callable[[argparse.Namespace], selection.Drawn]] = {
        "features": lambda given: features.draw_features(
            cases_of(given), given.by, given.number, given.original, given.perplexity, given.seed
        ),
        "images": lambda given: selection.draw_images(cases_of(given)[0], given.number, given.original, given.seed),
        "selection": lambda given: selection.draw_selection(given.runs),
        "sensitivity": lambda given: sensitivity.draw_sensitivity(student_runs(given), given.parameter, given.ignore),
    }
    try:
        figure, numbers = draw[options.figure](options)
    except (OSError, RuntimeError, TypeError, ValueError, yaml.YAMLError) as error:
        parser().error(str(error))
    figure.savefig(options.output, dpi=200)
    beside = options.output.with_suffix(".json")
    beside.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{options.output}\n{beside}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
