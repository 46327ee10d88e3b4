import math
from functools import partial

import pytest
import torch
from helpers import Linear, TinyNet, ToyDataModule, trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

from kdlightning.methods import DFND
from kdlightning.methods.baselines.dfnd import noisy_cross_entropy
from kdlightning.modules import DistillationModule
from kdlightning.networks import LeNet5Fifth, save_network
from kdlightning.teachers import SoftLabelTeacher, WhiteBoxTeacher
from kdlightning.types import Batch

Adam = partial(torch.optim.Adam, lr=0.01)
KINDS = [SoftLabelTeacher, WhiteBoxTeacher]


def tiny(seed=0):
    torch.manual_seed(seed)
    return TinyNet()


def linear():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    net.num_classes = 3
    return net


def oracle(scale=0.2):
    """A linear teacher that is right on the toy images."""
    weight = torch.zeros(3, 8, 8)
    for k in range(3):
        weight[k, :, 3 * k : 3 * k + 2] = scale
    return Linear(weight.flatten(1))


def make(kind=SoftLabelTeacher, student=None, **options):
    return DFND(kind(oracle()), tiny() if student is None else student, **options)


def batch(n=6):
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    return Batch(images, torch.arange(n))


def pool(**options):
    return ToyDataModule(unlabelled=True, **options)


def accuracy(module, tmp_path):
    return trainer(tmp_path).test(module, datamodule=ToyDataModule(), verbose=False)[0]["test/accuracy"]


class Seen(DFND):
    """Writes down which images each epoch trains on."""

    def losses(self, batch):
        self.__dict__.setdefault("seen", {}).setdefault(self.current_epoch, []).extend(batch.index.tolist())
        return super().losses(batch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("options", "wanted"), [({"share": 0.25}, 15), ({"share": None, "number": 7}, 7)])
def test_the_surest_images_are_chosen_once(kind, options, wanted, tmp_path):
    teacher, data = oracle(0.02), pool()
    module = Seen(kind(teacher), tiny(), optimizer=Adam, **options)
    trainer(tmp_path, max_epochs=3).fit(module, datamodule=data)
    images = data.train_set.images.float() / 255
    cross_entropy = [-math.log(max(p)) for p in teacher(images).double().softmax(1).tolist()]
    surest = sorted(range(60), key=cross_entropy.__getitem__)[:wanted]
    assert len(set(cross_entropy)) == 60
    expected = sorted(data.train_set.index[surest].tolist())
    assert {epoch: sorted(index) for epoch, index in module.seen.items()} == dict.fromkeys(range(3), expected)
    assert module.access == kind.access


def test_scores_tell_images_apart_that_float32_is_sure_of():
    """Logits 20 and 30 ahead: both probabilities are 1 in float32, both cross-entropies are known."""
    images = torch.zeros(2, 1, 8, 8)
    images[:, 0, 0, 0] = torch.tensor([2 / 3, 1.0])
    weight = torch.zeros(3, 64)
    weight[1, 0] = 30
    module = DFND(SoftLabelTeacher(Linear(weight)), tiny())
    assert module.answers(images).max(1).values.tolist() == [1, 1]
    scores = module.scores(images, 0)
    torch.testing.assert_close(scores[:, 0].log(), math.log(2) - torch.tensor([20.0, 30.0]))
    assert scores[:, 1].tolist() == [1, 1]
    choice = module.choose(scores)
    assert choice.mask.tolist() == [False, True]
    assert choice.label.tolist() == [1, 1]


def test_scores_are_the_cross_entropy_with_the_top_class():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [1 / 3, 1 / 3, 1 / 3]])
    module = make()
    module.answers = lambda images: p
    wanted = [[-math.log(0.5), 0], [-math.log(0.8), 2], [math.log(3), 0]]
    torch.testing.assert_close(module.scores(torch.empty(0), 0), torch.tensor(wanted))


def test_adaptation_begins_near_the_identity():
    module = make(teacher_accuracy=0.9)
    torch.testing.assert_close(module.adaptation, 0.05 + 0.85 * torch.eye(3))


def test_adaptation_keeps_its_diagonal_and_sums_to_one():
    module = make(teacher_accuracy=0.6)
    with torch.no_grad():
        module.mistakes.copy_(torch.tensor([[9.0, 0.0, 1.0], [2.0, -9.0, 2.0], [0.0, math.log(3), 5.0]]))
    e = math.exp(1)
    wanted = [[0.6, 0.4 / (1 + e), 0.4 * e / (1 + e)], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]]
    torch.testing.assert_close(module.adaptation, torch.tensor(wanted))
    torch.testing.assert_close(module.adaptation.sum(1), torch.ones(3))


def test_noisy_cross_entropy_by_hand():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    q = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.0, 0.5, 0.5]])
    seen = [0.7 * 0.1 + 0.2 * 0.6 + 0.1 * 0.5, 0.1 * 0.8 + 0.1 * 0.3 + 0.8 * 0.0]  # of labels 1 and 0
    value = noisy_cross_entropy(p.log() + 4, torch.tensor([1, 0]), q)
    assert value.item() == pytest.approx(-(math.log(seen[0]) + math.log(seen[1])) / 2)


def test_noisy_cross_entropy_stays_finite():
    logits = torch.tensor([[300.0, 0.0, 0.0]], requires_grad=True)
    value = noisy_cross_entropy(logits, torch.tensor([2]), make().adaptation)
    value.backward()
    assert value.item() == pytest.approx(-math.log(0.025))
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learnt", [False, True])
def test_losses_by_hand(kind, learnt):
    module, data = make(kind, temperature=3.0, adaptation_weight=0.5, teacher_accuracy=0.9).eval(), batch()
    q = torch.full((3, 3), 0.05) + 0.85 * torch.eye(3)
    if learnt:
        with torch.no_grad():
            module.mistakes[0, 1] = math.log(4)
        q[0] = torch.tensor([0.9, 0.08, 0.02])
    teacher, logits = oracle()(data.image), module(data.image)
    p, student = (teacher / 3).softmax(1), (logits / 3).softmax(1)
    terms = module.losses(data)
    assert set(terms) == {"kd", "adaptation"}
    torch.testing.assert_close(terms["kd"], 9 * (p * (p / student).log()).sum(1).mean())
    seen = (logits.softmax(1) @ q)[range(6), teacher.argmax(1)]
    torch.testing.assert_close(terms["adaptation"], -0.5 * seen.log().mean())


def test_a_step_moves_student_and_q_by_their_gradients(tmp_path):
    """Plain gradient descent with weight decay, which Q is spared."""
    module = make(student=linear(), share=1.0, optimizer=partial(torch.optim.SGD, lr=0.1, weight_decay=0.5))
    with torch.no_grad():
        module.mistakes[0, 1] = 1.0
    weight, mistakes = module.student[1].weight.clone(), module.mistakes.clone()
    data = pool(batch_size=60)
    data.setup()
    images = data.train_set.images.float() / 255
    module.zero_grad()
    sum(module.losses(Batch(images, data.train_set.index)).values()).backward()
    slope, q_slope = module.student[1].weight.grad.clone(), module.mistakes.grad.clone()
    assert q_slope.abs().max() > 1e-4
    assert q_slope.diagonal().tolist() == [0, 0, 0]
    trainer(tmp_path).fit(module, datamodule=data)
    torch.testing.assert_close(module.student[1].weight, weight - 0.1 * (slope + 0.5 * weight))
    torch.testing.assert_close(module.mistakes, mistakes - 0.1 * q_slope)
    torch.testing.assert_close(module.adaptation.sum(1), torch.ones(3))


def test_q_learns_whom_the_teacher_mistakes_for_whom():
    """The student knows the classes; the noisy label of every tenth image of class 0 is 2."""
    label = torch.tensor([0] * 9 + [2] + [1] * 10 + [2] * 10)
    logits = 9 * torch.eye(3)[torch.tensor([0] * 10 + [1] * 10 + [2] * 10)]
    module = make(teacher_accuracy=0.9)
    optimizer = torch.optim.Adam([module.mistakes], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        noisy_cross_entropy(logits, label, module.adaptation).backward()
        optimizer.step()
    assert module.adaptation[0, 2] > 0.09
    assert module.adaptation[0, 1] < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_learns_the_toy_task(kind, tmp_path):
    module = make(kind, linear(), optimizer=Adam)
    assert accuracy(module, tmp_path) < 0.7
    trainer(tmp_path, max_epochs=10).fit(module, datamodule=pool())
    assert accuracy(module, tmp_path) > 0.9


def test_queries_are_the_pool_once_and_every_batch(tmp_path):
    module = make(share=0.5)
    trainer(tmp_path, max_epochs=2).fit(module, datamodule=pool())
    assert module.paid.queries == 60 + 2 * 30


def test_a_resumed_run_equals_an_uninterrupted_one_and_asks_no_more(tmp_path):
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)

    def run(epochs, ckpt=None):
        module = Seen(SoftLabelTeacher(oracle(0.02)), tiny(), optimizer=Adam, lr_scheduler=schedule)
        fit = trainer(tmp_path, max_epochs=epochs)
        fit.fit(module, datamodule=pool(), ckpt_path=ckpt)
        return module, fit

    whole, fit = run(3)
    assert [group["lr"] for group in fit.optimizers[0].param_groups] == [0.01 / 8] * 2
    run(2)[1].save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = run(3, tmp_path / "half.ckpt")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert sorted(resumed.seen[2]) == sorted(whole.seen[0])
    assert resumed.paid == whole.paid
    again = DFND.load_from_checkpoint(tmp_path / "half.ckpt", teacher=SoftLabelTeacher(oracle()), student=TinyNet())
    assert not torch.equal(again.mistakes, torch.zeros(3, 3))
    assert again.hparams["share"] == 0.5


def test_a_white_teacher_stays_as_it_is_and_out_of_the_checkpoint(tmp_path):
    module = DFND(WhiteBoxTeacher(tiny(1)), tiny(), optimizer=Adam)
    before = {name: value.clone() for name, value in module.teacher.network.state_dict().items()}
    fit = trainer(tmp_path)
    fit.fit(module, datamodule=pool())
    assert all(torch.equal(value, before[name]) for name, value in module.teacher.network.state_dict().items())
    fit.save_checkpoint(tmp_path / "one.ckpt")
    kept = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in kept["state_dict"]} == {"student", "mistakes"}
    assert kept["chosen"].shape == (30,)


@pytest.mark.parametrize("kind", KINDS)
def test_either_teacher_can_be_configured(kind, tmp_path):
    save_network(LeNet5Fifth(image_size=28), tmp_path / "net")
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(DistillationModule, "model", subclass_mode=True)
    arguments = {
        "teacher": {"class_path": kind.__name__, "init_args": {"network": str(tmp_path / "net")}},
        "student": {"class_path": "LeNet5Fifth", "init_args": {"image_size": 28}},
        "share": None,
        "number": 7,
    }
    config = parser.parse_object({"model": {"class_path": "DFND", "init_args": arguments}})
    module = parser.instantiate(config).model
    assert (type(module.teacher), module.access, module.number) == (kind, kind.access, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 5}, "expected share or number, and the other None, got share=0.5 and number=5"),
        ({"share": None}, "expected share or number, and the other None, got share=None and number=None"),
        ({"share": 0.0}, "share: expected a share above 0 and up to 1, got 0.0"),
        ({"share": 1.5}, "share: expected a share above 0 and up to 1, got 1.5"),
        ({"share": None, "number": 0}, "number: expected at least 1, got 0"),
        ({"teacher_accuracy": 1.0}, "teacher_accuracy: expected a share between 0 and 1, got 1.0"),
        ({"student": nn.Flatten()}, "Flatten has no attribute num_classes: give num_classes"),
        ({"num_classes": 4}, "num_classes is 4, but the student has 3 classes"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_too_small_a_pool_and_another_number_of_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="number: expected at most the 60 images of the pool, got 61"):
        trainer(tmp_path).fit(make(share=None, number=61), datamodule=pool())
    module = make(student=TinyNet(num_classes=4))
    with pytest.raises(ValueError, match="the student TinyNet answers 4 classes, toy has 3"):
        trainer(tmp_path).fit(module, datamodule=pool())
    assert module.paid.queries == 0
