"""What ``--print_config`` prints of a method is a file that starts."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI

from kdlightning import methods
from kdlightning.__main__ import main
from kdlightning.commands import cli
from kdlightning.commands.starter import completed
from kdlightning.modules import LabellingModule
from kdlightning.networks import LeNet5, save_network
from kdlightning.networks.gan import TransposedGenerator


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What `make demo`, and MEKD's first phase, leave."""
    root = tmp_path_factory.mktemp("demo")
    torch.manual_seed(0)
    save_network(LeNet5(image_size=28), root / "runs/demo/teacher/network")
    save_network(TransposedGenerator(image_size=28), root / "runs/mekdgenerator-seed0/network")
    return root


def printed(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--print_config"])
    assert not end.value.code
    Path("printed.yaml").write_text(capsys.readouterr().out)
    return yaml.safe_load(Path("printed.yaml").read_text())


# each reads or takes something in a way of its own; the others are like one of them
KINDS = ("KD", "DB3KD", "DB3KDLabels", "KD3", "MEKD", "MEKDGenerator", "ActiveMixup", "InversionStudy", "DAFL")


@pytest.mark.parametrize(
    "name", [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in methods.__all__]
)
def test_every_method_is_built_from_what_is_printed_of_it(demo, monkeypatch, capsys, name):
    monkeypatch.chdir(demo)
    kind = getattr(methods, name)
    command = "predict" if issubclass(kind, LabellingModule) else "fit"
    printed(capsys, command, "--model", name)
    monkeypatch.setattr(LightningCLI, "_run_subcommand", lambda *_: None)
    built = cli.build(cli.KDLightningCLI, [command, "--config", "printed.yaml"])
    assert isinstance(built.model, kind)
    source = getattr(built.datamodule, "source", built.datamodule)
    assert (source.image_size, source.num_classes) == (28, 10)
    if hasattr(built.model, "student") and built.model.student is not None:
        assert built.model.student(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_it_trains_and_so_does_what_learns_from_its_answers(demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    quick = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]
    for command, name in (("predict", "TeacherAnswers"), ("fit", "AnsweredKD")):
        printed(capsys, command, "--model", name)
        more = ["--trainer.max_epochs", "1"] if command == "fit" else []
        assert main([command, "--config", "printed.yaml", *quick, *more]) == 0
    assert json.loads(Path("runs/answeredkd-seed0/result.json").read_text())["queries"] == 1300


def test_what_is_given_stays_and_sizes_follow_the_data(capsys):
    told = printed(
        capsys, "fit", "--model=Supervised", "--model.student", "ResNet8", "--data", "CIFAR100DataModule",
        "--model.student.num_classes", "20", "--trainer.max_epochs", "3",
    )  # fmt: skip
    student = told["model"]["init_args"]["student"]["init_args"]
    assert (student["num_classes"], student["in_channels"], student["image_size"]) == (20, 3, 32)
    assert (told["trainer"]["max_epochs"], told["data"]["class_path"]) == (3, "kdlightning.data.CIFAR100DataModule")


@pytest.mark.parametrize(
    "arguments", [["fit", "--model", "KD"], ["fit", "--config", "a.yaml", "--print_config"], ["fit", "--print_config"]]
)
def test_nothing_is_added_unless_a_method_is_printed(arguments):
    assert completed(arguments) == arguments
