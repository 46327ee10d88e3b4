"""The teacher sees the originals, the student its small images; nothing else is asked than was meant."""

import base64
import hashlib
import io
import json
import multiprocessing
import os
import re

import numpy as np
import pytest
import torch
import yaml
from chat import LABELS, Chat, Killer, chat_teacher
from helpers import Dying, Linear, ToyDataModule, rehearsed, trainer
from pictures import pack
from PIL import Image
from torchvision.transforms.v2 import functional as tvf
from vendors import VENDORS, batch_teacher

from kdlightning.__main__ import main
from kdlightning.accounting import QueryBudgetExceededError
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.callbacks import Agreement
from kdlightning.data import (
    GeneratedDataModule,
    ImageFolderDataModule,
    NoImagesDataModule,
    NoiseDataModule,
    ShaderDataModule,
    TransferSet,
    TransferSetDataModule,
    WebDataModule,
)
from kdlightning.methods import (
    KD,
    ActiveMixup,
    AnsweredKD,
    DB3KDLabels,
    MEKDGenerator,
    ShaderKD,
    TeacherAnswers,
    ZSDB3KDImages,
)
from kdlightning.modules.viewing import views_of
from kdlightning.networks import DCGANCritic, DCGANGenerator, LeNet5, save_network
from kdlightning.remote import RemoteHardLabelTeacher
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher, WhiteBoxTeacher

FORK = multiprocessing.get_context("fork")
SIZES = [(40, 30), (24, 24), (30, 52), (64, 33), (25, 40), (33, 33), (28, 90), (50, 27), (24, 31)]  # width, height


def pictures(root, test=0):
    """Photographs of noise, ``train/<label>/<number>.png`` and ``test/...``; returns their pixels by name."""
    draw, kept = np.random.default_rng(0), {}
    for part, many in (("train", len(SIZES)), ("test", test)):
        for position in range(many):
            width, height = SIZES[position % len(SIZES)]
            name = f"{part}/{LABELS[position % 3]}/{position:03}.png"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            kept[name] = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(kept[name]).save(root / name)
    return kept


def folder(root, size, **options):
    options = {"test": None, "num_val": 0, "eval_batch_size": 4, "teacher_size": size, **options}
    return ImageFolderDataModule(str(root), 8, **options)


def label(teacher, data, output="set"):
    trainer(".").predict(TeacherAnswers(teacher, output), datamodule=data, return_predictions=False)
    return TransferSet(output)


def received(chat):
    """The images that reached a server, in the order in which each came first."""
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))) for image in chat.asked]


def test_a_server_is_sent_the_originals_pixel_for_pixel(tmp_path):
    kept, chat = pictures(tmp_path / "photos"), Chat()
    with chat.serving() as url:
        made = label(chat_teacher(url, concurrency=3), folder(tmp_path / "photos", "original"))
    mine = {image.tobytes(): image.shape for image in kept.values()}
    assert {image.tobytes(): image.shape for image in received(chat)} == mine
    assert set(chat.asked.values()) == {1}
    # in the order of the index: names are sorted, and each row says what was shown, and what it was answered
    names = sorted(kept)
    assert made.column("shown_size").tolist() == [list(kept[name].shape[:2]) for name in names]
    sent = [kept[name].transpose(2, 0, 1).tobytes() for name in names]  # (C, H, W)
    digests = [int.from_bytes(hashlib.sha256(image).digest()[:8], "little", signed=True) for image in sent]
    assert made.column("shown").tolist() == digests
    said = {
        np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))).tobytes(): chat.say(image) for image in chat.asked
    }
    assert [LABELS[label] for label in made.column("answer").tolist()] == [said[kept[name].tobytes()] for name in names]
    assert (made.manifest["source"]["teacher_size"], made.manifest["source"]["image_size"]) == ("original", 8)
    assert made.manifest["shown_size"] == {"least": [24, 24], "most": [90, 64]}
    # the ledger has one entry for each original, as it was sent
    with QueryLedger("ledger.sqlite") as ledger:
        entries = list(ledger.answers())
    known = {hashlib.sha256(b'"' + image.encode() + b'"').digest() for image in chat.asked}
    assert {entry.image for entry in entries} == known
    assert len(entries) == len(kept)
    assert made.manifest["bytes_up"] > sum(image.size for image in kept.values())  # noise: PNG cannot shorten it


def test_an_edge_length_is_the_student_s_crop_at_that_size(tmp_path):
    kept, chat = pictures(tmp_path / "photos"), Chat()
    data = folder(tmp_path / "photos", 20)
    with chat.serving() as url:
        label(chat_teacher(url, concurrency=1), data)  # one after the other
    plain = folder(tmp_path / "photos", None)
    plain.image_size = 20
    plain.setup()
    expected = [image.permute(1, 2, 0).numpy().tobytes() for image in plain.train_set.images]
    assert [image.tobytes() for image in received(chat)] == expected
    assert {image.shape for image in received(chat)} == {(20, 20, 3)}
    assert data.train_set.images.shape == (len(kept), 3, 8, 8)  # what the student sees


class Wide(torch.nn.Module):
    """Answers by the pixels at 20 x 20, and keeps what it was shown."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.inner, self.num_classes, self.seen = Linear(torch.randn(3, 1200, generator=generator)), 3, []

    def forward(self, x):
        assert x.shape[1:] == (3, 20, 20)
        if not rehearsed(x):
            self.seen.append(x.clone())
        return self.inner(x)


def shown(root, **options):
    """What it should be shown, in the order of the index, in [0, 1]."""
    data = folder(root, None, **options)
    data.image_size = 20
    data.setup()
    return data.train_set.images.float() / 255


def test_a_local_network_has_its_own_size_and_the_student_another(tmp_path):
    pictures(tmp_path / "photos", test=6)
    data, network = folder(tmp_path / "photos", 20, test="test"), Wide()
    made = label(SoftLabelTeacher(network), data)
    expected = shown(tmp_path / "photos")
    assert torch.equal(torch.cat(network.seen), expected)
    torch.testing.assert_close(made.column("answer"), network.inner(expected).softmax(1))
    assert made.manifest["bytes_up"] == len(SIZES) * 4 * 3 * 20 * 20
    # the student trains on 8 x 8, and the judge sees the test images at 20 x 20
    torch.manual_seed(0)
    student = Linear(torch.randn(3, 192) / 14)
    student.weight = torch.nn.Parameter(student.weight)
    judge = Wide()
    run = trainer(tmp_path, callbacks=[Agreement(HardLabelTeacher(judge))])
    answered = TransferSetDataModule(data, "set")
    run.fit(AnsweredKD(student), datamodule=answered)
    (metrics,) = run.test(AnsweredKD(student), datamodule=answered, verbose=False)
    tests = folder(tmp_path / "photos", None, train="test")
    tests.image_size = 20
    tests.setup()
    assert torch.equal(torch.cat(judge.seen), tests.train_set.images.float() / 255)
    says = judge.inner(torch.cat(judge.seen)).argmax(1)
    own = student(data.test_set.images.float() / 255).argmax(1)
    assert metrics["test/agreement"] == pytest.approx(float((says == own).float().mean()))


def test_fit_asks_about_the_originals_once(tmp_path):
    pictures(tmp_path / "photos")
    network, data = Wide(), folder(tmp_path / "photos", 20, batch_size=4)
    teacher = SoftLabelTeacher(network)
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    with pytest.raises(ValueError, match="sees the same image in every epoch: give query_once=True"):
        trainer(tmp_path).fit(KD(teacher, student), datamodule=data)
    assert network.seen == []
    method = KD(teacher, student, query_once=True)
    trainer(tmp_path, max_epochs=3).fit(method, datamodule=data)
    assert teacher.paid.queries == len(SIZES)
    expected = network.inner(shown(tmp_path / "photos")).softmax(1)
    for index, answer in method._answers.items():
        torch.testing.assert_close(answer, expected[index])


def dying(network, calls, directory, root, size):
    os.chdir(directory)
    label(SoftLabelTeacher(Dying(network, calls)), folder(root, size), str(directory / "set"))


def test_a_killed_labelling_goes_on_and_ends_with_the_same_set(tmp_path):
    pictures(tmp_path / "photos")
    whole = label(SoftLabelTeacher(Wide()), folder(tmp_path / "photos", 20), "whole")
    for calls in (1, 2):  # of three batches
        process = FORK.Process(target=dying, args=(Wide(), calls, tmp_path, tmp_path / "photos", 20))
        process.start()
        process.join(120)
        assert process.exitcode == -9
    answered = [int(line) for line in (tmp_path / "answered.txt").read_text().split()]
    made = label(SoftLabelTeacher(Dying(Wide(), 99)), folder(tmp_path / "photos", 20))
    assert answered == [4, 4]
    assert (tmp_path / "answered.txt").read_text().split() == ["4", "4", "1"]  # nothing is asked again
    assert made.columns.keys() == whole.columns.keys()
    assert all(torch.equal(made.column(name), whole.column(name)) for name in whole.columns)
    assert made.manifest["queries_paid"] == len(SIZES)


def killed(url, directory, root):
    os.chdir(directory)
    label(chat_teacher(url, concurrency=2), folder(root, "original"), str(directory / "set"))
    os._exit(0)


def test_a_kill_between_originals_costs_no_second_answer(tmp_path):
    kept, killer = pictures(tmp_path / "photos"), Killer({3: "billing", 6: "reply", 8: "end"})
    chat, kills = Chat(troubles=[killer]), 0
    with chat.serving() as url:
        while not (tmp_path / "set/manifest.json").exists():
            process = FORK.Process(target=killed, args=(url, tmp_path, tmp_path / "photos"))
            process.start()
            killer.client = process.pid
            process.join(120)
            kills += process.exitcode == -9
        whole = label(chat_teacher(url, ledger="other.sqlite"), folder(tmp_path / "photos", "original"), "whole")
    made = TransferSet(tmp_path / "set")
    assert kills == 3
    assert all(torch.equal(made.column(name), whole.column(name)) for name in whole.columns)
    with QueryLedger("ledger.sqlite") as ledger:
        totals = ledger.totals()
    assert (totals.unique, totals.twice) == (len(kept), 0)  # what flew at a kill may have been billed, and is counted
    assert totals.in_flight <= 2 * kills


@pytest.mark.parametrize("kind", VENDORS)
def test_originals_go_into_batch_jobs(tmp_path, kind):
    kept, vendor = pictures(tmp_path / "photos"), VENDORS[kind][0]()
    with vendor.serving() as url:
        made = label(batch_teacher(kind, url), folder(tmp_path / "photos", "original"))
    sent = {np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))).tobytes() for image in vendor.came}
    assert sent == {image.tobytes() for image in kept.values()}
    assert set(vendor.came.values()) == {1}
    assert made.column("shown_size").tolist() == [list(kept[name].shape[:2]) for name in sorted(kept)]


def test_originals_go_on_after_a_budget(tmp_path):
    kept, chat = pictures(tmp_path / "photos"), Chat()
    with chat.serving() as url:
        with pytest.raises(QueryBudgetExceededError, match="7 of 9 images are answered"):
            label(chat_teacher(url, budget=7), folder(tmp_path / "photos", "original"))
        made = label(chat_teacher(url, budget=9), folder(tmp_path / "photos", "original"))
        whole = label(chat_teacher(url, ledger="other.sqlite"), folder(tmp_path / "photos", "original"), "whole")
    assert sorted(chat.asked.values()) == [2] * len(kept)  # once for either ledger
    assert all(torch.equal(made.column(name), whole.column(name)) for name in whole.columns)


def test_another_size_is_another_set(tmp_path):
    pictures(tmp_path / "photos")
    with pytest.raises(QueryBudgetExceededError):
        label(SoftLabelTeacher(Wide(), budget=5), folder(tmp_path / "photos", 20))
    with pytest.raises(FileExistsError, match=r"begun with other settings \(source.teacher_size 20, now 24; teacher"):
        label(SoftLabelTeacher(Linear(torch.ones(3, 1728))), folder(tmp_path / "photos", 24), "set")
    label(SoftLabelTeacher(Wide()), folder(tmp_path / "photos", 20), "whole")
    with pytest.raises(FileExistsError, match=r"another one \(source.teacher_size 20, now None"):
        label(SoftLabelTeacher(Linear(torch.ones(3, 192))), folder(tmp_path / "photos", None), "whole")
    reading = TransferSetDataModule(folder(tmp_path / "photos", 24), "whole")
    with pytest.raises(ValueError, match="teacher_size differ"):
        reading.setup("fit")


def test_a_web_pool_of_archives_shows_its_files(tmp_path):
    kept, chat = pictures(tmp_path / "photos"), Chat()
    files = {name.replace("/", "-"): (tmp_path / "photos" / name).read_bytes() for name in kept}
    names = sorted(files)
    (tmp_path / "pool").mkdir()
    pack(tmp_path / "pool/a.tar", {name: files[name] for name in names[:4]} | {"broken.png": b"no image"})
    pack(tmp_path / "pool/b.zip", {name: files[name] for name in names[4:7]})
    for name in names[7:]:
        (tmp_path / "pool" / name).write_bytes(files[name])
    (tmp_path / "pool/zz.png").write_bytes(files[names[0]])  # a copy, which is left out
    task = NoImagesDataModule("animals", 3, 8, 3, eval_batch_size=2, teacher_size="original")
    with chat.serving() as url:
        made = label(
            chat_teacher(url, concurrency=1), WebDataModule(task, str(tmp_path / "pool"), unique=True, fraction=0.7)
        )
    assert len(made) == len(chat.asked) == 6
    mine = [kept[name.replace("-", "/")] for name in names]
    sizes = [list(mine[index].shape[:2]) for index in made.column("index").tolist()]
    assert made.column("shown_size").tolist() == sizes
    assert [image.tobytes() for image in received(chat)] == [
        mine[index].tobytes() for index in made.column("index").tolist()
    ]


def test_sets_in_memory_show_what_they_were_before_they_were_made_small(tmp_path):
    class Seen(torch.nn.Module):
        num_classes = 3

        def forward(self, x):
            seen.append(x)
            return x.flatten(1)[:, :3]

    for size, side in ((16, 16), ("original", 8)):
        seen = []
        data = ToyDataModule(image_size=4, teacher_size=size)
        made = label(HardLabelTeacher(Seen()), data, f"set-{size}")
        native = ToyDataModule()
        native.setup()
        native = native.train_set.images
        expected = native if size == "original" else tvf.resize(native, [16, 16], antialias=True)
        assert torch.equal(torch.cat(seen[1:]), expected.float() / 255)  # the first is the rehearsal
        assert made.column("shown_size").unique().tolist() == [side]
        assert data.train_set.images.shape[-1] == 4


def test_what_is_decoded_at_once_is_bounded(tmp_path, monkeypatch):
    pictures(tmp_path / "photos")
    monkeypatch.setattr("kdlightning.data.views._MEMORY", 3 * 3 * 20 * 20)
    network = Wide()
    label(SoftLabelTeacher(network), folder(tmp_path / "photos", 20, eval_batch_size=1000))
    assert [len(part) for part in network.seen] == [3, 3, 3]


@pytest.fixture
def methods():
    network = Linear(torch.randn(3, 192))
    generator, critic = DCGANGenerator(3, 3, 8, width=4), DCGANCritic(3, 8, width=4)
    hard, soft, white = HardLabelTeacher(network), SoftLabelTeacher(network), WhiteBoxTeacher(network)
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    return {
        "DB3KDLabels": (DB3KDLabels(hard, "out", 3), "predict", None),
        "ZSDB3KDImages": (ZSDB3KDImages(hard, "out"), "predict", lambda data: NoiseDataModule(data, 20)),
        "ActiveMixup": (ActiveMixup(soft, "out", 4, student), "predict", None),
        "MEKDGenerator": (MEKDGenerator(generator, critic, soft), "fit", None),
        "ShaderKD": (ShaderKD(white, student), "fit", lambda data: ShaderDataModule(data, 20)),
    }


@pytest.mark.parametrize("name", ["DB3KDLabels", "ZSDB3KDImages", "ActiveMixup", "MEKDGenerator", "ShaderKD"])
def test_searches_and_generators_are_refused_by_type(tmp_path, methods, name):
    pictures(tmp_path / "photos")
    module, command, wrap = methods[name]
    data = folder(tmp_path / "photos", 20)
    data = data if wrap is None else wrap(data)
    refused = rf"^teacher_size=20 shows the teacher the original of each image, but {name} asks about pixels that it"
    with pytest.raises(TypeError, match=refused):
        getattr(trainer(tmp_path), command)(module, datamodule=data)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["noise", "generator", "shader"])
def test_images_that_are_made_have_no_original(tmp_path, kind):
    pictures(tmp_path / "photos")
    source = folder(tmp_path / "photos", 20)
    data = {
        "noise": lambda: NoiseDataModule(source, 8),
        "generator": lambda: GeneratedDataModule(source, DCGANGenerator(3, 3, 8, width=4), 8),
        "shader": lambda: ShaderDataModule(source, 8, cache=str(tmp_path / "cache")),
    }[kind]()
    told = rf"but those of {type(data).__name__} are made at image_size: leave teacher_size out"
    with pytest.raises(TypeError, match=told):
        label(SoftLabelTeacher(Linear(torch.randn(3, 192))), data)


def test_what_takes_one_size_refuses_images_of_their_own(tmp_path, monkeypatch):
    pictures(tmp_path / "photos")
    told = "keeps the sizes of the images, which differ, but a SoftLabelTeacher takes images of one size: give"
    with pytest.raises(ValueError, match=told):
        label(SoftLabelTeacher(Wide()), folder(tmp_path / "photos", "original"))
    with pytest.raises(ValueError, match="a SoftLabelTeacher takes images of one size"):
        SoftLabelTeacher(Wide()).ask([torch.rand(3, 20, 20), torch.rand(3, 9, 9)])
    assert not RemoteHardLabelTeacher.any_size
    for size in (0, "huge", True):
        with pytest.raises(ValueError, match="teacher_size: expected an edge length of at least 1, or original, got"):
            folder(tmp_path / "photos", size)
    # a method without a teacher is not concerned
    data = folder(tmp_path / "photos", 20)
    data.setup()
    assert views_of(AnsweredKD(torch.nn.Linear(1, 1)), data) is None


def test_an_estimate_is_of_the_large_images_and_a_probe_asks_about_them(tmp_path, capsys):
    kept, chat = pictures(tmp_path / "photos"), Chat(tokens=None)
    with chat.serving() as url:
        teacher = f"""
class_path: HTTPHardLabelTeacher
init_args:
  url: {url}
  request: {{messages: ["x;base64,{{image}}"]}}
  reader: {{answer: choices.0.message.content}}
  outputs: text
  labels: {LABELS}
  price: {{input: 10}}
"""
        for size, pixels in (
            ("original", sum(image.size for image in kept.values())),
            (20, 9 * 1200),
            ("null", 9 * 192),
        ):
            (tmp_path / "labels.yaml").write_text(f"""
model: {{class_path: TeacherAnswers, init_args: {{output: set, teacher: {{{_flow(teacher)}}}}}}}
data:
  class_path: ImageFolderDataModule
  init_args: {{root: photos, image_size: 8, test: null, num_val: 0, teacher_size: {size}}}
""")
            assert main(["estimate", "--config", "labels.yaml"]) == 0
            out = capsys.readouterr().out
            told = re.findall(r"[\d,]*\d", out.split("bytes up")[1].split("\n")[0])
            most = max(int(number.replace(",", "")) for number in told)
            assert pixels < most < 2 * pixels + 9 * 200  # noise, as PNG in base64, and a request around it
        assert not chat.asked
        (tmp_path / "labels.yaml").write_text((tmp_path / "labels.yaml").read_text().replace("null}", "original}"))
        assert main(["estimate", "--probe", "5", "--config", "labels.yaml"]) == 0
        assert "5 images asked" in capsys.readouterr().out
        seen = {image.tobytes() for image in received(chat)}
        assert main(["predict", "--config", "labels.yaml"]) == 0
    mine = {image.tobytes() for image in kept.values()}
    assert len(seen) == 5
    assert seen <= {image.tobytes() for image in received(chat)} == mine
    assert set(chat.asked.values()) == {1}  # the ledger has what the probe has asked


def _flow(text):
    return json.dumps(yaml.safe_load(text))[1:-1]


def test_the_command_says_it_in_a_line(tmp_path, capsys):
    pictures(tmp_path / "photos")
    data = [
        "--data",
        "ImageFolderDataModule",
        "--data.root",
        "photos",
        "--data.image_size",
        "16",
        "--data.test",
        "null",
    ]
    more = ["--data.teacher_size", "20", "--data.num_val", "0", "--trainer.accelerator", "cpu"]
    save_network(LeNet5(image_size=16, in_channels=3, num_classes=3), tmp_path / "teacher")
    model = ["--model", "DB3KDLabels", "--model.teacher", "HardLabelTeacher", "--model.teacher.network", "teacher"]
    with pytest.raises(SystemExit):
        main(["predict", *model, "--model.output", "out", "--model.num_classes", "3", *data, *more])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "kdlightning: error: teacher_size=20 shows the teacher the original of each image, but DB3KDLabels" in error
