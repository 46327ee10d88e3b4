import copy
import json
import os
import subprocess
import sys
from functools import partial
from math import log
from pathlib import Path

import pytest
import torch
from helpers import Linear, TinyNet, ToyDataModule, rehearsed, trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional as F

from kdlightning.accounting import QueryBudgetExceededError
from kdlightning.data import GeneratedDataModule, TransferSetDataModule, TransferSetWriter
from kdlightning.functional import gan
from kdlightning.methods import MEKD, DB3KDLabels, MEKDGenerator, TeacherAnswers
from kdlightning.networks import (
    DCGANCritic,
    DCGANGenerator,
    Generator,
    InfoGANCritic,
    WGANGPCritic,
    fingerprint,
    load_network,
    save_network,
)
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher, WhiteBoxTeacher
from kdlightning.types import Answers, Batch


class Plain(Generator):
    """One linear layer."""

    def __init__(self, latent_dim=3, channels=1, image_size=8):
        super().__init__(latent_dim, channels, image_size)
        self.body = nn.Sequential(nn.Linear(latent_dim, channels * image_size**2), nn.Sigmoid())


class Counted(nn.Module):
    """Counts what really reaches the network, call by call."""

    def __init__(self, classes=3, seed=1):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inner, self.num_classes = Linear(torch.randn(classes, 64, generator=generator) / 8), classes
        self.calls = []

    def forward(self, x):
        if not rehearsed(x):
            self.calls.append(len(x))
        return self.inner(x)


def phase1(net=None, kind=SoftLabelTeacher, budget=None, cls=MEKDGenerator, critic=None, **options):
    torch.manual_seed(0)
    options = {"generator": DCGANGenerator(3, 1, 8, width=4)} | options
    critic = critic or DCGANCritic(1, 8, width=2)
    return cls(critic=critic, teacher=None if net is None else kind(net, budget), **options)


def fit(tmp_path, module, data=None, ckpt=None, **options):
    run = trainer(tmp_path, **{"max_epochs": 2, **options})
    run.fit(module, datamodule=data or ToyDataModule(), ckpt_path=ckpt)
    return run


def weights(module, *names):
    state = {name: value.clone() for name, value in module.state_dict().items()}
    return {name: value for name, value in state.items() if not names or name.startswith(names)}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# Two epochs of 60 images in batches of 16, 16, 16 and 12: 120 images are generated


@pytest.mark.parametrize("queries", [0, 1, 7, 100, 119, 120, None])
def test_exactly_as_many_queries_as_planned(tmp_path, queries):
    net = Counted()
    module = phase1(net, queries=queries)
    fit(tmp_path, module)
    assert sum(net.calls) == module.paid.queries == (120 if queries is None else queries)
    assert module.paid.bytes_up == sum(net.calls) * 64 * 4
    assert module.paid.bytes_down == sum(net.calls) * 12
    if queries == 100:
        assert net.calls == [13, 13, 14, 10] * 2  # 5 of 6 images of every batch
    if queries == 7:
        assert max(net.calls) == 1  # spread, not spent at once
    assert not list((tmp_path / "journal").glob("*"))


def test_alpha_0_asks_nothing_and_equals_no_teacher(tmp_path):
    net = Counted()
    silent, alone = phase1(net, alpha=0.0), phase1(None)
    fit(tmp_path / "silent", silent)
    fit(tmp_path / "alone", alone)
    assert net.calls == []
    assert silent.paid == Answers(0, 0, 0)
    assert silent.access is None
    assert same(weights(silent), weights(alone))


def test_hard_answers_are_not_paid_for(tmp_path):
    net, other = Counted(), Counted(seed=2)
    hard, alone = phase1(net, HardLabelTeacher, queries=100), phase1(other, HardLabelTeacher)
    fit(tmp_path / "hard", hard)
    fit(tmp_path / "alone", alone)
    assert net.calls == other.calls == []
    assert (hard.paid, hard.access) == (Answers(0, 0, 0), None)
    assert same(weights(hard), weights(alone))  # two teachers, one generator
    fit(tmp_path / "index", index := phase1(net, queries=100, **HARD))
    assert sum(net.calls) == index.paid.queries == 100


def test_a_wasserstein_critic_has_no_log_d(recwarn):
    with pytest.warns(UserWarning, match=r"give alpha=0\.0, or no teacher, to leave the information term out"):
        phase1(Counted(), objective="wasserstein")
    phase1(None, objective="wasserstein")
    phase1(Counted(), objective="wasserstein", alpha=0.0)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("number", "options", "most"),
    [
        (60, {}, 120),
        (49, {}, 96),  # the last batch has one image, and is left out
        (60, {"critic_steps": 3}, 32),  # two steps of the generator, both on whole batches
        (60, {"critic_steps": 4}, 24),  # both on the smaller last batch
    ],
)
def test_a_plan_fits_the_images_that_are_made(tmp_path, number, options, most):
    for queries in (most, None, most - 5):
        net = Counted()
        fit(tmp_path / str(queries), phase1(net, queries=queries, **options), ToyDataModule(number))
        assert sum(net.calls) == (most if queries is None else queries)
    with pytest.raises(ValueError, match=rf"queries={most + 1}, but the .* make {most} images per process"):
        fit(tmp_path / "more", phase1(net, queries=most + 1, **options), ToyDataModule(number))
    with pytest.raises(ValueError, match=r"0 or more images, or None .*, got -1"):
        phase1(net, queries=-1)


def test_a_plan_holds_with_fewer_batches(tmp_path):
    net = Counted()
    fit(tmp_path, phase1(net, queries=64), limit_train_batches=2)
    assert net.calls == [16] * 4


def test_the_teacher_sees_generated_pixels_and_its_gradient_is_not_needed(tmp_path):
    seen = []

    class Watched(Counted):
        def forward(self, x):
            if not rehearsed(x):
                seen.append(x)
            return super().forward(x)

    fit(tmp_path, phase1(Watched(), queries=None), max_epochs=1)
    assert [len(x) for x in seen] == [16, 16, 16, 12]
    assert all(torch.equal(x, (x * 255).round() / 255) for x in seen)  # as an image file would hold them
    assert all(x.dtype == torch.float32 and float(x.min()) >= 0 and float(x.max()) <= 1 for x in seen)
    assert not any(x.requires_grad for x in seen)


class TestInformation:
    logit = torch.tensor([0.5, -1.0, 2.0, 0.1])
    soft = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.0, 1.0, 0.0]])

    def term(self, answer, **options):
        module = phase1(Counted(), alpha=0.5, queries=3, **options)
        module._journal, module._plan = (lambda images: answer), [3]
        return float(module.terms(torch.rand(4, 1, 8, 8), self.logit, 0)["information"])

    def by_hand(self, weight):
        likelihood = [log(1 / (1 + 2.718281828459045**-x)) for x in (0.5, -1.0, 2.0)]
        return -0.5 * sum(w * value for w, value in zip(weight, likelihood, strict=True)) / 3

    def test_weights_are_top_probabilities(self):
        assert self.term(self.soft) == pytest.approx(self.by_hand([0.7, 0.6, 1.0]), rel=1e-5)

    def test_a_hard_answer_weighs_1_whatever_it_is(self):
        module = phase1(Counted(), HardLabelTeacher, alpha=0.5)
        term = float(module.terms(torch.rand(3, 1, 8, 8), self.logit[:3], 0)["information"])
        assert term == pytest.approx(self.by_hand([1, 1, 1]), rel=1e-5)

    def test_the_released_code_weighs_by_the_mean_class_index(self):
        for answer in (self.soft, torch.tensor([0, 2, 1])):
            assert self.term(answer, information="class_index") == pytest.approx(self.by_hand([1, 1, 1]), rel=1e-5)
        answer = torch.tensor([2, 2, 1])
        assert self.term(answer, information="class_index") == pytest.approx(self.by_hand([5 / 3] * 3), rel=1e-5)

    def test_a_step_without_questions_has_no_such_term(self):
        module = phase1(Counted(), queries=3)
        module._journal, module._plan = (lambda images: pytest.fail("asked")), [0, 3]
        assert module.terms(torch.rand(4, 1, 8, 8), self.logit, 0) == {}


def test_local_labels_are_never_read(tmp_path):
    class Shuffled(ToyDataModule):
        def load(self):
            train, val, test = super().load()
            train.labels = train.labels.roll(1)
            return train, val, test

    trained = []
    for number, data in enumerate((ToyDataModule(), ToyDataModule(unlabelled=True), Shuffled())):
        module = phase1(Counted())
        fit(tmp_path / str(number), module, data)
        trained.append(weights(module))
    assert same(trained[0], trained[1])
    assert same(trained[0], trained[2])


class Dying(MEKDGenerator):
    """Is killed in the middle of an epoch, after its third step."""

    last = (1, 2)

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        if (self.current_epoch, batch_idx) == self.last:
            raise ConnectionError("killed")


def checkpointed(tmp_path, module, ckpt=None):
    last = ModelCheckpoint(tmp_path / "checkpoints", filename="last", enable_version_counter=False)
    return fit(tmp_path, module, ckpt=ckpt, max_epochs=3, callbacks=[last], enable_checkpointing=True)


HARD = {"kind": HardLabelTeacher, "information": "class_index"}  # the one way in which phase 1 asks for labels


@pytest.mark.parametrize("options", [{}, HARD], ids=["soft", "hard"])
def test_a_resumed_run_equals_an_uninterrupted_one_and_asks_nothing_twice(tmp_path, options):
    whole = phase1(Counted(), queries=100, **options)
    checkpointed(tmp_path / "whole", whole)
    net = Counted()
    with pytest.raises(ConnectionError):
        checkpointed(tmp_path / "part", phase1(net, cls=Dying, queries=100, **options))
    asked = sum(net.calls)
    assert 33 < asked < 100
    resumed = phase1(net, queries=100, **options)
    checkpointed(tmp_path / "part", resumed, tmp_path / "part/checkpoints/last.ckpt")
    assert same(weights(whole), weights(resumed))
    assert sum(net.calls) == 100
    assert resumed.paid == whole.paid
    assert whole.paid.queries == 100


def test_a_run_killed_before_its_first_checkpoint_starts_again_for_nothing(tmp_path):
    class Early(Dying):
        last = (0, 2)

    net, whole = Counted(), phase1(Counted(), queries=100)
    checkpointed(tmp_path / "whole", whole)
    with pytest.raises(ConnectionError):
        checkpointed(tmp_path / "part", phase1(net, cls=Early, queries=100))
    again = phase1(net, queries=100)
    checkpointed(tmp_path / "part", again)
    assert same(weights(whole), weights(again))
    assert sum(net.calls) == again.paid.queries == 100


def test_answers_of_another_teacher_are_not_replayed(tmp_path, recwarn):
    net, other = Counted(), Counted(seed=2)
    with pytest.raises(ConnectionError):
        checkpointed(tmp_path, phase1(net, cls=Dying))
    checkpointed(tmp_path, phase1(other))
    assert sum(other.calls) == 180
    assert not [warning for warning in recwarn if "asked anew" in str(warning.message)]


def test_a_budget_stops_phase_1_and_a_larger_one_goes_on(tmp_path):
    net, whole = Counted(), phase1(Counted(), queries=100)
    checkpointed(tmp_path / "whole", whole)
    with pytest.raises(QueryBudgetExceededError, match="the budget is 60"):
        checkpointed(tmp_path / "part", phase1(net, budget=60, queries=100))
    assert sum(net.calls) <= 60
    resumed = phase1(net, budget=100, queries=100)
    checkpointed(tmp_path / "part", resumed, tmp_path / "part/checkpoints/last.ckpt")
    assert sum(net.calls) == resumed.paid.queries == 100
    assert same(weights(whole), weights(resumed))


def one_step(tmp_path, name, **options):
    module = phase1(**options)
    start = weights(module)
    fit(tmp_path / name, module, max_epochs=1, limit_train_batches=1)
    return module, start


PARAMETERS = ("critic.body.0.weight", "critic.head.weight", "generator.body.0.weight")


def test_both_networks_learn_and_the_information_term_moves_the_generator_only(tmp_path):
    plain, start = one_step(tmp_path, "plain")
    asked, _ = one_step(tmp_path, "asked", net=Counted(), alpha=2.0)
    for name in PARAMETERS:
        assert not torch.equal(start[name], weights(plain)[name])
    critic = {name for name, _ in plain.critic.named_parameters()}
    assert same(
        {name: value for name, value in plain.critic.state_dict().items() if name in critic},
        {name: value for name, value in asked.critic.state_dict().items() if name in critic},
    )
    assert not torch.equal(weights(plain)[PARAMETERS[2]], weights(asked)[PARAMETERS[2]])


def test_the_first_step_by_hand(tmp_path):
    class Sees(ToyDataModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            self.seen = super().on_after_batch_transfer(batch, dataloader_idx)
            return self.seen

    options = {
        "generator_optimizer": lambda parameters: torch.optim.SGD(parameters, 0.5),
        "critic_optimizer": lambda parameters: torch.optim.SGD(parameters, 0.1),
    }
    torch.manual_seed(0)
    module = phase1(Counted(), alpha=0.3, queries=5, generator=Plain(), critic=WGANGPCritic(1, 8), **options)
    generator, critic, data = copy.deepcopy(module.generator), copy.deepcopy(module.critic), Sees()
    latents, draw = [], torch.randn

    def drawn(*shape, **keys):
        latents.append(draw(*shape, **keys))
        return latents[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", drawn)
        fit(tmp_path, module, data, max_epochs=1, limit_train_batches=1)
    (latent,) = latents
    fake = generator(latent)
    loss = -(F.logsigmoid(critic(data.seen.image)).mean() + F.logsigmoid(-critic(fake.detach())).mean())
    for parameter, gradient in zip(
        critic.parameters(), torch.autograd.grad(loss, list(critic.parameters())), strict=True
    ):
        parameter.data -= 0.1 * gradient
    weight = Counted().inner(fake[:5]).softmax(1).amax(1).detach()
    chosen = F.logsigmoid(critic(fake))
    loss = -chosen.mean() - 0.3 * (weight * chosen[:5]).mean()  # the critic after its step, the same latent vectors
    for parameter, gradient in zip(
        generator.parameters(), torch.autograd.grad(loss, list(generator.parameters())), strict=True
    ):
        parameter.data -= 0.5 * gradient
    torch.testing.assert_close(dict(module.critic.state_dict()), dict(critic.state_dict()))
    torch.testing.assert_close(dict(module.generator.state_dict()), dict(generator.state_dict()))


def test_critic_steps_leave_the_generator_alone(tmp_path):
    net = Counted()
    module = phase1(net, critic_steps=5)
    start = weights(module)
    fit(tmp_path, module, max_epochs=1)
    trained = weights(module)
    parameters = [name for name, _ in module.generator.named_parameters()]
    assert all(torch.equal(start[f"generator.{name}"], trained[f"generator.{name}"]) for name in parameters)
    assert not torch.equal(start["critic.head.weight"], trained["critic.head.weight"])
    assert net.calls == []  # no step of the generator, no question


@pytest.mark.parametrize(("critic_steps", "clip"), [(1, None), (2, None), (1, 0.01)])
def test_two_batches_are_accumulated_to_one(tmp_path, monkeypatch, critic_steps, clip):
    table, used = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)), [0]

    def draw(number, *_, **__):
        used[0] += number
        return table[used[0] - number : used[0]]

    def run(batch_size, every):
        used[0], sgd = 0, partial(torch.optim.SGD, lr=0.1)
        torch.manual_seed(0)
        module = phase1(
            Counted(), critic=WGANGPCritic(1, 8), generator=Plain(), generator_optimizer=sgd, critic_optimizer=sgd,
            critic_steps=critic_steps,
        )  # fmt: skip
        options = {"accumulate_grad_batches": every, "gradient_clip_val": clip, "max_epochs": 2}
        forecast = module.estimate(trainer(tmp_path / str(every), **options), prepared(batch_size))
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", draw)
            metrics = fit(tmp_path / str(every), module, prepared(batch_size), **options).callback_metrics
        assert forecast.exact
        assert forecast.most == module.teacher.paid.queries == 120 // critic_steps
        return module.state_dict(), metrics["train/information"]

    (one, logged), (two, told) = run(10, 1), run(5, 2)
    torch.testing.assert_close(logged, told, rtol=1e-4, atol=1e-6)
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-4, atol=1e-6)


def test_accumulation_asks_the_planned_number(tmp_path):
    module = phase1(Counted(), queries=17)
    fit(tmp_path, module, prepared(5), accumulate_grad_batches=3, max_epochs=2)
    assert module.teacher.paid.queries == 17


def prepared(batch_size):
    data = ToyDataModule(batch_size=batch_size)
    data.setup()
    return data


@pytest.mark.filterwarnings("ignore:log D of Eq. 10")
def test_wgan_gp_runs_and_the_penalty_counts(tmp_path, monkeypatch):
    given, gradient_penalty = [], gan.gradient_penalty

    def spy(critic, real, fake):
        given.append((critic, real, fake))
        return gradient_penalty(critic, real, fake)

    monkeypatch.setattr(gan, "gradient_penalty", spy)
    options = {"objective": "wasserstein", "critic_steps": 2, "queries": 20}
    made = {}
    for penalty in (0.0, 10.0):
        module = phase1(Counted(), critic=WGANGPCritic(1, 8), penalty=penalty, **options)
        run = fit(tmp_path / str(penalty), module)
        assert module.paid.queries == 20
        assert all(value.isfinite() for value in run.callback_metrics.values())
        assert all(value.isfinite().all() for value in module.state_dict().values())
        made[penalty] = weights(module)
    assert not torch.equal(made[0.0]["critic.head.weight"], made[10.0]["critic.head.weight"])
    assert [len(real) for _, real, _ in given] == [16, 16, 16, 12] * 2  # of the run with a penalty only
    for critic, real, fake in given:
        assert critic is module.critic
        assert not fake.requires_grad
        assert float((real - fake).abs().mean()) > 0.1


def test_infogan_trains_its_guess_on_the_generators_side(tmp_path):
    def build(weight):
        torch.manual_seed(5)
        return one_step(tmp_path, str(weight), critic=InfoGANCritic(3, 1, 8, width=2), code_weight=weight)

    (without, start), (with_code, _) = build(0.0), build(0.7)
    one, other = weights(without), weights(with_code)
    assert torch.equal(start["critic.code_head.weight"], one["critic.code_head.weight"])
    # Q and the features that it shares with D, not D's own last layer
    for name in ("critic.code_head.weight", "critic.body.0.weight", "generator.body.0.weight"):
        assert not torch.equal(one[name], other[name])
    assert torch.equal(one["critic.head.weight"], other["critic.head.weight"])
    assert all(parameter.requires_grad for parameter in with_code.critic.parameters())


def test_logged_terms_are_means_over_the_steps_that_had_them(tmp_path, monkeypatch):
    values = {"generator_loss": [], "information_loss": []}

    def watch(name):
        loss = getattr(gan, name)

        def spy(*args):
            values[name].append(loss(*args).detach())
            return loss(*args)

        monkeypatch.setattr(gan, name, spy)

    watch("generator_loss")
    watch("information_loss")
    metrics = fit(tmp_path, phase1(Counted(), critic_steps=2, queries=1), max_epochs=1).callback_metrics
    assert {name: len(seen) for name, seen in values.items()} == {"generator_loss": 2, "information_loss": 1}
    torch.testing.assert_close(metrics["train/generator"], torch.stack(values["generator_loss"]).mean())
    torch.testing.assert_close(metrics["train/information"], 0.5 * values["information_loss"][0])


def test_bf16_mixed(tmp_path):
    net = Counted()
    module = phase1(net, queries=30, critic=InfoGANCritic(3, 1, 8, width=2), penalty=1.0, code_weight=0.1)
    metrics = fit(tmp_path, module, precision="bf16-mixed").callback_metrics
    assert {"train/critic", "train/generator", "train/information", "train/code"} <= set(metrics)
    assert all(value.isfinite() for value in metrics.values())
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in module.parameters())
    assert sum(net.calls) == 30
    assert module.sample(4).dtype == torch.float32


def test_samples_are_the_same_every_time_and_leave_the_mode_alone():
    module = phase1()
    module.train()
    state = torch.random.get_rng_state()
    one = module.sample(5, seed=3)
    assert module.generator.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(one, module.sample(5, seed=3))
    assert one.shape == (5, 1, 8, 8)
    assert not torch.equal(one, module.sample(5, seed=4))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"generator": Plain(4)}, "4 latent dimensions, one per class, but toy has 3 classes"),
        ({"generator": Plain(image_size=12)}, "1 channels and 12 pixels, but those of toy have 1 channels and 8"),
        ({"critic": DCGANCritic(3, 8)}, "critic sees images of 3 channels and 8 pixels, but those of toy have 1 ch"),
        ({"net": Counted(4)}, "the teacher has 4 classes, but the data set toy has 3"),
        ({"code_weight": 1.0}, "code_weight needs an InfoGANCritic, .*; got DCGANCritic"),
        ({"critic": InfoGANCritic(5, 1, 8)}, "codes of 5 dimensions, but the generator's latent vectors have 3"),
    ],
)
def test_phase_1_refuses_what_does_not_fit(tmp_path, options, text):
    with pytest.raises(ValueError, match=text):
        fit(tmp_path, phase1(**options))


def test_a_run_without_an_end_has_no_plan(tmp_path):
    with pytest.raises(ValueError, match="needs max_epochs"):
        fit(tmp_path, phase1(Counted(), queries=3), max_epochs=-1)


DISTRIBUTED = """
import sys, torch
sys.path[:0] = [{tests!r}, {here!r}]
from helpers import ToyDataModule, trainer
from test_mekd import Counted, DCGANGenerator, InfoGANCritic, MEKDGenerator, SoftLabelTeacher
torch.set_num_threads(1)
torch.manual_seed(0)
net = Counted()
module = MEKDGenerator(DCGANGenerator(3, 1, 8, width=4), InfoGANCritic(3, 1, 8, width=2), SoftLabelTeacher(net, 37),
                       queries=37, penalty=1.0, code_weight=0.1)
run = trainer(".", devices=2, strategy="ddp", max_epochs=2)
run.fit(module, datamodule=ToyDataModule(batch_size=8))
parameters = {{name: value.detach().clone() for name, value in module.named_parameters()}}
assert all(p.grad is None for p in module.critic.head.parameters())  # D's own layer is not on Q's side
torch.save((net.calls, parameters, module.paid.queries), f"rank-{{run.global_rank}}.pt")
"""


@pytest.mark.timeout(300)  # two interpreters start: 20 s, more on a busy machine
def test_two_processes_ask_the_planned_number_together_and_stay_equal(tmp_path):
    (tmp_path / "run.py").write_text(
        DISTRIBUTED.format(tests=str(Path(__file__).parents[2]), here=str(Path(__file__).parent))
    )
    process = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-3000:]
    (one, first, paid), (two, second, paid_too) = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1))
    assert (sum(one), sum(two)) == (19, 18)
    assert paid == paid_too == 37
    assert same(first, second)
    torch.manual_seed(0)
    start = dict(DCGANGenerator(3, 1, 8, width=4).named_parameters())
    assert not torch.equal(first["generator.body.0.weight"], start["body.0.weight"])
    assert not list((tmp_path / "journal").glob("*"))


# Phase 2


def student():
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def frozen():
    torch.manual_seed(3)
    return DCGANGenerator(3, 1, 8, width=4)


def batch(n=5, hard=False):
    generator = torch.Generator().manual_seed(3)
    images, answer = torch.rand(n, 1, 8, 8, generator=generator), torch.randn(n, 3, generator=generator).softmax(1)
    return Batch(images, torch.arange(n), None, F.one_hot(answer.argmax(1), 3).float() if hard else answer)


def row_centred(values):
    return values - values.sum(1, keepdim=True) / values.shape[1]


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("response", ["centred", "released"])
def test_terms_by_hand(hard, distance, response):
    options = {"mapping_weight": 3.0, "beta": 0.5, "temperature": 2.0, "kd_temperature": 4.0, "confidence": 0.8}
    module = MEKD(student(), frozen(), distance=distance, response=response, **options)
    module.access = "hard" if hard else "soft"
    data = batch(hard=hard)
    terms = module.losses(data)
    logits = module(data.image)
    answer = torch.where(data.answer == 1, 0.8, 0.1) if hard else data.answer
    fake = module.generator.eval()
    if response == "released":
        made, wanted = fake(logits / 2), fake((data.answer if hard else data.answer.log()) / 2)
    else:
        made, wanted = fake(row_centred(logits) / 2), fake(row_centred(answer.log()) / 2)
    difference = (made - wanted).abs() if distance == "l1" else (made - wanted) ** 2
    torch.testing.assert_close(terms["mapping"], 3 * difference.sum() / (5 * 64))
    p = answer ** (1 / 4)
    p, q = p / p.sum(1, keepdim=True), (logits / 4).softmax(1)
    torch.testing.assert_close(terms["kl"], 0.5 * 16 * (p * (p / q).log()).sum(1).mean())
    assert set(terms) == {"mapping", "kl"}


def test_raw_logits_of_a_white_box_reach_the_generator():
    data, teacher = batch(), student()
    module = MEKD(
        student(), frozen(), response="logits", logits_teacher=WhiteBoxTeacher(teacher), temperature=2.0, beta=0.0
    )
    made, wanted = (module.generator(net(data.image) / 2) for net in (module.student, teacher))
    torch.testing.assert_close(module.losses(data)["mapping"], (made - wanted).abs().mean())
    assert not [name for name, _ in module.named_parameters() if not name.startswith("student.")]


@pytest.mark.parametrize("options", [{"response": "logits"}, {"logits_teacher": WhiteBoxTeacher(nn.Identity())}])
def test_raw_logits_and_their_teacher_belong_together(options):
    with pytest.raises(ValueError, match="belong together"):
        MEKD(student(), frozen(), **options)


def test_a_student_with_the_teachers_logits_has_no_loss():
    data, net = batch(), student()
    answer = (net(data.image) + 7).softmax(1).detach()  # a constant more: the same answer
    terms = MEKD(net, frozen()).losses(data._replace(answer=answer))
    assert float(terms["mapping"].detach()) < 1e-6
    assert abs(float(terms["kl"].detach())) < 1e-6


def test_a_sure_student_with_the_teachers_logits_has_no_loss_below_the_floor():
    draw = torch.Generator().manual_seed(5)
    net = Linear(torch.zeros(3, 64), 10 * torch.randn(3, generator=draw) + torch.tensor([20.0, 0.0, -20.0]))
    answer = net(batch().image).softmax(1).detach()
    assert float(answer.min()) < 1e-9
    terms = MEKD(net, frozen(), kd_temperature=4.0).losses(batch()._replace(answer=answer))
    assert float(terms["mapping"].detach()) < 1e-6
    assert abs(float(terms["kl"].detach())) < 1e-5


def test_weights_of_0_leave_terms_out():
    assert set(MEKD(student(), frozen(), mapping_weight=0.0).losses(batch())) == {"kl"}
    assert set(MEKD(student(), frozen(), beta=0.0).losses(batch())) == {"mapping"}


def test_an_answer_rounded_to_zero_is_raised_to_the_floor():
    data = batch()._replace(answer=F.one_hot(torch.arange(5) % 3, 3).float())
    module = MEKD(student(), frozen(), floor=1e-3)
    answer = data.answer.clamp_min(1e-3)
    made, wanted = (module.generator(row_centred(values) / 5) for values in (module(data.image), answer.log()))
    terms = module.losses(data)
    torch.testing.assert_close(terms["mapping"], (made - wanted).abs().mean())
    p, q = answer / answer.sum(1, keepdim=True), module(data.image).softmax(1)
    torch.testing.assert_close(terms["kl"], (p * (p / q).log()).sum(1).mean())


def test_the_gradient_goes_through_the_generator_to_the_student_only():
    module = MEKD(student(), frozen().train(), beta=0.0)
    before = fingerprint(module.generator)
    module.train()
    module.losses(batch())["mapping"].backward()
    assert float(module.student[1].weight.grad.abs().sum()) > 0
    assert not module.generator.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in module.generator.parameters())
    assert fingerprint(module.generator) == before
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"student"}


@pytest.fixture
def pool(tmp_path):
    """A saved generator, and the answers of a teacher to 48 of its images."""

    def make(kind=SoftLabelTeacher):
        told = {"queries": 5, "bytes_up": 5 * 256, "bytes_down": 60}
        save_network(frozen(), tmp_path / "generator", notes=told)
        module = TeacherAnswers(kind(Counted()), str(tmp_path / "set"))
        data = GeneratedDataModule(ToyDataModule(), str(tmp_path / "generator"), size=48)
        trainer(tmp_path).predict(module, datamodule=data, return_predictions=False)
        assert json.loads((tmp_path / "set/manifest.json").read_text())["queries"] == 53
        return GeneratedDataModule(ToyDataModule(), path=str(tmp_path / "set"))

    return make


@pytest.mark.parametrize("kind", [SoftLabelTeacher, HardLabelTeacher])
def test_a_student_learns_from_the_pool_and_the_generator_stays(tmp_path, pool, kind):
    data = pool(kind)
    module = MEKD(student(), str(tmp_path / "generator"), optimizer=lambda p: torch.optim.Adam(p, 0.01))
    before = fingerprint(module.generator)
    run = fit(tmp_path, module, data, max_epochs=1)
    start = {name: float(run.callback_metrics[f"train/{name}"]) for name in ("mapping", "kl")}
    assert module.access == kind.access
    run = fit(tmp_path, module, data, max_epochs=15)
    for name, value in start.items():
        assert float(run.callback_metrics[f"train/{name}"]) < 0.8 * value
    assert fingerprint(module.generator) == before == fingerprint(load_network(tmp_path / "generator"))
    assert module.paid == Answers(0, 0, 0)
    run.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"student"}
    (optimizer,) = checkpoint["optimizer_states"]
    assert sum(len(group["params"]) for group in optimizer["param_groups"]) == 2
    assert checkpoint["hyper_parameters"]["generator"] == str(tmp_path / "generator")
    again = MEKD.load_from_checkpoint(tmp_path / "x.ckpt", student=student())
    torch.testing.assert_close(again(batch().image), module(batch().image))
    assert fingerprint(again.generator) == before
    (metrics,) = run.test(module, datamodule=data, verbose=False)
    assert 0 <= metrics["test/accuracy"] <= 1


def test_the_alignment_is_the_least_squares_map_from_answers_to_latent_vectors():
    module = MEKD(student(), frozen(), response="aligned", temperature=2.0)
    draw = torch.Generator().manual_seed(7)
    answer, latent = torch.randn(40, 3, generator=draw).softmax(1), torch.randn(40, 3, generator=draw)
    assert module.alignment.isnan().all()
    module.align(answer, latent)
    # of centred logits the last is minus the sum of the others: normal equations of the two that are left, and of 1
    logits = row_centred(answer.log())
    design = torch.cat([logits[:, :2].double() / 2, torch.ones(40, 1)], 1)
    best = torch.linalg.solve(design.T @ design, design.T @ latent.double())
    torch.testing.assert_close(module.latent(logits), (design @ best).float(), atol=1e-5, rtol=1e-5)
    made, wanted = (module.generator(module.latent(side)) for side in (row_centred(module(batch().image)), logits[:5]))
    terms = module.losses(batch()._replace(answer=answer[:5]))
    torch.testing.assert_close(terms["mapping"], (made - wanted).abs().mean())


def test_hard_answers_are_aligned_to_the_mean_latent_vector_of_their_class():
    module = MEKD(student(), frozen(), response="aligned")
    module.access = "hard"
    latent, label = torch.randn(40, 3, generator=torch.Generator().manual_seed(7)), torch.arange(40) % 3
    module.align(F.one_hot(label, 3).float(), latent)
    means = torch.stack([latent[label == k].mean(0) for k in range(3)])
    seen = module.latent(row_centred(module.probabilities(torch.eye(3)).log()))
    torch.testing.assert_close(seen, means, atol=1e-5, rtol=0)


def test_an_aligned_student_pairs_the_pools_answers_with_its_latent_vectors(tmp_path, pool):
    pool()
    data = GeneratedDataModule(ToyDataModule(), path=str(tmp_path / "set"), num_samples=20)
    module = MEKD(student(), str(tmp_path / "generator"), response="aligned")
    run = fit(tmp_path, module, data, max_epochs=1)
    latent = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))[:20]  # as the pool was drawn
    torch.testing.assert_close(data.latents(), latent)
    assert torch.equal((frozen().eval()(latent) * 255).round().byte(), data.answered.images)
    other = MEKD(student(), frozen(), response="aligned")
    other.align(data.answered.answer, latent)
    torch.testing.assert_close(module.alignment, other.alignment)
    run.save_checkpoint(tmp_path / "x.ckpt")
    again = MEKD.load_from_checkpoint(tmp_path / "x.ckpt", student=student())
    assert torch.equal(again.alignment, module.alignment)
    assert data.transfer_set.manifest["queries"] == 5 + 20
    stranger = DCGANGenerator(3, 1, 8, width=4)
    with pytest.raises(ValueError, match=r"response='aligned' pairs .* whose images this generator has made"):
        fit(tmp_path / "other", MEKD(student(), stranger, response="aligned"), data)


def test_real_local_images_are_the_first_versions_variant(tmp_path):
    net = Counted()
    trainer(tmp_path).predict(
        TeacherAnswers(SoftLabelTeacher(net), str(tmp_path / "set")),
        datamodule=ToyDataModule(unlabelled=True), return_predictions=False,
    )  # fmt: skip
    data = TransferSetDataModule(ToyDataModule(unlabelled=True, batch_size=60), str(tmp_path / "set"))
    module = MEKD(student(), frozen(), optimizer=lambda p: torch.optim.SGD(p, 0.0))
    metrics = fit(tmp_path, module, data, max_epochs=1).callback_metrics
    assert sum(net.calls) == 60
    local = data.source.train_set.images.float() / 255
    expected = module.losses(Batch(local, torch.arange(60), None, net.inner(local).softmax(1)))
    for name, value in expected.items():
        torch.testing.assert_close(metrics[f"train/{name}"], value.detach())


def test_bf16_mixed_of_phase_2(tmp_path, pool):
    module = MEKD(TinyNet(), frozen())
    metrics = fit(tmp_path, module, pool(), precision="bf16-mixed").callback_metrics
    assert all(value.isfinite() for value in metrics.values())


def test_phase_2_refuses_what_does_not_fit(tmp_path, pool):
    data = pool()
    with pytest.raises(ValueError, match="4 latent dimensions, one per class, but toy has 3 classes"):
        fit(tmp_path, MEKD(student(), Plain(4)), data)
    with pytest.raises(ValueError, match="the student Sequential answers 4 classes, toy has 3: set"):
        fit(tmp_path, MEKD(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), frozen()), data)
    with pytest.raises(TypeError, match=r"MEKD trains on given answers: .* got ToyDataModule"):
        fit(tmp_path, MEKD(student(), frozen()))
    with pytest.raises(ValueError, match="whose batches carry the teacher's answers"):
        MEKD(student(), frozen()).losses(batch()._replace(answer=None))
    save_network(DCGANCritic(1, 8, width=2), tmp_path / "critic")
    with pytest.raises(ValueError, match="holds a DCGANCritic, not a generator"):
        MEKD(student(), str(tmp_path / "critic"))
    with pytest.raises(FileNotFoundError, match="run the `fit` that writes it first"):
        MEKD(student(), str(tmp_path / "none/generator"))


def test_phase_2_refuses_answers_of_another_kind(tmp_path):
    def given(name, access):
        writer = TransferSetWriter(
            tmp_path / name, {"method": "Else", "access": access, "source": ToyDataModule().identity()}
        )
        source = ToyDataModule()
        source.setup()
        writer.write({"index": source.train_set.index, "answer": torch.rand(60, 3)})
        writer.finish(source.train_set.index, {})
        return TransferSetDataModule(ToyDataModule(), str(tmp_path / name))

    with pytest.raises(ValueError, match="MEKD needs soft or topk or hard answers, but those of Else are logits"):
        fit(tmp_path, MEKD(student(), frozen()), given("logits", "logits"))
    trainer(tmp_path).predict(
        DB3KDLabels(HardLabelTeacher(Counted()), str(tmp_path / "db3kd"), num_classes=3, robustness="sd"),
        datamodule=ToyDataModule(), return_predictions=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="needs the teacher's answers, but DB3KDLabels wrote a transfer set without"):
        fit(tmp_path, MEKD(student(), frozen()), TransferSetDataModule(ToyDataModule(), str(tmp_path / "db3kd")))
