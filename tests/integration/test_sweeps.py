"""The commands of the sweep files are what W&B's agent makes of them, and the command line takes them."""

import os
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from kdlightning.commands import cli

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "experiments/sweeps").glob("*.yaml"))


def argv(sweep):
    """What the agent starts for a trial at the last value of every range, and these; by W&B's own code."""
    values = {name: (told.get("values") or [told["max"]])[-1] for name, told in sweep["parameters"].items()}
    args = {name: {"value": value} for name, value in values.items()}
    filled = {"env": ["/usr/bin/env"], **create_sweep_command_args({"args": args})}
    command = []
    for part in create_sweep_command(list(sweep["command"])):
        macro = part.startswith("${") and part.endswith("}")
        command += filled[part[2:-1]] if macro else [part]
    return command, values


def look_up(config, name):
    for key in name.split("."):
        config = config[key]
    return config


def test_the_agents_substitution_is_what_wandb_documents():
    parameters = {"a.b": {"values": [0.1, 0.5]}, "c": {"min": 1, "max": 2}, "d": {"values": [False, True]}}
    command = ["${env}", "python", "--config", "c", "${args}"]
    rendered, _ = argv({"parameters": parameters, "command": command})
    assert rendered == ["/usr/bin/env", "python", "--config", "c", "--a.b=0.5", "--c=2", "--d=True"]


def test_every_core_method_has_a_sweep():
    assert [path.stem for path in SWEEPS] == ["db3kd", "kd3", "mekd", "shaderkd", "zsdb3kd"]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_trial_is_parsed(path, monkeypatch):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["metric"] == {"name": "val/accuracy", "goal": "maximize"}  # never the test images
    assert (sweep["method"], sweep["project"], sweep["name"]) == ("bayes", "kdlightning-digits", path.stem)
    Path("experiments").symlink_to(ROOT / "experiments")  # an agent runs in the repository
    monkeypatch.setattr(LightningCLI, "instantiate_classes", lambda self: None)  # networks that recipes make
    monkeypatch.setattr(LightningCLI, "_run_subcommand", lambda *_: None)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", f"trial-{path.stem}")
    command, values = argv(sweep)
    assert command[:6] == ["/usr/bin/env", "python", "-m", "kdlightning", "fit", "--config"]
    config = cli.build(cli.KDLightningCLI, command[4:]).config["fit"]
    assert {name: look_up(config, name) for name in values} == values
    assert config.trainer.default_root_dir == f"runs/sweep-abc/trial-{path.stem}"
    assert config.trainer.check_val_every_n_epoch == config.trainer.max_epochs  # the last weights' accuracy


def test_a_trial_reports_to_its_agent(monkeypatch):
    monkeypatch.setattr(LightningCLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(LightningCLI, "_run_subcommand", lambda *_: None)
    arguments = ["fit", "--model", "Supervised", "--model.student", "LeNet5", "--data", "DigitsDataModule"]
    monkeypatch.setenv("WANDB_MODE", "put back afterwards")
    for sweep, mode in (("abc", None), (None, "offline")):
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
        if sweep:
            monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
        cli.build(cli.KDLightningCLI, arguments)
        assert os.environ.get("WANDB_MODE") == mode
