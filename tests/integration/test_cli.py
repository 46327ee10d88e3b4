import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml

from kdlightning.__main__ import main
from kdlightning.commands import cli
from kdlightning.commands.checks import check_class_paths
from kdlightning.methods import KD, TeacherAnswers
from kdlightning.networks import LeNet5Fifth, load_network, save_network

SMALL = [
    "--data", "DigitsDataModule", "--data.num_samples", "64", "--data.num_val", "32", "--data.batch_size", "32",
    "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false",
    "--trainer.enable_model_summary", "false",
]  # fmt: skip
STUDENT = ["--model.student", "LeNet5Fifth", "--model.student.image_size", "32"]


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(0)
    return str(save_network(LeNet5Fifth(image_size=32), tmp_path / "teacher"))


def fit(*arguments):
    return main(["fit", *arguments, *SMALL])


def test_help_needs_no_torch_and_answers_fast():
    start = time.perf_counter()
    code = "import sys; from kdlightning.__main__ import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 3
    for command in ("fit", "validate", "test", "predict", "run", "report", "networks"):
        assert f"  {command} " in done.stdout


def test_unknown_command_names_the_nearest(capsys):
    assert main(["reprot"]) == 2
    assert "did you mean 'report'?" in capsys.readouterr().err


def test_networks_lists_published_sizes(capsys):
    assert main(["networks"]) == 0
    out = capsys.readouterr().out
    assert "187,780" in out
    assert "7,964" in out


def test_fit_leaves_a_network_a_record_and_its_configuration(tmp_path, capsys):
    assert fit("--model", "Supervised", *STUDENT, "--seed_everything", "7", "--result.role", "reference") == 0
    run = tmp_path / "runs/supervised-seed7"
    record = json.loads((run / "result.json").read_text())
    assert (record["role"], record["seed"], record["dataset"]) == ("reference", 7, "digits")
    assert record["parameters"] == 11_564
    assert record["queries"] == 0
    out = capsys.readouterr().out
    assert f"{record['accuracy']:.2%}" in out
    assert "11,564" in out
    network = load_network(run / "network")
    assert network.image_size == 32
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["init_args"]["num_samples"] == 64


def test_a_run_is_not_overwritten_silently(tmp_path, capsys):
    arguments = ("--model", "Supervised", *STUDENT, "--trainer.default_root_dir", "run")
    fit(*arguments)
    before = (tmp_path / "run/result.json").read_text()
    with pytest.raises(SystemExit):
        fit(*arguments)
    assert "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "run/result.json").read_text() == before
    fit(*arguments, "--overwrite", "true", "--seed_everything", "3")
    assert json.loads((tmp_path / "run/result.json").read_text())["seed"] == 3


def test_no_checkpoints_are_kept_where_none_are_wanted_and_a_rerun_from_its_file_replaces_nothing(tmp_path, capsys):
    start = ("--model", "Supervised", *STUDENT, "--trainer.default_root_dir", "run")
    fit(*start, "--trainer.enable_checkpointing", "false", "--overwrite", "true")
    assert not (tmp_path / "run/checkpoints").exists()
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (config["overwrite"], config["restart"], config["ckpt_path"]) == (False, False, None)
    with pytest.raises(SystemExit):
        main(["fit", "--config", "run/config.yaml"])
    assert "run already holds a run" in capsys.readouterr().err


def test_what_is_not_finite_ends_with_a_sentence_and_no_record(tmp_path, capsys):
    rate = ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1e30")
    with pytest.raises(SystemExit) as stopped:
        fit("--model", "Supervised", *STUDENT, *rate, "--trainer.default_root_dir", "run")
    err = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "kdlightning: error: ce is nan, loss is nan, in epoch 1 after 2 steps: the training has failed" in err
    assert "Try a lower learning rate (it is 1e+30)" in err
    assert not list(tmp_path.rglob("result.json")) + list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--seed", "1"], "there is no option 'seed'; did you mean 'seed_everything'?"),
        (["--trainer.limit_train_batches", "-1"], "limit_train_batches"),
        (["--ckpt_path", "http://127.0.0.1:9/last.ckpt"], "expected a checkpoint's file on this machine, got http://"),
        (["--ckpt_path", "s3://bucket/last.ckpt"], "download it first: an address is not opened"),
        (["--ckpt_path", "registry:someone/model"], "download it first: an address is not opened"),
        (["--ckpt_path", "nowhere.ckpt"], "got nowhere.ckpt; there is none"),
        (["--weights_only", "false"], "unrecognized arguments: --weights_only"),
        (["--optimizer", "Adam"], "there is no option 'optimizer'; did you mean 'model.optimizer'?"),
        (["--lr", "1"], "there is no option 'lr'; did you mean 'model.optimizer.lr'?"),
        (["--batch_size", "1"], "there is no option 'batch_size'; did you mean 'data.batch_size'?"),
        (["--max_epochs", "1"], "there is no option 'max_epochs'; did you mean 'trainer.max_epochs'?"),
        (["--confg", "exp.yaml"], "there is no option 'confg'; did you mean 'config'?"),
        (["--budget", "1"], "there is no option 'budget'; did you mean 'model.teacher.budget'?"),
    ],
)
def test_what_a_trainer_is_not_given_is_one_sentence(arguments, text, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--model", "Supervised", *STUDENT, *SMALL, *arguments])
    err = capsys.readouterr().err
    assert (stopped.value.code, text in err, "Traceback" in err) == (2, True, False)
    assert not (tmp_path / "runs").exists()


def test_home_is_home_in_a_file_and_the_last_checkpoint_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    start = ("--model", "Supervised", *STUDENT, "--trainer.default_root_dir", "~/run")
    fit(*start)
    fit(*start, "--ckpt_path", "last")
    assert (tmp_path / "home/run/result.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]
    assert yaml.safe_load((tmp_path / "home/run/config.yaml").read_text())["trainer"]["default_root_dir"][0] == "/"


def test_callbacks_of_the_user_stand_beside_those_of_the_run(tmp_path, capsys):
    own = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/accuracy", "filename": "best"}}
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss"}}
    for name, callbacks in (("own", [own]), ("wrong", [stopping])):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    start = ("--model", "Supervised", *STUDENT, "--trainer.default_root_dir", "run")
    fit("--config", "own.yaml", *start)
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()
    assert len(list(tmp_path.rglob("best.ckpt"))) == 1
    with pytest.raises(SystemExit):
        fit("--config", "wrong.yaml", *start, "--overwrite", "true")
    assert "EarlyStopping.monitor: there is no metric 'val_loss'; expected val/accuracy" in capsys.readouterr().err


def test_a_test_of_a_finished_run_leaves_its_record(tmp_path):
    start = ("--model", "Supervised", *STUDENT, "--trainer.default_root_dir", "run")
    fit(*start)
    before = {name: (tmp_path / "run" / name).read_text() for name in ("result.json", "config.yaml")}
    checkpoint = ("--ckpt_path", "run/checkpoints/last.ckpt")
    for command in ("test", "validate", "predict"):
        assert main([command, "--config", "run/config.yaml", *checkpoint, "--data.batch_size", "7"]) == 0
        assert {name: (tmp_path / "run" / name).read_text() for name in before} == before


def test_null_is_null_however_deep_an_option_is(tmp_path, capsys):
    start = ["fit", "--model", "KD", "--model.student", "LeNet5Fifth", *SMALL, "--print_config"]
    settings = {"class_path": "HTTPSoftLabelTeacher", "init_args": {"url": "http://h", "labels": ["a", "b"]}}
    (tmp_path / "kd.yaml").write_text(
        yaml.safe_dump({"model": {"class_path": "KD", "init_args": {"teacher": settings}}})
    )
    for null in ("null", "~"):
        told = [word for key in ("ledger", "budget", "known_as") for word in (f"--model.teacher.{key}", null)]
        with pytest.raises(SystemExit):
            main(["fit", "--config", "kd.yaml", *start[1:], *told])
        teacher = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["teacher"]["init_args"]
        assert [teacher[key] for key in ("ledger", "budget", "known_as")] == [None, None, None]


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_a_network_of_random_weights_is_not_measured(command, tmp_path, teacher, capsys):
    where = ["--trainer.default_root_dir", "run", *SMALL[:6], "--trainer.logger", "false"]
    with pytest.raises(SystemExit) as stopped:
        main([command, "--model", "Supervised", *STUDENT, *where])
    err = capsys.readouterr().err
    assert stopped.value.code == 2
    assert f"{command} measures a trained network, but the weights of LeNet5Fifth are random (body.0.weight)" in err
    saved = ["--model.student", "kdlightning.networks.load_network", "--model.student.source", teacher]
    assert main([command, "--model", "Supervised", *saved, *where]) == 0


@pytest.mark.parametrize("place", ["data.augmentation", "model.optimizer", "model.lr_scheduler"])
def test_a_configuration_runs_no_command(place, tmp_path, capsys):
    part, option = place.split(".")
    config = {"class_path": {"model": "Supervised", "data": "DigitsDataModule"}[part], "init_args": {}}
    command = {"class_path": "os.system", "init_args": {"command": f"touch {tmp_path / 'ran'}"}}
    config["init_args"][option] = command
    Path("evil.yaml").write_text(yaml.safe_dump({part: config}))
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--model", "Supervised", *STUDENT, *SMALL, "--config", "evil.yaml"])
    assert (stopped.value.code, (tmp_path / "ran").exists()) == (2, False)
    assert "class_path: os.system is not allowed in a configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("torch.optim.Adam", True),
        ("torchvision.transforms.v2.RandomHorizontalFlip", True),
        ("torchvision.transforms.Compose", True),
        ("torchvision.models.resnet18", True),
        ("kdlightning.networks.load_network", True),
        ("helpers.TinyNet", True),
        ("subprocess.Popen", False),
        ("functools.partial", False),
        ("builtins.exec", False),
        ("posix.system", False),
        ("webbrowser.open", False),
        ("torch.hub.load", False),
        ("torch.load", False),
        ("torch.utils.cpp_extension.load", False),
    ],
)
def test_which_classes_and_functions_a_configuration_may_name(path, allowed):
    for config in ({"class_path": path}, {"a": [{"b": {"class_path": path, "init_args": {}}}]}):
        with nullcontext() if allowed else pytest.raises(ValueError, match=f"{path} is not allowed"):
            check_class_paths(config)


def test_what_is_refused_while_data_are_read_comes_without_a_traceback(tmp_path, capsys, teacher):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stopped:
        cli.main([
            "predict", "--model", "TeacherAnswers", "--model.teacher", "SoftLabelTeacher",
            "--model.teacher.network", teacher, "--model.output", "set",
            "--data", "ImageFolderDataModule", "--data.root", str(tmp_path / "empty"), "--data.image_size", "32",
        ])  # fmt: skip
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert "kdlightning: error: " in err
    assert "empty" in err
    assert "Traceback" not in err


def test_a_defect_keeps_its_traceback(monkeypatch):
    def broken(kind, arguments):
        return int("seven")

    monkeypatch.setattr(cli, "build", broken)
    with pytest.raises(ValueError, match="seven"):
        cli.main(["fit"])


def test_a_restarted_generator_asks_nothing_twice(tmp_path, teacher, monkeypatch):
    from kdlightning.methods import MEKDGenerator

    arguments = (
        "--model", "MEKDGenerator", "--model.generator", "TransposedGenerator", "--model.generator.image_size", "32",
        "--model.generator.width", "4", "--model.critic", "DCGANCritic", "--model.critic.width", "2",
        "--model.teacher", "SoftLabelTeacher", "--model.teacher.network", teacher, "--model.teacher.budget", "10",
        "--model.queries", "10", "--trainer.default_root_dir", "run",
    )  # fmt: skip
    step = MEKDGenerator.training_step

    def killed(self, batch, batch_idx):
        step(self, batch, batch_idx)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MEKDGenerator, "training_step", killed)
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            fit(*arguments)
    with pytest.raises(SystemExit):  # it has paid: nothing replaces it silently
        fit(*arguments)
    assert fit(*arguments, "--restart", "true") == 0
    record = json.loads((tmp_path / "run/result.json").read_text())
    assert (record["role"], record["queries"]) == ("generator", 10)
    assert json.loads((tmp_path / "run/network/config.json").read_text())["notes"]["queries"] == 10


def test_a_resume_keeps_the_command_lines_word(tmp_path, capsys):
    lr = "--model.optimizer.lr"
    start = (
        "--model",
        "Supervised",
        *STUDENT,
        "--trainer.default_root_dir",
        "run",
        "--model.optimizer",
        "torch.optim.SGD",
    )
    fit(*start, lr, "0.1")
    last = tmp_path / "run/checkpoints/last.ckpt"
    main(["fit", *start, lr, "0.5", "--ckpt_path", str(last), *SMALL, "--trainer.max_epochs", "2"])
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.5
    kept = torch.load(last, weights_only=True)
    assert [group["lr"] for group in kept["optimizer_states"][0]["param_groups"]] == [0.5]
    assert "warning: the run goes on with lr 0.5, where its checkpoint has 0.1" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/result.json").read_text())["epochs"] == 2
    again = ["fit", *start, lr, "0.5", "--ckpt_path", str(last), *SMALL, "--trainer.max_epochs", "3"]
    for option, was in (
        (["--model.mixup", "0.5"], "model.mixup was 0.0 and is 0.5"),
        (["--data.num_samples", "63"], "data.num_samples was 64 and is 63"),
        (["--seed_everything", "1"], "run.seed_everything was 0 and is 1"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*again, *option])
        assert (stopped.value.code, was in capsys.readouterr().err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--model", "Supervised", *STUDENT, "--model.studnet", "x"], ["'studnet'", "did you mean 'student'?"]),
        (["--model", "DB3KD", *STUDENT, "--model.temperatur", "3"], ["'temperatur'", "did you mean 'temperature'?"]),
        (  # options that only base classes name
            ["--model", "KD", "--model.teacher", "RemoteSoftLabelTeacher", "--model.teacher.concurency", "3", *STUDENT],
            ["'concurency'", "did you mean 'concurrency'?"],
        ),
        (["--model", "DB3KDD", *STUDENT], ["'DB3KDD' is none", "did you mean 'DB3KD'?"]),
        (["--model", "Supervised", "--model.student", "LeNet6"], ["'LeNet6' is none", "did you mean 'LeNet5'?"]),
        (["--model", "nowhere.MyKD", *STUDENT], ["No module named 'nowhere'", "modules are looked for in"]),
        (["--model", "Supervised", *STUDENT, "--trainer.max_epoch", "3"], ["did you mean 'trainer.max_epochs'?"]),
        (
            ["--model", "KD", "--model.teacher", "HardLabelTeacher", "--model.teacher.network", "x", *STUDENT],
            ["takes a SoftLabelTeacher or TopKTeacher; 'HardLabelTeacher' is a BlackBoxTeacher; did you mean"],
        ),
        (
            ["--model", "KD", "--model.teacher", "SoftLabelTeacher", "--model.teacher.network", "nowhere", *STUDENT],
            ["there is no saved network at nowhere"],
        ),
    ],
)
def test_mistakes_are_named_with_what_was_expected(arguments, texts, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        fit(*arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    for text in texts:
        assert text in error
    assert "Union subtypes" not in error
    assert not (tmp_path / "runs").exists()


def test_a_student_that_does_not_fit_is_refused_before_the_teacher_is_asked(tmp_path, teacher, capsys):
    start = ("--model", "KD", "--model.teacher", "SoftLabelTeacher", "--model.teacher.network", teacher)
    start += ("--trainer.default_root_dir", "run", "--model.student", "LeNet5Fifth", "--model.student.image_size")
    for student, text in (
        (("32", "--model.student.num_classes", "7"), "the student LeNet5Fifth answers 7 classes, digits has 10: set"),
        (("28",), "does not take images of shape (1, 32, 32): LeNet5Fifth was built for images of 28 x 28 pixels"),
    ):
        with pytest.raises(SystemExit) as stopped:
            fit(*start, *student)
        assert (stopped.value.code, text in capsys.readouterr().err) == (2, True)
    assert fit(*start, "32") == 0  # the refused runs hold nothing that would be lost
    assert json.loads((tmp_path / "run/result.json").read_text())["queries"] == 64


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_ctrl_c_says_how_to_go_on(command, tmp_path, teacher, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    method, step = {"fit": (KD, "training_step"), "predict": (TeacherAnswers, "predict_step")}[command]
    monkeypatch.setattr(method, step, stop)
    options = STUDENT if command == "fit" else ["--model.output", "run"]
    with pytest.raises(SystemExit):
        main([
            command, "--model", method.__name__, "--model.teacher", "SoftLabelTeacher",
            "--model.teacher.network", teacher, *options, "--trainer.default_root_dir", "run", *SMALL,
        ])  # fmt: skip
    way = {
        "fit": "to go on: --restart true",
        "predict": "to go on: run the same command again; nothing is asked twice",
    }[command]
    assert f"kdlightning: stopped\n  -> {way}\n" in capsys.readouterr().err


def test_the_wrong_access_in_a_file_is_an_error_when_it_is_parsed(tmp_path, teacher, capsys):
    config = {
        "model": {
            "class_path": "DB3KDLabels",
            "init_args": {
                "teacher": {"class_path": "SoftLabelTeacher", "init_args": {"network": teacher}},
                "output": "set",
                "num_classes": 10,
            },
        },
        "data": {"class_path": "DigitsDataModule"},
    }
    Path("exp.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):
        main(["predict", "--config", "exp.yaml"])
    assert "'teacher' of DB3KDLabels takes a HardLabelTeacher" in capsys.readouterr().err


MINE = """
import torch
from kdlightning.methods import KD

class MyKD(KD):
    def losses(self, batch):
        return {**super().losses(batch), "sharpness": 0.1 * self(batch.image).softmax(1).max(1).values.mean()}
"""


def test_a_users_own_subclass_in_a_file_outside_the_package(tmp_path, teacher, monkeypatch):
    (tmp_path / "mymodule.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    fit(
        "--model", "mymodule.MyKD", "--model.teacher", "SoftLabelTeacher", "--model.teacher.network", teacher, *STUDENT,
        "--trainer.default_root_dir", "run", "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", ".",
        "--trainer.log_every_n_steps", "1",
    )  # fmt: skip
    record = json.loads((tmp_path / "run/result.json").read_text())
    assert (record["method"], record["queries"], record["access"]) == ("MyKD", 64, "soft")
    (metrics,) = (tmp_path / "run").rglob("metrics.csv")
    header, *rows = metrics.read_text().splitlines()
    column = header.split(",").index("train/sharpness")
    values = [float(row.split(",")[column]) for row in rows if row.split(",")[column]]
    assert values
    assert all(0.01 <= value <= 0.1 for value in values)


def test_a_sweeps_argument_form_is_understood(tmp_path):
    arguments = ["--model=Supervised", "--model.student=LeNet5Fifth", "--model.student.image_size=32",
                 "--model.optimizer=torch.optim.Adam", "--model.optimizer.lr=0.01"]  # fmt: skip
    cli.main(["fit", *arguments, *SMALL, "--trainer.default_root_dir=sweep", "--trainer.fast_dev_run=true"])
    assert not (tmp_path / "sweep/result.json").exists()
