"""Every experiment is a complete file that parses, and its model and data can be built."""

import warnings
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI

from kdlightning import cli
from kdlightning.networks import LeNet5, save_network
from kdlightning.recipes import read_recipe

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RECIPES = sorted(EXPERIMENTS.rglob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.relative_to(EXPERIMENTS)))
def test_every_stage_builds(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(LightningCLI, "_run_subcommand", lambda *_: None)
    _, stages, _ = read_recipe(recipe, output=str(tmp_path / "out"))
    kinds = {(stage.command, stage.config["model"]["class_path"]): stage for stage in stages}
    save_network(LeNet5(), tmp_path / "out/teacher/network")
    for number, stage in enumerate(kinds.values()):
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump(stage.config))
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*Unable to serialize")  # config.yaml must be usable again
            assert cli.main([stage.command, "--config", str(file)]) == 0
        if stage.command == "fit":
            loggers = stage.config["trainer"]["logger"]
            assert {logger["class_path"] for logger in loggers} == {"CSVLogger", "WandbLogger"}
            assert [one["init_args"]["offline"] for one in loggers if one["class_path"] == "WandbLogger"] == [True]
