import io
import json
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers import ToyDataModule
from pictures import pack
from PIL import Image

from kdlightning.data import NoImagesDataModule, WebDataModule
from kdlightning.data.web import decode, difference_hash, list_pool


def picture(color=(200, 30, 30), size=(20, 12), mode="RGB", form="PNG", **options):
    stream = io.BytesIO()
    base = Image.new("RGB", size, color)
    base.paste((0, 0, 255), (0, 0, size[0] // 2, size[1] // 2))  # a corner, so that pictures are not constant
    base.convert(mode).save(stream, form, **options)
    return stream.getvalue()


def animated(form="GIF"):
    stream = io.BytesIO()
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "green", "blue")]
    frames[0].save(stream, form, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def sixteen():
    stream = io.BytesIO()
    Image.new("I;16", (9, 9), 40_000).save(stream, "PNG")
    return stream.getvalue()


BAD = {
    "page.html": (b"<html>404</html>", "not an image"),
    "empty.jpg": (b"", "not an image"),
    "cut.jpg": (picture(size=(300, 300), form="JPEG")[:900], "broken"),
    "cut.png": (picture(size=(300, 300))[:200], "broken"),
    "moving.gif": (animated(), "animated"),
    "scan.tif": (animated("TIFF"), "several pages"),
    "script.jpg": (picture(form="EPS"), "not an image"),
    "large.png": (picture(size=(400, 400)), "huge"),
}
GOOD = {
    "a.png": picture(),
    "b.jpg": picture((10, 200, 10), (64, 64), form="JPEG", quality=95),
    "deep/er/c.webp": picture((10, 10, 200), (30, 90), form="WEBP", lossless=True),
    "grey.png": picture((90, 90, 90), mode="L"),
    "bits.png": picture((255, 255, 255), mode="1"),
    "palette.gif": picture((250, 250, 0), mode="P", form="GIF"),
    "print.jpg": picture(mode="CMYK", form="JPEG"),
    "deep.png": sixteen(),
    "new.avif": picture((90, 90, 10), form="AVIF"),
    "without suffix": picture((90, 190, 10)),
}
BESIDE = {
    "a.txt": b"a caption", "a.json": b"{}", "a.caption": b"too", "a.npy": b"features", "a.xml": b"<box/>",
    ".git/config": b"x", "__MACOSX/._a.png": b"x", "deep/Thumbs.db": b"x", "._a.png": b"x",
    ".ipynb_checkpoints/a-checkpoint.png": picture(),
}  # fmt: skip


def task(**options):
    return NoImagesDataModule("toy", num_classes=3, image_size=8, channels=3, **options)


def folder(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


def pool(root, tmp_path, **options):
    return WebDataModule(options.pop("source", None) or task(), root, cache=str(tmp_path / "cache"), **options)


def test_what_cannot_be_used_is_skipped_counted_and_listed(tmp_path):
    bad = {name: content for name, (content, _) in BAD.items()}
    data = pool(folder(tmp_path / "web", {**GOOD, **bad}), tmp_path, max_unusable=0.6, max_pixels=100_000)
    data.setup()
    assert len(data.train_set) == len(GOOD)
    found = {Path(one.name).name: one.reason for one in data.unusable}
    assert found == {name: reason for name, (_, reason) in BAD.items()}
    reasons = Counter(one.reason for one in data.unusable)
    assert reasons == {"not an image": 3, "broken": 2, "animated": 1, "several pages": 1, "huge": 1}
    (listed,) = (tmp_path / "cache").glob("*/unusable.json")
    assert len(json.loads(listed.read_text())) == len(BAD)


def test_too_many_unusable_files_are_an_error_that_names_them(tmp_path):
    bad = {name: content for name, (content, _) in BAD.items()}
    data = pool(folder(tmp_path / "web", {**GOOD, **bad}), tmp_path, max_unusable=0.2, max_pixels=100_000)
    with pytest.raises(ValueError, match=r"8 of 18 files cannot be used, and max_unusable is 0\.2: .*cut\.jpg"):
        data.setup()


def test_pixels_are_cropped_to_the_middle_and_keep_their_colour():
    red = decode(picture((200, 30, 30), (40, 20)), 8, 3)
    assert red.shape == (3, 8, 8)
    assert red[:, -1, -1].tolist() == [200, 30, 30]
    grey = decode(picture((200, 30, 30), (40, 20)), 8, 1)
    assert abs(int(grey[0, -1, -1]) - (0.299 * 200 + 0.587 * 30 + 0.114 * 30)) < 1.5


def test_the_second_start_decodes_nothing(tmp_path, monkeypatch):
    root = folder(tmp_path / "web", GOOD)
    first = pool(root, tmp_path)
    first.setup()
    monkeypatch.setattr("kdlightning.data.web.decode", lambda *_: pytest.fail("decoded again"))
    second = pool(root, tmp_path)
    second.setup()
    assert torch.equal(first.train_set.images, second.train_set.images)
    assert first.identity() == second.identity()
    (array,) = (tmp_path / "cache").glob("*/images.npy")
    for left in (0, 300):
        array.write_bytes(array.read_bytes()[:left])
        with pytest.raises(pytest.fail.Exception, match="decoded again"):  # what is cut off is made anew
            pool(root, tmp_path).setup()
    (tmp_path / "web/new.png").write_bytes(picture((1, 2, 3)))
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        pool(root, tmp_path).setup()


def packed(kind, files, root):
    """The files as a pool of another kind."""
    if kind == "list":
        root.with_suffix(".txt").write_text("".join(f"{root.name}/{name}\n" for name in files), encoding="utf-8-sig")
        return root.with_suffix(".txt")
    return pack(Path(f"{root}.{kind}"), files)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "list"])
def test_what_lies_beside_images_is_no_file_of_any_pool(tmp_path, kind, caplog):
    caplog.set_level("INFO", "kdlightning")
    plain = pool(folder(tmp_path / "web", {**GOOD, **BESIDE}), tmp_path, max_unusable=0)
    plain.setup()
    assert (len(plain.train_set), plain.files) == (len(GOOD), len(GOOD))
    assert caplog.text.count("passed over, no images: 1 .caption, 1 .json, 1 .npy, 1 .txt, 1 .xml") == 1
    files = dict(sorted({**GOOD, **BESIDE}.items(), key=lambda each: each[0]))
    other = pool(str(packed(kind, files, tmp_path / "web")), tmp_path, max_unusable=0)
    other.setup()
    assert torch.equal(other.train_set.images, plain.train_set.images)


@pytest.mark.parametrize("kind", ["zip", "tar", "list", "folder of shards"])
def test_every_kind_of_pool_gives_the_same_images(tmp_path, kind):
    plain = pool(folder(tmp_path / "web", GOOD), tmp_path)
    plain.setup()
    names = sorted(GOOD)
    if kind == "list":
        root = tmp_path / "list.txt"
        root.write_text("".join(f"web/{name}\n" for name in sorted(GOOD, key=lambda name: tmp_path / "web" / name)))
    elif kind == "zip":
        root = tmp_path / "web.zip"
        with zipfile.ZipFile(root, "w") as archive:
            for name in names:
                archive.writestr(name, GOOD[name])
    else:
        root = tmp_path / ("shards" if kind == "folder of shards" else "web.tar")
        shards = [root] if kind == "tar" else [root / "0.tar", root / "1.tar"]
        for number, shard in enumerate(shards):
            shard.parent.mkdir(exist_ok=True)
            with tarfile.open(shard, "w") as archive:
                for name in names[number * 3 :] if len(shards) == 1 or number else names[:3]:
                    for member, content in ((name, GOOD[name]), (f"{name}.json", b"{}")):
                        info = tarfile.TarInfo(member)
                        info.size = len(content)
                        archive.addfile(info, io.BytesIO(content))
    data = pool(str(root), tmp_path, num_workers=2 if kind == "zip" else 0)
    data.setup()
    ordered = [image.flatten().tolist() for image in data.train_set.images]
    assert sorted(ordered) == sorted(image.flatten().tolist() for image in plain.train_set.images)
    assert not data.unusable


def test_copies_are_dropped_when_asked(tmp_path):
    # a ramp: every difference is far from zero, so that rescaling turns none
    ramp = Image.fromarray((255 - torch.arange(64, dtype=torch.uint8) * 3).repeat(64, 1).numpy())
    files = {"a.png": io.BytesIO(), "copy.png": io.BytesIO(), "small.jpg": io.BytesIO()}
    for name, stream in files.items():
        ramp.resize((32, 32) if name == "small.jpg" else (64, 64)).save(stream, "JPEG" if "jpg" in name else "PNG")
    files = {name: stream.getvalue() for name, stream in files.items()}
    turned = io.BytesIO()
    Image.open(io.BytesIO(files["a.png"])).rotate(180).save(turned, "PNG")
    files["other.png"] = turned.getvalue()
    data = pool(folder(tmp_path / "web", files), tmp_path, unique=True, max_unusable=1.0)
    data.setup()
    assert [Path(one.name).name for one in data.unusable] == ["copy.png", "small.jpg"]
    assert Counter(one.reason for one in data.unusable) == {"duplicate": 2}
    assert difference_hash(torch.zeros(3, 8, 8, dtype=torch.uint8)) == 0
    ramp = torch.arange(9, dtype=torch.uint8).expand(1, 8, 9)
    assert difference_hash(ramp) == 2**64 - 1


def test_a_fraction_of_a_fraction(tmp_path):
    root = folder(tmp_path / "web", {f"{k}.png": picture((k, 2 * k, 255 - k)) for k in range(20)})
    rows = {}
    for fraction in (0.1, 0.5, 1.0):
        data = pool(root, tmp_path, fraction=fraction)
        data.setup()
        rows[fraction] = {tuple(image.flatten().tolist()) for image in data.train_set.images}
    assert [len(rows[fraction]) for fraction in (0.1, 0.5, 1.0)] == [2, 10, 20]
    assert rows[0.1] < rows[0.5] < rows[1.0]
    with pytest.raises(ValueError, match="above 0 and up to 1, got 0"):
        pool(root, tmp_path, fraction=0)


def test_validation_and_test_images_are_the_sources(tmp_path):
    source = ToyDataModule()
    data = pool(folder(tmp_path / "web", GOOD), tmp_path, source=source)
    data.setup()
    assert data.train_set.images.shape == (len(GOOD), 1, 8, 8)
    assert data.train_set.labels is None
    assert torch.equal(data.test_set.images, source.test_set.images)
    assert next(iter(data.train_dataloader())).label is None


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder, a zip, a tar, or a list"):
        pool(str(tmp_path / "nowhere"), tmp_path)
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match="has no files"):
        pool(str(tmp_path / "bare"), tmp_path).setup()
    (tmp_path / "list.txt").write_text("absent.png\n")
    with pytest.raises(FileNotFoundError, match=r"lists 1 files that do not exist, first .*absent\.png"):
        pool(str(tmp_path / "list.txt"), tmp_path).setup()


def test_a_part_of_a_pool_that_stands_in_for_a_task_is_kept_to_test_on(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(picture((10 * number, 30, 30)))
    task = NoImagesDataModule("task", 3, 8, channels=3, held_out=0.2)
    pool = WebDataModule(task, str(tmp_path), cache=str(tmp_path.parent / "cache"))
    pool.setup()
    trained, tested = (set(part.index.tolist()) for part in (pool.train_set, pool.test_set))
    assert (len(trained), len(tested), trained & tested) == (16, 4, set())
    assert pool.test_set.labels is None
    assert torch.equal(pool.train_set.images, pool.collect()[pool.train_set.index])


def test_a_pool_is_the_same_wherever_it_lies_and_whenever_it_was_written(tmp_path):
    first = pool(folder(tmp_path / "web", GOOD), tmp_path).identity()
    moved = folder(tmp_path / "elsewhere/web", GOOD)
    assert pool(moved, tmp_path).identity() == first
    Path(moved, "a.png").write_bytes(picture((1, 2, 3)))
    assert pool(moved, tmp_path).identity() != first
    grey = NoImagesDataModule("toy", num_classes=3, image_size=8, channels=1)
    assert pool(str(tmp_path / "web"), tmp_path, source=grey).identity()["channels"] == 1 != first["channels"]


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_a_table_is_no_list(tmp_path, name):
    (tmp_path / name).write_text("image\na.png\n")
    with pytest.raises(FileNotFoundError, match=r"a list of images is a \.txt file with a path in every line"):
        list_pool(tmp_path / name)
