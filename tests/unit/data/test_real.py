import gzip
import io
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_digits
from PIL import Image
from torchvision.transforms.v2 import functional as tvf

from kdlightning.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    CINIC10DataModule,
    DigitsDataModule,
    FashionMNISTDataModule,
    Flowers102DataModule,
    ImageFileDataset,
    ImageFolderDataModule,
    ImageNetDataModule,
    ImageTensorDataset,
    MNISTDataModule,
    SVHNDataModule,
    TinyImageNetDataModule,
    folders,
)


def ready(data):
    data.setup()
    return data


def joined(dataset):
    """Everything that a split serves, as one batch."""
    return dataset.__getitems__(list(range(len(dataset))))


@pytest.fixture
def intact(monkeypatch):
    """torchvision compares checksums with those of the real files."""
    for module in ("cifar", "svhn", "flowers102"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda path, *_: Path(path).exists())


# digits


def test_digits_are_scikit_learns_enlarged_and_join_by_index():
    from sklearn.datasets import load_digits

    source = torch.from_numpy(load_digits().images)
    data = ready(DigitsDataModule(num_samples=40))
    assert (data.name, data.channels, len(data.val_set), len(data.test_set)) == ("digits", 1, 100, 397)
    train, val, test = data.load()[0], data.val_set, data.test_set
    assert (len(train), train.images.shape[-1]) == (1400, 8)
    everything = torch.cat([train.images, data.load()[2].images]).flatten(1).double()
    original = (source.flatten(1) * 255 / 16).round()
    assert torch.equal(everything.sort(0).values, original.sort(0).values)
    expected = tvf.resize(train.images[data.train_set.index], [32, 32], antialias=True)
    assert torch.equal(data.train_set.images, expected)
    assert torch.equal(data.train_set.labels, train.labels[data.train_set.index])
    assert val.images.shape[1:] == test.images.shape[1:] == (1, 32, 32)


def test_digits_take_another_size():
    assert ready(DigitsDataModule(image_size=8)).test_set.images.shape == (397, 1, 8, 8)


# MNIST


def write_idx(path, array, opener=open):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    with opener(path, "wb") as file:
        file.write(header + array.astype(np.uint8).tobytes())


def write_mnist(raw, number=30, packed=True):
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (number, 28, 28))
    ending, opener = (".gz", gzip.open) if packed else ("", open)
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte{ending}", pixels, opener)
        write_idx(raw / f"{part}-labels-idx1-ubyte{ending}", np.arange(number) % 10, opener)
    return torch.from_numpy(pixels).to(torch.uint8)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_in_idx_files(tmp_path, packed):
    pixels = write_mnist(tmp_path / "MNIST/raw", packed=packed)
    data = ready(MNISTDataModule(str(tmp_path), num_val=5, num_samples=20))
    assert torch.equal(data.train_set.images[:, 0], pixels[data.train_set.index])
    assert torch.equal(data.train_set.labels, data.train_set.index % 10)
    assert torch.equal(data.test_set.images[:, 0], pixels)
    assert data.class_names == list("0123456789")
    assert (data.name, data.identity()["length"]) == ("mnist", 30)


def test_packed_files_are_unpacked_beside_themselves(tmp_path):
    write_mnist(tmp_path / "MNIST/raw")
    MNISTDataModule(str(tmp_path)).prepare_data()
    unpacked = {file.name for file in (tmp_path / "MNIST/raw").iterdir() if file.suffix != ".gz"}
    assert unpacked == {f"{part}-ubyte" for part in (
        "train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1",
    )}  # fmt: skip


def test_a_folder_marked_read_only_stays_as_it_is_even_for_root(tmp_path):
    raw = tmp_path / "MNIST/raw"
    pixels = write_mnist(raw)
    write_idx(raw / "train-labels-idx1-ubyte", np.arange(30) % 10)
    before = sorted(raw.iterdir())
    raw.chmod(0o555)
    try:
        data = MNISTDataModule(str(tmp_path), num_val=0)
        data.prepare_data()
        data.setup()
        assert sorted(raw.iterdir()) == before
    finally:
        raw.chmod(0o755)
    assert torch.equal(data.train_set.images[:, 0], pixels)


def test_a_damaged_packed_file_is_named_and_leaves_nothing_behind(tmp_path):
    raw = tmp_path / "MNIST/raw"
    write_mnist(raw)
    damaged = raw / "train-images-idx3-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is damaged .*fetch it again"):
        MNISTDataModule(str(tmp_path)).setup()
    assert not [file for file in raw.iterdir() if file.name.startswith("train-images") and file != damaged]


def test_fashion_mnist_has_names_for_its_classes(tmp_path):
    write_mnist(tmp_path / "FashionMNIST/raw")
    data = ready(FashionMNISTDataModule(str(tmp_path)))
    assert data.class_names[:2] == ["T-shirt/top", "Trouser"]
    assert data.name == "fashion-mnist"


# CIFAR, SVHN, Flowers


def write_cifar(folder, train, test, meta, key, names):
    folder.mkdir()
    generator = np.random.default_rng(0)
    written = {}
    for name in (*train, test):
        written[name] = generator.integers(0, 256, (4, 3072)).astype(np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": written[name], key: [0, 1, 2, 3]}))
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: names}))
    pixels = np.concatenate([written[name] for name in train]).reshape(-1, 3, 32, 32)
    return torch.from_numpy(pixels), torch.from_numpy(written[test].reshape(-1, 3, 32, 32))


@pytest.mark.parametrize(
    ("module", "folder", "train", "test", "meta", "key"),
    [
        (
            CIFAR10DataModule, "cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], "test_batch",
            ("batches.meta", "label_names"), "labels",
        ),
        (CIFAR100DataModule, "cifar-100-python", ["train"], "test", ("meta", "fine_label_names"), "fine_labels"),
    ],
)  # fmt: skip
def test_cifar_in_its_python_files(tmp_path, intact, module, folder, train, test, meta, key):
    names = [f"class {k}" for k in range(module.num_classes)]
    pixels, test_pixels = write_cifar(tmp_path / folder, train, test, meta, key, names)
    data = ready(module(str(tmp_path), num_val=1))
    assert torch.equal(data.train_set.images, pixels[data.train_set.index])
    assert torch.equal(data.val_set.images, pixels[data.val_set.index])
    assert torch.equal(data.train_set.labels, data.train_set.index % 4)
    assert torch.equal(data.test_set.images, test_pixels)
    assert data.class_names == names


def test_svhn_calls_its_tens_zero(tmp_path, intact):
    from scipy.io import savemat

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 10)).astype(np.uint8)
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": np.arange(1, 11)[:, None]})
    data = ready(SVHNDataModule(str(tmp_path), num_val=3))
    assert torch.equal(data.train_set.images, torch.from_numpy(pixels).permute(3, 2, 0, 1)[data.train_set.index])
    assert torch.equal(data.train_set.labels, (data.train_set.index + 1) % 10)
    assert data.train_set.images.is_contiguous()


def test_flowers_keep_their_official_splits_and_only_the_drawn_are_decoded(tmp_path, intact):
    from scipy.io import savemat

    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    split = {"trnid": [2, 4, 6, 8], "valid": [1, 3], "tstid": [5, 7, 9]}
    savemat(folder / "setid.mat", {name: np.array([ids]) for name, ids in split.items()})
    savemat(folder / "imagelabels.mat", {"labels": np.arange(1, 10)[None]})
    for number in range(1, 10):
        Image.new("RGB", (90, 70), (20 * number, 0, 0)).save(folder / f"jpg/image_{number:05d}.jpg", quality=100)
    (folder / "jpg/image_00005.jpg").write_bytes(b"damaged")
    data = ready(Flowers102DataModule(str(tmp_path), num_samples=2))
    assert isinstance(data.train_set, ImageTensorDataset)
    assert data.train_set.images.shape == (2, 3, 64, 64)
    numbers = torch.tensor(split["trnid"])[data.train_set.index]
    assert torch.equal(data.train_set.labels, numbers - 1)
    assert (data.train_set.images[:, 0, 30, 30].int() - 20 * numbers).abs().max() <= 2
    assert data.val_set.labels.tolist() == [0, 2]
    assert data.class_names[0] == "pink primrose"
    with pytest.raises(ValueError, match=r"image_00005.jpg cannot be decoded as an image"):
        data.test_dataloader()


@pytest.mark.parametrize(
    ("module", "files"),
    [
        (MNISTDataModule, "MNIST/raw"),
        (FashionMNISTDataModule, "FashionMNIST/raw"),
        (CIFAR10DataModule, "cifar-10-batches-py"),
        (CIFAR100DataModule, "cifar-100-python"),
        (SVHNDataModule, "train_32x32.mat and test_32x32.mat"),
        (Flowers102DataModule, "flowers-102"),
    ],
)
def test_absent_files_are_named(tmp_path, module, files):
    with pytest.raises(FileNotFoundError, match=rf"{module.name} is not in .* put .*{files}.* download: true"):
        module(str(tmp_path)).setup()


def test_download_asks_torchvision_for_every_split_and_without_it_nothing(tmp_path, monkeypatch):
    asked = []

    class Reader:
        def __init__(self, root, download, **split):
            asked.append((download, *split.values()))
            self.data, self.labels = np.zeros((5, 3, 32, 32), np.uint8), np.arange(5)

    monkeypatch.setattr(SVHNDataModule, "reader", Reader)
    SVHNDataModule(str(tmp_path)).prepare_data()
    assert asked == []
    SVHNDataModule(str(tmp_path), download=True).setup()
    assert asked == [(True, "train"), (True, "test"), (False, "train"), (False, "test")]


# folders and zips


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def members(splits=(("train", 5), ("test", 2)), classes=("cat", "dog"), size=8):
    """Name to PNG: noise, a different one in every file."""
    generator = np.random.default_rng(0)
    return {
        f"{part}/{name}/{i:04d}.png": generator.integers(0, 256, (size, size, 3)).astype(np.uint8)
        for part, number in splits
        for name in classes
        for i in range(number)
    }


def write_zip(path, files, prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for name, pixels in files.items():
            archive.writestr(prefix + name, pixels if isinstance(pixels, bytes) else png(pixels))
    return path


def write_tree(root, files):
    for name, pixels in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(pixels if isinstance(pixels, bytes) else png(pixels))
    return root


def write(tmp_path, kind, files):
    return write_zip(tmp_path / "pets.zip", files) if kind == "zip" else write_tree(tmp_path / "pets", files)


both = pytest.mark.parametrize("kind", ["folder", "zip"])


@both
@pytest.mark.parametrize("in_memory", [True, False])
def test_every_image_is_at_its_index_with_its_class(tmp_path, kind, in_memory):
    files = members()
    data = ready(ImageFolderDataModule(str(write(tmp_path, kind, files)), 8, in_memory=in_memory, num_val=3))
    assert (data.name, data.num_classes, data.class_names) == ("pets", 2, ["cat", "dog"])
    names = sorted(name for name in files if name.startswith("train"))
    for part in (data.train_set, data.val_set):
        assert isinstance(part, ImageTensorDataset if in_memory else ImageFileDataset)
        batch = joined(part)
        for image, index, label in zip(batch.image, batch.index, batch.label, strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), files[names[index]])
            assert data.class_names[label] in names[index]
    assert len(data.train_set) + len(data.val_set) == len(names)


def test_a_folder_and_a_zip_of_it_are_the_same_data(tmp_path):
    files = {**members(), "train/readme.txt": b"no image", "train/cat/Thumbs.db": b"neither"}
    one = ready(ImageFolderDataModule(str(write(tmp_path, "folder", files)), 5, seed=3))
    other = ready(ImageFolderDataModule(str(write(tmp_path, "zip", files)), 5, seed=3))
    assert one.identity() == other.identity()
    assert torch.equal(one.train_set.images, other.train_set.images)
    assert torch.equal(one.train_set.labels, other.train_set.labels)


@both
def test_only_what_is_drawn_is_read(tmp_path, kind, monkeypatch):
    root = write(tmp_path, kind, members(splits=(("train", 50), ("test", 5))))
    read = []
    original = folders._Files.read
    monkeypatch.setattr(folders._Files, "read", lambda self, name: (read.append(name), original(self, name))[1])
    data = ready(ImageFolderDataModule(str(root), 8, num_samples=6))
    assert len(read) == 6
    list(data.val_dataloader())
    assert len(read) == 16
    assert not [name for name in read if name.startswith("test")]


def test_forked_workers_do_not_share_the_zip_that_their_parent_opened(tmp_path):
    files = members(splits=(("train", 200), ("test", 1)), size=16)
    root = write_zip(tmp_path / "many.zip", files)
    options = {"in_memory": False, "num_val": 0, "num_workers": 2, "eval_batch_size": 10}
    data = ready(ImageFolderDataModule(str(root), 16, **options))
    expected = data.candidate_pool()
    got = torch.cat([batch.image for batch in data.predict_dataloader()])
    assert torch.equal(got, expected.image)


def test_an_opened_zip_travels_to_a_spawned_process(tmp_path):
    data = ready(ImageFolderDataModule(str(write(tmp_path, "zip", members())), 8, in_memory=False))
    before = joined(data.train_set)
    again = pickle.loads(pickle.dumps(data.train_set))
    assert torch.equal(joined(again).image, before.image)


def test_a_zip_with_one_folder_around_everything(tmp_path):
    files = members()
    root = write_zip(tmp_path / "tiny.zip", files, prefix="tiny-200/")
    with zipfile.ZipFile(root, "a") as archive:
        archive.writestr("__MACOSX/tiny-200/._x.png", b"resource fork")
    data = ready(ImageFolderDataModule(str(root), 8, num_val=0))
    names = sorted(name for name in files if name.startswith("train"))
    assert np.array_equal(data.train_set.images[4].permute(1, 2, 0).numpy(), files[names[4]])
    assert data.class_names == ["cat", "dog"]


@both
def test_splits_may_lie_deeper(tmp_path, kind):
    files = members(splits=(("images/train", 3), ("images/held/out", 2)))
    data = ready(ImageFolderDataModule(str(write(tmp_path, kind, files)), 8, "images/train", None, "images/held/out"))
    assert data.class_names == ["cat", "dog"]
    assert data.test_set.labels.tolist() == [0, 0, 1, 1]


def test_the_short_side_is_resized_and_the_centre_cropped(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    root = write_tree(tmp_path / "wide", {"train/a/0.png": pixels})
    data = ready(ImageFolderDataModule(str(root), 6, test=None, num_val=0))
    resized = tvf.resize(torch.from_numpy(pixels).permute(2, 0, 1), [6, 10], antialias=True)
    assert torch.equal(data.train_set.images[0], resized[:, :, 2:8])
    assert data.test_set is None


def test_grey_images_of_colour_files_and_colour_images_of_grey_files(tmp_path):
    colour = np.zeros((4, 4, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    root = write_tree(tmp_path / "mixed", {"train/a/0.png": colour, "train/a/1.png": np.full((4, 4), 9, np.uint8)})
    grey = ready(ImageFolderDataModule(str(root), 4, test=None, num_val=0, channels=1))
    assert grey.train_set.images.shape == (2, 1, 4, 4)
    assert grey.train_set.images[:, 0, 0, 0].tolist() == [76, 9]
    rgb = ready(ImageFolderDataModule(str(root), 4, test=None, num_val=0))
    assert rgb.train_set.images[:, :, 0, 0].tolist() == [[255, 0, 0], [9, 9, 9]]


def test_the_name_is_the_users_or_the_files(tmp_path, monkeypatch):
    root = write_tree(tmp_path / "pets.v2", members())
    assert ImageFolderDataModule(str(root), 8).name == "pets.v2"
    assert ImageFolderDataModule(str(root), 8, name="animals").name == "animals"
    monkeypatch.chdir(root)
    assert ImageFolderDataModule(".", 8).name == "pets.v2"


def test_all_broken_images_are_counted_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr("kdlightning.data.base._CHUNK", 2)
    broken = dict.fromkeys(("train/cat/0001.png", "train/dog/0003.png"), b"no image")
    data = ImageFolderDataModule(str(write(tmp_path, "folder", members() | broken)), 8, num_val=0)
    with pytest.raises(ValueError, match=r"^2 of 10 images cannot be used:\n") as error:
        data.setup()
    lines = str(error.value).splitlines()[1:]
    assert [line.split(" cannot")[0].rpartition("train/")[2] for line in lines] == ["cat/0001.png", "dog/0003.png"]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("stage", ["fit", "predict"])
def test_a_broken_test_image_is_named_before_training_and_before_anything_is_paid(
    tmp_path, in_memory, stage, monkeypatch
):
    root = write(tmp_path, "folder", members() | {"test/cat/0001.png": b"no image"})
    data = ImageFolderDataModule(str(root), 8, num_val=0, in_memory=in_memory)
    with pytest.raises(ValueError, match=r"test/cat/0001.png cannot be decoded as an image \(not an image\)"):
        data.setup(stage)
    (root / "train/dog/0002.png").rename(tmp_path / "kept.png")
    (root / "train/dog/0002.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"train/dog/0002.png cannot be decoded as an image \(not an image\)"):
        ready(ImageFolderDataModule(str(root), 8, num_val=0, in_memory=in_memory)).train_dataloader()
    (tmp_path / "kept.png").rename(root / "train/dog/0002.png")
    (root / "test/cat/0001.png").write_bytes((root / "test/cat/0000.png").read_bytes())
    ImageFolderDataModule(str(root), 8, num_val=0, in_memory=in_memory).setup(stage)
    read = []
    original = folders._Files.read
    monkeypatch.setattr(folders._Files, "read", lambda self, name: (read.append(name), original(self, name))[1])
    ImageFolderDataModule(str(root), 8, num_val=0, in_memory=in_memory).setup(stage)
    assert len(read) == (14 if in_memory else 0)  # what is not held is looked at once


@pytest.mark.parametrize(
    ("kind", "content", "num_workers"),
    [(kind, content, 0) for kind in ("folder", "zip") for content in (b"no image", "truncated", b"")]
    + [("zip", b"no image", 1)],
)
def test_a_broken_image_is_named(tmp_path, kind, content, num_workers):
    files = members()
    files["train/dog/0003.png"] = png(files["train/dog/0003.png"])[:-60] if content == "truncated" else content
    data = ImageFolderDataModule(str(write(tmp_path, kind, files)), 8, num_val=0, num_workers=num_workers)
    with pytest.raises(ValueError, match=r"train/dog/0003.png cannot be decoded as an image .* repair or remove it"):
        data.setup()


def test_a_damaged_zip_member_is_named(tmp_path):
    root = write_zip(tmp_path / "pets.zip", members())
    with zipfile.ZipFile(root) as archive:
        start = archive.getinfo("train/cat/0002.png").header_offset + 30 + len("train/cat/0002.png")
    content = bytearray(root.read_bytes())
    content[start + 50] ^= 255
    root.write_bytes(content)
    with pytest.raises(ValueError, match=r"pets.zip/train/cat/0002.png cannot .*damaged in its archive: Bad CRC"):
        ImageFolderDataModule(str(root), 8, num_val=0).setup()


def test_what_is_no_folder_of_class_folders_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent does not exist: expected a folder of class folders, or a zip"):
        ImageFolderDataModule(str(tmp_path / "absent"), 8)
    (tmp_path / "file.zip").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"file.zip is a file but no zip"):
        ImageFolderDataModule(str(tmp_path / "file.zip"), 8)
    root = write_tree(tmp_path / "flat", {"train/0.png": np.zeros((4, 4, 3), np.uint8)})
    (root / "train/empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no class folders with images under 'train'"):
        ImageFolderDataModule(str(root), 8)


@both
def test_a_missing_split_and_an_unknown_class_are_refused(tmp_path, kind):
    root = write(tmp_path, kind, {**members(), "odd/bird/0.png": np.zeros((4, 4, 3), np.uint8)})
    with pytest.raises(FileNotFoundError, match="has no images under 'valid'; set val: null if there are none"):
        ImageFolderDataModule(str(root), 8, val="valid").setup()
    with pytest.raises(ValueError, match=r"odd has classes that the training images lack: \['bird'\]"):
        ImageFolderDataModule(str(root), 8, test="odd").setup()


@both
def test_tiny_imagenet_as_it_is_distributed(tmp_path, kind):
    files = members(splits=(("train", 1),), classes=("n1/images", "n2/images"), size=64)
    for number in range(3):
        files[f"val/images/v{number}.png"] = np.full((64, 64, 3), number, np.uint8)
    files["val/val_annotations.txt"] = b"v0.png\tn2\t0\t0\nv1.png\tn1\t0\t0\nv2.png\tn2\t0\t0\n"
    files["train/n1/n1_boxes.txt"] = b"0.png\t0\t0\n"
    data = ready(TinyImageNetDataModule(str(write(tmp_path, kind, files)), num_val=0))
    assert (data.name, data.image_size, data.class_names) == ("tiny-imagenet", 64, ["n1", "n2"])
    assert data.test_set.labels.tolist() == [1, 0, 1]
    assert data.test_set.images[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_cinic_has_validation_images_of_its_own_and_imagenet_tests_on_its_own(tmp_path):
    cinic = write_tree(tmp_path / "cinic", members(splits=(("train", 4), ("valid", 3), ("test", 2)), size=32))
    data = ready(CINIC10DataModule(str(cinic), num_samples=5))
    assert (data.name, len(data.train_set), len(data.val_set), len(data.test_set)) == ("cinic10", 5, 6, 4)
    imagenet = write_tree(tmp_path / "imagenet", members(splits=(("train", 10), ("val", 3))))
    data = ready(ImageNetDataModule(str(imagenet), image_size=16, in_memory=False, unlabelled=True))
    assert (data.name, len(data.train_set), len(data.val_set), len(data.test_set)) == ("imagenet", 18, 2, 6)
    assert joined(data.train_set).label is None
    assert joined(data.test_set).label.tolist() == [0, 0, 0, 1, 1, 1]
    assert ImageNetDataModule(str(imagenet)).image_size == 224


# the real files


@pytest.mark.shared
def test_the_real_mnist_from_a_read_only_folder(shared, tmp_path):
    shutil.copytree(shared / "MNIST", tmp_path / "MNIST")
    raw = tmp_path / "MNIST/raw"
    raw.chmod(0o555)
    try:
        data = ready(MNISTDataModule(str(tmp_path), num_samples=100))
        assert {file.suffix for file in raw.iterdir()} == {".gz"}
    finally:
        raw.chmod(0o755)
    source = data.load()[0]
    assert source.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert source.images.float().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert torch.equal(data.train_set.images, source.images[data.train_set.index])


@pytest.mark.shared
def test_the_real_cifar10_decodes_the_drawn_images_only(shared, monkeypatch):
    read = []
    original = folders._Files.read
    monkeypatch.setattr(folders._Files, "read", lambda self, name: (read.append(name), original(self, name))[1])
    data = ready(ImageFolderDataModule(str(shared / "cifar10-jpeg.zip"), 32, num_samples=20, num_val=5))
    assert (data.name, data.source_length, len(data.val_set), len(read)) == ("cifar10-jpeg", 50_000, 5, 25)
    assert data.train_set.images.shape == (20, 3, 32, 32)
    assert data.train_set.labels.tolist() == (data.train_set.index // 5000).tolist()


def test_class_folders_at_the_top_are_read_from_folder_and_zip(tmp_path):
    root = write_digits(tmp_path / "mine", 4, classes=3)
    shutil.make_archive(str(tmp_path / "packed"), "zip", root)
    shutil.make_archive(str(tmp_path / "around"), "zip", tmp_path, "mine")
    options = {"image_size": 8, "train": ".", "test": None, "num_test": 0.25, "num_val": 2}
    sets = []
    for place in ("mine", "packed.zip", "around.zip"):
        data = ImageFolderDataModule(str(tmp_path / place), **options)
        data.setup()
        assert data.class_names == ["one", "two", "zero"]
        sets.append([data.train_set, data.val_set, data.test_set])
        assert [len(part) for part in sets[-1]] == [7, 2, 3]
    for part in range(3):
        assert len({tuple(each[part].labels.tolist()) for each in sets}) == 1
        assert len({each[part].images.sum().item() for each in sets}) == 1


def test_test_images_come_from_one_place(tmp_path):
    write_digits(tmp_path / "mine", 2, classes=3)
    with pytest.raises(ValueError, match="num_test=3 takes test images from the training images: set test: null"):
        ImageFolderDataModule(str(tmp_path / "mine"), 8, ".", num_test=3)
    data = ImageFolderDataModule(str(tmp_path / "mine"), 8, ".", None, None, num_test=6)
    with pytest.raises(ValueError, match="num_test=6 of 6 training images leaves none to train on"):
        data.setup()
