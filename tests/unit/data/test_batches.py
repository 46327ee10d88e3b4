import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from kdlightning.data import DatasetDataModule
from kdlightning.data.batches import as_batch
from kdlightning.types import Batch

BYTES = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 4, 4)
PIXELS = BYTES / 255
LABEL = torch.tensor([2, 0, 1])


@pytest.mark.parametrize(
    "given",
    [
        (PIXELS, LABEL),
        [PIXELS, LABEL],
        (BYTES, LABEL.to(torch.uint8)),
        (PIXELS.double(), LABEL.int()[:, None]),
        (PIXELS.half().float(), LABEL),
        {"image": PIXELS, "label": LABEL},
        {"pixel_values": PIXELS, "labels": LABEL, "idx": [1, 2, 3]},
        {"img": BYTES, "label": LABEL},
        {"image": PIXELS, "target": LABEL},
        Batch(BYTES, torch.full((3,), -1), LABEL),
    ],
)
def test_any_batch_becomes_the_one_kind(given):
    made = as_batch(given)
    assert type(made) is Batch
    assert made.image.dtype == torch.float32
    torch.testing.assert_close(made.image, PIXELS, atol=1e-4, rtol=0)
    assert made.label.dtype == torch.int64
    assert made.label.tolist() == [2, 0, 1]
    assert made.index.tolist() == [-1, -1, -1]


def test_what_a_dict_says_is_kept_and_a_ready_batch_is_itself():
    made = as_batch({"image": PIXELS, "index": LABEL, "answer": torch.eye(3)})
    assert (made.label, made.index.tolist(), made.answer.tolist()) == (None, [2, 0, 1], torch.eye(3).tolist())
    assert as_batch(made) is made
    for alone in (PIXELS, (PIXELS,), [PIXELS], {"image": PIXELS, "label": None}):
        assert as_batch(alone).label is None


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ((PIXELS, LABEL, LABEL), TypeError, r"expected \(image, label\), a dict .* got a tuple of 3"),
        ({"x": PIXELS}, TypeError, "got a dict with 'x': give the images as 'image'"),
        ("abc", TypeError, "got a str: let the loader's collate_fn"),
        (([Image.new("L", (4, 4))], LABEL), TypeError, r"tensor \(N, C, H, W\), got a list: .* ToTensor"),
        ((PIXELS[:, 0], LABEL), ValueError, r"got \(3, 4, 4\): unsqueeze\(1\)"),
        ((PIXELS.permute(0, 2, 3, 1), LABEL), ValueError, r"got \(3, 4, 4, 1\): permute\(0, 3, 1, 2\)"),
        ((BYTES.long(), LABEL), ValueError, r"expected uint8 or float pixels in \[0, 1\], got int64"),
        ((BYTES.float(), LABEL), ValueError, r"pixels in \[0, 1\], got \[0, 255\]: divide by 255"),
        (((PIXELS - 0.13) / 0.3, LABEL), ValueError, r"got \[-0.4333, 2.9\]: leave Normalize out of the transforms"),
        ((2 * PIXELS - 1, LABEL), ValueError, r"got \[-1, 1\]: leave Normalize out"),
        ((PIXELS * 1.01, LABEL), ValueError, r"got \[0, 1.01\]: clamp_\(0, 1\)"),
        ((PIXELS * float("nan"), LABEL), ValueError, r"got \[nan, nan\]: some are not finite"),
        ((PIXELS, LABEL[:2]), ValueError, r"class indices \(N,\), .* got int64 \(2,\) for 3 images"),
        ((PIXELS, torch.eye(3)), ValueError, r"got float32 \(3, 3\) for 3 images: give argmax\(1\)"),
        ((PIXELS, LABEL.float()), ValueError, r"got float32 \(3,\) for 3 images: give long\(\)"),
        ((PIXELS, ["a", "b", "c"]), TypeError, r"class indices .* got a list"),
        ((PIXELS, LABEL - 1), ValueError, "class indices from 0, got -1"),
        ({"image": PIXELS, "answer": LABEL}, ValueError, r"answers: expected floats \(N, K\), a row for each of 3"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(given, error, text):
    with pytest.raises(error, match=text):
        as_batch(given)


def test_a_data_set_of_ones_own_is_a_datamodule():
    train, test = TensorDataset(PIXELS, LABEL), TensorDataset(BYTES[:1], LABEL[:1])
    data = DatasetDataModule(train, test, num_val=0, name="mine")
    data.setup()
    assert (data.name, data.num_classes, data.channels, data.image_size) == ("mine", 3, 1, 4)
    assert data.train_set.images[:, 0, 0, 0].tolist() == [0, 51, 255]
    assert data.train_set.labels.tolist() == [2, 0, 1]
    assert data.test_set.labels.tolist() == [2]
    larger = DatasetDataModule(train, image_size=8, num_val=0)
    larger.setup()
    assert larger.train_set.images.shape == (3, 1, 8, 8)


class Pillows(torch.utils.data.Dataset):
    classes = ("cat", "dog", "cow", "pig")
    sizes = (4, 4)

    def __len__(self):
        return 2

    def __getitem__(self, position):
        pixels = np.full((self.sizes[position], 4, 3), 100 * position, dtype=np.uint8)
        return {"image": Image.fromarray(pixels), "label": None}


def test_pillow_images_and_names_of_classes():
    data = DatasetDataModule(Pillows(), num_val=0)
    data.setup()
    assert (data.num_classes, data.class_names, data.name) == (4, ["cat", "dog", "cow", "pig"], "Pillows")
    assert data.train_set.images[:, 1, 2, 3].tolist() == [0, 100]
    assert data.train_set.labels is None


def test_a_data_set_that_does_not_say_enough_is_refused():
    with pytest.raises(ValueError, match="num_classes: expected the number of classes, got None and images without"):
        DatasetDataModule(TensorDataset(PIXELS))
    with pytest.raises(ValueError, match=r"num_classes: .* got 2 and labels up to 2"):
        DatasetDataModule(TensorDataset(PIXELS, LABEL), num_classes=2)
    with pytest.raises(ValueError, match=r"train: images: expected pixels in \[0, 1\]"):
        DatasetDataModule(TensorDataset(3 * PIXELS, LABEL))
    with pytest.raises(ValueError, match=r"test: expected images of one shape, got \(1, 2, 2\), those of train \(1, 4"):
        DatasetDataModule(TensorDataset(PIXELS, LABEL), TensorDataset(PIXELS[:, :, :2, :2], LABEL))
    with pytest.raises(ValueError, match="train: expected square images"):
        DatasetDataModule(TensorDataset(PIXELS[:, :, :2], LABEL))
    different = Pillows()
    different.sizes = (4, 5)
    with pytest.raises(ValueError, match="train: expected images of one size, give it a transform such as Resize"):
        DatasetDataModule(different)
