import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from kdlightning.data import ImageTensorDataset, MNISTMDataModule, RenderedDigitsDataModule, SynDigitsDataModule
from kdlightning.data.rendered import DIGITS, _atlas, digit_fonts, draw_glyph, render_glyphs


def rendered(number=120, **options):
    data = RenderedDigitsDataModule(number, **{"num_test": 20, "num_val": 0, **options})
    data.setup()
    return data


@pytest.fixture(scope="module")
def colour():
    return rendered(500)


# rendered digits


def test_rendered_digits_are_a_balanced_data_set_with_indices(colour):
    train, test = colour.train_set, colour.test_set
    assert isinstance(train, ImageTensorDataset)
    assert (train.images.shape, train.images.dtype) == ((500, 3, 32, 32), torch.uint8)
    assert test.images.shape == (20, 3, 32, 32)
    assert torch.equal(train.index, torch.arange(500))
    assert torch.equal(train.labels, train.index % 10)
    assert torch.equal(train.labels.bincount(), torch.full((10,), 50))
    assert torch.equal(test.labels.bincount(), torch.full((10,), 2))


def test_the_same_seed_renders_the_same_images_and_another_others(colour):
    again, other = rendered(100).train_set.images, rendered(100, render_seed=1).train_set.images
    assert torch.equal(again, colour.train_set.images[:100])
    assert (other != again).flatten(1).any(1).all()


@pytest.mark.parametrize("number", [1, 99, 100, 130])
def test_an_image_does_not_depend_on_how_many_there_are(colour, number):
    assert torch.equal(rendered(number).train_set.images, colour.train_set.images[:number])


def test_the_seed_of_the_split_leaves_images_alone_and_test_images_are_not_training_images(colour):
    other = rendered(100, seed=5, num_samples=50)
    assert torch.equal(other.train_set.images, colour.train_set.images[other.train_set.index])
    assert torch.equal(other.test_set.images, colour.test_set.images)
    assert (colour.test_set.images != colour.train_set.images[:20]).flatten(1).any(1).all()


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 40)])
def test_any_size_and_grey(channels, size):
    assert rendered(20, channels=channels, image_size=size).train_set.images.shape == (20, channels, size, size)


def test_grey_is_the_luma_of_the_colour_image(colour):
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    luma = (colour.train_set.images[:100] * weights).sum(1, keepdim=True)
    inner = ((colour.train_set.images[:100] > 0) & (colour.train_set.images[:100] < 255)).all(1, keepdim=True)
    grey = rendered(100, channels=1).train_set.images
    assert inner.float().mean() > 0.7
    assert (grey - luma)[inner].abs().max() <= 1.01  # rounding; clipped pixels differ by more


def test_pixels_use_their_range_and_colours_vary(colour):
    pixels = colour.train_set.images.float()
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert 100 < pixels.mean() < 150
    assert pixels.mean((2, 3)).std(0).min() > 40  # between images, in each channel
    assert pixels.flatten(1).std(1).min() > 8  # within every image: none is empty


def test_images_show_what_their_labels_say():
    """The nearest other image, light on dark or dark on light, mostly has the same label: 10 % by chance."""
    images = rendered(500, channels=1).train_set.images[:, 0, 6:26, 6:26].float().flatten(1)
    images = torch.nn.functional.normalize(images - images.mean(1, keepdim=True), dim=1)
    nearest = (images @ images.T).abs().fill_diagonal_(0).argmax(1)
    assert (nearest % 10 == torch.arange(500) % 10).float().mean() > 0.5


def test_different_draws_of_one_digit_differ():
    images = render_glyphs(np.random.default_rng(0), torch.full((50,), 7), 32, 3).float()
    assert torch.cdist(images.flatten(1), images.flatten(1)).fill_diagonal_(1e9).min() > 255


def test_every_font_draws_ten_distinct_digits():
    assert len(digit_fonts()) >= 15
    atlas, widths = _atlas(32, DIGITS)
    for font, row in zip(digit_fonts(), atlas.flatten(2), strict=True):
        distances = torch.cdist(row, row) / row.norm(dim=1)
        assert distances.fill_diagonal_(9).min() > 0.3, font
    assert ((widths > 0.1) & (widths <= 1)).all()
    lit = atlas.amax(3) > 0  # rows of a square: equally high, centred
    assert torch.equal(lit.sum(2), torch.full_like(lit.sum(2), 24))
    assert lit[:, :, 4:28].all()


def test_fonts_of_symbols_are_left_out():
    names = {font.name for font in digit_fonts()}
    assert {"DejaVuSans.ttf", "DejaVuSerif-Italic.ttf", "STIXGeneral.ttf", "cmr10.ttf"} <= names
    assert not {name for name in names if name.startswith(("STIXSiz", "STIXNonUni", "LastResort"))}
    assert not names & {"cmex10.ttf", "cmsy10.ttf", "DejaVuSansDisplay.ttf"}


def test_a_glyph_is_drawn_without_margins():
    glyph = np.asarray(draw_glyph(digit_fonts()[0], "8", 40))
    assert min(glyph[0].max(), glyph[-1].max(), glyph[:, 0].max(), glyph[:, -1].max()) > 0


def test_identity_names_what_the_images_are_made_from():
    first, other = rendered(30).identity(), rendered(30, render_seed=4).identity()
    assert (first["name"], other["name"]) == ("rendered-digits", "rendered-digits-4")
    assert (first["length"], first["channels"], first["fonts"]) == (30, 3, len(digit_fonts()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "number: expected at least 1, got 0"),
        ({"num_test": 0}, "num_test: expected at least 1, got 0"),
        ({"image_size": 4}, "image_size: expected at least 8, got 4"),
        ({"render_seed": -1}, "render_seed: expected at least 0, got -1"),
        ({"channels": 2}, r"channels: expected 1 \(grey\) or 3 \(colour\), got 2"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RenderedDigitsDataModule(**options)


# Syn. Digits


def write_syn(root, number=20, compressed=False):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, number)).astype(np.uint8)
    for part, labels in (("train", np.arange(number) % 10), ("test", np.arange(number) % 10 + 1)):
        content = {"X": pixels, "y": labels[:, None].astype(np.uint8)}
        savemat(root / f"synth_{part}_32x32.mat", content, do_compression=compressed)
    return torch.from_numpy(pixels).permute(3, 2, 0, 1)


@pytest.mark.parametrize("compressed", [True, False])
def test_syn_digits_in_matlab_files(tmp_path, compressed):
    pixels = write_syn(tmp_path, compressed=compressed)
    data = SynDigitsDataModule(str(tmp_path), num_val=5)
    data.setup()
    assert torch.equal(data.train_set.images, pixels[data.train_set.index])
    assert torch.equal(data.train_set.labels, data.train_set.index % 10)
    assert data.train_set.images.is_contiguous()
    assert torch.equal(data.test_set.images, pixels)
    assert (data.name, data.identity()["length"], len(data.val_set)) == ("syn-digits", 20, 5)


def test_a_label_of_ten_means_zero(tmp_path):
    write_syn(tmp_path)
    data = SynDigitsDataModule(str(tmp_path))
    data.setup()
    assert data.test_set.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2


def test_absent_matlab_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks synth_train_32x32.mat and synth_test_32x32.mat: unpack"):
        SynDigitsDataModule(str(tmp_path)).setup()
    write_syn(tmp_path)
    (tmp_path / "synth_test_32x32.mat").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"lacks synth_test_32x32.mat: unpack SynthDigits.zip there"):
        SynDigitsDataModule(str(tmp_path)).setup()


def mat(**content):
    file = io.BytesIO()
    savemat(file, content)
    return file.getvalue()


GOOD = {"X": np.zeros((32, 32, 3, 9), np.uint8), "y": np.zeros((9, 1))}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>no such file</html>" * 20, "Unknown mat file type"),
        (mat(**GOOD)[:3000], "could not read bytes"),
        (mat(**GOOD)[:124] + b"\x00\x02IM" + mat(**GOOD)[128:], "HDF"),
        (mat(y=GOOD["y"]), "'X'"),
        (mat(X=GOOD["X"], y=np.zeros((8, 1))), "9 images, 9 indices and 8 labels"),
        (mat(X=GOOD["X"] / 255, y=GOOD["y"]), "expected uint8 images"),
    ],
)
def test_a_damaged_matlab_file_is_refused(tmp_path, content, reason):
    write_syn(tmp_path)
    (tmp_path / "synth_test_32x32.mat").write_bytes(content)
    with pytest.raises(ValueError, match=rf"syn-digits: .*cannot be read \(.*{reason}.*fetch them again"):
        SynDigitsDataModule(str(tmp_path)).setup()


@pytest.mark.parametrize("module", [SynDigitsDataModule, MNISTMDataModule])
def test_what_has_no_address_is_not_downloaded(tmp_path, module):
    with pytest.raises(ValueError, match=f"{module.name} cannot be downloaded: put its files into .* download: false"):
        module(str(tmp_path), download=True).prepare_data()
    module(str(tmp_path)).prepare_data()
    with pytest.raises(FileNotFoundError):
        module(str(tmp_path)).setup()


# MNIST-M


def write_mnist_m(root, number=12, size=32):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (number, 3, size, size)).astype(np.uint8))
    for part in ("train", "test"):
        folder = root / f"mnist_m/mnist_m_{part}"
        folder.mkdir(parents=True)
        for position, image in enumerate(pixels):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{position:08d}.png")
        lines = [f"{position:08d}.png {position % 10}" for position in reversed(range(number))]
        (root / f"mnist_m/mnist_m_{part}_labels.txt").write_text("\n".join(lines) + "\n")
    return pixels.flip(0)  # in the lists' order


def test_mnist_m_in_images_and_lists(tmp_path):
    pixels = write_mnist_m(tmp_path)
    data = MNISTMDataModule(str(tmp_path), num_val=2, num_samples=7)
    data.setup()
    assert torch.equal(data.train_set.images, pixels[data.train_set.index])
    assert torch.equal(data.train_set.labels, (11 - data.train_set.index) % 10)
    assert torch.equal(data.test_set.images, pixels)
    assert data.test_set.labels.tolist() == [1, 0, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert (data.name, data.identity()["length"], len(data.val_set)) == ("mnist-m", 12, 2)


def test_mnist_m_takes_another_size(tmp_path):
    write_mnist_m(tmp_path)
    data = MNISTMDataModule(str(tmp_path), image_size=28)
    assert data.test_dataloader().dataset.images.shape == (12, 3, 28, 28)


@pytest.mark.parametrize("absent", ["mnist_m_train_labels.txt", "mnist_m_test_labels.txt", "mnist_m_test"])
def test_absent_parts_of_mnist_m_are_named(tmp_path, absent):
    write_mnist_m(tmp_path)
    (tmp_path / "mnist_m" / absent).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"mnist-m lacks '.*mnist_m/{absent}': unpack mnist_m into"):
        MNISTMDataModule(str(tmp_path)).setup()


@pytest.mark.parametrize(
    ("text", "got"), [("a.png 3\nb.png\n", r"\['b.png'\]"), ("a.png 10", "'10'"), ("\n", "an empty file")]
)
def test_a_list_of_another_format_is_refused(tmp_path, text, got):
    write_mnist_m(tmp_path)
    (tmp_path / "mnist_m/mnist_m_train_labels.txt").write_text(text)
    with pytest.raises(ValueError, match=f"train_labels.txt: expected lines of a file name and a digit, got .*{got}"):
        MNISTMDataModule(str(tmp_path)).setup()
