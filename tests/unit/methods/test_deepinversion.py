import json

import pytest
import torch
from helpers import Linear, TinyNet, ToyDataModule, rehearsed, trainer

from kdlightning.data import NoiseDataModule, SyntheticDataModule, TransferSet
from kdlightning.methods import DKD, AnsweredKD, DeepInversion, InversionStudy
from kdlightning.methods.inversionstudy import draw
from kdlightning.networks import ResNet8
from kdlightning.teachers import WhiteBoxTeacher

SHORT = {"iterations": 4, "jitter": 1}


def tiny(seed=0, classes=3):
    torch.manual_seed(seed)
    return TinyNet(classes)


def bright():
    """Logits: how bright each third of the image is."""
    weight = torch.zeros(3, 8, 8)
    for k in range(3):
        weight[k, :, 3 * k : 3 * k + 2] = 1.0
    return Linear(weight.flatten(1))


def noise(size=20, chunk=8, **options):
    return NoiseDataModule(ToyDataModule(eval_batch_size=chunk), size, **options)


def make(tmp_path, name="set", net=None, data=None, **options):
    module = DeepInversion(WhiteBoxTeacher(net or tiny()), str(tmp_path / name), **(SHORT | options))
    trainer(tmp_path).predict(module, datamodule=data or noise(), return_predictions=False)
    return TransferSet(tmp_path / name)


def test_the_set_says_what_the_teacher_sees(tmp_path):
    net = tiny()
    made = make(tmp_path, net=net)
    assert torch.equal(made.column("index"), torch.arange(20))
    assert torch.equal(made.column("target"), torch.arange(20) % 3)
    said = net(made.column("image").float() / 255).softmax(1).detach()
    torch.testing.assert_close(made.column("answer"), said)
    assert torch.equal(made.column("label"), said.argmax(1))
    assert (made.manifest["access"], made.manifest["queries"], made.manifest["batch_norm_layers"]) == ("white", 0, 1)
    kept = float((said.argmax(1) == torch.arange(20) % 3).float().mean())
    assert made.manifest["kept_class"] == pytest.approx(kept, abs=1e-4)
    assert [len(made.column("loss")[rows].unique()) for rows in (slice(0, 8), slice(8, 16), slice(16, 20))] == [1, 1, 1]


def test_a_network_without_batch_norm_is_inverted_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="Linear has no BatchNorm layer .* inverted without that term"):
        made = make(tmp_path, net=bright(), iterations=40, jitter=0)
    assert made.manifest["batch_norm_layers"] == 0
    assert made.manifest["kept_class"] == 1.0
    thirds = torch.stack([made.column("image")[..., 3 * k : 3 * k + 2].float().mean((1, 2, 3)) for k in range(3)], 1)
    own = thirds.gather(1, made.column("target")[:, None])[:, 0]
    assert (own > 150).all()
    assert (thirds.sum(1) - own < own).all()


def test_a_batch_depends_on_seed_and_number_alone(tmp_path):
    one, same, other = make(tmp_path, "a"), make(tmp_path, "b"), make(tmp_path, "c", seed=1)
    assert torch.equal(one.column("image"), same.column("image"))
    assert not torch.equal(one.column("image"), other.column("image"))
    larger = make(tmp_path, "d", data=noise(30))
    assert torch.equal(larger.column("image")[:16], one.column("image")[:16])


class Stopping(TinyNet):
    """Breaks down at a certain call."""

    calls = 0

    def forward(self, x):
        self.calls += not rehearsed(x)
        if self.calls > 8:
            raise KeyboardInterrupt
        return super().forward(x)


def test_a_run_that_was_stopped_goes_on(tmp_path):
    torch.manual_seed(0)
    net = Stopping()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        make(tmp_path, net=net)
    done = sorted(file.name for file in (tmp_path / "set").glob("shard-*"))
    assert len(done) == 1
    stamp = (tmp_path / "set" / done[0]).stat().st_mtime_ns
    net.calls = -10_000
    resumed = make(tmp_path, net=net)
    assert (tmp_path / "set" / done[0]).stat().st_mtime_ns == stamp
    whole = make(tmp_path, "whole")
    assert torch.equal(resumed.column("image"), whole.column("image"))
    assert torch.equal(resumed.column("answer"), whole.column("answer"))


def test_another_batch_is_another_set(tmp_path):
    make(tmp_path)
    (tmp_path / "set/manifest.json").unlink()
    with pytest.raises(FileExistsError, match="settings"):
        make(tmp_path, data=noise(chunk=4))


def test_students_train_on_a_white_boxes_answers(tmp_path):
    make(tmp_path)
    student = AnsweredKD(tiny(1))
    data = NoiseDataModule(ToyDataModule(), path=str(tmp_path / "set"))
    trainer(tmp_path).fit(student, datamodule=data)
    assert student.access == "white"
    assert len(data.answered) == 20
    trainer(tmp_path).fit(DKD(tiny(1)), datamodule=NoiseDataModule(ToyDataModule(), path=str(tmp_path / "set")))
    images = SyntheticDataModule(ToyDataModule(), str(tmp_path / "set"))
    images.setup("fit")
    assert images.paid.queries == 0


def test_competition_makes_images_that_a_student_sees_otherwise(tmp_path):
    student = WhiteBoxTeacher(tiny(1))
    plain = make(tmp_path, "plain", iterations=30)
    adaptive = make(tmp_path, "adaptive", iterations=30, student=student, competition_weight=100.0)

    def distance(made):
        pixels = made.column("image").float() / 255
        return float((student(pixels).softmax(1) - made.column("answer")).abs().mean())

    assert distance(adaptive) > distance(plain)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"iterations": 0}, "at least 1 iteration"),
        ({"competition_weight": 1.0}, "competition needs a student .* no student"),
        ({"student": WhiteBoxTeacher(tiny())}, "competition needs a student and a weight above 0"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, options, text):
    with pytest.raises(ValueError, match=text):
        make(tmp_path, **options)


def test_data_and_classes_are_checked_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="starts from noise: use a NoiseDataModule, not ToyDataModule"):
        make(tmp_path, data=ToyDataModule())
    with pytest.raises(ValueError, match="the network has 4 classes, but the data set toy has 3"):
        make(tmp_path, net=tiny(classes=4))
    assert not (tmp_path / "set").exists()


def study(tmp_path, judge=None, data=None, **options):
    networks = {"teacher": WhiteBoxTeacher(tiny()), "student": WhiteBoxTeacher(tiny(1))}
    module = InversionStudy(networks, WhiteBoxTeacher(judge or bright()), str(tmp_path / "study"), **(SHORT | options))
    trainer(tmp_path).predict(module, datamodule=data or noise(), return_predictions=False)
    return TransferSet(tmp_path / "study"), json.loads((tmp_path / "study/inversions.json").read_text())


def test_a_study_inverts_all_networks_alike(tmp_path):
    made, said = study(tmp_path)
    alone = make(tmp_path)
    assert torch.equal(made.column("image_teacher"), alone.column("image"))
    target = torch.arange(20) % 3
    for name in ("teacher", "student"):
        judged = bright()(made.column(f"image_{name}").float() / 255).softmax(1)
        torch.testing.assert_close(made.column(f"judged_{name}"), judged)
        numbers = said["networks"][name]
        assert numbers["judged"] == pytest.approx(float((judged.argmax(1) == target).float().mean()), abs=1e-4)
        assert numbers["probability"] == pytest.approx(float(judged[torch.arange(20), target].mean()), abs=1e-4)
        source = ToyDataModule()
        local = source.candidate_pool().image.flatten(1).float() / 255
        near = torch.cdist(made.column(f"image_{name}").flatten(1).float() / 255, local).amin(1)
        assert numbers["pixels"]["least"] == pytest.approx(float(near.min()), abs=1e-3)
        assert numbers["features"] is None  # the judge has no features to read
    assert said["held_out"]["images"] == 12
    assert said["held_out"]["judged"] == 1.0


def test_a_study_ends_with_a_table_and_a_figure(tmp_path):
    _, said = study(tmp_path, judge=ResNet8(num_classes=3, in_channels=1, image_size=8, width=0.25))
    lines = (tmp_path / "study/inversions.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["teacher", "student", "held-out images"]
    assert {line.count("|") for line in lines} == {9}
    assert said["networks"]["student"]["features"]["median"] > 0
    assert said["held_out"]["features"]["median"] > 0
    assert (tmp_path / "study/inversions.png").read_bytes()[:4] == b"\x89PNG"


def test_the_figure_has_a_row_for_each_network_and_a_column_for_each_class():
    figure = draw({"a": torch.zeros(3, 1, 8, 8), "b": torch.full((3, 1, 8, 8), 255)}, ["x", "y", "z"])
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["x", "y", "z"]
    pixels = axes.images[0].get_array()
    assert (pixels[1:9, 1:9].max(), pixels[10:18, 1:9].min()) == (0.0, 1.0)


def test_a_study_needs_held_out_images(tmp_path):
    with pytest.raises(ValueError, match="toy lacks them"):
        study(tmp_path, data=NoiseDataModule(ToyDataModule(num_val=0), 20))
    with pytest.raises(ValueError, match="at least one network"):
        InversionStudy({}, WhiteBoxTeacher(bright()), str(tmp_path))
