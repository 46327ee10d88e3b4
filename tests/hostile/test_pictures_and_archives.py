"""Files that somebody made to do harm, or that arrived in pieces: each is named, none stops or fills anything."""

import gzip
import io
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import pack
from PIL import Image

from kdlightning.data import ImageFolderDataModule, NoImagesDataModule, WebDataModule
from kdlightning.data.archives import Archive, UnreadableError
from kdlightning.data.decoding import decode

FORMS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP")
MOST = 20_000  # bytes of an image, in the place of 256 MiB
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def picture(shade=9, form="PNG", side=8):
    stream = io.BytesIO()
    pixels = np.random.default_rng(shade).integers(0, 255, (side, side, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def pool(root, **options):
    task = NoImagesDataModule("toy", num_classes=3, image_size=8, channels=3)
    data = WebDataModule(task, str(root), **{"max_unusable": 1.0, **options})
    data.setup()
    return data


def reasons(data):
    return {Path(one.name).name: one.reason for one in data.unusable}


def patched(path, member, at, value):
    """A byte of a member's entry in a zip's directory, and of its own header, set anew."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", at + 2), (b"PK\x03\x04", at)):
        for start in range(len(content)):
            name = start + (46 if signature == b"PK\x01\x02" else 30)
            if content.startswith(signature, start) and content.startswith(member.encode(), name):
                content[start + offset] = value
    path.write_bytes(content)
    return path


def encrypted(path):
    return patched(pack(path, {"train/a/0.png": picture(0), "train/a/1.png": picture(1)}), "train/a/0.png", 6, 1)


def deflate64(path):
    return patched(pack(path, {"train/a/0.png": picture(0), "train/a/1.png": picture(1)}), "train/a/0.png", 8, 9)


def bomb(path):
    return pack(path, {"train/a/0.png": bytes(MOST + 1), "train/a/1.png": picture(1)})


@pytest.fixture(autouse=True)
def at_most(monkeypatch):
    monkeypatch.setattr("kdlightning.data.archives.MAX_BYTES", MOST)


@pytest.mark.tried(
    "a zip bomb, an encrypted member, one packed as no Python unpacks", "it is named, nothing of it is held"
)
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (encrypted, "encrypted"),
        (deflate64, "packed by Deflate64, which Python cannot unpack: pack it anew"),
        (bomb, "huge"),
    ],
)
def test_a_member_that_nobody_can_or_should_read_is_named(tmp_path, make, reason):
    root = make(tmp_path / "pets.zip")
    assert reasons(pool(root)) == {"0.png": reason}
    with pytest.raises(ValueError, match=rf"pets.zip/train/a/0.png cannot be decoded as an image \({reason}\)"):
        ImageFolderDataModule(str(root), 8, test=None, num_val=0).setup()


@pytest.mark.tried("a tar bomb", "it is named, nothing of it is held")
def test_a_tar_bomb_is_passed_by_without_being_held(tmp_path):
    with tarfile.open(tmp_path / "web.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, content in (("0.png", bytes(MOST + 1)), ("1.png", picture())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert reasons(pool(tmp_path / "web.tar.gz")) == {"0.png": "huge"}


FILES = {f"{number}.png": picture(number, side=40) for number in range(6)}


@pytest.mark.tried("an archive of a pool is cut off or empty", "it is counted, what is whole in it is used")
@pytest.mark.parametrize("name", ["web.tar", "web.tar.gz", "web.tar.bz2", "web.tar.xz", "web.zip"])
@pytest.mark.parametrize("left", [0.0, 0.55])
def test_a_cut_or_empty_archive_of_a_pool_is_counted_and_what_is_whole_is_used(tmp_path, name, left):
    folder = tmp_path / "web"
    folder.mkdir()
    whole = pack(folder / "a.zip", {"x.png": picture()})
    path = pack(folder / name, FILES)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left)])
    data = pool(folder)
    assert reasons(data)[name].startswith("cut off or damaged")
    assert len(data.train_set) >= (1 + (3 if name == "web.tar" and left else 0))
    assert whole.is_file()
    with pytest.raises(
        ValueError, match=f"files cannot be used, and max_unusable is 0.0: .*{name} .cut off or damaged"
    ):
        pool(folder, max_unusable=0.0)


@pytest.mark.tried("a zip of class folders is cut off or empty", "one sentence with its name")
@pytest.mark.parametrize("left", [0.0, 0.9])
def test_a_cut_zip_of_class_folders_is_named(tmp_path, left):
    root = pack(tmp_path / "pets.zip", {"train/a/0.png": picture()})
    content = root.read_bytes()
    root.write_bytes(content[: int(len(content) * left)])
    with pytest.raises(ValueError, match=r"pets.zip is a file but no zip, or one that is cut off"):
        ImageFolderDataModule(str(root), 8)


@pytest.mark.tried("EPS files under names of images", "no program is started", times=4)
def test_a_script_is_never_started_whatever_it_is_called(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("started a program"))
    for name in ("0.eps", "1.jpg", "2.png", "3"):
        (tmp_path / name).write_bytes(EPS)
    (tmp_path / "4.png").write_bytes(picture())
    assert reasons(pool(tmp_path)) == dict.fromkeys(("0.eps", "1.jpg", "2.png", "3"), "not an image")


@pytest.mark.tried(
    "names with .., /, line breaks and bytes that are no UTF-8",
    "nothing is written outside, each image is used",
    times=5,
)
def test_names_lead_nowhere_and_kill_nothing(tmp_path):
    files = {"../../0.png": picture(0), "/etc/1.png": picture(1), "./2.png": picture(2), "a\nb.png": picture(3)}
    data = pool(pack(tmp_path / "web.tar", {**files, b"caf\xe9.png".decode("utf-8", "surrogateescape"): b"x"}))
    assert len(data.train_set) == 4
    assert [one.name.rpartition("/")[2] for one in data.unusable] == [r"caf\xe9.png"]
    assert not (tmp_path.parent / "0.png").exists()


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8-sig", "utf-16"])
def test_a_list_in_any_encoding_finds_its_files(tmp_path, encoding):
    name = b"caf\xe9.png" if encoding == "latin-1" else "café.png".encode()
    (tmp_path / os.fsdecode(name)).write_bytes(picture())
    (tmp_path / "0.png").write_bytes(picture(1))
    (tmp_path / "list.txt").write_bytes("0.png\r\ncafé.png\r\n".encode(encoding))
    assert len(pool(tmp_path / "list.txt", max_unusable=0.0).train_set) == 2


def test_addresses_in_a_list_are_told_as_that(tmp_path):
    (tmp_path / "list.txt").write_text("https://host/0.png\n")
    with pytest.raises(FileNotFoundError, match=r"lists 1 files .*first https://host/0.png; nothing is fetched from"):
        pool(tmp_path / "list.txt")


@pytest.mark.tried(
    "pipes, broken links, links to parents",
    "each is named, nothing is waited for, no link is followed in circles",
    times=5,
)
def test_pipes_and_links_that_end_nowhere_are_named(tmp_path):
    os.mkfifo(tmp_path / "0.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "1.png").symlink_to("absent.png")
    (tmp_path / "2.png").symlink_to("2.png")
    (tmp_path / "up").symlink_to("..")
    (tmp_path / "3.png").write_bytes(picture())
    found = reasons(pool(tmp_path))
    assert found.pop("2.png")
    assert found == {"0.png": "no regular file", "pipe": "no regular file", "1.png": "No such file or directory"}


@pytest.mark.tried("a tar of 8,000 members", "linear time")
def test_a_tar_of_thousands_of_members_takes_linear_time(tmp_path):
    content, seconds = picture(), []
    for number in (1000, 8000):
        path = pack(tmp_path / f"{number}.tar", {f"{k}.png": content for k in range(number)})
        began, archive = time.process_time(), Archive(path)
        assert all(archive.read(member) == content for member in archive.sizes())
        seconds.append(time.process_time() - began)
    assert seconds[1] < 24 * seconds[0]  # of eight times as many; 64 were superlinear


@pytest.mark.tried("bytes of image files in 13 formats flipped at random", "an image, or the reason why not", times=60)
@pytest.mark.parametrize("form", FORMS)
def test_flipped_bytes_are_an_image_or_a_reason(form):
    rng, content = np.random.default_rng(0), picture(form=form, side=24)
    for _ in range(60):
        broken = bytearray(content)
        for place in rng.integers(0, min(len(broken), 300), rng.integers(1, 9)):
            broken[place] = rng.integers(256)
        try:
            found = tuple(decode(bytes(broken), 8, 3, 10**6).shape)
        except UnreadableError as error:
            found = str(error)
        assert found in ((3, 8, 8), "broken", "not an image", "huge", "several pages", "animated")


def test_a_gzip_that_ends_early_keeps_the_members_before(tmp_path):
    plain = pack(tmp_path / "web.tar", FILES).read_bytes()
    (tmp_path / "web.tar").unlink()
    (tmp_path / "web.tgz").write_bytes(gzip.compress(plain)[:-4000])
    archive = Archive(tmp_path / "web.tgz")
    assert (list(archive.sizes())[:4], bool(archive.fault)) == (["0.png", "1.png", "2.png", "3.png"], True)
