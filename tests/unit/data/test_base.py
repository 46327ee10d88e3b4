import json
import math

import lightning.pytorch as L
import pytest
import torch
from helpers import ToyDataModule, trainer
from torch.utils.data import DistributedSampler
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from kdlightning.data import ImageDataModule, ImageFileDataset, ImageTensorDataset
from kdlightning.data.augmentation import CropFlipCutout
from kdlightning.types import Batch


class Counting(ImageDataModule):
    """Image i is the constant i; ``decoded`` says which were read."""

    name, num_classes, channels, native_size = "counting", 3, 1, 4

    def load(self):
        self.decoded = {"train": [], "test": []}

        def part(name, number):
            def read(index):
                self.decoded[name].append(index)
                return torch.full((1, 4, 4), index, dtype=torch.uint8)

            return ImageFileDataset(read, torch.arange(number), torch.arange(number) % 3)

        return part("train", 50), None, part("test", 9)


class Recorder(L.LightningModule):
    """Keeps every batch that it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch)
        return self.weight * batch.image.mean()

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch)

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch)

    def predict_step(self, batch, batch_idx):
        self.seen["predict"].append(batch)
        return batch.index

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class FakeTrainer:
    def __init__(self, world_size=1, global_rank=0, training=False):
        self.world_size, self.global_rank, self.training = world_size, global_rank, training
        self.current_epoch = 0


def ready(data):
    data.setup()
    return data


def indices(loader):
    return torch.cat([batch.index for batch in loader]).tolist()


def test_a_tensor_dataset_serves_exactly_the_rows_that_were_asked_for():
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    dataset = ImageTensorDataset(images, torch.tensor([10, 11, 12, 13, 14]), torch.tensor([0, 1, 0, 1, 0]))
    batch = dataset.__getitems__([4, 1])
    assert isinstance(batch, Batch)
    assert batch.image.flatten().tolist() == [4, 1]
    assert batch.index.tolist() == [14, 11]
    assert batch.label.tolist() == [0, 1]
    assert batch.answer is None
    assert dataset[3].index.tolist() == [13]
    assert (len(dataset), dataset.withheld()[3].label) == (5, None)


@pytest.mark.parametrize(
    ("images", "index", "labels", "message"),
    [
        (torch.zeros(2, 1, 3, 3), torch.arange(2), None, r"expected uint8 images \(N, C, H, W\), got torch.float32"),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), torch.arange(2), None, r"got torch.uint8 \(2, 3, 3\)"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.arange(3), None, "2 images, 3 indices and None labels"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.arange(2), torch.arange(1), "2 indices and 1 labels"),
    ],
)
def test_a_tensor_dataset_refuses_what_does_not_fit_together(images, index, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageTensorDataset(images, index, labels)


@pytest.mark.parametrize(
    "setting", ["batch_size", "eval_batch_size", "num_samples", "image_size", "augmentation_groups"]
)
def test_numbers_below_one_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting}: expected at least 1, got 0"):
        Counting(**{setting: 0})


@pytest.mark.parametrize(("num_val", "expected"), [(None, 5), (7, 7), (0.2, 10), (0, 0), (8.0, 8)])
def test_validation_is_a_number_or_a_share_of_the_training_part(num_val, expected):
    data = ready(Counting(num_val=num_val))
    train, val = data.train_set.index.tolist(), data.val_set.index.tolist()
    assert (len(val), len(train)) == (expected, 50 - expected)
    assert sorted(train + val) == list(range(50))


@pytest.mark.parametrize(
    ("num_val", "message"), [(1.5, "expected a whole number"), (50, "leaves none"), (-1, "leaves none")]
)
def test_a_validation_part_that_cannot_be_is_refused(num_val, message):
    with pytest.raises(ValueError, match=message):
        Counting(num_val=num_val).setup()


def test_splits_ignore_the_global_random_state_and_leave_it_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    data = ready(Counting(num_samples=11, seed=4))
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(ready(Counting(num_samples=11, seed=4)).train_set.index, data.train_set.index)
    assert not torch.equal(ready(Counting(num_samples=11, seed=5)).train_set.index, data.train_set.index)


def test_setup_loads_once(monkeypatch):
    calls = []
    original = ToyDataModule.load
    monkeypatch.setattr(ToyDataModule, "load", lambda self: (calls.append(1), original(self))[1])
    data = ToyDataModule()
    for stage in ("fit", "validate", "test", "predict", None):
        data.setup(stage)
    assert (len(data.val_set), len(data.test_set), len(calls)) == (12, 30, 1)


def test_the_order_is_the_samplers_for_seed_and_epoch_inside_a_trainer(tmp_path):
    data, module = ToyDataModule(seed=3), Recorder()
    trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(module, datamodule=data)
    seen = torch.cat([batch.index for batch in module.seen["train"]]).view(2, 60)
    sampler = DistributedSampler(data.train_set, num_replicas=1, rank=0, seed=3)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        assert seen[epoch].tolist() == data.train_set.index[list(sampler)].tolist()
    assert seen[0].tolist() != seen[1].tolist()


def test_processes_share_one_order_without_overlap():
    parts = []
    for rank in (0, 1, 2):
        data = ready(ToyDataModule())
        data.trainer = FakeTrainer(world_size=3, global_rank=rank)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(5)
        parts.append(indices(loader))
    assert sorted(index for part in parts for index in part) == data.train_set.index.tolist()
    data.trainer = None
    alone = data.train_dataloader()
    alone.sampler.set_epoch(5)
    assert indices(alone)[::3] == parts[0]


def test_pixels_are_divided_by_255_exactly_without_a_trainer():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    data = ToyDataModule(augmentation=v2.RandomInvert(p=1.0))
    image = data.on_after_batch_transfer(Batch(every, torch.zeros(1, dtype=torch.int64)), 0).image
    assert image.dtype == torch.float32
    assert torch.equal(image.flatten(), torch.arange(256) / 255)
    again = data.on_after_batch_transfer(Batch(image, torch.zeros(1, dtype=torch.int64)), 0).image
    assert torch.equal(again, image)


def test_augmented_pixels_are_clamped_and_only_while_training():
    data = ready(ToyDataModule(augmentation=v2.Lambda(lambda x: x * 4 - 1)))
    batch = next(iter(data.predict_dataloader()))
    plain = batch.image.float() / 255
    for training, expected in ((False, plain), (True, (plain * 4 - 1).clamp(0, 1))):
        data.trainer = FakeTrainer(training=training)
        torch.testing.assert_close(data.on_after_batch_transfer(batch, 0).image, expected)


@pytest.mark.parametrize(("groups", "draws"), [(1, 1), (4, 4), (100, 16)])
def test_each_group_of_a_batch_gets_a_draw_of_its_own(groups, draws):
    calls = []

    def flip(x):
        calls.append(len(x))
        return v2.functional.horizontal_flip(x) if len(calls) % 2 else x

    data = ready(ToyDataModule(augmentation=flip, augmentation_groups=groups))
    data.trainer = FakeTrainer(training=True)
    batch = next(iter(data.predict_dataloader()))
    image = data.on_after_batch_transfer(batch, 0).image
    assert calls == [16 // draws] * draws
    plain = batch.image.float() / 255
    assert torch.equal(image[: 16 // draws], plain[: 16 // draws].flip(-1))
    assert torch.equal(image[16 // draws : 2 * (16 // draws)], plain[16 // draws : 2 * (16 // draws)])


def test_random_flips_differ_between_groups_and_not_within():
    data = ready(ToyDataModule(augmentation=v2.RandomHorizontalFlip(p=0.5), augmentation_groups=8))
    data.trainer = FakeTrainer(training=True)
    batch = next(iter(data.predict_dataloader()))
    torch.manual_seed(0)
    flipped = (data.on_after_batch_transfer(batch, 0).image != batch.image.float() / 255).flatten(1).any(1)
    pairs = flipped.view(8, 2)
    assert torch.equal(pairs[:, 0], pairs[:, 1])
    assert 0 < pairs[:, 0].sum() < 8


def test_every_part_is_resized_bilinearly_with_antialiasing():
    data = ToyDataModule(number=1200, image_size=5)
    train, _, test = data.load()
    data.setup()
    for part, source in ((data.train_set, train), (data.val_set, train), (data.test_set, test)):
        expected = tvf.resize(source.images[part.index], [5, 5], antialias=True)
        assert torch.equal(part.images, expected)
    assert len(data.train_set) == 1200


def test_identity_is_plain_and_tells_the_source_and_the_draw():
    identity = ToyDataModule(num_samples=20, seed=2, unlabelled=True, image_size=6).identity()
    assert json.loads(json.dumps(identity)) == {
        "name": "toy", "length": 72, "seed": 2, "num_samples": 20, "num_val": 12, "image_size": 6, "unlabelled": True,
    }  # fmt: skip
    assert Counting().identity()["num_val"] == 0.1


def test_only_the_drawn_files_are_decoded_and_test_files_when_first_used():
    data = ready(Counting(num_samples=6, num_val=3))
    assert sorted(data.decoded["train"]) == data.train_set.index.tolist()
    assert data.decoded["test"] == []
    assert data.train_set.images[:, 0, 0, 0].tolist() == data.train_set.index.tolist()
    assert indices(data.test_dataloader()) == list(range(9))
    list(data.test_dataloader())
    assert data.decoded["test"] == list(range(9))


def test_too_many_files_are_streamed_and_still_join_by_index(monkeypatch):
    monkeypatch.setattr("kdlightning.data.base._MEMORY", 45 * 16 - 1)
    data = ready(Counting(num_val=5))
    assert isinstance(data.train_set, ImageFileDataset)
    assert isinstance(data.val_set, ImageTensorDataset)
    for batch in data.train_dataloader():
        assert torch.equal(batch.image[:, 0, 0, 0].long(), batch.index)
        assert torch.equal(batch.label, batch.index % 3)
    monkeypatch.setattr("kdlightning.data.base._MEMORY", 45 * 16)
    assert isinstance(ready(Counting(num_val=5)).train_set, ImageTensorDataset)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_are_decoded_chunk_by_chunk_into_the_right_rows(monkeypatch, num_workers):
    monkeypatch.setattr("kdlightning.data.base._CHUNK", 7)
    data = ready(Counting(num_val=4, num_workers=num_workers))
    assert data.train_set.images[:, 0, 3, 3].tolist() == data.train_set.index.tolist()
    assert len(data.train_set) == 46


def test_no_validation_image_is_an_empty_part():
    data = ready(Counting(num_val=0))
    assert data.val_set.images.shape == (0, 1, 4, 4)
    assert list(data.val_dataloader()) == []


def test_a_candidate_pool_of_streamed_images_decodes_the_limit_only():
    data = Counting(num_val=0, unlabelled=True)
    data.in_memory = False
    pool = data.candidate_pool(8)
    assert data.decoded["train"] == pool.index.tolist()
    assert (len(pool.index), pool.image.dtype, pool.label) == (8, torch.uint8, None)
    assert pool.image[:, 0, 0, 0].tolist() == pool.index.tolist()
    assert len(data.candidate_pool(1000).index) == 50


def test_without_test_images_students_are_tested_on_validation_images_or_it_is_said_that_there_are_none():
    class NoTest(Counting):
        def load(self):
            return super().load()[0], None, None

    data = ready(NoTest(num_val=7))
    assert (data.test_set, data.tested_on, len(data.tested)) == (None, "validation", 7)
    (batch,) = data.test_dataloader()
    assert torch.equal(batch.index, data.val_set.index)
    bare = ready(NoTest(num_val=0))
    assert (bare.tested, bare.tested_on) == (None, None)
    with pytest.raises(ValueError, match="counting has no test images, and no validation images to test on instead"):
        bare.test_dataloader()


def test_official_validation_images_are_kept_whole():
    class Official(Counting):
        def load(self):
            train, _, test = super().load()
            return train, test, test

    data = ready(Official(num_val=20))
    assert (len(data.train_set), data.val_set.index.tolist()) == (50, list(range(9)))


def test_a_trainer_sees_the_right_pixels_and_labels_in_every_stage(tmp_path):
    data, module = ToyDataModule(unlabelled=True, augmentation=v2.RandomInvert(p=1.0)), Recorder()
    source, _, held_out = data.load()
    fast = L.Trainer(
        fast_dev_run=True, accelerator="cpu", default_root_dir=tmp_path, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    fast.fit(module, datamodule=data)
    fast.test(module, datamodule=data, verbose=False)
    returned = fast.predict(module, datamodule=data)
    origin = {"train": source, "val": source, "test": held_out, "predict": source}
    for stage, batches in module.seen.items():
        assert len(batches) == 1
        batch = batches[0]
        pixels = origin[stage].images[batch.index].float() / 255
        torch.testing.assert_close(batch.image, 1 - pixels if stage == "train" else pixels)
        expected = None if stage in ("train", "predict") else origin[stage].labels[batch.index].tolist()
        assert (batch.label if batch.label is None else batch.label.tolist()) == expected
    assert returned[0].tolist() == data.train_set.index[:16].tolist()


def test_predict_goes_through_the_draw_once_and_in_order(tmp_path):
    data = ToyDataModule(num_samples=37)
    returned = trainer(tmp_path).predict(Recorder(), datamodule=data)
    assert len(returned) == math.ceil(37 / 16)
    assert torch.cat(returned).tolist() == sorted(data.train_set.index.tolist()) == data.predict_indices().tolist()


def test_each_image_has_a_crop_a_flip_and_a_hole_of_its_own() -> None:
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    image = torch.stack([rows, columns, torch.zeros(8, 8)]) / 8
    torch.manual_seed(0)
    seen = CropFlipCutout(padding=2, flip=0.5)(image.repeat(256, 1, 1, 1))

    reflected = torch.tensor([2, 1, 0, 1, 2, 3, 4, 5, 6, 7, 6, 5])  # by hand: two mirrored pixels on each side
    spans = [reflected[start : start + 8].float() / 8 for start in range(5)]
    known = [torch.stack([row[:, None].expand(8, 8), column.expand(8, 8), torch.zeros(8, 8)])
             for row in spans for span in spans for column in (span, span.flip(0))]  # fmt: skip
    matches = torch.stack([(seen == one).flatten(1).all(1) for one in known])
    assert matches.any(0).all()  # every image is one of the 50 crops
    assert len(matches.float().argmax(0).unique()) == 50  # and every crop is drawn
    assert torch.equal(CropFlipCutout(padding=0, flip=0)(image[None]), image[None])

    white = torch.ones(512, 1, 8, 8)
    white[0] = 0  # the mean colour is 511/512
    holes = (CropFlipCutout(padding=0, flip=0, cutout=4)(white)[1:] < 1).sum((1, 2, 3))
    assert holes.max() == 16
    assert holes.min() == 4  # in a corner, where two pixels of a side are left
    with pytest.raises(ValueError, match="fewer than the image's 8 pixels, got 8"):
        CropFlipCutout(padding=8)(white)
