import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import Linear, ToyDataModule, rehearsed, trainer

from kdlightning.accounting import QueryBudgetExceededError
from kdlightning.data import TransferSet, TransferSetDataModule
from kdlightning.data.controls import class_means, shuffled
from kdlightning.functional.boundary import activations
from kdlightning.methods import DB3KD, DB3KDLabels
from kdlightning.teachers import HardLabelTeacher


def network(classes=3):
    weight = torch.zeros(classes, 8, 8)
    for k in range(3):
        weight[k, :, 3 * k : 3 * k + 2] = 1.0
    bias = torch.zeros(classes)
    bias[3:] = -1000.0  # classes that are never answered
    return Linear(weight.flatten(1), bias)


class Counted(Linear):
    """Counts what really reaches the network."""

    def __init__(self):
        inner = network()
        super().__init__(inner.weight, inner.bias)
        self.seen = 0

    def forward(self, x):
        self.seen += 0 if rehearsed(x) else len(x)
        return super().forward(x)


def label(tmp_path, name="set", net=None, data=None, budget=None, **options):
    net = net or network()
    settings = {"num_classes": 3, "robustness": "bd", "candidates": 4, "batch_size": 32} | options
    module = DB3KDLabels(HardLabelTeacher(net, budget), str(tmp_path / name), **settings)
    trainer(tmp_path).predict(module, datamodule=data or ToyDataModule(), return_predictions=False)
    return TransferSet(tmp_path / name)


def test_columns_and_count(tmp_path):
    net = Counted()
    made = label(tmp_path, net=net)
    assert len(made) == 60
    own = made.column("label")
    source = ToyDataModule()
    source.setup()
    assert torch.equal(own, network()(source.train_set.images / 255).argmax(1))
    distance = made.column("distance")
    assert (distance.gather(1, own[:, None]) == 0).all()
    torch.testing.assert_close(made.column("activation"), activations(distance.clone(), own))
    assert net.seen == made.manifest["queries"] == made.manifest["queries_paid"]
    assert net.seen == 60 + int(made.column("queries").sum())
    assert made.manifest["bytes_up"] == net.seen * 64 * 4
    assert made.manifest["access"] == "hard"
    assert made.manifest["pairs"] == 120
    mean = made.manifest["mean_distance"]
    assert mean[0][0] is None
    assert mean[0][1] == pytest.approx(float(distance[own == 0, 1].mean()), abs=1e-3)


def test_bd_lies_on_the_boundary_of_a_linear_teacher(tmp_path):
    made = label(tmp_path, candidates=1)
    source = ToyDataModule()
    source.setup()
    images = source.train_set.images / 255
    own, distance = made.column("label"), made.column("distance")
    for row in (0, 7, 33):
        for n in range(3):
            if n == own[row]:
                continue
            pool = images[own == n]
            nearest = pool[(pool - images[row]).flatten(1).norm(dim=1).argmin()]
            start, end = network()(images[[row]])[0], network()(nearest[None])[0]
            gap0, gap1 = start[n] - start, end[n] - end
            crossing = torch.where(gap0 < 0, gap0 / (gap0 - gap1), 0.0).max()
            assert float(distance[row, n]) == pytest.approx(float(crossing * (nearest - images[row]).norm()), abs=1e-4)


def test_mbd_is_nearer_within_the_limit(tmp_path):
    bd = label(tmp_path, "bd")
    mbd = label(tmp_path, "mbd", robustness="mbd", query_limit=150, num_probes=40)
    assert (mbd.column("distance") <= bd.column("distance") + 1e-6).all()
    assert float(mbd.column("distance").sum()) < float(bd.column("distance").sum())  # BD is close on these images
    assert int(mbd.column("queries").max()) <= 2 * 150
    assert mbd.manifest["queries_per_pair"] == pytest.approx(float(mbd.column("queries").sum()) / 120)


def test_a_surrogate_costs_nothing_and_leads_the_walk_the_same_way_again(tmp_path):
    def made(name, net):
        surrogate = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        limits = {"robustness": "mbd", "query_limit": 60, "num_probes": 40}
        return label(tmp_path, name, net=net, surrogate=surrogate, **limits)

    net = Counted()
    one, bd = made("one", net), label(tmp_path, "bd")
    assert net.seen == one.manifest["queries"] == one.manifest["queries_paid"]
    assert int(one.column("queries").max()) <= 2 * 60
    assert (one.column("distance") <= bd.column("distance") + 1e-6).all()
    assert float(one.column("distance").sum()) < float(bd.column("distance").sum())
    assert torch.equal(made("again", Counted()).column("distance"), one.column("distance"))  # whatever it began with
    with pytest.raises(ValueError, match="surrogate: leads the walk of robustness='mbd', got 'bd'"):
        label(tmp_path, "refused", surrogate=torch.nn.Identity())


def test_sd_costs_one_query_an_image_or_none_with_ground_truth(tmp_path):
    by_teacher = label(tmp_path, "sd", robustness="sd")
    assert by_teacher.manifest["queries"] == 60
    by_truth = label(tmp_path, "truth", robustness="sd", truth=True)
    assert by_truth.manifest["queries"] == 0
    source = ToyDataModule()
    source.setup()
    images, labels = source.train_set.images / 255, source.train_set.labels
    assert torch.equal(by_truth.column("label"), labels)
    row, n = 5, int((labels[5] + 1) % 3)
    nearest = (images[labels == n] - images[row]).flatten(1).norm(dim=1).min()
    assert float(by_truth.column("distance")[row, n]) == pytest.approx(float(nearest), abs=1e-4)


def test_another_number_of_classes_is_refused_before_anything_is_paid(tmp_path):
    net = Counted()
    with pytest.raises(ValueError, match="num_classes is 10, but the data set toy has 3"):
        label(tmp_path, net=net, num_classes=10)
    assert (net.seen, (tmp_path / "set").exists()) == (0, False)


def test_noise_is_a_control_that_depends_on_the_image_alone(tmp_path):
    one = label(tmp_path, "one", robustness="noise")
    other = label(tmp_path, "other", robustness="noise", data=ToyDataModule(eval_batch_size=7))
    assert torch.equal(one.column("distance"), other.column("distance"))
    others = one.column("distance")[one.column("distance") > 0]
    assert 0.5 <= float(others.min()) < float(others.max()) <= 1.5


def test_a_class_that_is_never_answered_is_reported_not_searched(tmp_path):
    data = ToyDataModule()
    data.num_classes = 4
    made = label(tmp_path, net=network(classes=4), data=data, num_classes=4)
    assert torch.isinf(made.column("distance")[:, 3]).all()
    assert (made.column("activation")[:, 3] == 0).all()
    assert made.manifest["pairs_not_found"] == 60
    assert made.manifest["mean_distance"][0][3] is None
    assert torch.isfinite(made.column("activation")).all()


def test_an_image_that_already_has_the_targets_label_costs_nothing_there(tmp_path):
    class Biased(Linear):
        """Everything is class 0 or 1: images of truth 2 are already in a class that is not theirs."""

        def __init__(self):
            inner = network()
            super().__init__(inner.weight, torch.tensor([0.0, 0.0, -1000.0]))

    made = label(tmp_path, net=Biased(), truth=True)
    distance, own = made.column("distance"), made.column("label")
    wrong = own == 2
    assert ((distance[wrong][:, :2] == 1e-3).sum(1) == 1).all()
    assert made.manifest["pairs_at_floor"] >= int(wrong.sum())
    assert math.isfinite(made.manifest["mean_robustness"])


def test_results_do_not_depend_on_batches(tmp_path):
    one = label(tmp_path, "one", robustness="mbd", query_limit=100, num_probes=30)
    other = label(
        tmp_path, "other", robustness="mbd", query_limit=100, num_probes=30, batch_size=11,
        data=ToyDataModule(eval_batch_size=7),
    )  # fmt: skip
    torch.testing.assert_close(one.column("distance"), other.column("distance"), atol=1e-3, rtol=1e-3)
    assert torch.equal(one.column("label"), other.column("label"))


def test_withheld_labels_are_not_needed(tmp_path):
    made = label(tmp_path, data=ToyDataModule(unlabelled=True))
    assert len(made) == 60
    with pytest.raises(ValueError, match="datamodule withholds them"):
        label(tmp_path, "truth", data=ToyDataModule(unlabelled=True), truth=True)


def test_over_budget_everything_paid_for_is_kept(tmp_path):
    whole = label(tmp_path, "whole")
    with pytest.raises(QueryBudgetExceededError, match="raise the budget"):
        label(tmp_path, "part", net=Counted(), budget=whole.manifest["queries"] // 2)
    net = Counted()
    made = label(tmp_path, "part", net=net)
    assert made.manifest["queries"] == whole.manifest["queries"]
    assert made.manifest["queries_paid"] == whole.manifest["queries"]
    assert net.seen >= whole.manifest["queries"] - whole.manifest["queries"] // 2
    assert torch.equal(made.column("distance"), whole.column("distance"))


def test_one_set_of_distances_serves_both_maps_and_their_controls(tmp_path):
    made, path = label(tmp_path), str(tmp_path / "set")
    distance, own = made.column("distance"), made.column("label")
    nearest = distance.masked_fill(torch.nn.functional.one_hot(own, 3).bool(), math.inf).amin(1).mean()
    module = DB3KD(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), mapping="linear")
    trainer(tmp_path, max_epochs=1).fit(module, datamodule=TransferSetDataModule(ToyDataModule(), path, "distance"))
    assert module.unit == pytest.approx(float(nearest))
    for mapping, column, told in (("linear", None, "column: distance, got None"), ("eq7", "distance", "column: null")):
        data = TransferSetDataModule(ToyDataModule(), path, column)
        with pytest.raises(ValueError, match=told):
            trainer(tmp_path, max_epochs=1).fit(DB3KD(module.student, mapping=mapping), datamodule=data)
    for control, expected in (("shuffled", shuffled(distance, own, 0)), ("class_means", class_means(distance, own))):
        data = TransferSetDataModule(ToyDataModule(), path, "distance", control=control)
        data.setup("fit")
        assert torch.equal(data.answered.answer, expected)


KILLED = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from helpers import Dying, trainer
from unit_toy import network, ToyDataModule
from kdlightning.methods import DB3KDLabels
from kdlightning.teachers import HardLabelTeacher

torch.set_num_threads(1)
teacher = HardLabelTeacher(Dying(network(), int(sys.argv[1])))
module = DB3KDLabels(teacher, "killed", num_classes=3, robustness="mbd", candidates=4,
                     query_limit=100, num_probes=30, batch_size=32)
trainer(Path("."), devices=int(sys.argv[2]), strategy=sys.argv[3]).predict(
    module, datamodule=ToyDataModule(eval_batch_size=16), return_predictions=False)
"""


def script(tmp_path):
    tests = Path(__file__).parents[2]
    (tmp_path / "unit_toy.py").write_text(
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('labels_test', {str(Path(__file__))!r})\n"
        "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "network, ToyDataModule = module.network, module.ToyDataModule\n"
    )
    file = tmp_path / "run.py"
    file.write_text(KILLED.format(tests=str(tests)))
    return file


def run_script(tmp_path, *args):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, script(tmp_path), *map(str, args)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )


def uninterrupted(tmp_path):
    return label(
        tmp_path, "whole", robustness="mbd", query_limit=100, num_probes=30, data=ToyDataModule(eval_batch_size=16)
    )


def test_kill_9_loses_nothing_and_asks_nothing_twice(tmp_path):
    whole = uninterrupted(tmp_path)
    log = tmp_path / "answered.txt"
    kills = 0
    for calls in (1, 40, 110, 100_000):
        process = run_script(tmp_path, calls, 1, "auto")
        kills += process.returncode == -signal.SIGKILL
    assert process.returncode == 0, process.stderr[-2000:]
    assert kills == 3
    made = TransferSet(tmp_path / "killed")
    for name in whole.columns:
        assert torch.equal(made.column(name), whole.column(name)), name
    answered = sum(int(line) for line in log.read_text().split())
    assert answered == whole.manifest["queries"] == made.manifest["queries"]
    assert made.manifest["queries_paid"] == made.manifest["queries"]  # what a kill cut off is not counted twice
    assert not list((tmp_path / "killed").glob("journal-*"))


@pytest.mark.timeout(200)
def test_two_processes_label_disjoint_shards_of_the_same_set(tmp_path):
    whole = uninterrupted(tmp_path)
    process = run_script(tmp_path, 100_000, 2, "ddp")
    assert process.returncode == 0, process.stderr[-2000:]
    made = TransferSet(tmp_path / "killed")
    assert torch.equal(made.column("index"), whole.column("index"))
    assert torch.equal(made.column("label"), whole.column("label"))
    torch.testing.assert_close(made.column("distance"), whole.column("distance"), atol=1e-3, rtol=1e-3)
    assert made.manifest["queries"] == made.manifest["queries_paid"]
    manifest = json.loads((tmp_path / "killed/manifest.json").read_text())
    assert len(manifest["shards"]) == 4
