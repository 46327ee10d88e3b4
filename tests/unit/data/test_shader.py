import pytest
import torch
from helpers import ToyDataModule

from kdlightning.data import ShaderDataModule
from kdlightning.data.augmentation import ShaderAugmentation
from kdlightning.data.shader import simple


def pool(tmp_path, size=40, **options):
    data = ShaderDataModule(ToyDataModule(image_size=16), size=size, per_program=4, cache=str(tmp_path), **options)
    data.prepare_data()
    data.setup()
    return data


def test_a_pool_is_what_its_seed_says_and_comes_from_the_cache_the_second_time(tmp_path):
    first = pool(tmp_path)
    (file,) = tmp_path.glob("*.npy")
    written = file.stat().st_mtime_ns
    again, elsewhere = pool(tmp_path), pool(tmp_path / "other")
    assert file.stat().st_mtime_ns == written
    assert torch.equal(first.train_set.images, again.train_set.images)
    assert torch.equal(first.train_set.images, elsewhere.train_set.images)
    assert first.train_set.images.shape == (40, 1, 16, 16)
    assert not torch.equal(first.train_set.images, pool(tmp_path, render_seed=1).train_set.images)
    assert first.identity()["shaders"] != pool(tmp_path, size=41).identity()["shaders"]
    assert (first.num_classes, len(first.test_set)) == (3, 30)


def test_images_are_varied_and_none_is_simple(tmp_path):
    data = pool(tmp_path, size=80)
    images = data.train_set.images
    assert not simple(images).any()
    assert 0 <= data.dropped < 0.5
    distance = torch.cdist(images.flatten(1).float(), images.flatten(1).float()).fill_diagonal_(1e9)
    assert distance.min() > 0


def test_what_is_simple():
    images = torch.zeros(4, 1, 10, 10, dtype=torch.uint8)
    images[1, :, :5] = 255  # two colours
    images[2] = torch.arange(0, 200, 2).view(1, 10, 10)
    images[3, :, 0] = torch.arange(0, 250, 25)  # nine tenths are black
    assert simple(images).tolist() == [True, True, False, True]
    assert simple(images, flat=0.95).tolist() == [True, True, False, False]
    assert simple(images, colours=2).tolist() == [True, False, False, True]


def test_a_grammar_that_gives_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="programs gave 0 images of 1: lower colours, or raise flat"):
        ShaderDataModule(
            ToyDataModule(image_size=16), size=1, per_program=1, cache=str(tmp_path), colours=17
        ).prepare_data()


WAVES = "gl_FragColor = vec4(vec3(.5 + .5 * sin(9. * FC.x / r.x + t)), 1);"


def test_a_pool_of_ones_own_programs_leaves_out_what_gives_no_images(opengl, tmp_path):
    folder = tmp_path / "programs"
    folder.mkdir()
    texts = {
        "waves.geekest": WAVES,
        "turned.geekest": WAVES.replace(".x", ".y"),
        "a.geekest": "oops();",
        "b.geekest": "",
    }
    for name, text in texts.items():
        (folder / f"{name}.frag").write_text(text)
    own = {"renderer": "opengl", "programs": str(folder)}
    with pytest.warns(UserWarning, match="is left out") as warnings:
        data = pool(tmp_path, size=12, **own)
    told = [str(each.message) for each in warnings if "left out" in str(each.message)]
    assert ["oops" in told[0], "a.geekest.frag" in told[0], told[1].endswith("its images are simple")] == [True] * 3
    assert len(told) == 2
    images = data.train_set.images.int()
    across, up = (images.diff(dim=side).abs().amax((1, 2, 3)) > 0 for side in (3, 2))
    assert (across.tolist(), up.tolist()) == (
        [False] * 4 + [True] * 4 + [False] * 4,
        [True] * 4 + [False] * 4 + [True] * 4,
    )
    assert data.dropped == 0
    known = data.identity()["shaders"]
    (folder / "a.geekest.frag").unlink()
    assert data.identity()["shaders"] != known
    (folder / "waves.geekest.frag").write_text("")
    (folder / "turned.geekest.frag").unlink()
    with (
        pytest.warns(UserWarning, match="simple"),
        pytest.raises(RuntimeError, match=r"nothing in .*programs can be used"),
    ):
        pool(tmp_path, **own)


def test_a_folder_without_programs_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"programs: expected a folder with \*.frag or \*.glsl files, got .*nowhere"):
        pool(tmp_path, renderer="opengl", programs=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 0}, "size: expected at least 1, got 0"),
        ({"flat": 0}, "share above 0 .* got 0"),
        ({"programs": "folder"}, "programs: expected renderer: opengl, which reads GLSL, got torch"),
    ],
)
def test_bad_arguments(options, text):
    with pytest.raises(ValueError, match=text):
        ShaderDataModule(ToyDataModule(), **options)


@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_regimes(channels):
    images = torch.rand(6, channels, 32, 32)
    torch.manual_seed(0)
    assert torch.equal(ShaderAugmentation(32, "none")(images), images)
    strong = [ShaderAugmentation(32)(images) for _ in range(4)]
    assert all(one.shape == images.shape for one in strong)
    assert max((one - images).abs().mean().item() for one in strong) > 0.05
    weak = ShaderAugmentation(32, "minimal")(images)
    inner = weak[:, :, 4:-4, 4:-4]
    crops = [  # a shifted or flipped copy
        (flipped[:, :, 4 + dy : 28 + dy, 4 + dx : 28 + dx] - inner).abs().max().item()
        for flipped in (images, images.flip(3)) for dy in range(-2, 3) for dx in range(-2, 3)
    ]  # fmt: skip
    assert min(crops) == 0.0
    with pytest.raises(ValueError, match="at least 8 pixels, got 4"):
        ShaderAugmentation(4)
