"""Folders and zips as users have them: what is an image, which class it has, and what the data are."""

import io
import logging
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from kdlightning.data import ImageFolderDataModule, ImageNetDataModule, TinyImageNetDataModule


def picture(shade=0, form="PNG", size=(8, 8), mode="L"):
    stream = io.BytesIO()
    Image.new(mode, size, shade).save(stream, form)
    return stream.getvalue()


def tree(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else picture(content))
    return root


def packed(root):
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(root))
    return path


def ready(root, **options):
    data = ImageFolderDataModule(str(root), 8, **{"train": ".", "test": None, "num_val": 0, **options})
    data.setup()
    return data


def both(test):
    return pytest.mark.parametrize("kind", ["folder", "zip"])(test)


@both
def test_what_nobody_put_there_is_no_content(tmp_path, kind, caplog):
    left = (
        ".ipynb_checkpoints/0-checkpoint.png", "cat/._0.png", "cat/.DS_Store", "__MACOSX/cat/._0.png", "cat/Thumbs.db",
        "dog/desktop.ini", "@eaDir/0.png", "dog/.ipynb_checkpoints/0-checkpoint.png",
    )  # fmt: skip
    root = tree(tmp_path / "pets", {"cat/0.png": 1, "dog/0.png": 2, **dict.fromkeys(left, b"x")})
    data = ready(packed(root) if kind == "zip" else root)
    assert data.class_names == ["cat", "dog"]
    assert data.train_set.images[:, 0, 0, 0].tolist() == [1, 2]
    assert not caplog.records


@both
def test_what_pillow_reads_is_an_image_and_the_rest_is_counted_and_said_once(tmp_path, kind, caplog):
    forms = {
        "avif": "AVIF",
        "jfif": "JPEG",
        "pgm": "PPM",
        "webp": "WEBP",
        "gif": "GIF",
        "JP2": "JPEG2000",
        "tga": "TGA",
    }
    files = {f"cat/{k}.{suffix}": picture(9, form) for k, (suffix, form) in enumerate(forms.items())}
    files |= {"cat/without": picture(9), "cat/odd.download": picture(9, "JPEG")}
    rest = {"cat/7.heic": b"\0\0\0\x18ftypheic", "cat/8.heic": b"x", "cat/README": b"x", "dog/0.heic": b"x"}
    beside = {"cat/0.txt": b"a cat", "cat/0.json": b"{}", "cat/sheet.xml": b"<x/>", "contact.png": picture(3)}
    root = tree(tmp_path / "pets", files | rest | beside)
    data = ready(packed(root) if kind == "zip" else root)
    assert len(data.train_set) == 9
    assert (data.train_set.images.int() - 9).abs().max() <= 2
    said = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert said == [
        "passed over, no images: 3 .heic, 1 without suffix, 1 .json, 1 .txt, 1 .xml",
        "passed over, in no class folder: 1 images",
        "folders without an image are no classes: dog",
    ]


def test_captions_beside_images_are_nothing_to_act_on(tmp_path, caplog):
    ready(tree(tmp_path / "pets", {"cat/0.png": 1, "cat/0.txt": b"a cat"}))
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


NUMBERED = {f"class{k}/{i}.png": k for k in (1, 2, 10) for i in range(2)}


def test_classes_are_sorted_as_text_with_a_warning_or_as_the_user_lists_them(tmp_path, caplog):
    root = tree(tmp_path / "many", NUMBERED)
    plain = ready(root)
    assert plain.class_names == ["class1", "class10", "class2"]
    assert "classes are sorted as text, as by torchvision: class1, class10, class2, ...; if the teacher" in caplog.text
    caplog.clear()
    (tmp_path / "names.txt").write_text("class1\nclass2\nclass10\nclass11\n", encoding="utf-8-sig")
    for classes in (["class1", "class2", "class10", "class11"], str(tmp_path / "names.txt")):
        data = ready(root, classes=classes)
        assert (data.class_names[2], data.num_classes) == ("class10", 4)  # of one there is no image
        shades = dict(zip(data.train_set.images[:, 0, 0, 0].tolist(), data.train_set.labels.tolist(), strict=True))
        assert shades == {1: 0, 2: 1, 10: 2}
    assert not caplog.records
    assert ready(root, classes=["a", "b"], num_classes=2).class_names == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"classes": ["class1", "class2"]}, r"classes: .*many has images of others, too: \['class10'\]"),
        ({"classes": ["class1", "class1"]}, "classes: expected names that differ, got 2 of which 1 differ"),
        ({"classes": "absent.txt"}, "classes: there is no file absent.txt; expected a name in every line, or a list"),
        ({"classes": ["a"], "num_classes": 3}, "classes: expected num_classes=3 names, got 1"),
    ],
)
def test_classes_that_are_not_the_images_own_are_refused(tmp_path, options, text):
    root = tree(tmp_path / "many", NUMBERED)
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        ready(root, **options)


def test_the_identity_is_of_the_files_wherever_they_lie(tmp_path):
    root = tree(tmp_path / "pets", {f"cat/{k}.png": picture(k) for k in range(5)})
    same = ready(root).identity()
    shutil.copytree(root, tmp_path / "moved/pets")
    assert ready(tmp_path / "moved/pets").identity() == ready(packed(root)).identity() == same
    assert ready(root, channels=1).identity() != same
    assert ready(root, classes=["dog", "cat"]).identity() != same
    (root / "cat/0.png").rename(root / "cat/00.png")  # still the first by name
    assert ready(root).identity() != same
    (root / "cat/00.png").rename(root / "cat/0.png")
    assert ready(root).identity() == same
    bitmaps = [tree(tmp_path / f"{k}/pets", {"cat/0.bmp": picture(k, "BMP")}) for k in (1, 2)]
    assert ready(bitmaps[0]).identity() != ready(bitmaps[1]).identity()  # same names and sizes


def test_answers_are_not_joined_to_other_images(tmp_path):
    from kdlightning.data import TransferSetDataModule, TransferSetWriter

    def made(name, shade, **options):
        return ready(
            tree(tmp_path / name / "pets", {f"cat/{k}.bmp": picture(shade + k, "BMP") for k in range(4)}), **options
        )

    def answered(name, told):
        rows = {"index": torch.arange(4), "answer": torch.rand(4, 1), "queries": torch.ones(4, dtype=torch.int64)}
        writer = TransferSetWriter(tmp_path / name, {"source": told, "teacher": {}})
        writer.write(rows)
        writer.finish(torch.arange(4), {"queries": 4})
        return str(tmp_path / name)

    source = made("a", 0)
    path = answered("set", source.identity())
    TransferSetDataModule(source, path).setup("fit")
    for other, key in ((made("b", 50), "files"), (made("c", 0, channels=1), "channels")):
        with pytest.raises(ValueError, match=f"was made from .*: {key} differ"):
            TransferSetDataModule(other, path).setup("fit")
    older = {key: value for key, value in source.identity().items() if key not in ("files", "channels", "classes")}
    TransferSetDataModule(source, answered("older", older)).setup("fit")


def test_links_to_folders_elsewhere_are_followed_and_those_that_lead_back_are_not(tmp_path, caplog):
    outside = tree(tmp_path / "outside", {"deep/0.png": 3})
    (outside / "deep/loop").symlink_to(outside)
    root = tree(tmp_path / "pets", {"cat/0.png": 1, "dog/0.png": 2})
    (root / "owl").symlink_to(outside / "deep")
    (root / "cat/parent").symlink_to("..")
    (root / "cat/self").symlink_to("../cat")
    (root / "dog/1.png").symlink_to("0.png")
    data = ready(root)
    assert data.class_names == ["cat", "dog", "owl"]
    assert data.train_set.images[:, 0, 0, 0].tolist() == [1, 2, 2, 3]
    assert "3 links to folders seen already are not followed: cat/parent, cat/self, owl/loop" in caplog.text


@both
def test_tiny_imagenet_whose_test_images_someone_has_sorted(tmp_path, kind):
    files = {"train/n1/images/0.JPEG": picture(1), "train/n2/images/0.JPEG": picture(2)}
    listed = {"val/val_annotations.txt": b"v0.JPEG\tn2\t0\nv1.JPEG\tn1\t0\n"}
    root = tree(
        tmp_path / "tiny", {**files, **listed, "val/n2/v0.JPEG": picture(7), "val/n1/images/v1.JPEG": picture(8)}
    )
    data = TinyImageNetDataModule(str(packed(root) if kind == "zip" else root), 8, num_val=0)
    assert data.test_set is not None
    assert (data.test_set.labels.tolist(), data.test_set.images[:, 0, 0, 0].tolist()) == ([0, 1], [8, 7])


def test_an_annotation_without_its_image_is_named(tmp_path):
    files = {"train/n1/0.png": 1, "val/images/v0.png": 2, "val/val_annotations.txt": b"v0.png\tn1\nv1.png\tn1\n"}
    with pytest.raises(ValueError, match=r"val_annotations.txt lists 1 absent images, first val/images/v1.png"):
        TinyImageNetDataModule(str(tree(tmp_path / "tiny", files)), 8, num_val=0).setup()


@both
def test_test_images_in_no_class_folder_are_told_as_that(tmp_path, kind):
    root = tree(tmp_path / "imagenet", {"train/n1/0.png": 1, "val/ILSVRC2012_val_00000001.JPEG": picture(2)})
    with pytest.raises(ValueError, match=r"imagenet.*/val has 1 images and none of them in a class folder: sort them"):
        ImageNetDataModule(str(packed(root) if kind == "zip" else root), 8, num_val=0).setup()
    with pytest.raises(FileNotFoundError, match="under 'val'; 1 lie in none: sort them, or give num_classes"):
        ready(root, train="val")


def test_a_name_that_is_no_utf8_is_an_image_like_others(tmp_path):
    root = tree(tmp_path / "pets", {"cat/0.png": 1})
    (root / "cat" / b"caf\xe9.png".decode("utf-8", "surrogateescape")).write_bytes(picture(2))
    (root / b"h\xfbte".decode("utf-8", "surrogateescape")).mkdir()
    (root / b"h\xfbte/\xe9.png".decode("utf-8", "surrogateescape")).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"h\\xfbte/\\xe9.png cannot be decoded as an image \(not an image\)"):
        ready(root)
    (root / b"h\xfbte/\xe9.png".decode("utf-8", "surrogateescape")).write_bytes(picture(3))
    data = ready(root)
    assert (data.class_names, len(data.identity()["files"])) == (["cat", r"h\xfbte"], 16)
    assert np.array_equal(data.train_set.images[:, 0, 0, 0], [1, 2, 3])


def parts(data):
    """The shades of the training, validation and test images: which files they are."""
    return [set(each.images[:, 0, 0, 0].tolist()) for each in (data.train_set, data.val_set, data.test_set)]


@both
def test_an_image_that_is_taken_away_moves_no_other_from_its_part(tmp_path, kind):
    root = tree(tmp_path / "pets", {f"cat/{shade:03}.png": shade for shade in range(120)})
    split = {"num_test": 30, "num_val": 20}
    before = parts(ready(packed(root) if kind == "zip" else root, **split))
    assert [len(each) for each in before] == [70, 20, 30]
    gone = min(before[2])  # a test image: one other takes its place
    (root / f"cat/{gone:03}.png").unlink()
    after = parts(ready(packed(root) if kind == "zip" else root, **split))
    assert len(before[2] & after[2]) == 29
    assert len(before[1] & after[1]) >= 19
    assert len(before[0] & after[0]) >= 69


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_images_are_grey_or_in_colour(tmp_path, channels):
    root = tree(tmp_path / "pets", {"cat/0.png": 1})
    with pytest.raises(ValueError, match=rf"channels: expected 1 \(grey\) or 3 \(colour\), got {channels}"):
        ready(root, channels=channels)
