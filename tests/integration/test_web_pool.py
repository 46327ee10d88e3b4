"""KD³ on a folder as the web gives it: one file in twenty is broken, and the report says which."""

import io
import json

import numpy as np
import torch
from helpers import ToyDataModule, trainer
from PIL import Image

from kdlightning.callbacks import RunResult
from kdlightning.data import WebDataModule
from kdlightning.methods import KD3
from kdlightning.networks import LeNet5Classic, load_network
from kdlightning.report import write_report
from kdlightning.teachers import WhiteBoxTeacher

BROKEN = {
    "page.html": "not an image", "cut.jpg": "broken", "cut.png": "broken", "moving.gif": "animated",
    "script.jpg": "not an image", "scan.tif": "several pages", "poster.png": "huge",
}  # fmt: skip


def picture(rng, form="PNG", mode="L", size=(20, 26)):
    stream = io.BytesIO()
    pixels = rng.integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(stream, form)
    return stream.getvalue()


def make_web(folder):
    """133 images in four formats, and seven files that are none to train on."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(133):
        form = ("PNG", "JPEG", "WEBP", "BMP")[number % 4]
        (folder / f"{number:03d}.{form.lower()}").write_bytes(picture(rng, form, ("L", "RGB")[number % 2]))
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "green")]
    (folder / "page.html").write_text("<html>404</html>")
    (folder / "cut.jpg").write_bytes(picture(rng, "JPEG", "RGB", (200, 200))[:900])
    (folder / "cut.png").write_bytes(picture(rng, size=(200, 200))[:300])
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    (folder / "script.jpg").write_bytes(picture(rng, "EPS"))
    frames[0].save(folder / "scan.tif", save_all=True, append_images=frames[1:])
    (folder / "poster.png").write_bytes(picture(rng, size=(300, 300)))


def test_a_pool_with_broken_files_trains_and_the_report_lists_them(tmp_path):
    make_web(tmp_path / "web")
    task = ToyDataModule(image_size=16)
    data = WebDataModule(task, str(tmp_path / "web"), cache=str(tmp_path / "cache"), max_pixels=50_000)
    torch.manual_seed(0)
    teacher = WhiteBoxTeacher(LeNet5Classic(num_classes=3, image_size=16))
    module = KD3(teacher, LeNet5Classic(num_classes=3, image_size=16, width=0.5), threshold=0.3)
    run = trainer(tmp_path / "run", max_epochs=2, callbacks=[RunResult(seed=1)])
    run.fit(module, datamodule=data)
    run.test(module, datamodule=data, verbose=False)

    assert len(data.train_set) == 133
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (record["method"], record["student"], record["train_images"]) == ("KD3", "LeNet5Classic", 133)
    assert 0 < json.loads((tmp_path / "run" / "selection.jsonl").read_text().splitlines()[0])["selected"] <= 133
    listed = json.loads((tmp_path / "run" / "unusable.json").read_text())
    assert listed["files"] == 140
    listed = dict(listed["unusable"])
    assert {name.rsplit("/", 1)[1]: reason for name, reason in listed.items()} == BROKEN

    page = write_report([tmp_path / "run"])
    for name in ("report.md", "report.html"):
        text = (page / name).read_text()
        assert "7 of 140 files could not be used (2 broken, " in text
        assert "133 images were" in text
        assert all(file in text for file in BROKEN)
    images = torch.rand(2, 1, 16, 16)
    made = load_network(tmp_path / "run" / "network")(images)
    torch.testing.assert_close(made, module.eval()(images))  # another layout
