import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import ToyDataModule, trainer
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from kdlightning.callbacks import RunResult
from kdlightning.data import ShaderDataModule, UnionDataModule
from kdlightning.data.augmentation import Mixup
from kdlightning.functional.selection import Choice, class_thresholds, student_weight
from kdlightning.methods import KD3, Supervised
from kdlightning.networks import CIFARResNet, LeNet5Classic, SharedClassifierNetwork, load_network
from kdlightning.teachers import WhiteBoxTeacher
from kdlightning.types import Batch


def sure(network):
    """With logits that are far apart, as a trained network's."""
    with torch.no_grad():
        network.classifier.weight.normal_()
        images = torch.rand(99, 1, 16, 16)
        network.eval()
        network.classifier.bias -= network(images).mean(0)
        network.classifier.weight /= network(images).std()
        network.classifier.bias.copy_(-network(images).mean(0) + network.classifier.bias)
    return network.train()


def lenet(seed=0, width=0.5):
    torch.manual_seed(seed)
    return sure(LeNet5Classic(num_classes=3, image_size=16, width=width))


def resnet(seed=0, width=0.25):
    torch.manual_seed(seed)
    return sure(CIFARResNet(8, num_classes=3, in_channels=1, image_size=16, width=width))


def kd3(student=None, teacher=None, **options):
    return KD3(WhiteBoxTeacher(teacher or lenet(1, 1.0)), student or lenet(), **options)


def pool(number=50, **options):
    """Toy images of another draw, to select from; the toy's own for validation and test."""
    task = ToyDataModule(image_size=16, **options)
    return UnionDataModule(task, [ToyDataModule(number=number, num_val=0)])


def batch(n=6):
    images = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    return Batch(images, torch.arange(n), None)


def history(path):
    return [json.loads(line) for line in (path / "selection.jsonl").read_text().splitlines()]


def fit(module, path, epochs=2, ckpt=None, data=None, **options):
    run = trainer(path, max_epochs=epochs, **options)
    run.fit(module, datamodule=data or pool(), ckpt_path=ckpt)
    return run


def test_terms_of_vectors_by_hand():
    module, data = kd3(contrastive_weight=0.0), batch()
    terms = module.losses(data)
    student, teacher = module.student, module.teacher
    theirs = teacher.forward_head(teacher.forward_features(data.image), pre_logits=True)
    inner = student.student
    ours = student.connector(inner.forward_head(inner.forward_features(data.image), pre_logits=True))
    p = (ours @ teacher.network.classifier.weight.T + teacher.network.classifier.bias).softmax(1)
    weight = 1 - (p - teacher(data.image).softmax(1)).abs().sum(1).sigmoid()
    expected = (weight.detach() * ((ours - theirs) ** 2).mean(1)).mean()
    torch.testing.assert_close(terms, {"alignment": expected})
    assert set(dict(module.named_parameters())) == set(dict(module.student.named_parameters("student"))) | {
        name for name in dict(module.named_parameters()) if name.startswith("teacher.")
    }


def test_terms_of_maps_and_an_own_classifier_by_hand():
    module, data = kd3(resnet(), resnet(1, 0.5), weighting="none", contrastive_weight=0.0, classifier="soft"), batch()
    module.eval()
    ours, theirs = module.student.forward_features(data.image), module.teacher.forward_features(data.image)
    assert ours.shape == theirs.shape == (6, 32, 4, 4)
    p, q = module.teacher(data.image).softmax(1), module(data.image).log_softmax(1)
    expected = {"alignment": ((ours - theirs) ** 2).mean(), "classifier": (p * (p.log() - q)).sum(1).mean()}
    torch.testing.assert_close(module.losses(data), expected)
    assert module.student.classifier.weight.requires_grad
    module.classifier = "one-hot"
    torch.testing.assert_close(
        module.losses(data)["classifier"], F.cross_entropy(module(data.image), module.teacher(data.image).argmax(1))
    )


def test_the_contrastive_term_by_hand():
    module = kd3(contrastive_weight=2.0, temperature=0.5, perturbation=nn.Identity())  # equal views: similarity 1
    data = batch(2)
    term = module.losses(data)["contrastive_student"]
    vectors = module.student.forward_head(module.student.forward_features(data.image), pre_logits=True)
    one, other = F.normalize(module.head(vectors), dim=1)
    torch.testing.assert_close(term, 2 * (one @ other - 1) / 0.5)  # -log of e^(1/τ) over the one negative
    assert "contrastive_student" not in module.losses(batch(1))  # nothing to compare with


def test_mixdistribution_keeps_images_and_changes_statistics():
    module, images = kd3(delta=5.0), batch().image
    torch.manual_seed(0)
    views = module.perturbed(images)
    mean, spread = images.mean((2, 3)), images.std((2, 3))
    assert (views.mean((2, 3)) - mean).abs().max() > 1e-4
    restored = (views - views.mean((2, 3), keepdim=True)) / views.std((2, 3), keepdim=True)
    whitened = (images - mean[:, :, None, None]) / spread[:, :, None, None]
    torch.testing.assert_close(restored, whitened, atol=1e-4, rtol=0)


def test_a_perturbation_is_drawn_for_each_image():
    images = torch.rand(1, 1, 16, 16).expand(32, 1, 16, 16)
    views = kd3(perturbation=v2.ColorJitter(brightness=0.5)).perturbed(images)
    assert len(views.flatten(1).unique(dim=0)) == 32


def test_mixup_mixes_two_images_of_the_batch():
    images = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    module = kd3(perturbation=Mixup())
    views = torch.stack([module.perturbed(images) for _ in range(40)])
    assert (views == views[..., :1, :1]).all()  # both are of one grey level, and so is any mixture
    mixed = (views > 0) & (views < 1)
    assert mixed.flatten(2).all(2).any()
    both = mixed.flatten(1).any(1)  # where the two change places
    assert 5 < both.sum() < 35
    with pytest.raises(ValueError, match="alpha: expected a number above 0, got 0"):
        Mixup(0.0)


def test_the_pool_is_chosen_by_the_equations_before_every_epoch(tmp_path):
    module, data = kd3(threshold=0.6), pool()
    chosen = []
    choose = module.choose

    def remember(scores):
        images = data.train_set.images.float() / 255
        alpha = student_weight(module.current_epoch / 4)
        p = (1 - alpha) * module.teacher(images).softmax(1) + alpha * module.eval()(images).softmax(1)
        module.train()
        torch.testing.assert_close(scores[:, 2], p.amax(1).detach())
        assert torch.equal(scores[:, 3].long(), p.argmax(1))
        count = torch.bincount(p.argmax(1), minlength=3)
        expected = p.amax(1) > class_thresholds(count, 0.6)[p.argmax(1)]
        chosen.append(expected)
        assert torch.equal(choose(scores).mask, expected)
        return choose(scores)

    module.choose = remember
    seen = []
    module.losses, losses = lambda b: (seen.append((module.current_epoch, b.index)), losses(b))[1], module.losses
    fit(module, tmp_path, 4, data=data)
    assert len(chosen) == 4
    for epoch, mask in enumerate(chosen):
        index = torch.cat([index for number, index in seen if number == epoch])
        assert torch.equal(index.sort().values, mask.nonzero()[:, 0])
    rows = history(tmp_path)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert [row["selected"] for row in rows] == [int(mask.sum()) for mask in chosen]
    assert sum(rows[-1]["histogram"]) == rows[-1]["selected"]
    assert rows[0]["precision"] == 1.0  # a toy pool shows nothing but the toy's classes


def test_modes_of_selection():
    module = kd3(selection="all")
    scores = torch.tensor([[0.9, 0], [0.5, 0], [0.6, 1], [0.1, 1], [0.96, 0]])
    scores = torch.cat([torch.tensor([0.99, 2]).expand(5, 2), scores], 1)
    module._trainer = SimpleNamespace(current_epoch=3, max_epochs=4, global_step=6, max_steps=60)
    assert module.choose(scores).mask.all()
    module.selection = "combined"
    assert module.choose(scores).mask.tolist() == [False, False, False, False, True]  # thresholds 0.95 and 0.6333
    assert module.choose(scores).label.tolist() == [0, 0, 1, 1, 0]
    module.mapping = "convex"
    assert module.choose(scores).mask.tolist() == [False, False, True, False, True]  # 0.95 and 0.475
    module.least_share = 0.5
    with pytest.warns(UserWarning, match=r"epoch 3 choose less than least_share=0.5 of 5 images"):
        choice = module.choose(scores)
    assert choice.mask.all()  # what the teacher chooses
    assert choice.label.tolist() == [2] * 5
    assert choice.teacher_alone
    module.selection = "oracle"
    module.trainer.datamodule = SimpleNamespace(truth=torch.tensor([0, -1, -1, 2, -1]))
    assert module.choose(scores).mask.tolist() == [True, False, False, True, False]
    module.trainer.datamodule.truth = None
    with pytest.raises(ValueError, match=r"expected a pool that knows what its images show.*got a SimpleNamespace"):
        module.choose(scores)


@pytest.mark.parametrize("student_says", [[0.9, 0.5], [0.1, 0.1]])
def test_random_takes_as_many_as_the_teacher_would(student_says):
    module = kd3(selection="random")
    module._trainer = SimpleNamespace(current_epoch=3)
    teacher = torch.tensor([[0.99, 0], [0.97, 0], [0.9, 0], [0.5, 1], [0.3, 1]])  # thresholds 0.95 and 0.6333
    scores = torch.cat([teacher, torch.tensor(student_says).expand(5, 2)], 1)
    assert module.choose(scores).mask.sum() == 2
    everywhere = torch.stack([module.choose(scores).mask for module.trainer.current_epoch in range(50)])
    assert everywhere.sum(1).tolist() == [2] * 50
    assert everywhere.any(0).all()


def test_the_students_weight_moves_with_epochs_or_with_steps():
    module = kd3()
    told = {"current_epoch": 1, "max_epochs": 4, "global_step": 30, "max_steps": -1}
    module._trainer = SimpleNamespace(**told)
    assert module.alpha == student_weight(0.25)
    module._trainer = SimpleNamespace(**told | {"max_epochs": -1, "max_steps": 100})
    assert module.alpha == student_weight(0.3)
    module._trainer = SimpleNamespace(**told | {"max_steps": 100})
    assert module.alpha == student_weight(0.3)
    module._trainer = SimpleNamespace(**told | {"max_epochs": -1})
    with pytest.raises(ValueError, match=r"set trainer\.max_epochs or trainer\.max_steps"):
        assert module.alpha
    for selection, alpha in {"student": 1.0, "teacher": 0.0, "random": 0.0, "all": 0.0, "oracle": 0.0}.items():
        module.selection = selection
        assert module.alpha == alpha


def test_a_run_that_knows_its_steps_only(tmp_path):
    module = kd3(threshold=0.6)
    run = fit(module, tmp_path, -1, max_steps=9, data=pool(batch_size=16))
    assert run.global_step == 9
    rows = history(tmp_path)
    first = sum(math.ceil(row["selected"] / 16) for row in rows[:1])
    assert rows[0]["alpha"] == pytest.approx(student_weight(0), abs=1e-6)
    assert rows[1]["alpha"] == pytest.approx(student_weight(first / 9), abs=1e-6)
    assert [row["teacher_alone"] for row in rows] == [False] * len(rows)


@pytest.mark.parametrize("number", [7, 128])
def test_an_epoch_of_a_given_number_of_images(tmp_path, number):
    module, data = kd3(threshold=0.6, images_per_epoch=number), pool(batch_size=4)
    seen = []
    module.losses, losses = lambda b: (seen.append(b.index), losses(b))[1], module.losses
    assert fit(module, tmp_path, 1, data=data).global_step == math.ceil(number / 4)
    (row,) = history(tmp_path)
    index, times = torch.cat(seen).unique(return_counts=True)
    assert times.sum() == number
    assert len(index) == min(number, row["selected"])
    assert times.max() - times.min() <= 1


def test_a_softened_teacher_is_less_sure(tmp_path):
    images = torch.rand(6, 1, 16, 16)
    module = kd3(selection="teacher", selection_temperature=4.0).eval()
    p = (module.teacher(images) / 4).softmax(1)
    torch.testing.assert_close(module.scores(images, 0)[:, 2], p.amax(1).detach())
    with pytest.raises(ValueError, match="selection_temperature: expected a number above 0, got 0"):
        kd3(selection_temperature=0.0)


def test_what_passes_any_threshold_is_counted():
    """Class 1 is predicted once for every ten of class 0: 0.095 is below 1/3, and every image of it passes."""
    module = kd3()
    module._trainer = SimpleNamespace(
        current_epoch=0, max_epochs=4, global_step=0, max_steps=-1, datamodule=SimpleNamespace(num_classes=3)
    )
    confidence = torch.tensor([0.96] * 3 + [0.5] * 7 + [0.34])
    label = torch.tensor([0] * 10 + [1])
    choice = module.choose(torch.stack([confidence, label, confidence, label], 1))
    assert choice.mask.nonzero()[:, 0].tolist() == [0, 1, 2, 10]
    assert module.describe(choice)["unfiltered"] == 0.25
    assert module.describe(choice)["alpha"] == round(student_weight(0), 6)


def test_no_image_chosen_is_a_clear_error(tmp_path):
    module = kd3(threshold=1.0, selection="teacher")
    module.choose = lambda scores: Choice(torch.zeros(len(scores), dtype=torch.bool), scores[:, 1].long())
    with pytest.raises(RuntimeError, match="chose none of 50 images of the pool"):
        fit(module, tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, workers):
    def module():
        return kd3(resnet(), resnet(1, 0.5), threshold=0.6)

    def data():
        found = pool(augmentation=lambda x: (x + 0.1 * torch.rand_like(x)).clamp(0, 1))
        found.num_workers = workers
        return found

    whole = module()
    fit(whole, tmp_path / "whole", 4, data=data())
    half = module()
    half.trainer = None
    run = trainer(tmp_path / "half", max_epochs=4)
    half.on_train_epoch_end, end = (
        lambda: (end(), setattr(run, "should_stop", half.current_epoch == 2)),
        half.on_train_epoch_end,
    )
    run.fit(half, datamodule=data())
    assert half.current_epoch == 3
    run.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module()
    fit(resumed, tmp_path / "half", 4, tmp_path / "half.ckpt", data=data())
    first, second = whole.student.state_dict(), resumed.student.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert history(tmp_path / "whole") == history(tmp_path / "half")


DISTRIBUTED = """
import sys, torch
sys.path[:0] = [{tests!r}, {here!r}]
from helpers import trainer
from test_kd3 import kd3, pool
torch.set_num_threads(1)
module = kd3(threshold=0.6, contrastive_weight=0.0, optimizer=lambda p: torch.optim.SGD(p, 0.5))
trainer("two", devices=2, strategy="ddp", max_epochs=4).fit(module, datamodule=pool(48, batch_size=8))
"""


@pytest.mark.timeout(300)  # two interpreters start: 20 s, more on a busy machine
def test_two_processes_select_what_one_selects(tmp_path):
    (tmp_path / "run.py").write_text(
        DISTRIBUTED.format(tests=str(Path(__file__).parents[2]), here=str(Path(__file__).parent))
    )
    process = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-3000:]
    module = kd3(threshold=0.6, contrastive_weight=0.0, optimizer=lambda p: torch.optim.SGD(p, 0.5))
    fit(module, tmp_path / "one", 4, data=pool(48, batch_size=16))
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    assert one == two
    assert len({row["selected"] for row in one}) > 1  # the choice has moved with the student


def test_a_student_learns_the_toy_from_its_teacher(tmp_path):
    teacher = resnet(1, 0.5)
    labelled = ToyDataModule(image_size=16)
    trainer(tmp_path / "teacher", max_epochs=12).fit(
        Supervised(teacher, lambda p: torch.optim.Adam(p, 5e-3)), datamodule=labelled
    )
    module = kd3(resnet(0, 0.5), teacher, optimizer=lambda p: torch.optim.Adam(p, 5e-3), weighting="none")
    data = pool(200)
    run = fit(module, tmp_path, 16, data=data)
    assert run.test(module, datamodule=data, verbose=False)[0]["test/accuracy"] > 0.9


@pytest.mark.parametrize("student", [lenet, resnet])
def test_the_exported_student_has_connector_and_classifier(tmp_path, student):
    teacher = student(1, 1.0)
    module = kd3(student(), teacher, threshold=0.3)
    fit(module, tmp_path, callbacks=[RunResult()])
    again = load_network(tmp_path / "network")
    assert isinstance(again, SharedClassifierNetwork)
    assert torch.equal(again.classifier.weight, teacher.classifier.weight)
    assert sum(p.numel() for p in again.connector.parameters()) > 0
    images = batch().image
    torch.testing.assert_close(again(images), module.eval()(images))  # another layout


def test_a_pool_that_only_shader_kd_renews_is_refused(tmp_path):
    data = ShaderDataModule(ToyDataModule(image_size=16), size=8, cache=str(tmp_path / "cache"), online=True)
    with pytest.raises(ValueError, match=r"expected ShaderKD, which renews the pool, got KD3: set online: false"):
        fit(kd3(), tmp_path, data=data)
    looked_at = ShaderDataModule(ToyDataModule(image_size=16), size=8, cache=str(tmp_path / "cache"), online=True)
    looked_at.setup("fit")  # by nobody who trains
    assert len(looked_at.train_set) == 8
