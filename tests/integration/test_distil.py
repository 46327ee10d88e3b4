"""From three answers to a student: what `new` writes and `kd.distil` runs, on a small folder of real images."""

import json
import re

import pytest
import torch
from chat import Chat
from pictures import NAMES, write_digits
from servers import serving

import kdlightning as kd
from kdlightning.__main__ import main
from kdlightning.commands.case import CaseError
from kdlightning.commands.recipes import read_recipe
from kdlightning.networks import LeNet5, LeNet5Fifth, save_network
from kdlightning.serving import ServedModel


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Six images of each of ten classes, and a teacher."""
    root = tmp_path_factory.mktemp("mine")
    write_digits(root / "photos", 6)
    write_digits(root / "flat", 6, flat=True)
    torch.manual_seed(0)
    save_network(LeNet5(image_size=16), root / "teacher")
    return root


def run(file, *variables):
    return main(["run", str(file), *(f"--set={one}" for one in ("epochs=1", *variables))])


def test_an_api_with_probabilities(mine, tmp_path, capsys):
    with serving(ServedModel(LeNet5(image_size=16), "t", "soft")) as url:
        flags = ["--teacher", "api", "--url", f"{url}/v2/models/t", "--answers", "soft", "--budget", "44"]
        flags += ["--images", str(mine / "photos"), "--labels", "yes", "--student", "LeNet5Fifth", "--output", "runs/x"]
        assert main(["new", *flags]) == 0
        assert main(["estimate", "distil.yaml"]) == 0
        assert "all: to pay 43 images" in capsys.readouterr().out
        assert run("distil.yaml") == 0
    student, baseline = sorted(
        json.loads((tmp_path / "runs/x/report/results.json").read_text()), key=lambda row: row["role"], reverse=True
    )
    assert (student["method"], student["access"], student["queries"]) == ("AnsweredKD", "soft", 43)
    assert (baseline["method"], baseline["role"], baseline["queries"]) == ("Supervised", "reference", 0)
    assert (tmp_path / "runs/x/ledger.sqlite").exists()


def test_labels_of_a_network_about_images_without_labels(mine, tmp_path, capsys):
    flags = ["--teacher", "network", "--network", str(mine / "teacher"), "--answers", "hard", "--budget", "48"]
    flags += ["--images", str(mine / "flat"), "--labels", "no", "--student", "LeNet5Fifth", "--output", "runs/x"]
    assert main(["new", *flags]) == 0
    assert run("distil.yaml") == 0
    for name, method in (("student", "DB3KD"), ("baseline", "AnsweredKD")):
        record = json.loads((tmp_path / f"runs/x/{name}-seed1/result.json").read_text())
        assert (record["method"], record["queries"], record["accuracy"]) == (method, 48, None)
        assert 0 <= record["agreement"] <= 1
    assert " agrees with its teacher LeNet5 on " in (tmp_path / "runs/x/report/report.md").read_text()


def test_an_open_network_and_no_images(mine, tmp_path):
    flags = ["--teacher", "weights", "--network", str(mine / "teacher"), "--images", "none", "--student", "LeNet5Fifth"]
    assert main(["new", *flags, "--output", "runs/x"]) == 0
    file = tmp_path / "distil.yaml"
    file.write_text(re.sub("size: 4000", "size: 80", file.read_text()))
    assert run("distil.yaml") == 0
    for name, method in (("student", "ShaderKD"), ("baseline", "AnsweredKD")):
        record = json.loads((tmp_path / f"runs/x/{name}-seed1/result.json").read_text())
        assert (record["method"], record["accuracy"]) == (method, None)
        assert 0 <= record["agreement"] <= 1
    assert record["queries"] == 80


def test_the_front_door_in_code(mine, tmp_path):
    torch.manual_seed(0)
    told = {"images": mine / "photos", "budget": 44, "output": "runs/y", "epochs": 1}
    made = kd.distil(LeNet5(image_size=16), "LeNet5Fifth", **told)
    assert isinstance(made, kd.Distilled)
    assert str(made.directory) == "runs/y/student-seed1"
    assert not made.student.training
    assert made.student(torch.rand(2, 1, 16, 16)).shape == (2, 10)
    assert (made.record["method"], made.record["queries"]) == ("AnsweredKD", 43)
    assert not (tmp_path / "runs/y/baseline-seed1").exists()


def test_the_front_door_takes_a_chat_model_that_answers_in_words(mine, tmp_path):
    chat = Chat(lambda image: f"I see a {NAMES[len(image) % 10].upper()}!")
    with chat.serving() as url:
        words = {"answers": "words", "model": "m", "classes": NAMES, "shape": (1, 16, 16)}
        made = kd.distil(f"{url}/v1", LeNet5Fifth, images=mine / "flat", budget=40, epochs=1, **words)
    assert (made.record["method"], made.record["access"]) == ("AnsweredKD", "hard")
    assert made.record["queries"] == 32  # a fifth of the budget is for the test
    assert len(chat.asked) == 40
    assert made.student(torch.zeros(1, 1, 16, 16)).shape == (1, 10)


def test_the_front_door_goes_on_and_takes_no_other_case(mine, capsys):
    told = {"images": mine / "photos", "budget": 44, "output": "runs/y", "epochs": 1}
    first = kd.distil(mine / "teacher", "LeNet5Fifth", **told)
    capsys.readouterr()
    assert kd.distil(mine / "teacher", LeNet5Fifth, **told).record == first.record  # the class itself
    assert "2 of 2 stages finished already, skipped: answers, student-seed1" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="recipe of another case"):
        kd.distil(mine / "teacher", "LeNet5Half", **told)


def test_mistakes_at_the_front_door_are_said(mine):
    with pytest.raises(CaseError, match="--budget: expected the most images"):
        kd.distil(mine / "teacher", "LeNet5Fifth", images=mine / "photos")
    with pytest.raises(CaseError, match=r"teacher: how this .* docs/tutorial-teacher.md"):
        kd.distil(torch.nn.Linear(2, 2), "LeNet5Fifth", images=mine / "photos", budget=40)
    one = {"images": mine / "photos", "budget": 40}
    for wrong, said in (
        ({"student": LeNet5(image_size=16)}, "student: expected a network's name, .* its class, .*; got LeNet5$"),
        ({"images": [1, 2]}, "images: expected a folder or zip, .*; got list$"),
        ({"budget": "100"}, "budget: expected a whole number; got str '100'"),
        ({"epochs": 1.5}, "epochs: expected a whole number; got float 1.5"),
        ({"teacher": 3}, "teacher: expected an address, a directory, or a network; got int 3"),
    ):
        with pytest.raises(CaseError, match=said):
            kd.distil(**{"teacher": mine / "teacher", "student": "LeNet5Fifth", **one, **wrong})
    with pytest.raises(AttributeError, match="no attribute 'destil'"):
        _ = kd.destil


def test_distil_lists_the_classes_as_the_teacher_numbers_them(mine, monkeypatch):
    def stop(stages, console):
        raise SystemExit(2)

    names = sorted(NAMES, reverse=True)
    save_network(LeNet5(image_size=16), "backwards", class_names=names)
    monkeypatch.setattr("kdlightning.start.run_stages", stop)
    with pytest.raises(RuntimeError, match="a stage did not finish"):
        kd.distil("backwards", "LeNet5Fifth", images=mine / "photos", budget=60, output="made")
    stage = read_recipe("made/distil.yaml")[1][-1]
    assert stage.config["data"]["init_args"]["classes"] == names
