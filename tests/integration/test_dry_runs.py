"""What a dry run and a run with limits leave: nothing, or a record of what was really trained on and measured."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from helpers import Linear, ToyDataModule, trainer

from kdlightning.__main__ import main
from kdlightning.accounting import AnswerJournal
from kdlightning.callbacks import Agreement, ConfusionMatrix, ImageGrid, QueryLogger, RunResult
from kdlightning.methods import DFND, KD, MEKDGenerator, Supervised
from kdlightning.networks import LeNet5Fifth, ResNet8, load_network, save_network
from kdlightning.networks.gan import DCGANCritic, TransposedGenerator
from kdlightning.report import read_runs, summarise
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher


def teacher():
    weight = torch.zeros(3, 8, 8)
    for k in range(3):
        weight[k, :, 3 * k : 3 * k + 2] = 1.0
    return SoftLabelTeacher(Linear(weight.flatten(1)))


def net():
    return ResNet8(num_classes=3, in_channels=1, image_size=8)


def run(root, module=None, callbacks=None, **options):
    """Fit and test."""
    callbacks = [RunResult(), ConfusionMatrix(), QueryLogger()] if callbacks is None else callbacks
    module = module or KD(teacher(), net())
    made = trainer(root, callbacks=callbacks, **options)
    made.fit(module, datamodule=ToyDataModule())
    made.test(module, datamodule=ToyDataModule(), verbose=False)
    return module


def content(root):
    return {str(file.relative_to(root)): file.read_bytes() for file in Path(root).rglob("*") if file.is_file()}


def record(root):
    return json.loads((root / "result.json").read_text())


def test_a_dry_run_leaves_a_finished_run_as_it_is_but_for_the_count(tmp_path):
    run(tmp_path)
    before = content(tmp_path)
    assert before.keys() == {
        "result.json", "confusion.json", "network/config.json", "network/model.safetensors", "queries.meter",
    }  # fmt: skip
    run(tmp_path, fast_dev_run=2)
    after = content(tmp_path)
    assert after.pop("queries.meter") != before.pop("queries.meter")
    assert after == before


@pytest.mark.parametrize("fast_dev_run", [True, 2])
def test_a_dry_run_in_a_directory_of_its_own_leaves_what_it_has_asked_and_nothing_else(tmp_path, fast_dev_run):
    callbacks = [RunResult(), ConfusionMatrix(), Agreement(), QueryLogger()]
    module = run(tmp_path, callbacks=callbacks, fast_dev_run=fast_dev_run)
    assert module.teacher.paid.queries == 16 * int(fast_dev_run)
    assert content(tmp_path).keys() == {"queries.meter"}
    # nor does a whole test of what was fitted dryly
    trainer(tmp_path, callbacks=callbacks).test(module, datamodule=ToyDataModule(), verbose=False)
    assert content(tmp_path).keys() == {"queries.meter"}


def test_a_dry_run_of_a_choosing_method_leaves_no_choices(tmp_path):
    run(tmp_path, DFND(teacher(), net(), share=0.5), [RunResult()], fast_dev_run=2)
    assert content(tmp_path) == {}


def test_a_dry_run_of_a_generator_keeps_the_answers_that_a_killed_run_has_paid(tmp_path):
    networks = TransposedGenerator(latent_dim=3, channels=1, image_size=8, width=4), DCGANCritic(1, 8, width=2)
    module = MEKDGenerator(*networks, teacher=teacher(), queries=5)
    made = trainer(tmp_path, callbacks=[RunResult(), ImageGrid(4)], fast_dev_run=2)
    made.fit(module, datamodule=ToyDataModule())
    paid = module.teacher.paid.queries
    assert paid > 0
    left = content(tmp_path)
    (journal,) = left.keys() - {"queries.meter"}
    assert AnswerJournal(tmp_path / journal, module.teacher.query).pending == paid
    assert journal.startswith("journal/")


def test_a_test_elsewhere_or_of_other_weights_leaves_the_record_as_it_is(tmp_path, caplog):
    callbacks = [RunResult(), ConfusionMatrix()]
    module = run(tmp_path / "here", callbacks=callbacks)
    before = content(tmp_path / "here")
    elsewhere = trainer(tmp_path / "elsewhere", callbacks=callbacks)
    elsewhere.test(module, datamodule=ToyDataModule(), verbose=False)
    assert content(tmp_path / "elsewhere") == {}
    with torch.no_grad():
        next(module.student.parameters()).zero_()
    trainer(tmp_path / "here", callbacks=callbacks).test(module, datamodule=ToyDataModule(), verbose=False)
    assert content(tmp_path / "here") == before
    told = "here gets no record of this test: it is not of the weights that were saved there at the end of the fit"
    assert [told in record.getMessage() for record in caplog.records if "no record" in record.getMessage()][-1:] == [
        True
    ]


@pytest.mark.parametrize(
    ("options", "trained", "tested"),
    [
        ({}, 60, 30),
        ({"limit_test_batches": 1}, 60, 16),
        ({"limit_test_batches": 0.5}, 60, 16),
        ({"limit_train_batches": 2, "max_epochs": 3}, 32, 30),
        ({"limit_train_batches": 1.0, "max_epochs": 2}, 60, 30),
        ({"max_epochs": -1, "max_steps": 1}, 16, 30),
        ({"max_epochs": -1, "max_steps": 6}, 60, 30),
        ({"overfit_batches": 1}, 16, 30),
        ({"max_epochs": 0}, 0, 30),
    ],
)
def test_a_record_counts_what_was_trained_on_and_what_was_measured(tmp_path, options, trained, tested):
    run(tmp_path, Supervised(net()), **options)
    told = record(tmp_path)
    assert (told["train_images"], told["test_images"], told["test_images_there"]) == (trained, tested, 30)
    counts = json.loads((tmp_path / "confusion.json").read_text())["counts"]
    assert sum(map(sum, counts)) == tested
    (row,), notes = summarise(read_runs([tmp_path]).runs)
    assert row.test_images == tested
    said = [note for note in notes if "measured on" in note]
    assert [note.endswith("measured on 16 of 30 test images only.") for note in said] == [True] * (tested < 30)


TEACHER = {"class_path": "SoftLabelTeacher", "init_args": {"network": "teacher", "budget": 152}}
CONFIG = {
    "model": {
        "class_path": "KD",
        "init_args": {"teacher": TEACHER, "student": {"class_path": "LeNet5Fifth", "init_args": {"image_size": 16}}},
    },
    "data": {
        "class_path": "DigitsDataModule",
        "init_args": {"num_samples": 40, "num_val": 20, "batch_size": 16, "image_size": 16},
    },
    "trainer": {
        "accelerator": "cpu", "enable_progress_bar": False, "logger": False, "enable_model_summary": False,
        "max_epochs": 3, "default_root_dir": "run",
    },
}  # fmt: skip


def test_after_a_dry_run_the_run_begins_and_goes_on_counting(tmp_path, capsys):
    save_network(LeNet5Fifth(image_size=16), "teacher")
    Path("fit.yaml").write_text(yaml.safe_dump(CONFIG))
    for asked in (32, 64):
        assert main(["fit", "--config", "fit.yaml", "--trainer.fast_dev_run", "2"]) == 0
        assert content("run").keys() == {"queries.meter"}
        teacher = HardLabelTeacher("teacher")
        teacher.share("run/queries.meter")
        assert teacher.paid.queries == asked
    CONFIG["model"]["init_args"]["teacher"]["init_args"]["budget"] = 184
    Path("fit.yaml").write_text(yaml.safe_dump(CONFIG))
    capsys.readouterr()
    assert main(["fit", "--config", "fit.yaml"]) == 0
    assert (
        "run has no run, but 64 queries were asked there, as by a dry run: the count goes on" in capsys.readouterr().err
    )
    assert record(tmp_path / "run")["queries"] == 64 + 3 * 40
    assert load_network("run/network").num_classes == 10
    with pytest.raises(SystemExit):  # now there is one
        main(["fit", "--config", "fit.yaml"])
    assert "run already holds a run" in capsys.readouterr().err


def test_a_run_that_tests_nothing_has_a_record_without_accuracy(tmp_path):
    save_network(LeNet5Fifth(image_size=16), "teacher")
    Path("fit.yaml").write_text(yaml.safe_dump(CONFIG))
    options = ["--trainer.limit_test_batches", "0", "--trainer.max_epochs", "1"]
    assert main(["fit", "--config", "fit.yaml", *options]) == 0
    told = record(tmp_path / "run")
    assert (told["accuracy"], told["test_images"], told["train_images"]) == (None, 0, 40)


def test_a_dry_run_of_a_labelling_is_its_beginning(tmp_path, capsys):
    save_network(LeNet5Fifth(image_size=16), "teacher")
    model = {"class_path": "TeacherAnswers", "init_args": {"teacher": TEACHER, "output": "set"}}
    options = {key: value for key, value in CONFIG["trainer"].items() if key not in ("max_epochs", "default_root_dir")}
    data = {"class_path": "DigitsDataModule", "init_args": {**CONFIG["data"]["init_args"], "eval_batch_size": 8}}
    config = {"model": model, "data": data, "return_predictions": False, "trainer": options}
    Path("predict.yaml").write_text(yaml.safe_dump(config))
    assert main(["predict", "--config", "predict.yaml", "--trainer.fast_dev_run", "2"]) == 0
    assert not Path("set/manifest.json").exists()
    assert main(["estimate", "--config", "predict.yaml"]) == 0
    assert "answered already 16 to ask 24" in " ".join(capsys.readouterr().out.split())
    assert main(["predict", "--config", "predict.yaml"]) == 0
    manifest = json.loads(Path("set/manifest.json").read_text())
    assert (manifest["queries"], manifest["queries_paid"]) == (40, 40)


def test_a_finished_run_is_not_replaced_by_another(tmp_path):
    run(tmp_path)
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match=r"result.json is the record of a finished run.*another default_root_dir"):
        run(tmp_path)
    assert content(tmp_path) == before
    (tmp_path / "result.json").unlink()
    torch.manual_seed(1)
    run(tmp_path)
    assert content(tmp_path)["network/model.safetensors"] != before["network/model.safetensors"]


def test_the_same_module_trains_on_where_it_was_trained(tmp_path):
    callback, module, data = RunResult(), Supervised(net()), ToyDataModule()
    steps = []
    for epochs in (1, 2):
        made = trainer(tmp_path, callbacks=[callback], max_epochs=epochs)
        made.fit(module, datamodule=data)
        made.test(module, datamodule=data, verbose=False)
        steps.append(record(tmp_path)["steps"])
    assert steps[1] == 2 * steps[0]
