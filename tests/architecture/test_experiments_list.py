"""experiments/README.md lists every table and figure of the papers, and what it names exists."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml

from kdlightning.commands.recipes import assignment, load_recipe, read_recipe
from kdlightning.commands.run import main

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
README = (EXPERIMENTS / "README.md").read_text()
# how many tables and figures each paper has, its supplement apart
PAPERS = {
    "DB3KD and ZSDB3KD": {"Table": 4, "Figure": 6},
    "MEKD (Ma": {"Table": 6, "Figure": 7},
    "MEKD, first version": {"Table": 6, "Figure": 5},
    "KD³": {"Table": 4, "Figure": 4, "Supplement, Table": 2, "Supplement, Figure": 4},
    "Shader KD": {"Table": 4, "Figure": 3},
}
COMMANDS = sorted(set(re.findall(r"`((?:run|figures/|report|networks)[^`]*)`", README)) - {"run FILE ..."})
RECIPES = sorted(path for path in EXPERIMENTS.rglob("*.yaml") if "sweeps" not in path.parts)
RUNS = [command for command in COMMANDS if command.startswith("run ")]
FIGURES = [command for command in COMMANDS if re.match(r"figures/\w+\.py \w", command)]


def _items(paper):
    """Name → what makes it, of one section."""
    (section,) = [part for part in re.split(r"^## ", README, flags=re.MULTILINE) if part.startswith(paper)]
    return dict(re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?=\n- |\n*\Z)", section, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("paper", PAPERS)
def test_every_table_and_figure_is_listed(paper):
    expected = [f"{kind} {number}" for kind, last in PAPERS[paper].items() for number in range(1, last + 1)]
    assert list(_items(paper)) == expected


@pytest.mark.parametrize("paper", PAPERS)
def test_every_entry_has_a_command_or_a_reason(paper):
    for name, made in _items(paper).items():
        commands = [command for command in COMMANDS if f"`{command}`" in made]
        assert commands or re.fullmatch(r"no file: \S.{10,}", made), name
        assert not (commands and "no file" in made), name


@cache
def _recipe(name):
    """A recipe's variables and the names of its stages."""
    return set(load_recipe(EXPERIMENTS / name)["variables"]), [
        stage.name for stage in read_recipe(EXPERIMENTS / name)[1]
    ]


@pytest.mark.parametrize("command", RUNS)
def test_runs_name_recipes_stages_and_variables(command):
    _, recipe, *options = shlex.split(command)
    given = list(zip(options[::2], options[1::2], strict=True))
    variables, stages = _recipe(recipe)
    assert {option for option, _ in given} <= {"--set", "--only", "--output"}
    assert {assignment(value)[0] for option, value in given if option == "--set"} <= variables
    patterns = [value for option, value in given if option == "--only"]
    parts = [part for pattern in patterns for part in ([pattern] if "(" in pattern else pattern.split("|"))]
    assert [part for part in parts if not any(re.search(part, stage) for stage in stages)] == []


@pytest.mark.parametrize("command", FIGURES)
def test_figures_name_scripts_and_their_commands(command):
    script, figure, *arguments = shlex.split(command)
    source = (EXPERIMENTS / script).read_text()
    assert f'"{figure}"' in source
    assert [option for option in arguments if option.startswith("--") and f'"{option}"' not in source] == []


def test_every_recipe_and_figure_script_is_named():
    recipes = {str(path.relative_to(EXPERIMENTS)) for path in RECIPES}
    assert recipes == {shlex.split(command)[1] for command in RUNS}
    scripts = {str(path.relative_to(EXPERIMENTS)) for path in EXPERIMENTS.glob("figures/*.py")}
    assert scripts == {shlex.split(command)[0] for command in FIGURES}


EXTENDING = [recipe for recipe in RECIPES if "\nextends:" in recipe.read_text()]


@pytest.mark.parametrize("recipe", EXTENDING, ids=lambda path: str(path.relative_to(EXPERIMENTS)))
def test_a_recipe_that_extends_another_is_printed_in_one_piece(recipe, tmp_path, capsys):
    assert main([str(recipe), "--print"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert set(yaml.safe_load(printed.read_text())) == {"output", "variables", "stages", "report", "compare"}
    assert read_recipe(printed) == read_recipe(recipe)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.relative_to(EXPERIMENTS)))
def test_a_recipes_header_names_its_own_path(recipe):
    head = recipe.read_text().split("output:")[0]
    assert f"run experiments/{recipe.relative_to(EXPERIMENTS)}" in head
