import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import Linear, ToyDataModule, trainer
from PIL import Image
from torch import nn
from torch.nn import functional as F

from kdlightning.data import (
    DatasetDataModule,
    ImageFolderDataModule,
    NoiseDataModule,
    ShaderDataModule,
    UnionDataModule,
)
from kdlightning.functional.adversarial import border_attack, deeper_attack
from kdlightning.methods import ShaderKD, TeacherAnswers
from kdlightning.methods.shaderkd import TargetedImages, mix
from kdlightning.teachers import SoftLabelTeacher, WhiteBoxTeacher
from kdlightning.types import Batch


def oracle():
    """A linear teacher that is right on the toy images: it weighs the three thirds."""
    weight = torch.zeros(3, 8, 8)
    for k in range(3):
        weight[k, :, 3 * k : 3 * k + 2] = 1.0
    return Linear(weight.flatten(1))


def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def shaderkd(**options):
    return ShaderKD(WhiteBoxTeacher(oracle()), student(), **options)


def pool(number=60, **options):
    """Noise in the place of shaders, and the toy's own validation and test."""
    task = ToyDataModule(**options)
    return UnionDataModule(task, [ToyDataModule(number=number, num_val=0)])


def batch(n=8):
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(n, 1, 8, 8, generator=generator) * 0.2 + 0.4
    predicted = oracle()(images).argmax(1)
    return Batch(images, torch.arange(n), (predicted + 1) % 3)


def test_the_loss_by_hand_on_every_part():
    module, data = shaderkd(mixup=False, epsilon=60, step=4, threshold=1.0), batch()
    pairs = border_attack(
        oracle(), data.image, data.label, epsilon=60 / 255, step=4 / 255, iterations=12, threshold=1.0
    )
    assert pairs.success.sum() >= 2
    post, pre = pairs.post[pairs.success], pairs.pre[pairs.success]
    edge = torch.cat([post, pre])
    expected = torch.cat([post, pre, deeper_attack(oracle(), edge, epsilon=1 / 255)])
    torch.testing.assert_close(module.training_images(data), expected)
    p, q = (oracle()(expected) / 20).softmax(1), (module(expected) / 20).softmax(1)
    torch.testing.assert_close(module.losses(data)["kd"], 400 * (p * (p / q).log()).sum(1).mean())
    torch.testing.assert_close(module.watched["survived"], pairs.success.float().mean())


def test_parts_and_filter():
    data = batch()
    few = shaderkd(mixup=False, parts=["post"], epsilon=5, step=4, threshold=1.0)
    kept = len(few.training_images(data))
    every = shaderkd(mixup=False, parts=["post"], epsilon=5, step=4, threshold=1.0, filtered=False)
    assert len(every.training_images(data)) == 8 > kept > 1
    normal = shaderkd(mixup=False, parts=["normal"])
    assert torch.equal(normal.training_images(data), data.image)
    both = shaderkd(mixup=False, parts=["normal", "mixed"])
    assert len(both.training_images(data)) == 16
    twice = shaderkd(mixup=False, parts=["post"], epsilon=5, step=4, threshold=1.0, attack_normal=True)
    assert len(twice.training_images(data)) == 2 * kept
    hopeless = shaderkd(mixup=False, epsilon=0.1, step=0.1, threshold=0.34)
    assert torch.equal(hopeless.training_images(data), data.image)
    assert hopeless.watched["survived"] == 0.0


def test_mixup_mixes_two_images_each_in_its_own_proportion():
    torch.manual_seed(0)
    images = torch.eye(5).view(5, 5, 1, 1)  # a mixture shows its parts
    mixed = mix(images).flatten(1)
    torch.testing.assert_close(mixed.sum(1), torch.ones(5))
    assert ((mixed > 0).sum(1) <= 2).all()
    shares = mixed.diagonal()
    assert len(shares.unique()) >= 3
    assert (shares > 0).all()


def test_targets_take_the_place_of_labels(tmp_path):
    module, data = shaderkd(per_class=9, parts=["normal"], mixup=False), pool()
    seen = []
    module.losses, losses = lambda b: (seen.append(b), losses(b))[1], module.losses
    trainer(tmp_path, max_epochs=2).fit(module, datamodule=data)
    labels = torch.cat([b.label for b in seen])
    assert torch.bincount(labels).tolist() == [18, 18, 18]  # nine a class, two epochs
    images = torch.cat([b.image for b in seen])
    assert (oracle()(images).argmax(1) != labels).all()  # Eq. (3)
    (row,) = [json.loads(line) for line in (tmp_path / "selection.jsonl").read_text().splitlines()]
    assert row["histogram"] == torch.bincount(oracle()(data.train_set.images / 255).argmax(1)).tolist()


def test_a_targeted_set_repeats_images_with_their_targets():
    data = pool()
    data.setup()
    images = TargetedImages(data.train_set, torch.tensor([4, 4, 7]), torch.tensor([0, 2, 1]))
    found = images.__getitems__([1, 2])
    assert (len(images), found.index.tolist(), found.label.tolist()) == (3, [4, 7], [2, 1])
    assert torch.equal(found.image[0], data.train_set.images[4])


def test_new_images_have_another_target_than_their_class():
    data = pool()
    data.setup()
    images = TargetedImages(data.train_set, torch.tensor([4, 4, 7, 7, 9]), torch.tensor([0, 2, 1, 0, 2]))
    images.retarget(torch.tensor([4, 7]), torch.tensor([2, 1]), 3, torch.Generator().manual_seed(0))
    assert images.targets[[0, 3, 4]].tolist() == [0, 0, 2]  # they did not clash
    assert images.targets[1] != 2
    assert images.targets[2] != 1


def online(tmp_path, folder, epochs, resume=None, **options):
    torch.manual_seed(1)
    data = ShaderDataModule(
        ToyDataModule(seed=3), size=48, per_program=4, cache=str(tmp_path), online=True, renewal=0.25
    )
    module = shaderkd(epsilon=60, step=4, threshold=1.0)
    run = trainer(Path(tmp_path) / folder, max_epochs=epochs, **options)
    run.fit(module, datamodule=data, ckpt_path=resume)
    return module, data, run


def test_a_pool_that_is_online_has_no_end_and_a_resumed_run_finds_it_as_it_was(tmp_path):
    module, data, _ = online(tmp_path, "whole", 4)
    first = ShaderDataModule(ToyDataModule(seed=3), size=48, per_program=4, cache=str(tmp_path))
    first.prepare_data()
    first.setup()
    assert abs(data.renewed - 4 * 3 * 0.25 * 16) <= 4  # four epochs of three steps, four images each, by the program
    changed = (data.train_set.images != first.train_set.images).flatten(1).any(1)
    assert changed.nonzero()[:, 0].tolist() == list(range(min(48, data.renewed)))  # the oldest went
    lines = (tmp_path / "whole" / "selection.jsonl").read_text().splitlines()
    assert len(lines) == 4  # targets are drawn anew every epoch

    _, _, half = online(tmp_path, "half", 2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, again, _ = online(tmp_path, "half", 4, tmp_path / "half.ckpt")
    assert again.renewed == data.renewed
    assert torch.equal(again.train_set.images, data.train_set.images)
    for mine, theirs in zip(resumed.student.parameters(), module.student.parameters(), strict=True):
        assert torch.equal(mine, theirs)


DISTRIBUTED = """
import sys, torch
sys.path[:0] = [{tests!r}, {here!r}]
from test_shaderkd import online
torch.set_num_threads(1)
_, data, run = online({cache!r}, "two", 3, devices=2, strategy="ddp")
torch.save((data.train_set.images, data.state_dict()), {cache!r} + f"/pool-{{run.global_rank}}.pt")
"""


@pytest.mark.timeout(300)  # two interpreters start: 20 s, more on a busy machine
def test_two_processes_render_one_pool(tmp_path):
    script = DISTRIBUTED.format(
        tests=str(Path(__file__).parents[2]), here=str(Path(__file__).parent), cache=str(tmp_path)
    )
    (tmp_path / "run.py").write_text(script)
    process = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    (images, state), (others, told) = (torch.load(tmp_path / f"pool-{rank}.pt") for rank in (0, 1))
    assert torch.equal(images, others)
    assert torch.equal(state["origin"], told["origin"])
    assert state["renewed"] == told["renewed"] >= 8  # 3 epochs of 2 steps, 8 images a step; two programs at a time
    _, one, _ = online(tmp_path, "one", 3)  # twice as many steps of half the size
    both = (state["origin"] == one.state_dict()["origin"]).all(1) & (state["origin"][:, 0] >= 0)
    assert both.sum() >= 8
    assert torch.equal(images[both], one.train_set.images[both])  # the same programs in the same order


def test_what_is_shown_to_a_pool_online_is_never_of_its_target(tmp_path):
    seen = []
    module = shaderkd(epsilon=60, step=4, threshold=1.0)
    module.losses, losses = lambda b: (seen.append(b), losses(b))[1], module.losses
    data = ShaderDataModule(ToyDataModule(), size=48, per_program=4, cache=str(tmp_path), online=True, renewal=1.0)
    trainer(tmp_path, max_epochs=3).fit(module, datamodule=data)
    agree = torch.cat([oracle()(b.image).argmax(1) == b.label for b in seen])
    assert not agree.any()
    assert data.renewed > 100


def noise(tmp_path):
    task = ToyDataModule()
    return UnionDataModule(task, [NoiseDataModule(task, size=60, distribution="smooth", cells=(2, 4))])


def folder(tmp_path):
    generator = torch.Generator().manual_seed(5)
    for number, image in enumerate(torch.randint(0, 255, (60, 8, 8), dtype=torch.uint8, generator=generator)):
        file = tmp_path / "photos" / "train" / str(number % 3) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(file)
    return ImageFolderDataModule(
        str(tmp_path / "photos"), 8, channels=1, batch_size=16, num_val=12, test=None, in_memory=False
    )


def dataset(tmp_path):
    generator = torch.Generator().manual_seed(5)
    rows = [(torch.rand(1, 8, 8, generator=generator), number % 3) for number in range(60)]
    return DatasetDataModule(rows, batch_size=16, num_val=12)


@pytest.mark.parametrize(
    "pool", [noise, folder, dataset, lambda _: ToyDataModule()], ids=["noise", "files", "rows", "toy"]
)
def test_any_images_are_a_pool_and_their_own_labels_are_unused(pool, tmp_path):
    module, data, seen = shaderkd(epsilon=60, step=4, threshold=1.0, mixup=False, per_class=8), pool(tmp_path), []
    module.losses, losses = lambda b: (seen.append(b), losses(b))[1], module.losses
    trainer(tmp_path, max_epochs=1).fit(module, datamodule=data)
    labels = torch.cat([b.label for b in seen])
    assert torch.bincount(labels).tolist() == [8, 8, 8]
    assert (oracle()(torch.cat([b.image for b in seen])).argmax(1) != labels).all()
    drawn = torch.cat([b.index for b in seen])
    (row,) = [json.loads(line) for line in (tmp_path / "selection.jsonl").read_text().splitlines()]
    assert (row["drawn"], row["distinct"]) == (24, len(drawn.unique()))


def test_noise_by_itself_is_no_pool_and_the_way_is_told(tmp_path):
    alone = NoiseDataModule(ToyDataModule(), size=60)
    teacher = SoftLabelTeacher(oracle())
    trainer(tmp_path).predict(TeacherAnswers(teacher, str(tmp_path / "answers")), alone, return_predictions=False)
    for data in (alone, NoiseDataModule(ToyDataModule(), path=str(tmp_path / "answers"))):
        with pytest.raises(ValueError, match=r"UnionDataModule\(source, pools=\[NoiseDataModule\(...\)\]\)"):
            trainer(tmp_path, max_epochs=1).fit(shaderkd(), datamodule=data)


def test_what_a_step_learns_from_is_counted_and_a_pair_that_began_at_the_boundary_is_told():
    data = batch()
    module = shaderkd(mixup=False, epsilon=60, step=60, threshold=1.1)
    module.training_images(data)
    assert module.watched["survived"] == 1.0
    assert module.watched["images"] == 4 * 8  # both of a pair, and both deeper
    assert module.watched["unmoved"] == 1.0  # one step was enough: "before" is the image itself
    small = shaderkd(mixup=False, epsilon=60, step=2, iterations=40, threshold=1.1)
    pairs = border_attack(
        oracle(), data.image, data.label, epsilon=60 / 255, step=2 / 255, iterations=40, threshold=1.1
    )
    small.training_images(data)
    still = (pairs.iterations == 1)[pairs.success].float().mean()
    torch.testing.assert_close(small.watched["unmoved"], still)
    assert 0 < still < 1
    plain = shaderkd(parts=["mixed"])
    plain.training_images(data)
    assert plain.watched["images"] == 8


def test_a_student_learns_the_boundaries(tmp_path):
    module = shaderkd(epsilon=60, step=4, threshold=1.0, temperature=4.0, optimizer=lambda p: torch.optim.Adam(p, 0.02))
    data = pool(300)
    run = trainer(tmp_path, max_epochs=10)
    run.fit(module, datamodule=data)
    assert run.test(module, datamodule=data, verbose=False)[0]["test/accuracy"] > 0.9


def test_only_the_student_is_trained():
    module = shaderkd(epsilon=60, step=4, threshold=1.0)
    module.losses(batch())["kd"].backward()
    assert module.student[1].weight.grad.abs().sum() > 0
    assert F.mse_loss(module.teacher.network.weight, oracle().weight) == 0


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="expected at least one of post, pre, deeper"):
        shaderkd(parts=[])
    with pytest.raises(ValueError, match="needs a target class for every image"):
        shaderkd().losses(batch()._replace(label=None))
