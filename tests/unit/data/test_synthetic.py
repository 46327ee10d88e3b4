import pytest
import torch
from helpers import ToyDataModule, trainer

from kdlightning.data import (
    NoImagesDataModule,
    NoiseDataModule,
    SyntheticDataModule,
    TransferSetDataModule,
    TransferSetWriter,
)


def task(**options):
    return NoImagesDataModule("toy", num_classes=3, image_size=8, **options)


def written(path, number=12, size=8, classes=3):
    images = torch.arange(number * size * size, dtype=torch.int64).view(number, 1, size, size) % 251
    index = torch.arange(number).flip(0)  # shards come in any order
    writer = TransferSetWriter(path, {"method": "ZSDB3KDImages", "access": "hard", "source": {"name": "noise"}})
    rows = {"index": index, "image": images.to(torch.uint8)[index], "label": index % classes}
    writer.write({**rows, "image_after_5": 255 - rows["image"]})
    writer.finish(index, {"num_classes": classes})
    return images.to(torch.uint8)


def test_a_task_knows_its_classes_and_no_image():
    data = task(class_names=["left", "middle", "right"])
    data.setup()
    assert (data.name, data.num_classes, data.channels, data.image_size) == ("toy", 3, 1, 8)
    assert data.class_names == ["left", "middle", "right"]
    assert [len(part) for part in (data.train_set, data.val_set)] == [0, 0]
    assert len(data.val_dataloader()) == 0
    with pytest.raises(ValueError, match="has no test images"):
        data.test_dataloader()


def test_a_task_needs_as_many_names_as_classes():
    with pytest.raises(ValueError, match="3 classes and 2 names"):
        task(class_names=["left", "right"])


def test_synthetic_images_train_and_real_ones_test(tmp_path):
    images = written(tmp_path / "set")
    source = ToyDataModule()
    data = SyntheticDataModule(source, str(tmp_path / "set"))
    data.setup()
    assert torch.equal(data.train_set.images, images)
    assert torch.equal(data.train_set.labels, torch.arange(12) % 3)
    assert torch.equal(data.val_set.images, source.val_set.images)
    assert torch.equal(data.test_set.images, source.test_set.images)
    assert torch.equal(data.candidate_pool().image, images)
    other = SyntheticDataModule(source, str(tmp_path / "set"), column="image_after_5", unlabelled=True)
    other.setup()
    assert torch.equal(other.train_set.images, 255 - images)
    assert other.train_set.labels is None
    assert data.identity()["images"] != other.identity()["images"]


def test_synthetic_images_without_any_real_one(tmp_path):
    written(tmp_path / "set")
    data = SyntheticDataModule(task(batch_size=5), str(tmp_path / "set"))
    data.setup()
    assert [len(batch.index) for batch in data.predict_dataloader()] == [12]
    assert [len(batch.index) for batch in data.train_dataloader()] == [5, 5, 2]
    assert len(data.val_dataloader()) == 0


@pytest.mark.parametrize(
    ("set_of", "message"),
    [
        ({"size": 4}, r"shape \(1, 4, 4\), but those of toy are \(1, 8, 8\)"),
        ({"classes": 5}, "5 classes, but toy has 3"),
    ],
)
def test_images_of_another_task_are_refused(tmp_path, set_of, message):
    written(tmp_path / "set", **set_of)
    with pytest.raises(ValueError, match=message):
        SyntheticDataModule(task(), str(tmp_path / "set")).setup()


def labels_for(data, path):
    writer = TransferSetWriter(path, {"method": "DB3KDLabels", "access": "hard", "source": data.identity()})
    index = torch.arange(12)
    writer.write({"index": index, "label": index % 3, "activation": torch.eye(3)[index % 3]})
    writer.finish(index, {})


def test_labels_join_the_images_they_were_made_for_and_no_others(tmp_path):
    images = written(tmp_path / "set")
    data = SyntheticDataModule(task(), str(tmp_path / "set"))
    labels_for(data, tmp_path / "labels")
    joined = TransferSetDataModule(
        SyntheticDataModule(ToyDataModule(), str(tmp_path / "set")), str(tmp_path / "labels")
    )
    joined.trainer = trainer(tmp_path)
    joined.setup("fit")
    assert torch.equal(joined.answered.images, images)
    assert torch.equal(joined.answered.answer, torch.eye(3)[torch.arange(12) % 3])
    other = SyntheticDataModule(task(), str(tmp_path / "set"), column="image_after_5")
    with pytest.raises(ValueError, match="images differ"):
        TransferSetDataModule(other, str(tmp_path / "labels")).setup("fit")


def test_so_many_rows_of_every_class(tmp_path):
    images = written(tmp_path / "set")
    data = SyntheticDataModule(task(), str(tmp_path / "set"))
    labels_for(data, tmp_path / "labels")
    few = TransferSetDataModule(data, str(tmp_path / "labels"), per_class=2)
    few.setup("fit")
    assert few.answered.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(few.answered.images, images[:6])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        TransferSetDataModule(data, str(tmp_path / "labels"), per_class=0)


def pixels(distribution, size=2000, image_size=16, **options):
    source = NoImagesDataModule("toy", num_classes=3, image_size=image_size)
    return NoiseDataModule(source, size, distribution, **options).candidate_pool().image.float() / 255


def test_noise_has_the_moments_it_is_said_to_have():
    uniform, normal, scaled = pixels("uniform"), pixels("normal"), pixels("scaled")
    assert abs(float(uniform.mean()) - 0.5) < 0.002
    assert abs(float(uniform.var()) - 1 / 12) < 0.001
    # the median is untouched by clamping
    assert abs(float(normal.median()) - 0.5) < 0.004
    assert abs(float((normal < 0.25).float().mean()) - 0.1587) < 0.005
    # s1 (U + 0.2) + s2 N, drawn once more: s1 and s2 are an image's, so images differ in mean and spread
    generator = torch.Generator().manual_seed(7)
    s1, s2 = torch.rand(2, 4000, 1, generator=generator)
    u, n = torch.rand(4000, 256, generator=generator), torch.randn(4000, 256, generator=generator)
    again = (s1 * (u + 0.2) + s2 * n).clamp(0, 1)
    for statistic in (lambda one: one.mean(), lambda one: one.mean(1).std(), lambda one: one.std(1).mean()):
        assert abs(float(statistic(scaled.flatten(1)) - statistic(again))) < 0.01


def test_smooth_noise_is_smooth():
    def step(images):
        """Mean squared difference of neighbours over twice the variance: 1 for independent pixels."""
        inside = (images[..., 1:] - images[..., :-1]).pow(2).mean()
        return float(inside / (2 * images.flatten(1).var(dim=1).mean()))

    assert abs(step(pixels("uniform")) - 1) < 0.02
    assert step(pixels("smooth", cells=(2, 4))) < step(pixels("smooth", cells=(4, 8))) < 0.4
    with pytest.raises(ValueError, match=r"not above the second, got \(3, 2\)"):
        pixels("smooth", cells=(3, 2))


def test_distributions_take_turns_and_a_pool_begins_with_a_smaller_one():
    mixed = pixels(["uniform", "smooth"])
    rough = (mixed[..., 1:] - mixed[..., :-1]).abs().flatten(1).mean(dim=1)
    assert float(rough[0::2].mean()) > 1.5 * float(rough[1::2].mean())
    source = NoImagesDataModule("toy", num_classes=3, image_size=8)
    noise = NoiseDataModule(source, 10, ["smooth", "scaled"])
    assert torch.equal(noise.candidate_pool(1500).image[:10], noise.candidate_pool().image)
    shown = torch.cat([noise.images(batch.image) for batch in noise.predict_dataloader()])
    assert torch.equal((shown * 255).round().to(torch.uint8), noise.candidate_pool().image)
