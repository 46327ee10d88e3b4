import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import Linear, ToyDataModule, rehearsed, trainer

from kdlightning.accounting import QueryBudgetExceededError
from kdlightning.commands.recipes import read_recipe
from kdlightning.data import NoImagesDataModule, NoiseDataModule, SyntheticDataModule, TransferSet
from kdlightning.methods import DB3KDLabels, ZSDB3KDImages
from kdlightning.teachers import HardLabelTeacher

RECIPES = Path(__file__).parents[3] / "experiments"


def network(bias=(0.0, 0.0, 0.0)):
    """Which third of the image is brightest."""
    weight = torch.zeros(len(bias), 8, 8)
    for k in range(3):
        weight[k, :, 3 * k : 3 * k + 2] = 1.0
    return Linear(weight.flatten(1), torch.tensor(bias))


class Counted(Linear):
    """Counts what really reaches the network."""

    def __init__(self, bias=(0.0, 0.0, 0.0)):
        inner = network(bias)
        super().__init__(inner.weight, inner.bias)
        self.seen = 0

    def forward(self, x):
        self.seen += 0 if rehearsed(x) else len(x)
        return super().forward(x)


def noise(size=18, chunk=6, num_classes=3, distribution="uniform"):
    task = NoImagesDataModule("toy", num_classes=num_classes, image_size=8, eval_batch_size=chunk)
    return NoiseDataModule(task, size, distribution)


SMALL = {"iterations": 3, "num_probes": 20, "query_limit": 40, "pool": 60, "rank": 20, "batch_size": 32}


def make(tmp_path, name="set", net=None, data=None, budget=None, **options):
    module = ZSDB3KDImages(HardLabelTeacher(net or network(), budget), str(tmp_path / name), **(SMALL | options))
    trainer(tmp_path).predict(module, datamodule=data or noise(), return_predictions=False)
    return TransferSet(tmp_path / name)


@pytest.mark.parametrize("search", ["warm", "fresh"])
@pytest.mark.parametrize("gradient", ["estimate", "direction"])
def test_every_query_is_counted(tmp_path, search, gradient):
    net = Counted()
    made = make(tmp_path, net=net, search=search, gradient=gradient)
    assert net.seen == made.manifest["queries"] == made.manifest["queries_paid"]
    assert int(made.column("queries").sum()) + 60 == net.seen
    assert torch.equal(made.column("index"), torch.arange(18))
    assert torch.equal(made.column("label"), torch.arange(18) % 3)
    assert torch.equal(made.column("label"), network()(made.column("image") / 255).argmax(1))
    assert made.manifest["class_histogram"] == [6, 6, 6]
    assert made.manifest["shortfall"] == 0


def boundary_distance(images):
    """Of a linear teacher, in closed form: the nearest of the hyperplanes to the other classes."""
    net = network()
    flat, weight = images.flatten(1).float() / 255, net.weight
    logits = flat @ weight.T
    own = logits.argmax(1)
    gap = logits.gather(1, own[:, None]) - logits
    steep = (weight[own][:, None] - weight[None]).norm(dim=2)
    return (gap / steep).scatter(1, own[:, None], float("inf")).amin(1)


def test_images_of_a_linear_teacher_move_away_from_its_boundaries(tmp_path):
    made = make(
        tmp_path, iterations=4, snapshots=[0, 2], step=0.2, num_probes=300, query_limit=700, subspace="pixels"
    )  # fmt: skip
    before, middle, after = (
        boundary_distance(made.column(name)) for name in ("image_after_0", "image_after_2", "image")
    )
    assert (middle > before).all()
    assert (after > middle).all()
    # a step of 0.2 along an exact normal gains 0.2; the estimate has 300 labels in 64 dimensions, and the box binds
    assert 0.13 < float((middle - before).mean() / 2) < 0.2 + 1e-3
    # what the set says is the distance to a boundary point that was found: never nearer than the boundary
    assert float((made.column("distance") / after).min()) > 0.99
    assert (made.column("queries_after_2") < made.column("queries")).all()


def test_the_released_direction_is_the_normal_where_the_point_is_the_nearest(tmp_path):
    options = {"iterations": 1, "snapshots": [0], "step": 0.2, "num_probes": 300, "subspace": "pixels"}
    asked = make(tmp_path, "asked", query_limit=3000, **options)
    free = make(tmp_path, "free", query_limit=3000, gradient="direction", **options)
    assert torch.equal(asked.column("image_after_0"), free.column("image_after_0"))
    assert (asked.column("queries") - free.column("queries") == 300).all()
    gain = boundary_distance(free.column("image")) - boundary_distance(free.column("image_after_0"))
    assert 0.17 < float(gain.median()) < 0.2 + 1e-3


def test_a_rare_class_starts_from_other_noise_pushed_just_across(tmp_path):
    net = network((0.0, 0.0, 2.0))  # class 2 by a wide margin: few noises are of another
    made = make(tmp_path, net=net, iterations=1, snapshots=[0], pool=200, data=noise(60, 20))
    histogram = made.manifest["noise_histogram"]
    assert sum(histogram) == 200
    assert 0 < histogram[0] < 20  # fewer than the 20 images wanted of it
    assert made.manifest["class_histogram"] == [20, 20, 20]
    start = made.column("image_after_0")[made.column("label") == 0]
    logits = net(start.float() / 255)
    margin = logits[:, 0] - logits[:, 1:].amax(1)
    borrowed = margin[histogram[0] :]  # the first ones are noise of that class
    assert (borrowed.abs() < 0.2).all()  # on the boundary, up to the rounding of 64 pixels
    assert len(start.flatten(1).unique(dim=0)) == 20


def test_a_class_that_no_noise_has_is_found_among_mixtures(tmp_path):
    net = Counted((0.0, 0.0, 4.5))
    made = make(tmp_path, net=net, pool=60, tries=20)
    assert 0 in made.manifest["noise_histogram"]
    assert made.manifest["missing_classes"] == []
    assert made.manifest["mixtures"] in range(1000, 21_000, 1000)
    assert made.manifest["class_histogram"] == [6, 6, 6]
    assert net.seen == made.manifest["queries"]


def test_a_class_that_is_never_answered_is_reported_not_searched_for_ever(tmp_path):
    net = Counted((0.0, 0.0, 0.0, -1000.0))
    made = make(tmp_path, net=net, data=noise(20, 8, num_classes=4), tries=2)
    assert made.manifest["missing_classes"] == [3]
    assert made.manifest["shortfall"] == 5
    assert made.manifest["mixtures"] == 2000
    assert made.manifest["class_histogram"] == [5, 5, 5, 0]
    assert made.column("index").tolist() == [i for i in range(20) if i % 4 != 3]
    assert net.seen == made.manifest["queries"]


class Memory(torch.nn.Module):
    """Knows the first 60 images that it sees, class i mod 3; everything else is class 3."""

    num_classes = 4

    def __init__(self):
        super().__init__()
        self.known = []

    def forward(self, x):
        if len(self.known) < 60 and not rehearsed(x):
            self.known += [row.tolist() for row in x.flatten(1)]
        rows = torch.tensor(self.known).view(-1, 64)
        same = (x.flatten(1)[:, None] == rows[None]).all(2)
        known = same.int().argmax(1) % 3 if len(rows) else torch.zeros(len(x), dtype=torch.long)
        return 10.0 * torch.nn.functional.one_hot(torch.where(same.any(1), known, 3), 4)


@pytest.mark.filterwarnings("ignore:.*mixtures")
def test_images_that_cannot_move_any_more_stop_asking(tmp_path):
    data = {"data": noise(6, 6, num_classes=4), "patience": 2, "tries": 1}
    few, many = (make(tmp_path, str(n), net=Memory(), iterations=n, **data) for n in (2, 30))
    assert few.column("label").tolist() == many.column("label").tolist()
    stuck = many.column("label") < 3
    assert stuck.any()
    assert torch.equal(few.column("queries")[stuck], many.column("queries")[stuck])
    alone = make(tmp_path, "alone", net=Memory(), iterations=9, data=noise(3, 3, num_classes=4), patience=2, tries=1)
    assert len(alone) == 3  # a batch of which nothing moves any more


def test_over_budget_everything_paid_for_is_kept(tmp_path):
    whole = make(tmp_path, "whole", net=Counted())
    with pytest.raises(QueryBudgetExceededError, match="raise the budget"):
        make(tmp_path, "part", net=Counted(), budget=whole.manifest["queries"] // 2)
    net = Counted()
    made = make(tmp_path, "part", net=net)
    assert made.manifest["queries_paid"] == made.manifest["queries"] == whole.manifest["queries"]
    assert net.seen < whole.manifest["queries"] * 0.6
    assert torch.equal(made.column("image"), whole.column("image"))


def test_real_images_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"sees no image.*got ToyDataModule"):
        make(tmp_path, data=ToyDataModule())


def test_other_classes_are_refused_before_anything_is_asked(tmp_path):
    net = Counted()
    with pytest.raises(ValueError, match="the teacher has 3 classes, but the data set toy has 4"):
        make(tmp_path, net=net, data=noise(num_classes=4))
    assert net.seen == 0


def test_a_teacher_of_one_class_has_no_boundary(tmp_path):
    with pytest.raises(RuntimeError, match="sees class 2 in all 1,060 noises and mixtures"):
        make(tmp_path, net=network((0.0, 0.0, 1000.0)), tries=1)


def test_an_answer_beyond_the_tasks_classes_is_refused(tmp_path, monkeypatch):
    net = network((0.0, 0.0, 0.0, 100.0))
    del net.num_classes
    monkeypatch.setattr(HardLabelTeacher, "rehearse", lambda *_: None)  # as of an API, which does not say
    with pytest.raises(ValueError, match=r"expected logits of shape \[32, 3\], got .* \[32, 4\]"):
        make(tmp_path, net=net)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"iterations": 0}, "iterations: expected at least 1, got 0"), ({"step": 0.0}, "above 0"),
     ({"snapshots": [3]}, r"from 0 to 2, got \[3\]"), ({"pool": 0}, "pool: expected at least 1"),
     ({"search": "warm", "query_limit": 20}, "raise query_limit=20")],
)  # fmt: skip
def test_bad_numbers(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **wrong)


def test_the_recipes_show_the_method_no_real_image():
    """What makes and labels the images is given a task without images; only the teacher and the tests see real ones."""
    for recipe in RECIPES.rglob("zsdb3kd/*.yaml"):
        _, stages, _ = read_recipe(recipe)
        blind = [stage for stage in stages if stage.command == "predict"]
        assert {stage.config["model"]["class_path"] for stage in blind} >= {"ZSDB3KDImages", "DB3KDLabels"}
        for stage in blind:
            data = stage.config["data"]
            assert data["class_path"] in ("NoiseDataModule", "SyntheticDataModule")
            assert data["init_args"]["source"]["class_path"] == "NoImagesDataModule", stage.name
        for stage in stages:
            if stage.command == "fit" and stage.name != "teacher":
                data = stage.config["data"]
                made = data["init_args"]["source"] if data["class_path"] == "TransferSetDataModule" else data
                assert made["class_path"] in ("NoiseDataModule", "SyntheticDataModule"), stage.name


def test_the_data_of_the_run_hold_no_real_image(tmp_path):
    made = make(tmp_path)
    data = SyntheticDataModule(noise().source, str(tmp_path / "set"))
    module = DB3KDLabels(HardLabelTeacher(network()), str(tmp_path / "labels"), num_classes=3, candidates=4)
    trainer(tmp_path).predict(module, datamodule=data, return_predictions=False)
    for used in (noise().source, data.source):
        used.setup()
        assert len(used.train_set) == len(used.val_set) == 0
        assert used.test_set is None
    labels = TransferSet(tmp_path / "labels")
    assert torch.equal(labels.column("label"), made.column("label"))
    assert labels.manifest["preparation_queries"] == 18
    # what the images have cost is part of what the labels have cost
    assert labels.manifest["queries_before"] == made.manifest["queries_paid"]
    own = int(labels.column("queries").sum()) + 18
    assert labels.manifest["queries"] == labels.manifest["queries_paid"] == made.manifest["queries"] + own


KILLED = """
import sys
from pathlib import Path
import torch
sys.path[:0] = [{tests!r}, {here!r}]
from helpers import Dying, trainer
from test_zsdb3kd import SMALL, network, noise
from kdlightning.methods import ZSDB3KDImages
from kdlightning.teachers import HardLabelTeacher

torch.set_num_threads(1)
module = ZSDB3KDImages(HardLabelTeacher(Dying(network(), int(sys.argv[1]))), "killed", **SMALL)
trainer(Path("."), devices=int(sys.argv[2]), strategy=sys.argv[3]).predict(
    module, datamodule=noise(), return_predictions=False)
"""


def run_script(tmp_path, *args):
    here = Path(__file__).parent
    file = tmp_path / "run.py"
    file.write_text(KILLED.format(tests=str(here.parents[1]), here=str(here)))
    return subprocess.run(
        [sys.executable, file, *map(str, args)], cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True
    )


@pytest.mark.timeout(200)
def test_kill_9_loses_nothing_and_asks_nothing_twice(tmp_path):
    whole = make(tmp_path, "whole")
    kills = 0
    for calls in (1, 12, 40, 100_000):
        process = run_script(tmp_path, calls, 1, "auto")
        kills += process.returncode == -signal.SIGKILL
    assert process.returncode == 0, process.stderr[-2000:]
    assert kills == 3
    made = TransferSet(tmp_path / "killed")
    for name in whole.columns:
        assert torch.equal(made.column(name), whole.column(name)), name
    answered = sum(int(line) for line in (tmp_path / "answered.txt").read_text().split())
    assert answered == whole.manifest["queries"] == made.manifest["queries"]
    left = {file.name.partition("-")[0] for file in (tmp_path / "killed").iterdir()}
    assert left == {".lock", "header.json", "manifest.json", "queries.meter", "shard"}


@pytest.mark.timeout(200)
def test_two_processes_make_the_same_set_as_one(tmp_path):
    whole = make(tmp_path, "whole")
    process = run_script(tmp_path, 100_000, 2, "ddp")
    assert process.returncode == 0, process.stderr[-2000:]
    made = TransferSet(tmp_path / "killed")
    for name in whole.columns:
        assert torch.equal(made.column(name), whole.column(name)), name
    assert made.manifest["queries"] == made.manifest["queries_paid"] == whole.manifest["queries"]
    assert len(json.loads((tmp_path / "killed/manifest.json").read_text())["shards"]) == 3
