"""Seeds are added to a recipe until its comparisons have a verdict."""

import json
import random

import pytest
import yaml

from kdlightning.commands import seeds as command
from kdlightning.commands.run import main
from kdlightning.report import load_rows

RECORD = {
    "schema": 1, "role": "student", "dataset": "digits", "teacher": "T", "student": "S", "access": "hard",
    "checkpoint": "last", "commit": "abc1234",
}  # fmt: skip
STAGE = {
    "name": "{arm}-{seed}",
    "command": "fit",
    "matrix": {"arm": ["bd", "noise"], "seed": "{seeds}"},
    "config": {"seed": "{seed}", "arm": "{arm}"},
}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe whose stages write records; what is better, and by how much, is the test's to say."""
    file = tmp_path / "recipe.yaml"
    output = str(tmp_path / "runs")
    file.write_text(yaml.safe_dump({"output": output, "variables": {"seeds": [1, 2, 3]}, "stages": [STAGE]}))
    ran = []

    def run_stages(stages, console, *, verbose):
        for stage in stages:
            if not stage.result.exists():
                ran.append(stage.name)
                stage.directory.mkdir(parents=True)
                arm, seed = stage.config["arm"], stage.config["seed"]
                better = ran.effect(seed) if arm == "bd" else 0
                told = {"method": "DB3KD", "variant": arm, "seed": seed, "accuracy": 0.8 + better}
                stage.result.write_text(json.dumps(RECORD | told))

    class Ran(list):
        effect = staticmethod(lambda seed: 0.01 + seed / 5_000)

    ran = Ran()
    monkeypatch.setattr(command, "run_stages", run_stages)
    monkeypatch.setattr(command, "check_chain", lambda *_: None)
    monkeypatch.setattr("kdlightning.commands.run.check_chain", lambda *_: None)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return file, ran


def rounds(out):
    return [line for line in out.splitlines() if " comparisons decided" in line]


def test_a_clear_difference_ends_at_the_first_look(recipe, tmp_path, capsys):
    file, ran = recipe
    assert main([str(file), "--seeds", "auto", "--baseline", "DB3KD (noise)"]) == 0
    out = capsys.readouterr().out
    assert rounds(out) == ["8 seeds: 1 of 1 comparisons decided"]
    assert sorted(ran) == sorted(f"{arm}-{seed}" for arm in ("bd", "noise") for seed in range(1, 9))
    assert all(row.sequential for row in load_rows(tmp_path / "runs/report/results.json"))
    # 1 + seed / 50 points: mean 1.09, squared deviations 42 / 50^2; Student's quantile at 99.5 % is 3.4995
    assert "by 1.09 points (99 % interval 1.03 to 1.15, 8 of 8 seeds, p = 0.008, seeds added until" in out


def test_equals_end_at_the_maximum_and_the_same_command_goes_on(recipe, capsys):
    file, ran = recipe
    ran.effect = lambda seed: random.Random(seed).choice((-0.01, 0.01))
    arguments = [str(file), "--seeds", "auto", "--baseline", "DB3KD (noise)", "--max-seeds"]
    assert main([*arguments, "9"]) == 0
    pending = "0 of 1 comparisons decided; open: DB3KD (bd) against DB3KD (noise)"
    assert rounds(capsys.readouterr().out) == [f"8 seeds: {pending}", f"9 seeds: {pending}"]
    before = len(ran)
    assert before == 18
    assert main([*arguments, "10"]) == 0
    assert ran[before:] == ["bd-10", "noise-10"]
    assert "10 seeds" in rounds(capsys.readouterr().out)[-1]


def test_the_recipes_own_comparisons_are_the_default(recipe, capsys):
    file, _ = recipe
    content = yaml.safe_load(file.read_text()) | {"compare": ["DB3KD (noise)"]}
    file.write_text(yaml.safe_dump(content))
    assert main([str(file), "--seeds", "auto"]) == 0
    assert rounds(capsys.readouterr().out) == ["8 seeds: 1 of 1 comparisons decided"]


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        (
            [],
            {"variables": {}, "stages": []},
            "--seeds auto wants a variable `seeds`, a list of whole numbers; got None",
        ),
        ([], {"variables": {"seeds": []}}, "a list of whole numbers; got []"),
        (["--max-seeds", "7"], {}, "--max-seeds takes 8 or more, got 7: fewer cannot decide anything here"),
        (["--only", "bd"], {}, "--seeds auto needs the whole recipe: leave --only out"),
        (["--baseline", "KD"], {}, "no row is the baseline 'KD'; there are: DB3KD (bd), DB3KD (noise)"),
        ([], {}, "no two rows have these seeds: --seeds auto needs a baseline, --baseline ROW, with every seed"),
        ([], {"compare": "DB3KD"}, "compare takes a list of rows, such as ['DB3KD (noise)'], got 'DB3KD'"),
    ],
    ids=["no seeds", "empty", "maximum", "only", "baseline", "nothing", "compare"],
)
def test_what_cannot_be_decided_is_one_sentence(recipe, capsys, options, changes, message):
    file, _ = recipe
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
    assert main([str(file), "--seeds", "auto", *options]) == 2
    assert message in capsys.readouterr().err
