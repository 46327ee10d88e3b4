"""What a stage reads has to be what a stage before it writes; a recipe is refused before anybody is asked."""

from pathlib import Path

import pytest
import yaml

from kdlightning.__main__ import main
from kdlightning.accounting.estimates import remember
from kdlightning.commands.chain import faults
from kdlightning.commands.recipes import _holds_work, read_recipe

SOURCE = {"class_path": "DigitsDataModule", "init_args": {"num_samples": 40, "image_size": 16}}
TEACHER = {"class_path": "SoftLabelTeacher", "init_args": {"network": "elsewhere", "budget": 60}}
STUDENT = {"class_path": "LeNet5Fifth", "init_args": {"image_size": 16}}
NOISE = {"class_path": "NoiseDataModule", "init_args": {"source": SOURCE, "size": 20}}


def reading(kind, path="out/answers", **options):
    return {"class_path": kind, "init_args": {"source": SOURCE, "path": path, **options}}


def stage(name, command, method, data, **arguments):
    return {
        "name": name,
        "command": command,
        "config": {"model": {"class_path": method, "init_args": arguments}, "data": data},
    }


def asking(method, data=SOURCE, **arguments):
    return stage("answers", "predict", method, data, teacher=TEACHER, **arguments)


def found(*stages):
    Path("recipe.yaml").write_text(yaml.safe_dump({"output": "out", "stages": list(stages)}))
    root, planned, _ = read_recipe("recipe.yaml")
    return list(faults(planned, root))


@pytest.mark.parametrize(
    ("asks", "reads", "right"),
    [
        (asking("ActiveMixup", queries=60, student=STUDENT), "TransferSetDataModule", "GeneratedDataModule"),
        (asking("KnockoffSelection", queries=20), "TransferSetDataModule", None),
        (asking("KnockoffSelection", queries=20), "GeneratedDataModule", None),
        (asking("TeacherAnswers"), "GeneratedDataModule", "TransferSetDataModule"),
        (asking("TeacherAnswers"), "TransferSetDataModule", None),
        (asking("TeacherAnswers", NOISE), "TransferSetDataModule", "GeneratedDataModule"),
        (asking("TeacherAnswers", NOISE), "NoiseDataModule", None),
        (asking("DeepInversion", NOISE), "SyntheticDataModule", None),
        (asking("TeacherAnswers"), "SyntheticDataModule", "TransferSetDataModule"),
        (asking("mine.Own"), "TransferSetDataModule", None),
    ],
)  # fmt: skip
def test_a_set_is_read_as_it_is_written(asks, reads, right):
    said = found(asks, stage("student", "fit", "Supervised" if right is None else "AnsweredKD", reading(reads)))
    if right is None:
        assert said == []
        return
    sentence = said[0]
    assert sentence.startswith(f"stage 'student' reads out/answers by {reads}, but ")
    told = f"give stage 'student' data: {{class_path: {right}, init_args: {{source: (as it is), path: out/answers}}}}"
    assert sentence.endswith(told)


def test_a_synthesis_is_labelled_and_learnt_over_three_stages():
    synthesis = stage("images", "predict", "ZSDB3KDImages", NOISE, teacher=TEACHER)
    made = reading("SyntheticDataModule", "out/images")
    labels = stage("answers", "predict", "DB3KDLabels", made, teacher=TEACHER)
    data = {"class_path": "TransferSetDataModule", "init_args": {"source": made, "path": "out/answers"}}
    assert found(synthesis, labels, stage("student", "fit", "DB3KD", data)) == []
    made["init_args"]["path"] = "out/image"
    assert found(synthesis, labels)[0].endswith("which no stage before it writes; did you mean out/images?")
    made["init_args"]["path"] = "out/images"
    assert found(labels, synthesis)[0] == (
        "stage 'answers' reads out/images as path, which no stage before it writes: the stage that does stands behind "
        "it"
    )


def test_answers_are_of_the_kind_that_a_method_learns_from():
    (sentence,) = found(asking("DB3KDLabels"), stage("student", "fit", "AnsweredKD", reading("TransferSetDataModule")))
    assert sentence.endswith("writes activation, distance, label: train DB3KD on them")
    labels = reading("TransferSetDataModule", column="label")
    assert found(asking("DB3KDLabels"), stage("student", "fit", "AnsweredKD", labels)) == []
    (sentence,) = found(asking("TeacherAnswers"), stage("student", "fit", "AnsweredKD", SOURCE))
    assert sentence == (
        "stage 'student': AnsweredKD learns from a transfer set, not from DigitsDataModule: give data: {class_path: "
        "TransferSetDataModule, init_args: {source: (the DigitsDataModule), path: out/answers}}"
    )


def test_networks_are_where_a_fit_leaves_them():
    training = stage("teacher", "fit", "Supervised", SOURCE, student=STUDENT)
    network = {"class_path": "SoftLabelTeacher", "init_args": {"network": "out/teacher"}}
    answers = stage("answers", "predict", "TeacherAnswers", SOURCE, teacher=network)
    assert found(training, answers) == [
        "stage 'answers' reads out/teacher as network: give out/teacher/network, where a run leaves it"
    ]
    network["init_args"]["network"] = "out/teacher/network"
    assert found(training, answers) == []
    assert found(answers, training)[0].endswith("the stage that does stands behind it")
    network["init_args"]["network"] = "out/another/network"  # which the user may put there
    assert found(training, answers) == []


@pytest.mark.parametrize("command", ["run", "estimate"])
def test_a_recipe_is_refused_before_its_first_stage(tmp_path, capsys, command):
    found(
        asking("ActiveMixup", queries=60, student=STUDENT),
        stage("student", "fit", "AnsweredKD", reading("TransferSetDataModule")),
    )
    assert main([command, "recipe.yaml"]) == 2
    assert (
        f"kdlightning {command}: stage 'student' reads out/answers by TransferSetDataModule" in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_a_forecast_alone_is_no_work(tmp_path):
    remember(tmp_path, (1.0, 2.0, 3.0))
    assert not _holds_work(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    assert _holds_work(tmp_path)
