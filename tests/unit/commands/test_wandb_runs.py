"""Groups, tags and the confusion matrix of a run that is fitted by the command line."""

import json

import lightning.pytorch as L
import pytest
import torch
import wandb
from helpers import TinyNet, ToyDataModule
from lightning.pytorch.loggers import WandbLogger

from kdlightning.callbacks import ConfusionMatrix, RunResult
from kdlightning.commands import cli
from kdlightning.commands.tracking import describe_run, label_runs, log_record, paper_of
from kdlightning.methods import DB3KD, KD, MEKD, Supervised
from kdlightning.networks import LeNet5, LeNet5Fifth, save_network
from kdlightning.teachers import SoftLabelTeacher


class Stub:
    """A datamodule as far as its name and its transfer set go."""

    def __init__(self, path=None):
        self.name, self.path = "digits", path


def labels(tmp_path):
    manifest = {"access": "hard", "queries": 4321, "teacher": {"name": "LeNet5"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return Stub(str(tmp_path))


def test_a_run_on_a_transfer_set_says_what_that_has_cost(tmp_path):
    assert describe_run(DB3KD(TinyNet()), labels(tmp_path)) == {
        "paper": "Wang2021", "method": "DB3KD", "dataset": "digits", "teacher": "LeNet5", "access": "hard",
        "budget": "4321", "network": "TinyNet",
    }  # fmt: skip


@pytest.mark.parametrize(("budget", "told"), [(500, "500"), (None, "unlimited")])
def test_a_run_that_asks_says_what_it_may(budget, told):
    facts = describe_run(KD(SoftLabelTeacher(LeNet5(), budget=budget), TinyNet()), Stub())
    assert (facts["paper"], facts["teacher"], facts["access"]) == ("Hinton2015", "LeNet5", "soft")
    assert facts["budget"] == told


def test_without_a_teacher_there_is_no_budget():
    facts = describe_run(Supervised(TinyNet()), Stub())
    assert facts == {"method": "Supervised", "dataset": "digits", "access": "labels", "network": "TinyNet"}


def test_the_paper_is_the_first_that_the_class_or_its_file_names():
    class Mine(MEKD):
        """Mine, after [Me2030]_ and [You2029]_."""

    assert [paper_of(kind) for kind in (Mine, MEKD, Supervised)] == ["Me2030", "Ma2024", None]


def offline_settings(monkeypatch, tmp_path, **given):
    for key in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(key, str(tmp_path / key))
    logger = WandbLogger(project="x", save_dir=str(tmp_path), offline=True, **given)
    trainer = L.Trainer(
        logger=logger, callbacks=[RunResult(variant="mbd")], accelerator="cpu", enable_model_summary=False,
        enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    label_runs(trainer, DB3KD(TinyNet()), labels(tmp_path))
    log_record(trainer, {"accuracy": 0.5, "queries": 7, "method": "DB3KD", "agreement": None})
    try:
        run = logger.experiment
        return run.settings.run_group, run.settings.run_tags, dict(run.summary), run.settings.mode
    finally:
        wandb.finish()


def test_an_offline_run_has_group_and_tags(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    group, tags, summary, _ = offline_settings(monkeypatch, tmp_path)
    assert group == "Wang2021 / DB3KD / digits / LeNet5 / hard / 4321 / TinyNet / mbd"
    assert set(tags) == {
        "paper:Wang2021", "method:DB3KD", "dataset:digits", "teacher:LeNet5", "access:hard", "budget:4321",
        "network:TinyNet", "variant:mbd",
    }  # fmt: skip
    assert summary == {"result/accuracy": 0.5, "result/queries": 7}


def test_the_users_own_group_and_tags_win(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    group, tags, _, _ = offline_settings(monkeypatch, tmp_path, group="mine", tags=["a", "b"])
    assert (group, set(tags)) == ("mine", {"a", "b"})


@pytest.mark.parametrize("name", ["WANDB_RUN_GROUP", "WANDB_TAGS"])
def test_so_do_those_of_the_environment(name, monkeypatch, tmp_path):
    monkeypatch.setenv(name, "mine")
    logger = WandbLogger(project="x", save_dir=str(tmp_path), offline=True)
    trainer = L.Trainer(logger=logger, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
    label_runs(trainer, DB3KD(TinyNet()), labels(tmp_path))
    told = {"WANDB_RUN_GROUP": "group", "WANDB_TAGS": "tags"}
    assert told.pop(name) not in logger._wandb_init
    assert set(told.values()) <= set(logger._wandb_init)


def trainer(root, *callbacks):
    return L.Trainer(
        default_root_dir=root, callbacks=list(callbacks), max_epochs=1, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def test_the_counts_are_the_tested_networks_own(tmp_path):
    data, model = ToyDataModule(batch_size=16), Supervised(TinyNet())
    fitting = trainer(tmp_path, ConfusionMatrix())
    fitting.fit(model, datamodule=data)
    (metrics,) = fitting.test(model, datamodule=data, verbose=False)
    content = json.loads((tmp_path / "confusion.json").read_text())
    expected = torch.zeros(3, 3, dtype=torch.long)
    model.eval()
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        for label, seen in zip(batch.label, model(batch.image).argmax(1), strict=True):
            expected[label, seen] += 1
    assert content == {"schema": 1, "class_names": list(data.class_names), "counts": expected.tolist()}
    assert expected.diagonal().sum() / expected.sum() == pytest.approx(metrics["test/accuracy"])


def test_only_a_fitted_run_has_one(tmp_path):
    trainer(tmp_path, ConfusionMatrix()).test(Supervised(TinyNet()), datamodule=ToyDataModule(), verbose=False)
    assert not (tmp_path / "confusion.json").exists()


def test_many_classes_are_left_out(tmp_path):
    fitting, data, model = trainer(tmp_path, ConfusionMatrix()), ToyDataModule(), Supervised(TinyNet(201))
    data.num_classes = 201
    fitting.fit(model, datamodule=data)
    fitting.test(model, datamodule=data, verbose=False)
    assert not (tmp_path / "confusion.json").exists()


def test_the_command_line_does_all_of_it(monkeypatch, tmp_path):
    for key in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(key, str(tmp_path / key))
    told = []
    init = wandb.init
    monkeypatch.setattr("wandb.init", lambda **settings: told.append(settings) or init(**settings))
    arguments = [
        "fit", "--model", "Supervised", "--model.student", "LeNet5Fifth", "--data", "DigitsDataModule",
        "--data.image_size", "28",
        "--data.num_samples", "64", "--data.num_val", "32", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu",
        "--trainer.logger", "WandbLogger", "--trainer.default_root_dir", "run", "--result.variant", "small",
        "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
    ]  # fmt: skip
    assert cli.main(arguments) == 0
    assert [settings["group"] for settings in told] == ["Supervised / digits / labels / LeNet5Fifth / small"]
    counts = torch.tensor(json.loads((tmp_path / "run/confusion.json").read_text())["counts"])
    record = json.loads((tmp_path / "run/result.json").read_text())
    assert counts.shape == (10, 10)
    assert (counts.trace() / counts.sum()).item() == pytest.approx(record["accuracy"])


WANDB = [
    "--trainer.logger",
    "WandbLogger",
    "--trainer.default_root_dir",
    "run",
    "--trainer.enable_progress_bar",
    "false",
]
DIGITS = [
    "--data", "DigitsDataModule", "--data.image_size", "28", "--data.num_samples", "64", "--data.num_val", "32",
    "--data.eval_batch_size", "32", "--trainer.accelerator", "cpu",
]  # fmt: skip


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """What the command line has W&B log: runs with their settings, rows and summary."""
    for key in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(key, str(tmp_path / key))
    runs, init, finish = [], wandb.init, wandb.finish

    def watched(**settings):
        run = init(**settings)
        runs.append(
            {"run": run, "group": settings.get("group"), "tags": settings.get("tags"), "rows": [], "id": run.id}
        )
        log = run.log
        monkeypatch.setattr(run, "log", lambda row, *a, **b: runs[-1]["rows"].append(dict(row)) or log(row, *a, **b))
        return run

    monkeypatch.setattr("wandb.init", watched)
    monkeypatch.setattr("wandb.finish", lambda: runs[-1].update(summary=dict(runs[-1]["run"].summary)) or finish())
    torch.manual_seed(0)
    return runs, str(save_network(LeNet5Fifth(), tmp_path / "teacher"))


def test_accuracy_and_queries_share_a_row_and_a_run_goes_on_as_the_same(offline):
    runs, teacher = offline
    start = [
        "fit", "--model", "KD", "--model.teacher", "SoftLabelTeacher", "--model.teacher.network", teacher,
        "--model.student", "LeNet5Fifth", *DIGITS, *WANDB,
    ]  # fmt: skip
    assert cli.main([*start, "--trainer.max_epochs", "2"]) == 0
    rows = [(row["teacher/queries"], row["trainer/global_step"]) for row in runs[0]["rows"] if "val/accuracy" in row]
    assert rows == [(64, 0), (128, 1)]
    again = ["--ckpt_path", "run/checkpoints/last.ckpt", "--trainer.max_epochs", "3"]
    assert cli.main([*start, *again]) == 0
    assert [one["id"] for one in runs] == [runs[0]["id"]] * 2
    assert cli.main([*start, "--trainer.max_epochs", "1", "--overwrite", "true"]) == 0
    assert runs[2]["id"] != runs[0]["id"]


def test_labelling_has_a_group_tags_a_history_and_a_result(offline):
    runs, teacher = offline
    arguments = [
        "predict", "--model", "TeacherAnswers", "--model.teacher", "HardLabelTeacher", "--model.output", "set",
        "--model.teacher.network", teacher, "--model.teacher.budget", "100", *DIGITS, *WANDB,
        "--trainer.log_every_n_steps", "1",
    ]  # fmt: skip
    assert cli.main(arguments) == 0
    assert runs[0]["group"] == "TeacherAnswers / digits / LeNet5Fifth / hard / 100"
    assert {"method:TeacherAnswers", "access:hard", "budget:100"} <= set(runs[0]["tags"])
    rows = [(row["label/rows"], row["teacher/queries"]) for row in runs[0]["rows"]]
    assert rows == [(32, 32), (64, 64), (64, 64)]
    summary = runs[0]["summary"]
    assert (summary["result/rows"], summary["result/queries"]) == (64, 64)


def test_a_generator_has_a_result(offline):
    runs, teacher = offline
    arguments = [
        "fit", "--model", "MEKDGenerator", "--model.generator", "TransposedGenerator", "--model.generator.width", "4",
        "--model.generator.image_size", "28",
        "--model.critic", "DCGANCritic", "--model.critic.width", "2", "--model.critic.image_size", "28",
        "--model.teacher", "SoftLabelTeacher",
        "--model.teacher.network", teacher, "--model.queries", "10", "--trainer.max_epochs", "1", *DIGITS, *WANDB,
    ]  # fmt: skip
    assert cli.main(arguments) == 0
    summary = runs[0]["summary"]
    assert summary["result/queries"] == 10
    assert summary["result/epochs"] == 1
