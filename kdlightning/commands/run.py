"""``python -m kdlightning run``."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from kdlightning.commands.disk import told as told_of_disk
from kdlightning.commands.recipes import (
    RecipeError,
    Stage,
    assignment,
    check_chain,
    load_recipe,
    read_recipe,
    run_stages,
)


class _Plain(yaml.SafeDumper):
    """Writes what stands at several places out at each of them."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def main(argv: Sequence[str]) -> int:
    """``kdlightning run RECIPE``."""
    options = _parser().parse_args(argv)
    console = Console(highlight=False)
    try:
        told: dict[str, Any] = {"output": options.output, "variables": dict(map(assignment, options.set))}
        recipe = load_recipe(options.recipe, **told)
        root, stages, wants_report = read_recipe(options.recipe, **told)
        if not (options.list or options.print):
            check_chain(stages, root)
        if options.print:
            if options.only:
                raise RecipeError("--print shows the whole recipe: leave --only out")
            sys.stdout.write(yaml.dump(recipe, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120))
            return 0
        baselines = options.baseline or recipe["compare"]
        if options.seeds and options.only:
            raise RecipeError("--seeds auto needs the whole recipe: leave --only out")
        if options.seeds and not options.list:
            from kdlightning.commands.seeds import add_seeds

            wanted = {"baselines": baselines, "most": options.max_seeds, "verbose": options.verbose}
            add_seeds(options.recipe, console, **told, **wanted)
            return _report(root, baselines, stages)
        stages = _chosen(stages, options.only)
        if options.list:
            for stage in stages:
                console.print(f"{stage.name}: {stage.command}, {'finished' if stage.finished else 'to do'}")
            return 0
        run_stages(stages, console, verbose=options.verbose)
    except RecipeError as error:
        sys.stderr.write(f"kdlightning run: {error}\n")
        return 2
    except OSError as error:
        if (said := told_of_disk(error)) is None:
            raise
        sys.stderr.write(f"kdlightning run: {said}\n")
        return 2
    if wants_report and not options.only and any(stage.command == "fit" for stage in stages):  # else none is compared
        return _report(root, baselines, stages)
    return 0


def _parser() -> argparse.ArgumentParser:
    text = "Run the stages of a recipe in order; finished stages are skipped."
    parser = argparse.ArgumentParser(prog="kdlightning run", description=text)
    parser.add_argument("recipe", help="YAML file, such as experiments/demo.yaml")
    parser.add_argument("--output", help="directory for everything, instead of the recipe's own")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="set a variable of the recipe")
    parser.add_argument("--only", metavar="REGEX", help="run only the stages whose name matches, and no report")
    parser.add_argument("--list", action="store_true", help="list the stages and stop")
    parser.add_argument("--print", action="store_true", help="print the recipe with what it extends and stop")
    parser.add_argument("--verbose", action="store_true", help="show on the console, too, what the libraries say")
    parser.add_argument(
        "--baseline", metavar="ROW", action="append", default=[],
        help="what the report compares all rows with, see `report --help` (default: the recipe's `compare`)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", choices=["auto"],
        help="add seeds, from eight on, until every comparison with the baselines has a verdict at 1 %%",
    )  # fmt: skip
    parser.add_argument("--max-seeds", type=int, default=20, metavar="N", help="where `--seeds auto` ends (20)")
    return parser


def _chosen(stages: Sequence[Stage], only: str | None) -> list[Stage]:
    """Those whose name matches."""
    try:
        pattern = re.compile(only or "")
    except re.error as error:
        raise RecipeError(f"--only takes a regular expression, such as 'student-.*'; got {only!r}: {error}") from error
    chosen = [stage for stage in stages if pattern.search(stage.name)]
    if not chosen:
        raise RecipeError(f"--only {only} names none of its stages: {', '.join(one.name for one in stages)}")
    return chosen


def _report(root: Path, baselines: Sequence[str], stages: Sequence[Stage]) -> int:
    """To W&B as well if a stage logs there."""
    from kdlightning.commands.report import main

    told = [word for row in baselines for word in ("--baseline", row)]
    tracked = any("WandbLogger" in json.dumps(stage.config.get("trainer")) for stage in stages)
    return main([str(root), "--output", str(root / "report"), *(["--wandb"] if tracked else []), *told])
