import copy
import math
from functools import partial

import pytest
import torch
import yaml
from helpers import Linear, TinyNet, ToyDataModule, trainer
from torch import nn
from torch.nn import functional as F

from kdlightning.__main__ import main
from kdlightning.data import TransferSetDataModule
from kdlightning.functional.divergence import decoupled_divergence, kd_divergence
from kdlightning.methods import AnsweredKD, TeacherAnswers
from kdlightning.methods.baselines import AL, CAN, CDL, DAFL, DKD, ML
from kdlightning.methods.baselines.cdl import class_distance, class_means
from kdlightning.methods.baselines.dafl import activation_loss, information_entropy_loss, one_hot_loss
from kdlightning.modules.alternating import Discriminator
from kdlightning.networks import DCGANGenerator, Generator, LeNet5Fifth, save_network
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher, WhiteBoxTeacher
from kdlightning.types import Batch

Adam = partial(torch.optim.Adam, lr=0.01)
ANSWERED = [ML, DKD, CDL, AL, CAN]


def tiny(seed=0):
    torch.manual_seed(seed)
    return TinyNet()


def oracle():
    """A linear teacher that is right on the toy images."""
    weight = torch.zeros(3, 8, 8)
    for k in range(3):
        weight[k, :, 3 * k : 3 * k + 2] = 0.2
    return Linear(weight.flatten(1))


def batch(n=6):
    draw = torch.Generator().manual_seed(3)
    images, logits = torch.rand(n, 1, 8, 8, generator=draw), 2 * torch.randn(n, 3, generator=draw)
    return Batch(images, torch.arange(n), None, logits.softmax(1))


def centre(rows):
    return rows - rows.mean(1, keepdim=True)


def sides(module, data):
    """Both sides' centred logits, by hand; the teacher's from its probabilities."""
    return centre(module(data.image)), centre(data.answer.log())


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """Datamodules with the oracle's answers to 60 toy images."""
    made = {}
    for access, kind in {"soft": SoftLabelTeacher, "hard": HardLabelTeacher}.items():
        path = tmp_path_factory.mktemp(access)
        module = TeacherAnswers(kind(oracle()), str(path / "set"))
        trainer(path).predict(module, datamodule=ToyDataModule(), return_predictions=False)
        made[access] = lambda path=path: TransferSetDataModule(ToyDataModule(), str(path / "set"))
    return made


def accuracy(module, tmp_path):
    return trainer(tmp_path).test(module, datamodule=ToyDataModule(), verbose=False)[0]["test/accuracy"]


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def state(net):
    return copy.deepcopy(net.state_dict())


def test_ml_is_the_mean_square_of_centred_logits():
    module, data = ML(tiny()).eval(), batch()
    student, teacher = sides(module, data)
    terms = module.losses(data)
    assert set(terms) == {"logits"}
    torch.testing.assert_close(terms["logits"], ((student - teacher) ** 2).sum() / 18)


def test_ml_vanishes_for_the_teachers_logits_whatever_their_constant():
    answers = oracle()
    data = batch()._replace(answer=answers(batch().image).softmax(1))
    shifted = Linear(answers.weight, answers.bias + 7)
    assert float(ML(shifted).losses(data)["logits"]) == pytest.approx(0, abs=1e-10)


def test_hard_answers_become_labels_of_a_confidence():
    module, data = ML(tiny(), confidence=0.9).eval(), batch()
    module.access = "hard"
    label = torch.tensor([0, 1, 2, 2, 1, 0])
    wanted = torch.where(F.one_hot(label, 3).bool(), math.log(0.9), math.log(0.05))
    value = module.losses(data._replace(answer=F.one_hot(label, 3).float()))["logits"]
    torch.testing.assert_close(value, F.mse_loss(centre(module(data.image)), centre(wanted)))


def test_zero_probabilities_stop_at_the_floor():
    module, data = ML(tiny(), floor=1e-4).eval(), batch(1)
    value = module.losses(data._replace(answer=torch.tensor([[1.0, 0.0, 0.0]])))["logits"]
    wanted = centre(torch.tensor([[0.0, math.log(1e-4), math.log(1e-4)]]))
    torch.testing.assert_close(value, F.mse_loss(centre(module(data.image)), wanted))


class Sure(nn.Module):
    """Logits of scale 10 for 10 classes: a third of their probabilities are below any usual floor."""

    num_classes = 10

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(10 * torch.randn(40, 10, generator=torch.Generator().manual_seed(5)) + 3)

    def forward(self, x):
        return self.logits[: len(x)]


@pytest.mark.parametrize(
    "make",
    [ML, AL, CAN, partial(CDL, class_weight=0.0), DKD, *(partial(AnsweredKD, temperature=t) for t in (1.0, 8.0))],
)
def test_a_student_that_is_the_teacher_is_not_told_from_it_below_the_floor(make):
    net = Sure()
    answer = net.logits.detach().softmax(1)
    assert 0.2 < (answer < 1e-7).float().mean() < 0.7
    data = Batch(torch.zeros(40, 1, 2, 2), torch.arange(40), None, answer)
    module = make(net)
    module.access = "soft"
    student, teacher = module.vectors(*module.responses(data))
    torch.testing.assert_close(student, teacher, atol=2e-5, rtol=0)
    terms = module.losses(data)
    for name in {"logits", "kd", "target", "others"} & terms.keys():
        assert abs(float(terms[name].detach())) < 1e-5
    if isinstance(module, (AL, CAN)):
        real, made = (module.discriminator(side) for side in (teacher, student))
        torch.testing.assert_close(real, made, atol=1e-4, rtol=0)


def test_a_student_below_the_floor_is_pulled_up_to_an_answer_above_it():
    logits = torch.tensor([[0.0, -30.0, -40.0]], requires_grad=True)
    answer = torch.tensor([[0.6, 0.4, 1e-7]])
    student, teacher = ML(tiny()).vectors(logits, answer)
    # the third entry counts as 1e-7; the second is not raised
    wanted = centre(torch.tensor([[0.0, -30.0, math.log(1e-7)]]))
    torch.testing.assert_close(student, wanted)
    F.mse_loss(student, teacher).backward()
    difference = (wanted - teacher)[0]
    # of a row mean m: d/dv_j sum (v_k - m - t_k)² / 3 = 2/3 (d_j - mean d), and mean d = 0; p_1 = 1 takes all of lse
    assert float(logits.grad[0, 1]) == pytest.approx(2 / 3 * float(difference[1]), rel=1e-4)
    assert float(logits.grad[0, 2]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", ANSWERED)
def test_another_number_of_classes_and_a_missing_answer_are_refused(method):
    with pytest.raises(ValueError, match="the student answers 3 classes, but the teacher's answers have 4"):
        method(tiny()).losses(batch()._replace(answer=torch.full((6, 4), 0.25)))
    with pytest.raises(ValueError, match="trains on a transfer set"):
        method(tiny()).losses(batch()._replace(answer=None))


def test_decoupled_divergence_by_hand():
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.4, 0.1, 0.5]])
    tckd, nckd = decoupled_divergence(3 * q.log(), p.log(), torch.tensor([0]), 3.0)
    binary = 0.5 * math.log(0.5 / 0.4) + 0.5 * math.log(0.5 / 0.6)
    others = 0.6 * math.log(0.6 / (1 / 6)) + 0.4 * math.log(0.4 / (5 / 6))
    torch.testing.assert_close(tckd, torch.tensor([binary]))
    torch.testing.assert_close(nckd, torch.tensor([others]))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_parts_sum_to_the_divergence(temperature):
    draw = torch.Generator().manual_seed(1)
    logits, teacher = torch.randn(8, 5, generator=draw), torch.randn(8, 5, generator=draw).log_softmax(1)
    target = torch.randint(0, 5, (8,), generator=draw)
    tckd, nckd = decoupled_divergence(logits, teacher, target, temperature)
    p_target = teacher.exp().gather(1, target[:, None]).squeeze(1)
    assert tckd.shape == nckd.shape == (8,)
    torch.testing.assert_close((tckd + (1 - p_target) * nckd).mean(), kd_divergence(logits, teacher, temperature))


def test_decoupled_divergence_stays_finite_and_refuses_other_shapes():
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    parts = decoupled_divergence(logits, torch.tensor([[0.0, -87.0, -87.0]]), torch.tensor([0]), 1.0)
    torch.stack(parts).sum().backward()
    assert torch.stack(parts).isfinite().all()
    assert logits.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"student logits \(1, 3\).*\(1, 4\).*same shape"):
        decoupled_divergence(logits, torch.zeros(1, 4), torch.tensor([0]), 1.0)


def test_dkd_weighs_its_parts_and_takes_the_top_class():
    module, data = DKD(tiny(), alpha=0.5, beta=3.0, temperature=2.0).eval(), batch()
    target = (data.answer.log() / 2).log_softmax(1)
    tckd, nckd = decoupled_divergence(module(data.image), target, data.answer.argmax(1), 2.0)
    terms = module.losses(data)
    torch.testing.assert_close(terms["target"], 0.5 * 4 * tckd.mean())
    torch.testing.assert_close(terms["others"], 3.0 * 4 * nckd.mean())


def test_dkd_warms_up():
    assert [DKD(tiny(), warmup_epochs=4).warmup(epoch) for epoch in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert DKD(tiny()).warmup(0) == 1
    cold, data = DKD(tiny(), warmup_epochs=4).eval().losses(batch()), batch()
    torch.testing.assert_close(4 * cold["others"], DKD(tiny()).eval().losses(data)["others"])


def test_class_means_leave_out_classes_without_answers():
    means = class_means(torch.tensor([[1.0, 0, 0], [3, 2, 0], [0, 4, 4]]), torch.tensor([0, 0, 1]))
    assert means[:2].tolist() == [[2, 1, 0], [0, 4, 4]]
    assert means[2].isnan().all()


def test_class_distance_by_hand():
    means = torch.tensor([[3.0, 0, 0], [0, 3, 0], [torch.nan] * 3])
    vectors = torch.tensor([[2.0, 0, 0], [-9, 0, 0]], requires_grad=True)
    value = class_distance(vectors, means, torch.tensor([0, 0]), margin=1.0)
    # squared: own 1 and 144; other 13 and 90; the means are 18 apart, which caps the second push
    torch.testing.assert_close(value, torch.tensor([(1 - 13) / 3, (144 - 18) / 3]))
    value.sum().backward()
    assert vectors.grad.isfinite().all()
    assert class_distance(means[:1], means, torch.tensor([0]), margin=0.5).item() == pytest.approx(-9 / 3)


def test_cdl_terms_by_hand():
    module, data = CDL(tiny(), class_weight=0.3).eval(), batch(12)
    with pytest.raises(ValueError, match="needs the class means"):
        module.losses(data)
    module.set_class_means(data.answer)
    student, teacher = sides(module, data)
    label = data.answer.argmax(1)
    means = torch.stack([teacher[label == k].mean(0) for k in range(3)])
    terms = module.losses(data)
    torch.testing.assert_close(terms["logits"], F.mse_loss(student, teacher))
    by_hand = []
    for vector, y in zip(student, label.tolist(), strict=True):
        away = {k: float((vector - means[k]).detach().square().mean()) for k in range(3)}
        near = min((k for k in range(3) if k != y), key=away.get)
        by_hand.append(away[y] - min(away[near], float((means[y] - means[near]).square().mean())))
    assert float(terms["class_distance"]) == pytest.approx(0.3 * sum(by_hand) / 12, rel=1e-5)
    assert set(CDL(tiny(), class_weight=0).losses(data)) == {"logits"}
    with pytest.raises(ValueError, match="all 2 are of the same class"):
        module.set_class_means(torch.tensor([[0.8, 0.1, 0.1]] * 2))


def bce(logit, real):
    return F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, float(real)))


def test_al_terms_by_hand():
    module, data = AL(tiny(), temperature=3.0, kd_weight=0.7, adversarial_weight=0.2).eval(), batch()
    student, teacher = sides(module, data)
    terms = module.losses(data)
    assert set(terms) == {"kd", "adversarial"}
    p, q = (data.answer.log() / 3).softmax(1), (module(data.image) / 3).softmax(1)
    torch.testing.assert_close(terms["kd"], 0.7 * 9 * (p * (p / q).log()).sum(1).mean())
    # what deceives: the student's vectors taken for the teacher's
    torch.testing.assert_close(terms["adversarial"], 0.2 * bce(module.discriminator(student), 1))
    opposed = module.discriminator_losses(student, teacher)
    wanted = bce(module.discriminator(teacher), 1) + bce(module.discriminator(student), 0)
    torch.testing.assert_close(opposed["discriminator"], wanted)


def test_can_terms_by_hand():
    weights = {"ce_weight": 0.5, "logits_weight": 2.0, "adversarial_weight": 0.1, "category_weight": 0.3}
    module, data = CAN(tiny(), **weights).eval(), batch()
    student, teacher = sides(module, data)
    label, terms = data.answer.argmax(1), module.losses(data)
    guess = module.discriminator.category
    torch.testing.assert_close(terms["ce"], 0.5 * F.cross_entropy(module(data.image), label))
    torch.testing.assert_close(terms["logits"], 2.0 * (student - teacher).abs().mean())
    torch.testing.assert_close(terms["adversarial"], 0.1 * bce(module.discriminator(student), 1))
    torch.testing.assert_close(terms["category"], 0.3 * F.cross_entropy(guess(student), label))
    opposed = module.discriminator_losses(student, teacher)
    wanted = bce(module.discriminator(teacher), 1) + bce(module.discriminator(student), 0)
    torch.testing.assert_close(opposed["discriminator"], wanted)
    named = F.cross_entropy(guess(teacher), label) + F.cross_entropy(guess(student), label)
    torch.testing.assert_close(opposed["discriminator_category"], 0.3 * named)


@pytest.mark.parametrize("method", [AL, CAN])
def test_each_side_only_follows_its_own_loss(method, tmp_path, answered):
    """One step of a fit with plain gradient descent moves both networks by exactly minus their own gradients."""
    options = {"optimizer": partial(torch.optim.SGD, lr=0.1), "discriminator_optimizer": partial(torch.optim.SGD, lr=1)}
    module = method(tiny(), **options)
    before = copy.deepcopy(module)
    seen = []
    step = module.training_step
    module.training_step = lambda batch, batch_idx: (seen.append(batch), step(batch, batch_idx))[1]
    trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(module, datamodule=answered["soft"]())
    before.train()
    student_loss = sum(before.losses(seen[0]).values())
    slopes = torch.autograd.grad(student_loss, list(before.student.parameters()), retain_graph=True)
    for old, new, slope in zip(before.student.parameters(), module.student.parameters(), slopes, strict=True):
        torch.testing.assert_close(new, old - 0.1 * slope)
    opposed = sum(before.discriminator_losses(*before._pair).values())
    slopes = torch.autograd.grad(opposed, list(before.discriminator.parameters()))
    for old, new, slope in zip(
        before.discriminator.parameters(), module.discriminator.parameters(), slopes, strict=True
    ):
        torch.testing.assert_close(new, old - slope)


def test_the_adversaries_pull_in_opposite_directions():
    """After a small step of the discriminator it tells better; after one of the student it tells worse."""
    module, data = AL(tiny(), kd_weight=0.0, adversarial_weight=1.0).eval(), batch()
    vectors = tuple(side.detach() for side in sides(module, data))

    def confusion():
        return float(module.discriminator_losses(*(side.detach() for side in sides(module, data)))["discriminator"])

    start = confusion()
    optimizer = torch.optim.SGD(module.discriminator.parameters(), lr=0.01)
    module.discriminator_losses(*vectors)["discriminator"].backward()
    optimizer.step()
    told = confusion()
    assert told < start
    module.discriminator.zero_grad()
    optimizer = torch.optim.SGD(module.student.parameters(), lr=0.01)
    sum(module.losses(data).values()).backward()
    optimizer.step()
    assert confusion() > told


def test_a_discriminator_knows_its_classes():
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="Sequential has no attribute num_classes: give num_classes"):
        AL(bare)
    with pytest.raises(ValueError, match="num_classes is 4, but the student has 3 classes"):
        CAN(tiny(), num_classes=4)
    assert AL(bare, num_classes=3).discriminator.num_classes == 3
    assert sum(p.numel() for p in Discriminator(10).parameters()) == 10 * 512 + 512 + 512 * 256 + 256 + 257


def linear():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    net.num_classes = 3
    return net


@pytest.mark.parametrize(
    ("method", "access"), [(ML, "soft"), (DKD, "soft"), (CDL, "soft"), (AL, "soft"), (CAN, "soft"), (ML, "hard")]
)
def test_a_fit_learns_the_toy_task(method, access, tmp_path, answered):
    module = method(linear(), optimizer=Adam)
    trainer(tmp_path, max_epochs=10).fit(module, datamodule=answered[access]())
    assert module.access == access
    assert accuracy(module, tmp_path) > 0.9


@pytest.mark.parametrize("method", [DKD, CDL, AL, CAN])
def test_hard_answers_make_a_step(method, tmp_path, answered):
    module = method(tiny(), optimizer=Adam)
    trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(module, datamodule=answered["hard"]())
    assert module.access == "hard"
    assert not torch.equal(module.student.classifier.weight, tiny().classifier.weight)


@pytest.mark.parametrize("method", [AL, CAN])
def test_a_resumed_adversary_equals_an_uninterrupted_one(method, tmp_path, answered):
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)

    def run(epochs, ckpt=None):
        torch.manual_seed(0)
        module = method(TinyNet(), optimizer=Adam, discriminator_optimizer=Adam, lr_scheduler=schedule)
        fit = trainer(tmp_path, max_epochs=epochs)
        fit.fit(module, datamodule=answered["soft"](), ckpt_path=ckpt)
        return module, fit

    whole, fit = run(3)
    assert fit.optimizers[0].param_groups[0]["lr"] == 0.01 / 8  # the student's, once an epoch
    assert fit.optimizers[1].param_groups[0]["lr"] == 0.01
    run(2)[1].save_checkpoint(tmp_path / "half.ckpt")
    resumed, fit = run(3, tmp_path / "half.ckpt")
    assert same(whole.state_dict(), resumed.state_dict())
    assert fit.optimizers[0].param_groups[0]["lr"] == 0.01 / 8
    again = method.load_from_checkpoint(tmp_path / "half.ckpt", student=TinyNet())
    assert {name.split(".")[0] for name in again.state_dict()} == {"student", "discriminator"}
    assert again.hparams["width"] == 256


def test_the_schedule_is_stepped_before_an_epochs_checkpoint(tmp_path, answered):
    """As under automatic optimisation: a checkpoint of epoch 0 goes on with epoch 1's learning rate."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    rates = []
    for method in (ML, AL):
        module = method(tiny(), optimizer=Adam, lr_scheduler=schedule)
        saves = ModelCheckpoint(tmp_path, monitor="val/accuracy", filename=type(module).__name__)
        trainer(tmp_path, callbacks=[saves], enable_checkpointing=True, limit_train_batches=2).fit(
            module, datamodule=answered["soft"]()
        )
        kept = torch.load(tmp_path / f"{type(module).__name__}.ckpt", weights_only=True)
        rates.append(kept["optimizer_states"][0]["param_groups"][0]["lr"])
    assert rates == [0.005, 0.005]


def test_a_schedule_may_follow_a_metric(tmp_path, answered):
    schedule = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, threshold=1e9)  # never good enough
    for method in (ML, AL):
        module = method(tiny(), optimizer=Adam, lr_scheduler=schedule)
        run = trainer(tmp_path, max_epochs=3)
        run.fit(module, datamodule=answered["soft"]())
        assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.1**3)


class Flat(Generator):
    """Without batch normalisation."""

    def __init__(self):
        super().__init__(5, 1, 8)
        self.body = nn.Sequential(nn.Linear(5, 64), nn.Sigmoid())


def plain():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    net.num_classes = 3
    return net


@pytest.mark.parametrize(
    "options", [{}, {"gradient_clip_val": 0.05}, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}]
)
@pytest.mark.parametrize("kind", ["AL", "CAN", "DAFL", "ML"])
def test_two_batches_are_accumulated_to_one(tmp_path, answered, monkeypatch, kind, options):
    table, used = torch.randn(240, 5, generator=torch.Generator().manual_seed(0)), [0]
    sgd = partial(torch.optim.SGD, lr=0.02)

    def draw(number, *_, **__):
        used[0] += number
        return table[used[0] - number : used[0]]

    def made(batch_size):
        if kind == "DAFL":
            teacher = WhiteBoxTeacher(Featured(oracle().weight))
            weights = {"images_per_step": batch_size, "information_weight": 0.0}  # the rest are means
            return DAFL(teacher, plain(), Flat(), optimizer=sgd, generator_optimizer=sgd, **weights)
        if kind == "ML":
            return ML(plain(), optimizer=sgd)
        return {"AL": AL, "CAN": CAN}[kind](plain(), optimizer=sgd, discriminator_optimizer=sgd)

    def run(batch_size, every):
        torch.manual_seed(0)
        used[0], data, module = 0, answered["soft"](), made(batch_size)
        data.source.batch_size = batch_size
        before, fit = state(module), trainer(tmp_path, max_epochs=2, accumulate_grad_batches=every, **options)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", draw)
            fit.fit(module, datamodule=data)
        assert (fit.accumulate_grad_batches, fit.gradient_clip_val) == (every, options.get("gradient_clip_val"))
        assert not same(before, module.state_dict())
        return module.state_dict(), fit.global_step

    (one, steps), (two, others) = run(20, 1), run(10, 2)
    assert steps == others == (6 if kind == "ML" else 12)
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_player_by_player(tmp_path, answered):
    seen = []

    class Watched(AL):
        def clipped_step(self, optimizer):
            super().clipped_step(optimizer)
            gradients = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
            seen.append(float(torch.cat(gradients).norm()))

    module = Watched(tiny(), kd_weight=100.0, optimizer=Adam, discriminator_optimizer=Adam)
    trainer(tmp_path, gradient_clip_val=0.001).fit(module, datamodule=answered["soft"]())
    assert seen == pytest.approx([0.001] * 8, rel=1e-3)


def test_a_fit_without_given_answers_is_refused(tmp_path):
    with pytest.raises(TypeError, match="AL trains on given answers"):
        trainer(tmp_path).fit(AL(tiny()), datamodule=ToyDataModule())


class Featured(Linear):
    """A teacher with timm's interface: its features are the pixels."""

    def forward_features(self, x):
        return x

    def forward_head(self, features, pre_logits=False):
        return features.flatten(1) if pre_logits else self(features)


def dafl(teacher=None, **options):
    torch.manual_seed(0)
    net = Featured(oracle().weight) if teacher is None else teacher
    return DAFL(WhiteBoxTeacher(net), TinyNet(), DCGANGenerator(5, 1, 8, width=8), **{"images_per_step": 12, **options})


def test_dafl_losses_in_closed_form():
    logits = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1]]).log()
    assert one_hot_loss(logits).item() == pytest.approx(-(math.log(0.6) + math.log(0.8)) / 2)
    assert activation_loss(torch.tensor([[1.0, -3.0], [0.0, 4.0]])).item() == -2
    mean = [0.35, 0.55, 0.1]
    assert information_entropy_loss(logits).item() == pytest.approx(sum(p * math.log(p) for p in mean))
    assert information_entropy_loss(torch.zeros(7, 4)).item() == pytest.approx(-math.log(4))  # least: as many of each
    never = torch.tensor([[0.0, -300.0], [0.0, -300.0]], requires_grad=True)
    information_entropy_loss(never).backward()
    assert never.grad.isfinite().all()


def test_dafl_weighs_its_terms_and_the_gradient_reaches_the_generator():
    module = dafl(one_hot_weight=0.5, activation_weight=0.2, information_weight=3.0)
    images = module.generator(torch.randn(12, 5))
    terms, logits = module.generator_losses(images)
    torch.testing.assert_close(logits, oracle()(images))
    torch.testing.assert_close(terms["one_hot"], 0.5 * F.cross_entropy(logits, logits.argmax(1)))
    torch.testing.assert_close(terms["activation"], -0.2 * images.mean())
    mean = logits.softmax(1).mean(0)
    torch.testing.assert_close(terms["information"], 3.0 * (mean * mean.log()).sum())
    sum(terms.values()).backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in module.generator.body[-2].parameters())
    assert all(p.grad is None for p in module.student.parameters())


def test_dafl_student_term_by_hand():
    module, data = dafl(temperature=2.0).eval(), batch()
    p, q = (oracle()(data.image) / 2).softmax(1), (module(data.image) / 2).softmax(1)
    wanted = 4 * (p * (p / q).log()).sum(1).mean()
    asked = module.losses(data._replace(answer=None))["kd"]
    torch.testing.assert_close(asked, wanted)
    torch.testing.assert_close(module.losses(data._replace(answer=oracle()(data.image)))["kd"], asked)


def test_dafl_without_features_takes_any_network():
    plain = dafl(oracle(), activation_weight=0.0)
    assert set(plain.generator_losses(torch.rand(4, 1, 8, 8))[0]) == {"one_hot", "information"}
    with pytest.raises(TypeError, match="Linear has no forward_features"):
        dafl(oracle()).generator_losses(torch.rand(4, 1, 8, 8))


def test_dafl_fit_trains_both_and_neither_the_teacher_nor_the_data_matters(tmp_path):
    class Blind(ToyDataModule):
        """The training images are all black."""

        def load(self):
            train, val, test = super().load()
            train.images.zero_()
            return train, val, test

    def run(data, epochs=2, ckpt=None):
        module = dafl(TinyNet(), activation_weight=0.0, optimizer=Adam, generator_optimizer=Adam)
        module.teacher.network.load_state_dict(tiny(5).state_dict())
        fit = trainer(tmp_path, max_epochs=epochs)
        fit.fit(module, datamodule=data, ckpt_path=ckpt)
        return module, fit

    start = dafl(TinyNet(), activation_weight=0.0)
    module, _ = run(ToyDataModule())
    assert same(module.teacher.network.state_dict(), tiny(5).state_dict())
    assert not torch.equal(module.student.classifier.weight, start.student.classifier.weight)
    assert not torch.equal(module.generator.body[0].weight, start.generator.body[0].weight)
    assert same(module.student.state_dict(), run(Blind())[0].student.state_dict())
    run(ToyDataModule(), 1)[1].save_checkpoint(tmp_path / "half.ckpt")
    kept = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in kept["state_dict"]} == {"student", "generator"}
    resumed, _ = run(ToyDataModule(), 2, tmp_path / "half.ckpt")
    assert same(module.state_dict(), resumed.state_dict())


def test_dafl_student_approaches_the_teacher(tmp_path):
    module = dafl(Featured(5 * oracle().weight), optimizer=Adam, generator_optimizer=Adam)
    before = copy.deepcopy(module.student)
    trainer(tmp_path, max_epochs=5).fit(module, datamodule=ToyDataModule())
    images = module.generator(torch.randn(64, 5, generator=torch.Generator().manual_seed(1))).detach()
    learnt = float(module.losses(Batch(images, torch.arange(64)))["kd"].detach())
    module.student = before
    assert learnt < 0.7 * float(module.losses(Batch(images, torch.arange(64)))["kd"].detach())


def test_dafl_refuses_images_of_another_size_and_single_images(tmp_path):
    module = DAFL(WhiteBoxTeacher(oracle()), TinyNet(), DCGANGenerator(5, 1, 12, width=8))
    with pytest.raises(ValueError, match="images of 1 channels and 12 pixels, but those of toy have 1 channels and 8"):
        trainer(tmp_path).fit(module, datamodule=ToyDataModule())
    with pytest.raises(ValueError, match="needs at least 2, got 1"):
        dafl(images_per_step=1)


def dafl_file(tmp_path, teacher):
    torch.manual_seed(0)
    network = str(save_network(LeNet5Fifth(image_size=32), tmp_path / "teacher"))
    made = {"class_path": "DCGANGenerator", "init_args": {"latent_dim": 7, "width": 4}}
    student = {"class_path": "LeNet5Fifth", "init_args": {"image_size": 32}}
    arguments = {"teacher": {"class_path": teacher, "init_args": {"network": network}}, "student": student}
    model = {"class_path": "kdlightning.methods.baselines.DAFL"}
    model["init_args"] = {**arguments, "generator": made, "images_per_step": 4}
    data = {"num_samples": 64, "num_val": 32, "batch_size": 32}
    quiet = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False}
    content = {"model": model, "data": {"class_path": "DigitsDataModule", "init_args": data}}
    content["trainer"] = {**quiet, "default_root_dir": str(tmp_path / "run")}
    (tmp_path / "dafl.yaml").write_text(yaml.safe_dump(content))
    return ["fit", "--config", str(tmp_path / "dafl.yaml")]


def test_dafl_from_the_command_line_needs_a_white_box(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(dafl_file(tmp_path, "SoftLabelTeacher"))
    assert "'teacher' of DAFL takes a WhiteBoxTeacher" in capsys.readouterr().err


def test_dafl_from_the_command_line(tmp_path):
    assert main(dafl_file(tmp_path, "WhiteBoxTeacher")) == 0
    assert (tmp_path / "run" / "network").is_dir()
