import copy
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from kdlightning.__main__ import main
from kdlightning.commands import chain
from kdlightning.commands.recipes import RecipeError, Stage, read_recipe
from kdlightning.networks import LeNet5Fifth, save_network

STUDENT = {"class_path": "LeNet5Fifth", "init_args": {"image_size": 32}}
TRAINER = {
    "accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False,
    "logger": [
        {"class_path": "CSVLogger", "init_args": {"save_dir": ".", "name": "csv"}},
        {"class_path": "WandbLogger", "init_args": {"project": "test", "offline": True}},
    ],
}  # fmt: skip
RECIPE = {
    "output": "runs/x",
    "variables": {
        "n": 64,
        "data": {
            "class_path": "DigitsDataModule", "init_args": {"num_samples": "{n}", "num_val": 32, "batch_size": 32}
        },
    },
    "stages": [
        {
            "name": "teacher", "command": "fit",
            "config": {
                "seed_everything": 1,
                "model": {"class_path": "Supervised", "init_args": {"student": STUDENT}},
                "data": "{data}", "trainer": TRAINER, "result": {"role": "teacher"},
            },
        },
        {
            "name": "labels", "command": "predict",
            "config": {
                "model": {
                    "class_path": "DB3KDLabels",
                    "init_args": {
                        "teacher": {
                            "class_path": "HardLabelTeacher", "init_args": {"network": "{output}/teacher/network"}
                        },
                        "num_classes": 10, "robustness": "sd",
                    },
                },
                "data": "{data}", "return_predictions": False,
                "trainer": {"accelerator": "cpu", "logger": False, "enable_progress_bar": False},
            },
        },
        {
            "name": "student-{seed}", "command": "fit", "matrix": {"seed": [1, 2]},
            "config": {
                "model": {"class_path": "DB3KD", "init_args": {"student": STUDENT}},
                "data": {
                    "class_path": "TransferSetDataModule", "init_args": {"source": "{data}", "path": "{output}/labels"}
                },
                "trainer": TRAINER,
            },
            "set": {"seed_everything": "{seed}", "result.variant": "bd"},
        },
    ],
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return file


def test_a_recipe_runs_to_a_report_and_skips_what_is_finished(tmp_path, recipe, capsys, monkeypatch):
    logged = []
    monkeypatch.setattr("kdlightning.report.pages.log_to_wandb", lambda *given, **_: logged.append(given))
    assert main(["run", str(recipe)]) == 0
    rows = json.loads((tmp_path / "runs/x/report/results.json").read_text())
    (student,) = [row for row in rows if row["role"] == "student"]
    assert set(student) == {
        "method", "variant", "role", "dataset", "teacher", "student", "access", "point", "accuracy_mean",
        "accuracy_std", "seeds", "test_fingerprints", "test_images",
        "agreement", "parameters", "macs", "queries", "bytes_up", "bytes_down", "seconds", "checkpoint", "commit",
        "hardware", "versions", "accuracies", "accuracies_best", "configs", "agreement_std",
        "teacher_fingerprint", "fingerprints", "sequential",
    }  # fmt: skip
    assert (student["method"], student["variant"], student["seeds"]) == ("DB3KD", "bd", [1, 2])
    assert (student["access"], student["teacher"], student["checkpoint"]) == ("hard", "LeNet5Fifth", "last")
    manifest = json.loads((tmp_path / "runs/x/labels/manifest.json").read_text())
    assert student["queries"] == manifest["queries"]
    assert 0 <= student["accuracy_mean"] <= 1
    assert len(logged) == 1  # its stages log to W&B, and so does the comparison
    (tmp_path / "runs/x/student-2/result.json").unlink()
    stamp = (tmp_path / "runs/x/student-1/result.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["run", str(recipe), "--only", "student|labels"]) == 0
    out = capsys.readouterr().out
    skipped, stage, result = out.splitlines()
    assert skipped == "2 of 3 stages finished already, skipped: labels, student-1"
    assert re.fullmatch(r"stage 3 of 3: student-2, about 0:\d\d:\d\d left", stage)
    assert re.match(
        r"  accuracy \d+\.\d\d%, agreement \d+\.\d\d%, parameters 11,564, MACs 188,800, queries [\d,]+, seconds \d+$",
        result,
    )
    assert (tmp_path / "runs/x/student-1/result.json").stat().st_mtime_ns == stamp
    assert (tmp_path / "runs/x/student-2/result.json").exists()


def test_a_stage_with_other_settings_is_not_taken_for_finished(tmp_path, recipe, capsys):
    main(["run", str(recipe), "--only", "teacher"])
    assert main(["run", str(recipe), "--only", "teacher", "--set", "n=32"]) == 2
    assert "holds stage 'teacher' with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("finished", "told", "changed"),
    [
        (False, {"budget": 200}, False), (False, {"labels": ["cat", "dog"]}, False),  # the command compares teachers
        (True, {"budget": 200}, False), (True, {"labels": ["cat", "dog"]}, True),
    ],
)  # fmt: skip
def test_what_a_teacher_may_be_told_otherwise(tmp_path, finished, told, changed):
    teacher = {"class_path": "HTTPHardLabelTeacher", "init_args": {"labels": ["a", "b"], "budget": 100}}
    model = {"class_path": "TeacherAnswers", "init_args": {"teacher": teacher}}
    config = {"model": model, "trainer": {"default_root_dir": str(tmp_path)}}
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "stage.json").write_text('{"digest": "another"}')
    (tmp_path / ("manifest.json" if finished else "journal-0")).write_text("{}")
    teacher["init_args"] |= told
    assert Stage("labels", "predict", tmp_path, config).changed == changed
    assert Stage("labels", "predict", tmp_path, {**config, "seed_everything": 2}).changed


def test_a_recipe_whose_output_has_moved_is_the_same(tmp_path, recipe, capsys):
    main(["run", str(recipe), "--only", "teacher|labels"])
    (tmp_path / "runs/x").rename(tmp_path / "runs/y")
    capsys.readouterr()
    assert main(["run", str(recipe), "--only", "teacher|labels", "--output", "runs/y"]) == 0
    assert "2 of 2 stages finished already" in capsys.readouterr().out


def test_a_larger_budget_goes_on(tmp_path, capsys):
    save_network(LeNet5Fifth(image_size=32), tmp_path / "teacher")
    teacher = {
        "class_path": "HardLabelTeacher",
        "init_args": {"network": str(tmp_path / "teacher"), "budget": "{budget}"},
    }
    data = {"class_path": "DigitsDataModule", "init_args": {"num_samples": 64, "image_size": 32, "eval_batch_size": 16}}
    config = {
        "model": {"class_path": "TeacherAnswers", "init_args": {"teacher": teacher, "output": "runs/x/labels"}},
        "data": data, "return_predictions": False, "trainer": {"accelerator": "cpu", "logger": False},
    }  # fmt: skip
    stage = {"name": "labels", "command": "predict", "config": config}
    recipe = {"output": "runs/x", "variables": {"budget": 40}, "stages": [stage], "report": False}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(SystemExit):
        main(["run", "recipe.yaml"])
    assert "budget" in capsys.readouterr().err
    for budget in (64, 100):
        assert main(["run", "recipe.yaml", "--set", f"budget={budget}"]) == 0
        manifest = json.loads(Path("runs/x/labels/manifest.json").read_text())
        assert (manifest["rows"], manifest["queries"], manifest["queries_paid"]) == (64, 64, 64)


def test_a_changed_stage_is_told_before_any_other_runs_and_by_the_estimate(tmp_path, recipe, capsys):
    main(["run", str(recipe), "--only", "labels|teacher"])
    changed = yaml.safe_load(recipe.read_text())
    changed["stages"][1]["config"]["model"]["init_args"]["robustness"] = "noise"
    recipe.write_text(yaml.safe_dump(changed, sort_keys=False))
    (tmp_path / "runs/x/teacher/result.json").unlink()
    capsys.readouterr()
    assert main(["run", str(recipe)]) == 2
    shown = capsys.readouterr()
    assert "holds stage 'labels' with other settings; delete that directory" in shown.err
    assert "stage 1 of" not in shown.out
    main(["estimate", str(recipe)])
    assert "labels: has other settings than what lies there" in capsys.readouterr().out


def test_a_name_of_no_stage_is_told_the_names(recipe, capsys):
    assert main(["run", str(recipe), "--only", "studnt"]) == 2
    assert "--only studnt names none of its stages: teacher, labels, student-1, student-2" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "estimate"])
def test_a_value_that_is_no_yaml_is_a_sentence(recipe, command, capsys):
    assert main([command, str(recipe), "--set", "n=[1"]) == 2
    said = capsys.readouterr().err
    assert "--set n: expected YAML, got '[1': while parsing a flow sequence" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("only", ["(", "[a", "*"])
def test_what_is_no_regular_expression_is_a_sentence(recipe, only, capsys):
    assert main(["run", str(recipe), "--list", "--only", only]) == 2
    said = capsys.readouterr().err
    assert f"kdlightning run: --only takes a regular expression, such as 'student-.*'; got {only!r}: " in said
    assert len(said.splitlines()) == 1


def test_a_stage_that_failed_before_it_began_may_be_corrected(tmp_path, recipe, capsys):
    with pytest.raises(SystemExit):
        main(["run", str(recipe), "--only", "teacher", "--set", "n=-1"])
    assert (tmp_path / "runs/x/teacher/stage.json").exists()
    assert main(["run", str(recipe), "--only", "teacher"]) == 0
    assert (tmp_path / "runs/x/teacher/result.json").exists()


@pytest.mark.parametrize(
    ("file", "content", "holds"),
    [
        ("header.json", b"{}", False), (".lock", b"process 1", False), ("journal-0", b"", False),
        ("queries.meter", bytes(52), False), ("queries.meter", b"\1" + bytes(23), True), ("journal-0", b"x", True),
        ("shard-1.safetensors", b"x", True), ("manifest.json", b"{}", True), ("result.json", b"{}", True),
        ("checkpoints/last.ckpt", b"x", True), ("network/config.json", b"{}", True),
    ],
)  # fmt: skip
def test_only_a_stage_that_has_asked_made_or_learnt_something_blocks_other_settings(tmp_path, file, content, holds):
    stage = Stage("labels", "predict", tmp_path, {"seed": 1})
    for name in ("stage.json", "stage.yaml", "config.yaml", "log.txt"):
        (tmp_path / name).write_text('{"digest": "another"}')
    assert not stage.changed
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(content)
    assert stage.changed == holds


def test_a_damaged_record_of_a_stage_is_a_sentence(tmp_path):
    stage = Stage("labels", "predict", tmp_path, {"seed": 1})
    (tmp_path / "stage.json").write_text("{")
    (tmp_path / "manifest.json").write_text('{"seconds": 3')
    assert stage.changed
    with pytest.raises(RecipeError, match=r"manifest.json is damaged .* delete it and run the same command again"):
        _ = stage.seconds


def test_variables_fill_in_with_their_own_type_and_recursively(recipe):
    root, stages, report = read_recipe(recipe, output="there", variables={"n": 48})
    assert (root, report) == (Path("there"), True)
    assert [stage.name for stage in stages] == ["teacher", "labels", "student-1", "student-2"]
    assert stages[0].config["data"]["init_args"]["num_samples"] == 48
    assert stages[1].config["model"]["init_args"]["output"] == "there/labels"
    assert stages[3].config["seed_everything"] == 2


EXTENDING = {
    "extends": "base/recipe.yaml",
    "output": "runs/y",
    "variables": {"n": 48, "seeds": [7]},
    "stages": [
        {"name": "labels", "set": {"model.init_args.candidates": 3}},
        {"name": "labels-again", "command": "predict", "config": "{again}"},
        {"name": "student-{seed}", "matrix": {"seed": "{seeds}"}},
        {"name": "last", "command": "fit", "config": "last.yaml"},
    ],
}


@pytest.fixture
def extending(tmp_path):
    """A recipe that extends another one in another directory; both name a configuration's file."""
    (tmp_path / "base").mkdir()
    base = {**RECIPE, "variables": {**RECIPE["variables"], "again": RECIPE["stages"][1]["config"], "m": 5}}
    first = {"name": "first", "command": "fit", "config": "first.yaml"}
    (tmp_path / "base/recipe.yaml").write_text(yaml.safe_dump({**base, "stages": [*RECIPE["stages"], first]}))
    (tmp_path / "base/first.yaml").write_text("seed_everything: '{n}'")
    (tmp_path / "last.yaml").write_text("seed_everything: '{m}'")
    file = tmp_path / "extending.yaml"
    file.write_text(yaml.safe_dump(EXTENDING, sort_keys=False))
    return file


def test_an_entry_of_a_matrix_sets_several_variables_together(tmp_path):
    stage = {
        "name": "{size}-of-{seed}",
        "command": "fit",
        "matrix": {"point": [{"size": 200, "epochs": 60}, {"size": 5000, "epochs": 30}], "seed": [1, 2]},
        "config": {"trainer": {"max_epochs": "{epochs}"}, "seed": "{seed}"},
    }
    path = tmp_path / "together.yaml"
    path.write_text(yaml.safe_dump({"output": "runs", "stages": [stage]}))
    told = {stage.name: (stage.config["trainer"]["max_epochs"], stage.config["seed"]) for stage in read_recipe(path)[1]}
    assert told == {"200-of-1": (60, 1), "200-of-2": (60, 2), "5000-of-1": (30, 1), "5000-of-2": (30, 2)}


def test_a_recipe_that_extends_another_says_only_what_differs(extending):
    root, stages, report = read_recipe(extending)
    assert (root, report) == (Path("runs/y"), True)
    assert [stage.name for stage in stages] == ["teacher", "labels", "labels-again", "student-7", "last", "first"]
    teacher, labels, again, student, last, first = stages
    assert teacher.config["data"]["init_args"] == {"num_samples": 48, "num_val": 32, "batch_size": 32}
    assert labels.config["model"]["init_args"]["candidates"] == 3
    assert labels.config["model"]["init_args"]["robustness"] == "sd"
    assert again.config["model"]["init_args"]["output"] == "runs/y/labels-again"
    assert (student.config["seed_everything"], student.config["result"]) == (7, {"variant": "bd"})
    assert (last.config["seed_everything"], first.config["seed_everything"]) == (5, 48)
    (extending.parent / "base/recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "report": False}))
    extending.write_text("extends: base/recipe.yaml")
    root, stages, report = read_recipe(extending)
    assert (root, report) == (Path("runs/x"), False)
    assert [stage.name for stage in stages] == ["teacher", "labels", "student-1", "student-2"]


def test_a_stage_with_an_empty_list_is_left_out(extending):
    extending.write_text("extends: base/recipe.yaml\nstages: [{name: labels, matrix: {any: []}}]")
    assert [stage.name for stage in read_recipe(extending)[1]] == ["teacher", "student-1", "student-2", "first"]


def test_what_is_printed_is_the_same_recipe(extending, tmp_path, capsys):
    options = ["--set", "n=40", "--set", "seeds=[8, 9]", "--output", "runs/z"]
    assert main(["run", str(extending), "--print", *options]) == 0
    printed = capsys.readouterr().out
    assert "extends" not in printed
    assert yaml.safe_load(printed)["variables"]["n"] == 40
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/printed.yaml").write_text(printed)
    expected = read_recipe(extending, output="runs/z", variables={"n": 40, "seeds": [8, 9]})
    assert [stage.name for stage in expected[1]][3:5] == ["student-8", "student-9"]
    assert read_recipe(tmp_path / "elsewhere/printed.yaml") == expected
    assert main(["run", str(tmp_path / "elsewhere/printed.yaml"), "--print"]) == 0
    assert capsys.readouterr().out == printed


def test_only_and_list_see_the_stages_of_both(extending, capsys):
    assert main(["run", str(extending), "--list", "--only", "labels|student", "--set", "seeds=[3]"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == ["labels: predict, to do", "labels-again: predict, to do", "student-3: fit, to do"]
    assert main(["run", str(extending), "--list", "--set", "many=1"]) == 2
    assert "has no variable ['many'], only ['again', 'data', 'm', 'n', 'seeds']" in capsys.readouterr().err
    assert main(["run", str(extending), "--print", "--only", "labels"]) == 2
    assert capsys.readouterr() == ("", "kdlightning run: --print shows the whole recipe: leave --only out\n")


@pytest.mark.parametrize(
    ("base", "own", "text"),
    [
        (None, {}, "extending.yaml extends .*base/recipe.yaml, which does not exist"),
        ({"extends": "x.yaml"}, {}, "recipe.yaml, which extends another recipe itself; only one level is allowed"),
        ({"output": "x"}, {}, r"base/recipe.yaml: missing \['stages'\]"),
        (RECIPE, {"stages": [{"name": "more"}]}, r"stage 'more': missing \['command', 'config'\]"),
        (RECIPE, {"stages": [{"config": {}}]}, r"extending.yaml, stage 1: missing \['name'\]"),
        (
            RECIPE,
            {"stages": [{"name": "labels", "matrix": {"a": "bc"}}]},
            "stage 'labels': matrix takes lists, got a: bc",
        ),
        (
            {**RECIPE, "stages": [RECIPE["stages"][0]] * 2},
            {"stages": [{"name": "teacher"}]},
            "base/recipe.yaml has several stages 'teacher', so that none can be changed",
        ),
    ],
)
def test_mistakes_in_extending_are_named(tmp_path, base, own, text, capsys):
    (tmp_path / "base").mkdir()
    if base:
        (tmp_path / "base/recipe.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "extending.yaml").write_text(yaml.safe_dump({"extends": "base/recipe.yaml", **own}))
    with pytest.raises(RecipeError, match=text):
        read_recipe(tmp_path / "extending.yaml")
    assert main(["run", str(tmp_path / "extending.yaml"), "--print"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_not_yaml_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_text("stages: [a: b: c")
    with pytest.raises(RecipeError, match=r"bad.yaml is not YAML: while parsing .* expected ',' or '\]'"):
        read_recipe(tmp_path / "bad.yaml")


def test_what_stands_in_two_braces_is_meant_literally(tmp_path):
    config = {"model": {"init_args": {"request": {"image": "{{image}}", "of": "{{a}} {n}"}}}}
    stages = [{"name": "labels", "command": "predict", "config": config}]
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(RECIPE | {"stages": stages}))
    (stage,) = read_recipe(file)[1]
    assert stage.config["model"]["init_args"]["request"] == {"image": "{image}", "of": "{a} 64"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"stagse": []}, r"unknown \['stagse'\]"),
        ({"stages": [{"name": "a", "command": "train", "config": {}}]}, r"command is one of \['fit', 'predict'\]"),
        ({"stages": [{"name": "a", "command": "fit", "config": "none.yaml"}]}, "none.yaml does not exist"),
        ({"stages": [{"name": "{what}", "command": "fit", "config": {}}]}, "no variable 'what'"),
        (
            {"stages": [{"name": "a", "command": "fit", "config": {}, "matrix": {"seed": [1, 2]}}]},
            "stages need names of their own",
        ),
    ],
)
def test_mistakes_in_recipes_are_named(tmp_path, change, text):
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(RECIPE | change))
    with pytest.raises(RecipeError, match=text):
        read_recipe(file)
    assert main(["run", str(file)]) == 2


def test_a_recipe_that_trains_nothing_ends_in_success_without_a_report(tmp_path, capsys):
    torch.manual_seed(0)
    save_network(LeNet5Fifth(image_size=16), tmp_path / "network")
    teacher = {"class_path": "SoftLabelTeacher", "init_args": {"network": "network"}}
    data = {"class_path": "DigitsDataModule", "init_args": {"num_samples": 20, "image_size": 16}}
    model = {"class_path": "TeacherAnswers", "init_args": {"teacher": teacher}}
    stage = {"name": "answers", "command": "predict", "config": {"model": model, "data": data}}
    Path("recipe.yaml").write_text(yaml.safe_dump({"output": "out", "stages": [stage], "report": True}))
    assert main(["run", "recipe.yaml"]) == 0
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "out/report").exists()
    assert main(["run", "recipe.yaml"]) == 0


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("model.init_args.temprature", 4, "did you mean 'temperature'?"),
        ("model.init_args.temperature", "warm", "Expected a <class 'float'>"),
        ("model.init_args.student.class_path", "LeNet6", "did you mean 'LeNet5'?"),
        ("data.init_args.pathh", "x", "did you mean 'path'?"),
        ("trainer.max_epochs", "two", "Expected a <class 'int'>"),
        ("resultt.variant", "x", "Subcommand 'fit' does not accept option 'resultt"),
    ],
)
def test_what_a_later_stage_does_not_take_is_told_before_the_first_one_runs(tmp_path, key, value, told, capsys):
    changed = copy.deepcopy(RECIPE)
    changed["stages"][2]["set"][key] = value
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(changed))
    assert main(["run", "recipe.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("kdlightning run: stage 'student-1': ")
    assert told in said
    assert said.count("stage '") == 1  # the other seed has the same fault
    assert not (tmp_path / "runs").exists()
    assert main(["run", "recipe.yaml", "--only", "student-2"]) == 2
    assert "stage 'student-2': " in capsys.readouterr().err


def test_settings_are_looked_at_once_for_all_seeds_and_not_of_finished_stages(tmp_path, monkeypatch):
    changed = copy.deepcopy(RECIPE)
    changed["stages"][2]["matrix"] = {"seed": list(range(300))}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(changed))
    looked_at = []

    def note(settings):
        looked_at.append(settings[settings["subcommand"]]["model"]["class_path"].rpartition(".")[2])

    monkeypatch.setattr(chain, "check_class_paths", note)
    _, stages, _ = read_recipe("recipe.yaml")
    assert list(chain.misspelt(stages)) == []
    assert looked_at == ["Supervised", "DB3KDLabels", "DB3KD"]
    stages[0].directory.mkdir(parents=True)
    stages[0].result.write_text("{}")
    assert list(chain.misspelt(stages)) == []
    assert looked_at[3:] == ["DB3KDLabels", "DB3KD"]


def test_a_file_where_a_directory_is_to_be_is_a_sentence(tmp_path, recipe, capsys):
    (tmp_path / "afile").touch()
    assert main(["run", str(recipe), "--output", "afile"]) == 2
    assert "kdlightning run: a file is in the way (afile/teacher): expected a directory" in capsys.readouterr().err
