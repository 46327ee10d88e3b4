"""Without labelled test images a run ends in success, and agreement with the teacher is its result."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kdlightning.__main__ import main
from kdlightning.networks import LeNet5Fifth, save_network

QUIET = {
    "accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "logger": False, "enable_model_summary": False,
}  # fmt: skip
STUDENT = {"class_path": "LeNet5Fifth", "init_args": {"image_size": 16, "num_classes": 2}}
NETWORK = "somewhere/teacher"
TEACHER = {"class_path": "SoftLabelTeacher", "init_args": {"network": NETWORK}}


@pytest.fixture
def photos(tmp_path):
    torch.manual_seed(0)
    save_network(LeNet5Fifth(num_classes=2, image_size=16), tmp_path / NETWORK)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 16, 16), np.uint8)
    for number, image in enumerate(pixels):
        file = tmp_path / f"photos/{'ab'[number % 2]}/{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return tmp_path


def data(**options):
    settings = {"root": "photos", "image_size": 16, "train": ".", "test": None, "channels": 1, "batch_size": 16}
    return {"class_path": "ImageFolderDataModule", "init_args": settings | options}


def answered(source):
    return {"class_path": "TransferSetDataModule", "init_args": {"source": source, "path": "answers"}}


def run(command, model, images, root, **arguments):
    config = {"model": {"class_path": model, "init_args": arguments}, "data": images}
    config["trainer"] = {**QUIET, "default_root_dir": root}
    Path(f"{command}.yaml").write_text(yaml.safe_dump(config))
    assert main([command, "--config", f"{command}.yaml"]) == 0
    return json.loads(Path(root, "result.json" if command == "fit" else "manifest.json").read_text())


def result(record):
    return {key: record[key] for key in ("accuracy", "agreement", "tested_on", "test_images", "train_images")}


def predicted(images):
    assert run("predict", "TeacherAnswers", images, "answers", teacher=TEACHER, output="answers")["queries"] == 54


def test_answers_to_unlabelled_photos_end_in_agreement_with_a_teacher_that_is_here(photos, capsys):
    unlabelled = data(num_classes=2, num_val=6)
    predicted(unlabelled)
    record = run("fit", "AnsweredKD", answered(unlabelled), "runs/a", student=STUDENT)
    assert result(record) == {
        "accuracy": None, "agreement": pytest.approx(record["agreement"]), "tested_on": "validation", "test_images": 6,
        "train_images": 54,
    }  # fmt: skip
    assert record["queries"] == 54  # evaluation is not counted
    told = capsys.readouterr()
    assert "has no test images: the student is tested on its validation images" in told.err
    assert main(["report", "runs"]) == 0
    page = Path("runs/report/report.md").read_text()
    assert "could not be read" not in page
    share = f"{100 * record['agreement']:.2f} % of {record['test_images']} images"
    assert f"AnsweredKD agrees with its teacher LeNet5Fifth on {share}" in page
    assert "tested on 6 images of the validation part" in page


def test_where_the_teacher_is_elsewhere_some_answers_are_kept_to_test_on(photos, capsys):
    unlabelled = data(num_classes=2, num_val=6)
    predicted(unlabelled)
    (photos / "somewhere").rename(photos / "gone")
    record = run("fit", "AnsweredKD", answered(unlabelled), "runs/a", student=STUDENT)
    # a tenth of 54, rounded up
    expected = {"accuracy": None, "tested_on": "held out", "test_images": 6, "train_images": 48}
    assert expected.items() <= result(record).items()
    assert record["agreement"] in [pytest.approx(part / 6) for part in range(7)]
    assert "6 of the answered images are kept from training" in capsys.readouterr().err


def test_a_replaced_teacher_is_not_asked(photos):
    unlabelled = data(num_classes=2, num_val=6)
    predicted(unlabelled)
    save_network(LeNet5Fifth(num_classes=2, image_size=16), NETWORK, overwrite=True)
    record = run("fit", "AnsweredKD", answered(unlabelled), "runs/a", student=STUDENT)
    assert record["tested_on"] == "held out"


def test_labels_tell_how_good_a_teacher_from_elsewhere_is(photos):
    record = run("fit", "KD", data(num_test=20, num_val=0), "runs/a", teacher=TEACHER, student=STUDENT)
    assert (record["tested_on"], record["test_images"], record["queries"]) == ("test", 20, 40)
    assert 0 <= record["teacher_accuracy"] <= 1
    assert record["agreement"] is not None
    assert main(["report", "runs"]) == 0
    teacher, student = json.loads(Path("runs/report/results.json").read_text())
    assert (teacher["method"], teacher["student"], teacher["parameters"]) == (
        *("Teacher", "LeNet5Fifth"), student["parameters"],
    )  # fmt: skip
    assert teacher["accuracy_mean"] == record["teacher_accuracy"]


def test_without_any_image_to_test_on_the_run_is_kept_all_the_same(photos, capsys):
    record = run("fit", "KD", data(num_classes=2, num_val=0), "runs/a", teacher=TEACHER, student=STUDENT)
    expected = {"accuracy": None, "agreement": None, "tested_on": None, "test_images": None, "train_images": 60}
    assert result(record) == expected
    assert "nothing will say how good the student is: photos has neither test nor validation" in capsys.readouterr().err
    assert main(["report", "runs"]) == 0
