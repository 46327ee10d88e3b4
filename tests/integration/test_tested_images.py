"""A record says which images were tested on: a report tells others apart, whatever their data set is called."""

import json
import zlib

import pytest
import torch
from helpers import trainer
from pictures import write_digits
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import Compose, Grayscale, PILToTensor, Resize

from kdlightning.callbacks import RunResult
from kdlightning.callbacks.result import marks_of
from kdlightning.data import DatasetDataModule
from kdlightning.data.datasets import name_of_set
from kdlightning.methods import Supervised
from kdlightning.networks import ResNet8
from kdlightning.report import compare_all, read_runs, summarise
from kdlightning.types import Batch

SMALL = Compose([Resize((8, 8)), Grayscale(), PILToTensor()])


def images(number=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (number, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return TensorDataset(pixels, torch.arange(number) % 3)


def recorded(root, tests, batch_size=5, **options):
    torch.manual_seed(0)
    run, module = (
        trainer(root, callbacks=[RunResult(**options)]),
        Supervised(ResNet8(num_classes=3, in_channels=1, image_size=8)),
    )
    run.fit(module, DataLoader(images(), batch_size=4))
    run.test(module, DataLoader(tests, batch_size=batch_size), verbose=False)
    return json.loads((root / "result.json").read_text())


def test_a_mark_is_the_checksum_of_an_images_pixels_and_its_label():
    pixels = torch.tensor([[0, 1, 2, 255], [7, 7, 7, 128]], dtype=torch.uint8).view(2, 1, 2, 2)
    marks = [zlib.crc32(bytes([0, 1, 2, 255]), 2), zlib.crc32(bytes([7, 7, 7, 128]), 0)]
    labelled = Batch(pixels.float() / 255, torch.arange(2), torch.tensor([2, 0]))
    assert marks_of(labelled) == marks
    assert marks_of(labelled._replace(image=labelled.image.bfloat16())) == marks  # of another precision
    assert marks_of(labelled._replace(label=None)) == [
        zlib.crc32(bytes(row), 2**32 - 1) for row in ([0, 1, 2, 255], [7, 7, 7, 128])
    ]


def test_the_images_are_the_same_in_any_order_and_others_where_one_pixel_or_one_label_differs(tmp_path):
    tests = images(seed=1)
    pixels, labels = (part.clone() for part in tests.tensors)
    pixels[3, 0, 4, 4] += 1
    labels[7] = (labels[7] + 1) % 3
    given = {
        "as it is": (tests, 5), "turned round": (Subset(tests, range(11, -1, -1)), 4),
        "pixel": (TensorDataset(pixels, tests.tensors[1]), 5), "label": (TensorDataset(tests.tensors[0], labels), 5),
        "fewer": (Subset(tests, range(11)), 5),
    }  # fmt: skip
    told = {name: recorded(tmp_path / name, *one) for name, one in given.items()}
    marks = {name: one["test_fingerprint"] for name, one in told.items()}
    batch = Batch(tests.tensors[0].float() / 255, torch.arange(12), tests.tensors[1])
    assert marks["as it is"] == marks["turned round"] == f"{sum(marks_of(batch)) % 2**32:08x}"
    assert len(set(marks.values())) == 4
    assert {one["dataset"] for one in told.values()} == {"TensorDataset"}
    assert {one["config"] for one in told.values()} == {None}  # Python has written none


def test_rows_of_other_images_are_noted_and_not_compared(tmp_path):
    for seed in (1, 2):
        recorded(tmp_path / f"here{seed}", images(seed=1), seed=seed, role="reference")
        recorded(tmp_path / f"there{seed}", images(seed=2), seed=seed, variant="there")
        recorded(tmp_path / f"too{seed}", images(seed=1), seed=seed, variant="too")
    rows, notes = summarise(read_runs([tmp_path]).runs)
    (note,) = [one for one in notes if "different images" in one]
    assert note.startswith("TensorDataset: rows were tested on different images (")
    assert {len(row.test_fingerprints) for row in rows} == {2}
    compared, uncompared = compare_all(rows)
    assert [one.row for one in compared] == ["Supervised (too)"]
    told = "not compared with 'Supervised', which was tested on different images"
    assert f"Supervised (there), ResNet8 on TensorDataset: {told}." in uncompared


def test_seeds_of_one_row_that_were_tested_on_other_images_are_noted(tmp_path):
    for seed in (1, 2):
        recorded(tmp_path / str(seed), images(seed=seed), seed=seed)
    (row,), notes = summarise(read_runs([tmp_path]).runs)
    assert row.seeds == [1, 2]
    assert [one for one in notes if "Supervised, ResNet8 on TensorDataset: its seeds were tested on different" in one]


def test_folders_are_called_by_their_names(tmp_path):
    for folder in ("heldout", "photos/test"):
        write_digits(tmp_path / folder, 4)
    heldout, test = (ImageFolder(tmp_path / folder, SMALL) for folder in ("heldout", "photos/test"))
    one = recorded(tmp_path / "run1", Subset(heldout, [0, 1, 2]))
    other = recorded(tmp_path / "run2", Subset(test, [0, 1, 2]))
    assert (one["dataset"], other["dataset"]) == ("heldout", "photos")
    assert DatasetDataModule(test).name == "photos"


class Photos(ImageFolder):
    pass


@pytest.mark.parametrize(("kind", "name"), [(ImageFolder, "mine"), (Photos, "Photos")])
def test_a_data_set_of_a_class_of_its_own_is_called_by_it_unless_it_has_a_name(kind, name, tmp_path):
    write_digits(tmp_path / "mine", 4)
    data = kind(tmp_path / "mine")
    assert name_of_set(data) == name
    data.name = "my photos"
    assert name_of_set(data) == name_of_set(Subset(data, [0])) == "my photos"
