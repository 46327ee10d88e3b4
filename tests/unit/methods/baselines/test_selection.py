import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import Linear, TinyNet, ToyDataModule, rehearsed, trainer
from torch.nn import functional as F

from kdlightning.accounting import QueryBudgetExceededError
from kdlightning.callbacks import RunProgress
from kdlightning.data import GeneratedDataModule, NoiseDataModule, TransferSet, TransferSetDataModule
from kdlightning.methods import TeacherAnswers
from kdlightning.methods.baselines.activemixup import ActiveMixup, mix
from kdlightning.methods.baselines.knockoff import KnockoffSelection, rescale, reward_terms, update_policy
from kdlightning.modules import AnsweredModule
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher

Adam = partial(torch.optim.Adam, lr=0.01)


class Counted(Linear):
    """A teacher that is right on the toy images, counts what reaches it, and fails when asked once too often."""

    def __init__(self, calls=10**6):
        weight = torch.zeros(3, 8, 8)
        for k in range(3):
            weight[k, :, 3 * k : 3 * k + 2] = 0.2
        super().__init__(weight.flatten(1))
        self.seen, self.calls = [], calls

    def forward(self, x):
        if not rehearsed(x):
            if len(self.seen) == self.calls:
                raise InterruptedError("the power went out")
            self.seen.append(len(x))
        # in double precision: rounded to float, an answer does not depend on the images it is asked with
        return (x.flatten(1).double() @ self.weight.T.double()).float()


def tiny():
    torch.manual_seed(0)
    return TinyNet()


def knockoff(path, net=None, access=SoftLabelTeacher, budget=None, **options):
    settings = {"queries": 36, "strategy": "adaptive", "student": tiny(), "num_groups": None, "round_size": 8}
    settings |= {"batch_size": 5, "optimizer": Adam} | options
    return KnockoffSelection(access(net or Counted(), budget), str(path), **settings)


def mixup(path, net=None, access=SoftLabelTeacher, budget=None, **options):
    settings = {"queries": 85, "student": tiny(), "rounds": 2, "candidates": 200, "epochs": 2, "batch_size": 16}
    return ActiveMixup(access(net or Counted(), budget), str(path), **settings | {"optimizer": Adam} | options)


def predict(module, data=None, **options):
    run = trainer(Path(), **options)
    run.predict(module, datamodule=data or ToyDataModule(), return_predictions=False)
    return TransferSet(module.output)


def source():
    data = ToyDataModule()
    data.setup()
    return data.train_set


def test_random_selection_is_a_seeded_subset_without_repeats(tmp_path):
    net = Counted()
    made = predict(knockoff(tmp_path / "a", net, strategy="random", student=None, queries=23))
    index = made.column("index")
    assert len(made) == 23
    assert index.unique().tolist() == index.tolist()
    assert sum(net.seen) == made.manifest["queries"] == made.manifest["queries_paid"] == 23
    train = source()
    position = {int(image): row for row, image in enumerate(train.index)}
    pixels = train.images[[position[int(image)] for image in index]]
    assert torch.equal(made.column("image"), pixels)
    torch.testing.assert_close(made.column("answer"), Counted()(pixels.float() / 255).softmax(1))
    again = predict(knockoff(tmp_path / "b", strategy="random", student=None, queries=23))
    other = predict(knockoff(tmp_path / "c", strategy="random", student=None, queries=23, seed=1))
    assert torch.equal(again.column("index"), index)
    assert not torch.equal(other.column("index"), index)


def test_the_three_rewards_by_hand():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    terms = reward_terms(p, torch.tensor([0.5, 0.3, 0.2]), logits)
    torch.testing.assert_close(terms["certainty"], torch.tensor([0.5, 0.3]))
    torch.testing.assert_close(terms["diversity"], torch.tensor([0.2, 0.4]))
    torch.testing.assert_close(terms["loss"], -(p * logits.log_softmax(1)).sum(1))
    assert set(reward_terms(p, p.mean(0), None)) == {"certainty", "diversity"}
    torch.testing.assert_close(
        rescale(torch.tensor([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0]])), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]])
    )


def test_the_policys_update_by_hand():
    # uniform over two groups; group 0 drawn twice with advantages 0.5 and 0.3, group 1 once with -0.8
    group, advantage = torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.3, -0.8])
    made = update_policy(torch.zeros(2), torch.tensor([2, 1]), group, advantage)
    # H(0) = (0.5 + 0.3) / 2 * (1 - 0.5) + 0.8 * 0.5; H(1) is its negative
    torch.testing.assert_close(made, torch.tensor([0.6, -0.6]))
    fixed = update_policy(torch.tensor([torch.log(torch.tensor(3.0)), 0.0]), torch.tensor([9, 9]), group[:1],
                          advantage[:1], step_size=0.2)  # fmt: skip
    torch.testing.assert_close(fixed, torch.tensor([1.0986 + 0.2 * 0.5 * 0.25, -0.2 * 0.5 * 0.25]), atol=1e-4, rtol=0)


def test_the_policy_prefers_the_group_that_the_teacher_is_sure_of(tmp_path):
    class SureOfOne(Counted):
        """Sure of class 1, undecided about the rest."""

        def forward(self, x):
            logits = super().forward(x)
            return torch.where(logits.argmax(1, keepdim=True) == 1, 10 * logits, 0 * logits)

    made = predict(
        knockoff(tmp_path / "a", SureOfOne(), queries=40, rewards=("certainty",), student=None, step_size=1.0),
        ToyDataModule(number=150),
    )
    policy, histogram = made.manifest["policy"], made.manifest["group_histogram"]
    assert max(range(3), key=policy.__getitem__) == 1
    assert policy[1] > 0.9
    assert histogram[1] > 25
    assert sum(histogram) == len(made) == len(made.column("index").unique()) == 40
    assert torch.equal(torch.bincount(made.column("group"), minlength=3), torch.tensor(histogram))


@pytest.mark.parametrize("access", [SoftLabelTeacher, HardLabelTeacher])
@pytest.mark.parametrize(("make", "queries"), [(knockoff, 60), (mixup, 85)])
def test_counts_are_exact_and_the_stand_in_is_trained(tmp_path, make, queries, access):
    net = Counted()
    module = make(tmp_path / "set", net, access, queries=queries)
    start = module.student.classifier.weight.clone()
    made = predict(module)
    assert len(made) == sum(net.seen) == queries == made.manifest["queries"] == made.manifest["queries_paid"]
    assert made.manifest["bytes_up"] == queries * 64 * 4
    assert made.manifest["access"] == access.access
    assert made.manifest["num_classes"] == 3
    assert made.column("answer").shape == ((queries, 3) if access is SoftLabelTeacher else (queries,))
    asked = Counted()(made.column("image").float() / 255)
    answer = asked.softmax(1) if access is SoftLabelTeacher else asked.argmax(1)
    torch.testing.assert_close(made.column("answer"), answer)
    assert not torch.equal(module.student.classifier.weight, start)
    assert sorted(file.suffix for file in made.path.glob("[!.]*") if not file.name.startswith("shard-")) == [
        ".json", ".json", ".meter",
    ]  # fmt: skip


def test_groups_of_an_unlabelled_pool_are_clusters_of_pixels(tmp_path):
    made = predict(knockoff(tmp_path / "set", num_groups=3, queries=60), ToyDataModule(unlabelled=True))
    labels = {int(image): int(label) for image, label in zip(source().index, source().labels, strict=True)}
    pairs = {
        (int(group), labels[int(image)])
        for group, image in zip(made.column("group"), made.column("index"), strict=True)
    }
    assert len(pairs) == 3  # the three kinds of images are far apart
    with pytest.raises(ValueError, match="give num_groups"):
        predict(knockoff(tmp_path / "none"), ToyDataModule(unlabelled=True))


def test_mixed_pixels_are_the_rounded_convex_combination(tmp_path):
    first, second = torch.tensor([[[[255, 10]]]], dtype=torch.uint8), torch.tensor([[[[0, 21]]]], dtype=torch.uint8)
    assert mix(first, second, torch.tensor([0.3])).tolist() == [[[[76, 18]]]]  # 76.5 to even, 17.7
    made = predict(mixup(tmp_path / "set"))
    train = source()
    position = {int(image): row for row, image in enumerate(train.index)}
    a, b = (train.images[[position[int(image)] for image in made.column(name)]].float() for name in ("first", "second"))
    weight = made.column("weight")[:, None, None, None]
    assert torch.equal(made.column("image"), (weight * a + (1 - weight) * b).round().to(torch.uint8))
    real, mixed = slice(0, 60), slice(60, 85)
    assert torch.equal(made.column("first")[real], train.index)
    assert torch.equal(made.column("first")[real], made.column("second")[real])
    allowed = torch.tensor([0.30 + 0.04 * step for step in range(11)])
    assert torch.isclose(made.column("weight")[mixed, None], allowed).any(1).all()
    pairs = {frozenset(pair) for pair in zip(
        made.column("first")[mixed].tolist(), made.column("second")[mixed].tolist(), strict=True
    )}  # fmt: skip
    assert len(pairs) == 25
    assert all(len(pair) == 2 for pair in pairs)


def test_the_least_confident_mix_of_the_least_confident_pairs_is_asked(tmp_path):
    class Fixed(Linear):
        """Never learns: its optimiser has a parameter that its answers do not depend on."""

        def __init__(self):
            inner = Counted()
            super().__init__(inner.weight, inner.bias)
            self.idle = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return super().forward(x) + 0 * self.idle

    module = mixup(tmp_path / "set", student=Fixed(), queries=70, rounds=1, candidates=10**6)
    made = predict(module)
    train, real = source().images, 60
    pairs, tops, weights = [], [], [0.30 + 0.04 * step for step in range(11)]
    for i in range(real):
        for shift in range(1, (real - 1) // 2 + 1):
            pairs.append((i, (i + shift) % real))
    a, b = (train[[pair[side] for pair in pairs]].float() for side in (0, 1))
    for weight in weights:
        mixed = (torch.tensor(weight) * a + (1 - torch.tensor(weight)) * b).round() / 255
        tops.append(Fixed()(mixed).softmax(1).amax(1).detach())
    lowest = torch.stack(tops).amin(0)
    expected = lowest.sort().values[:10]
    asked = Fixed()(made.column("image")[60:].float() / 255).softmax(1).amax(1).detach()
    torch.testing.assert_close(asked.sort().values, expected)
    assert expected[-1] < lowest.median()


@pytest.mark.parametrize("make", [knockoff, mixup])
def test_an_interrupted_run_equals_an_uninterrupted_one(tmp_path, make):
    whole = predict(make(tmp_path / "whole"))
    seen = []
    for calls in (0, 1, 3, 1):
        net = Counted(calls)
        with pytest.raises(InterruptedError):
            predict(make(tmp_path / "part", net))
        seen += net.seen
    torch.manual_seed(5)
    net = Counted()
    made = predict(make(tmp_path / "part", net, student=TinyNet()))  # its first weights lie in the output
    assert sum(seen) + sum(net.seen) == len(whole) == made.manifest["queries"]
    for name in whole.columns:
        assert torch.equal(made.column(name), whole.column(name)), name
    assert made.manifest.get("policy") == whole.manifest.get("policy")
    with pytest.raises(FileExistsError, match="already holds"):
        predict(make(tmp_path / "part"))


KILLED = """
import importlib.util, os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("selection_test", {file!r})
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
class Dying(here.Counted):
    def forward(self, x):
        try:
            logits = super().forward(x)
        except InterruptedError:
            os.kill(os.getpid(), signal.SIGKILL)
        if not here.rehearsed(x):
            with open("answered.txt", "a") as file:
                file.write(f"{{len(x)}}\\n")
        return logits
Dying.__name__ = "Counted"  # a transfer set knows who answers
here.predict(here.knockoff("killed", Dying(6)))
"""


def test_kill_9_asks_nothing_twice(tmp_path):
    file = tmp_path / "run.py"
    file.write_text(KILLED.format(tests=str(Path(__file__).parents[3]), file=__file__))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, file], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr[-2000:]
    answered = sum(int(line) for line in (tmp_path / "answered.txt").read_text().split())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    net = Counted()
    made = predict(knockoff("killed", net))
    whole = predict(knockoff("whole"))
    torch.set_num_threads(threads)
    assert answered + sum(net.seen) == len(made) == 36
    assert 0 < answered < 36
    for name in whole.columns:
        assert torch.equal(made.column(name), whole.column(name)), name


@pytest.mark.parametrize("make", [knockoff, mixup])
def test_over_budget_everything_is_kept_and_can_be_finished(tmp_path, make):
    whole = predict(make(tmp_path / "whole"))
    net = Counted()
    with pytest.raises(QueryBudgetExceededError, match="33 of"):
        predict(make(tmp_path / "part", net, budget=33))
    assert sum(net.seen) == 33
    made = predict(make(tmp_path / "part", net))
    assert sum(net.seen) == len(whole) == made.manifest["queries_paid"]
    for name in whole.columns:
        assert torch.equal(made.column(name), whole.column(name)), name
    short = predict(make(tmp_path / "short", budget=33, at_budget="finish"))
    assert len(short) == short.manifest["queries_paid"] == 33
    assert short.manifest["stopped_by_budget"]
    longer = predict(make(tmp_path / "short", at_budget="finish"))  # a larger budget goes on in the same round
    assert not longer.manifest["stopped_by_budget"]
    for name in whole.columns:
        assert torch.equal(longer.column(name), whole.column(name)), name


def test_inference_mode_or_not_makes_no_difference(tmp_path):
    one = predict(knockoff(tmp_path / "one"), inference_mode=True)
    other = predict(knockoff(tmp_path / "other"), inference_mode=False)
    for name in one.columns:
        assert torch.equal(one.column(name), other.column(name)), name


def test_a_pool_of_made_images_and_what_it_has_cost(tmp_path):
    made = predict(
        knockoff(tmp_path / "set", num_groups=4, queries=30, rewards=("diversity",)),
        NoiseDataModule(ToyDataModule(), size=50),
    )
    assert made.column("image").shape == (30, 1, 8, 8)
    assert made.column("index").max() < 50
    assert made.manifest["source"]["name"] == "noise"


def test_wrong_settings_are_refused_before_anything_is_asked(tmp_path):
    net = Counted()
    with pytest.raises(ValueError, match="the pool has 60 images"):
        predict(knockoff(tmp_path / "a", net, queries=61))
    with pytest.raises(ValueError, match="the student answers 5 classes, but the data set has 3"):
        predict(knockoff(tmp_path / "b", net, student=TinyNet(5)))
    with pytest.raises(ValueError, match="at least 60 real images \\+ 2 rounds"):
        predict(mixup(tmp_path / "c", net, queries=60))
    with pytest.raises(ValueError, match="there are 200 candidates"):
        predict(mixup(tmp_path / "d", net, queries=300))
    with pytest.raises(ValueError, match="give a student"):
        knockoff(tmp_path / "e", net, student=None)
    with pytest.raises(ValueError, match="lowest <= highest"):
        mixup(tmp_path / "f", net, lowest=0.8)
    with pytest.raises(ValueError, match="round_size: expected at least 1"):
        knockoff(tmp_path / "g", net, round_size=0)
    assert net.seen == []
    with pytest.raises(InterruptedError):
        predict(knockoff(tmp_path / "h", Counted(1)))
    with pytest.raises(FileExistsError, match="begun with other settings"):
        predict(knockoff(tmp_path / "h", seed=1))


def test_several_processes_are_refused(tmp_path, monkeypatch):
    run, module = trainer(tmp_path), knockoff(tmp_path / "set")
    monkeypatch.setattr(type(run), "world_size", 2)
    with pytest.raises(RuntimeError, match=r"run it with trainer\.devices=1"):
        run.predict(module, datamodule=ToyDataModule())
    assert not (tmp_path / "set").exists()


def test_a_rehearsal_asks_nothing(tmp_path):
    net, module = Counted(), knockoff(tmp_path / "set")
    trainer(tmp_path, fast_dev_run=True).predict(module, datamodule=ToyDataModule(), return_predictions=False)
    assert net.seen == []
    assert not (tmp_path / "set/manifest.json").exists()


class Plain(AnsweredModule):
    """Cross-entropy with the answers."""

    accepts = ("soft", "hard")

    def losses(self, batch):
        return {"ce": F.cross_entropy(self(batch.image), self.answers(batch))}


@pytest.mark.parametrize("access", [SoftLabelTeacher, HardLabelTeacher])
@pytest.mark.parametrize("make", [knockoff, mixup])
def test_a_student_learns_from_the_selection(tmp_path, make, access):
    made = predict(make(tmp_path / "set", access=access))
    data = GeneratedDataModule(ToyDataModule(), path=str(tmp_path / "set"))
    module = Plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), optimizer=Adam)
    run = trainer(tmp_path, max_epochs=30)
    run.fit(module, datamodule=data)
    assert len(data.answered) == len(made)
    (metrics,) = run.test(module, datamodule=data, verbose=False)
    assert metrics["test/accuracy"] > 0.9


def test_knockoffs_rows_can_be_joined_to_their_source(tmp_path):
    made = predict(knockoff(tmp_path / "set"))
    data = TransferSetDataModule(ToyDataModule(), str(tmp_path / "set"))
    trainer(tmp_path).fit(Plain(tiny()), datamodule=data)
    assert torch.equal(data.answered.images, made.column("image"))


def test_mixtures_are_not_joined_to_the_source_and_answers_alone_are_no_images(tmp_path):
    predict(mixup(tmp_path / "mixed"), ToyDataModule(200, num_val=0, num_samples=20))
    for number in (20, None):  # the whole source has images at every index of the set
        with pytest.raises(
            ValueError, match=r"holds images of its own.*: read it by GeneratedDataModule, with the same"
        ):
            TransferSetDataModule(ToyDataModule(200, num_val=0, num_samples=number), str(tmp_path / "mixed")).setup(
                "fit"
            )
    predict(TeacherAnswers(SoftLabelTeacher(Counted()), str(tmp_path / "answers")))
    with pytest.raises(
        ValueError, match=r"holds no images, only answer.*about the images of toy: read it by TransferSet"
    ):
        GeneratedDataModule(ToyDataModule(), path=str(tmp_path / "answers")).setup("fit")


def test_the_line_of_progress_moves_with_every_batch_of_a_round(tmp_path, monkeypatch):
    seen = []
    count = RunProgress._count_rows
    monkeypatch.setattr(
        RunProgress, "_count_rows", lambda bar, module, move: (count(bar, module, move), seen.append(module.rows_done))
    )
    line = RunProgress(brief=True)
    predict(mixup(tmp_path / "set"), enable_progress_bar=True, callbacks=[line])
    assert seen[-1] == 85
    assert {60, 73} <= set(seen)  # in the real images' round, and in the first one of mixes
    assert line._state.metrics == "85 of 85 images"
