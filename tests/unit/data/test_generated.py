import pytest
import torch
from helpers import TinyNet, ToyDataModule, trainer
from PIL import Image
from torch import nn

from kdlightning.data import GeneratedDataModule, ImageFolderDataModule, NoiseDataModule, TransferSet, TransferSetWriter
from kdlightning.modules import LabellingModule
from kdlightning.networks import DCGANGenerator, Generator, fingerprint, save_network
from kdlightning.teachers import HardLabelTeacher
from kdlightning.types import Answers


class Plain(Generator):
    """One linear layer."""

    def __init__(self, latent_dim=3, channels=1, image_size=8):
        super().__init__(latent_dim, channels, image_size)
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(latent_dim, channels * image_size**2), nn.Sigmoid())


class Collect(LabellingModule):
    """Keeps what `predict` yields."""

    def on_predict_start(self):
        self.seen = []

    def label(self, batch, predict): ...

    def predict_step(self, batch, batch_idx):
        self.seen.append(batch)

    def on_predict_end(self):
        self.image = torch.cat([batch.image for batch in self.seen])
        self.index = torch.cat([batch.index for batch in self.seen])


def collect(tmp_path, data):
    module = Collect(HardLabelTeacher(TinyNet()), str(tmp_path / "unused"))
    trainer(tmp_path).predict(module, datamodule=data, return_predictions=False)
    return module


def pool(size=20, seed=0, generator=None, **options):
    return GeneratedDataModule(ToyDataModule(**options), generator or Plain(), size=size, seed=seed)


def answered(path, data, size, answer, channels=1, indices=None, **facts):
    indices = torch.arange(size) if indices is None else indices
    pixels = (indices[:, None, None, None] * 10 + torch.zeros(len(indices), channels, 8, 8)).to(torch.uint8)
    writer = TransferSetWriter(path, {"method": "TeacherAnswers", "access": "soft", "source": data.identity()})
    writer.write({"index": indices, "image": pixels, "answer": answer, "queries": torch.ones_like(indices)})
    return writer.finish(indices, {"num_classes": 3, **facts})


def test_what_has_become_a_test_image_since_it_was_asked_is_left_out(tmp_path, caplog):
    folder = tmp_path / "pets"
    (folder / "cat").mkdir(parents=True)
    for shade in range(60):
        Image.new("L", (8, 8), shade).save(folder / f"cat/{shade:02}.png")

    def source():
        data = ImageFolderDataModule(str(folder), 8, ".", test=None, channels=1, num_val=0, num_test=20)
        data.setup()
        return data

    before = source()
    shown, index = before.train_set.images, before.train_set.index
    writer = TransferSetWriter(tmp_path / "set", {"method": "K", "access": "hard", "source": before.identity()})
    writer.write({"index": index, "image": shown, "answer": torch.zeros(40).long(), "queries": torch.ones(40).long()})
    writer.finish(index, {"num_classes": 1})
    gone = int(before.test_set.images[0, 0, 0, 0])
    (folder / f"cat/{gone:02}.png").unlink()  # another image takes its place
    data = GeneratedDataModule(source(), path=str(tmp_path / "set"))
    data.setup("fit")
    trained, tested = (set(each[:, 0, 0, 0].tolist()) for each in (data.answered.images, data.source.test_set.images))
    assert (len(trained), len(tested), trained & tested) == (39, 20, set())
    assert "1 answered images are test images here and are left out" in caplog.text


def test_every_index_once_and_in_order_rounded_as_a_file_would(tmp_path):
    seen = collect(tmp_path, pool(35))
    assert seen.index.tolist() == list(range(35))
    assert [len(batch.index) for batch in seen.seen] == [16, 16, 3]
    steps = seen.image * 255
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    assert torch.equal(seen.image, steps.round().to(torch.uint8).float().div(255))  # as a student will see it
    latent = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))[:35]
    assert float((Plain()(latent).detach() - seen.image).abs().max()) <= 0.5 / 255 + 1e-6
    assert pool(35).predict_indices().tolist() == list(range(35))


@pytest.mark.parametrize(
    "build", [pool, lambda size, seed=0: NoiseDataModule(ToyDataModule(eval_batch_size=500), size, seed=seed)]
)
def test_a_larger_pool_begins_with_a_smaller_one(tmp_path, build):
    small, large = collect(tmp_path, build(1001)), collect(tmp_path, build(2100))
    assert torch.equal(large.image[:1001], small.image)
    assert large.image.flatten(1).unique(dim=0).shape[0] == 2100  # blocks do not repeat
    other = collect(tmp_path, build(1001, seed=1))
    assert not torch.equal(other.image, small.image)


def test_uniform_noise_is_uniform_over_all_256_values(tmp_path):
    seen = collect(tmp_path, NoiseDataModule(ToyDataModule(eval_batch_size=1000), 2000))
    values = (seen.image * 255).round().long().flatten()
    count = torch.bincount(values, minlength=256).double()
    expected = len(values) / 256
    assert float(((count - expected) ** 2 / expected).sum()) < 330  # chi-squared, 255 degrees, p = 0.001
    assert float(seen.image.mean()) == pytest.approx(0.5, abs=0.005)


def test_normal_noise_has_its_moments(tmp_path):
    data = NoiseDataModule(ToyDataModule(eval_batch_size=1000), 2000, distribution="normal")
    image = collect(tmp_path, data).image
    assert float(image.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(((image > 0.25) & (image < 0.75)).float().mean()) == pytest.approx(0.6827, abs=0.01)
    assert float((image == 0).float().mean()) == pytest.approx(0.0228, abs=0.005)
    assert data.identity()["distribution"] == "normal"


def test_an_answered_pool_joins_images_and_answers(tmp_path):
    answer = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([4, 0, 3, 1, 5, 2])
    answered(tmp_path / "set", pool(6), 6, answer[order], indices=order)
    data = GeneratedDataModule(ToyDataModule(batch_size=4), path=str(tmp_path / "set"))
    data.setup("fit")
    assert len(data.train_set) == 6
    batches = list(data.train_dataloader())
    assert [len(batch.index) for batch in batches] == [4, 2]
    index = torch.cat([batch.index for batch in batches])
    assert index.sort().values.tolist() == list(range(6))
    assert torch.equal(torch.cat([batch.answer for batch in batches]), answer[index])
    assert torch.equal(torch.cat([batch.image for batch in batches])[:, 0, 0, 0].long(), index * 10)
    assert all(batch.label is None for batch in batches)
    assert next(iter(data.val_dataloader())).label is not None
    converted = data.on_after_batch_transfer(batches[0], 0)
    torch.testing.assert_close(converted.image, batches[0].image.float() / 255)


def test_the_first_answered_images_alone_count_as_paid(tmp_path):
    made = TransferSetWriter(tmp_path / "set", {"method": "test", "num_classes": 3, "source": {}})
    image = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8)
    rows = {"image": image, "answer": torch.eye(3).repeat(2, 1), "queries": torch.tensor([1, 2, 3, 4, 5, 6])}
    made.write({"index": torch.tensor([3, 0, 1, 2, 5, 4]), **rows})
    made.finish(torch.arange(6), {"queries": 100 + 21, "bytes_up": 210, "bytes_down": 63})
    few = GeneratedDataModule(ToyDataModule(), path=str(tmp_path / "set"), num_samples=4)
    few.setup("fit")
    assert torch.equal(few.answered.images, image[[1, 2, 3, 0]])
    told = few.transfer_set.manifest
    assert [told[name] for name in ("rows", "queries", "bytes_up", "bytes_down")] == [4, 110, 100, 30]
    whole = TransferSet(tmp_path / "set")
    assert (len(whole), whole.manifest["queries"]) == (6, 121)
    with pytest.raises(ValueError, match="has 6 rows, fewer than num_samples=7"):
        GeneratedDataModule(ToyDataModule(), path=str(tmp_path / "set"), num_samples=7).setup("fit")
    with pytest.raises(ValueError, match="num_samples"):
        GeneratedDataModule(ToyDataModule(), num_samples=0)


def test_hard_answers_arrive_as_one_hot_rows(tmp_path):
    answered(tmp_path / "set", pool(3), 3, torch.tensor([2, 0, 2]))
    data = GeneratedDataModule(ToyDataModule(), path=str(tmp_path / "set"))
    data.setup("fit")
    assert data.answered.answer.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]


def test_what_identifies_a_pool():
    generator = Plain()
    assert pool(20, 3, generator).identity() == {
        "name": "generated", "generator": fingerprint(generator), "length": 20, "num_samples": 20, "seed": 3,
        "image_size": 8, "channels": 1,
    }  # fmt: skip
    assert NoiseDataModule(ToyDataModule(), 5).identity()["name"] == "noise"


def test_the_cost_of_the_generator_stands_in_its_notes(tmp_path):
    told = {"queries": 7, "bytes_up": 70, "bytes_down": 28, "method": "MEKDGenerator"}
    save_network(DCGANGenerator(3, 1, 8, width=4), tmp_path / "paid", notes=told)
    save_network(DCGANGenerator(3, 1, 8, width=4), tmp_path / "free")
    for path in (str(tmp_path / "paid"), tmp_path / "paid"):
        assert GeneratedDataModule(ToyDataModule(), path).paid == Answers(7, 70, 28)
    assert GeneratedDataModule(ToyDataModule(), str(tmp_path / "free")).paid == Answers(0, 0, 0)
    assert pool().paid == NoiseDataModule(ToyDataModule()).paid == Answers(0, 0, 0)
    assert GeneratedDataModule(ToyDataModule()).paid == Answers(0, 0, 0)


@pytest.mark.parametrize(
    ("generator", "text"),
    [
        (Plain(latent_dim=4), "4 latent dimensions, one per class, but toy has 3 classes"),
        (Plain(channels=3), "images of 3 channels and 8 pixels, but those of toy have 1 channels and 8 pixels"),
        (Plain(image_size=12), "images of 1 channels and 12 pixels, but those of toy have 1 channels and 8 pixels"),
    ],
)
def test_a_generator_of_another_kind_is_refused(tmp_path, generator, text):
    with pytest.raises(ValueError, match=text):
        collect(tmp_path, pool(4, generator=generator))


def test_a_pool_without_a_generator_cannot_be_made(tmp_path):
    with pytest.raises(ValueError, match="give its directory"):
        collect(tmp_path, GeneratedDataModule(ToyDataModule(), size=4))
    from kdlightning.networks import DCGANCritic

    save_network(DCGANCritic(1, 8, width=2), tmp_path / "critic")
    with pytest.raises(TypeError, match="holds a DCGANCritic, not a generator"):
        collect(tmp_path, GeneratedDataModule(ToyDataModule(), str(tmp_path / "critic"), size=4))
    with pytest.raises(ValueError, match="at least 1 image, got 0"):
        pool(0)


def test_the_generator_is_frozen_in_eval_mode():
    generator = DCGANGenerator(3, 1, 8, width=4).train()
    before = fingerprint(generator)
    data = pool(4, generator=generator)
    data.images(torch.randn(4, 3))
    assert fingerprint(generator) == before
    assert not any(parameter.requires_grad for parameter in data.generator.parameters())


def test_training_needs_answered_images(tmp_path):
    for data in (pool(4), NoiseDataModule(ToyDataModule())):
        with pytest.raises(ValueError, match=f"{type(data).__name__} trains on answered images: give"):
            data.setup("fit")
        data.setup("test")  # needs none
    with pytest.raises(FileNotFoundError, match="run the phase that writes it"):
        GeneratedDataModule(ToyDataModule(), path=str(tmp_path / "none")).setup("fit")


def test_a_pool_of_other_images_or_classes_is_refused(tmp_path):
    soft = torch.full((2, 3), 1 / 3)
    answered(tmp_path / "rgb", pool(2), 2, soft, channels=3)
    with pytest.raises(ValueError, match=r"images of shape \(3, 8, 8\), but those of toy are \(1, 8, 8\)"):
        GeneratedDataModule(ToyDataModule(), path=str(tmp_path / "rgb")).setup("fit")
    answered(tmp_path / "ten", pool(2), 2, torch.full((2, 10), 0.1), num_classes=10)
    with pytest.raises(ValueError, match="answers of 10 classes, but toy has 3"):
        GeneratedDataModule(ToyDataModule(), path=str(tmp_path / "ten")).setup("fit")
    assert len(TransferSet(tmp_path / "ten")) == 2
