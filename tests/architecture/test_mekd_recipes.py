"""What MEKD's recipes show to critics and let methods choose from, stage by stage."""

from pathlib import Path

import pytest

from kdlightning.commands.recipes import read_recipe

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RECIPES = sorted([*EXPERIMENTS.glob("*/mekd/*.yaml"), *EXPERIMENTS.glob("outofdomain/*.yaml")])
RECORDED = {"mnist/mekd/baselines.yaml"}  # its row stands on the page of results as it was run


def stages(path, name):
    found = [stage.config for stage in read_recipe(path)[1] if stage.config["model"]["class_path"] == name]
    return [(config["model"]["init_args"], config["data"]["init_args"]) for config in found]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_critics_see_local_images_as_they_are(path):
    assert [data["augmentation"] for _, data in stages(path, "MEKDGenerator") if data.get("augmentation")] == []
    assert "RandomCrop" not in path.read_text()  # which makes borders black


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_active_mixup_chooses_one_pair_of_five_and_can_run(path):
    for model, data in stages(path, "ActiveMixup"):
        mixes = model["queries"] - data["num_samples"]
        if f"{path.parent.parent.name}/mekd/{path.name}" in RECORDED:
            assert mixes <= model["candidates"]
        else:
            assert 5 * mixes <= model["candidates"] <= data["num_samples"] ** 2 / 2 - data["num_samples"]
