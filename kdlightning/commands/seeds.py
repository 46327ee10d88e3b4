"""``kdlightning run RECIPE --seeds auto``: seeds are added to a recipe until its comparisons have a verdict.

Looking again and again at the usual 5 % finds an effect in 18 of 100 comparisons of equals. Each look is therefore held
to 1 %: then it is 4 of 100 for the 13 looks from 8 to 20 seeds (Pocock's rule; `benchmarks/looks.py`). A
verdict needs eight seeds at this level, so the first look is there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from kdlightning.commands.recipes import RecipeError, check_chain, load_recipe, read_recipe, run_stages
from kdlightning.report import Comparison, ReportError, compare_all, read_runs, summarise
from kdlightning.report.findings import SEEDS_FILE

FEWEST = 8  #: with which all differences of one sign have p = 2 / 2^8 < 1 %


def add_seeds(
    path: str | Path,
    console: Console,
    *,
    baselines: Sequence[str] = (),
    most: int = 20,
    output: str | None = None,
    variables: dict[str, Any] | None = None,
    verbose: bool = False,
) -> Path:
    """Run a recipe with eight seeds, then with one more at a time, until no comparison is open.

    What is finished is not run again: after an interruption, or for a larger maximum, the same call goes on.

    Args:
        path: a recipe with a variable ``seeds``, a list of whole numbers.
        console: where a line for each look goes.
        baselines: rows that the others are compared with; none for the recipe's, and else its references.
        most: the maximum of seeds.
        output: instead of the recipe's.
        variables: instead of the recipe's.
        verbose: show what the libraries say.

    Returns:
        The recipe's output directory.

    Raises:
        RecipeError: it has no such variable, there is nothing to compare, or a stage cannot be run.
    """
    recipe = load_recipe(path, output=output, variables=variables)
    seeds = recipe["variables"].get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise RecipeError(f"{path}: --seeds auto wants a variable `seeds`, a list of whole numbers; got {seeds!r}")
    if most < FEWEST:
        raise RecipeError(f"--max-seeds takes {FEWEST} or more, got {most}: fewer cannot decide anything here")
    seeds = [*seeds, *range(max(seeds) + 1, max(seeds) + 1 + FEWEST - len(seeds))]
    while True:
        told = {**(variables or {}), "seeds": seeds}
        root, stages, _ = read_recipe(path, output=output, variables=told)
        check_chain(stages, root)
        root.mkdir(parents=True, exist_ok=True)
        (root / SEEDS_FILE).touch()
        run_stages(stages, console, verbose=verbose)
        undecided = _look(root, seeds, baselines or recipe["compare"], console)
        if not undecided or len(seeds) >= most:
            return root
        seeds = [*seeds, max(seeds) + 1]


def _look(root: Path, seeds: Sequence[int], baselines: Sequence[str], console: Console) -> list[Comparison]:
    """The comparisons that have no verdict with these seeds, and a line about them."""
    runs = [run for run in read_runs([root]).runs if run.role == "teacher" or run.seed in seeds]
    try:
        compared, _ = compare_all(summarise(runs)[0], baselines)
    except ReportError as error:
        raise RecipeError(str(error)) from error
    growing = [one for one in compared if len(one.seeds) == len(seeds)]
    if not growing:
        raise RecipeError(
            "no two rows have these seeds: --seeds auto needs a baseline, --baseline ROW, with every seed"
        )
    undecided = [one for one in growing if not one.verdict]
    names = ", ".join(f"{one.row} against {one.baseline}{f' at {one.place}' if one.place else ''}" for one in undecided)
    decided = f"{len(growing) - len(undecided)} of {len(growing)} comparisons decided"
    console.print(f"{len(seeds)} seeds: {decided}{f'; open: {names}' if names else ''}", style="bold", soft_wrap=True)
    return undecided
