from pathlib import Path

import mekd
import pytest
import torch
import yaml
from drawing.curves import collect
from helpers import Linear
from torch import nn
from torch.nn import functional as F

from kdlightning.data import TransferSetWriter
from kdlightning.networks import DCGANGenerator, LeNet5, save_network
from kdlightning.networks.gan import Generator
from kdlightning.report import read_runs, summarise, write_report
from kdlightning.teachers import SoftLabelTeacher


class Weighted(Generator):
    """An image of three pixels, W z: every gradient of L_F is known."""

    def __init__(self, weight):
        super().__init__(3, 1, 4)  # the size is not looked at
        self.weight, self.body = weight, nn.Identity()

    def forward(self, latent):
        return (latent @ self.weight.T)[:, None, None]


def rows(workspace, *variants):
    for seed, (variant, access, accuracy) in enumerate(variants):
        workspace.run(method="MEKD", variant=variant, access=access, accuracy=accuracy, seed=seed)
    return summarise(read_runs([workspace.root]).runs)[0]


def test_gradients_by_hand():
    logits, answer = torch.tensor([0.5, 1.0, -1.0]), torch.tensor([0.2, 0.7, 0.1])
    weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    found = mekd.logit_gradients(logits, answer, Weighted(weight), "soft", tau=2.0, temperature=4.0)
    order = [1, 0, 2]  # the teacher's class first
    one_hot = torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(found["cross-entropy"], (logits.softmax(0) - one_hot)[order])
    kd = 4.0 * ((logits / 4).softmax(0) - (answer.log() / 4).softmax(0))  # T² * 1/T * difference
    torch.testing.assert_close(found["KD, T = 4"], kd[order])
    difference = (logits - logits.mean()) - (answer.log() - answer.log().mean())
    centre = torch.eye(3) - 1 / 3  # centring the logits, backwards
    scale = weight.diagonal()
    l1 = centre @ (scale * (scale * difference).sign()) / (3 * 2.0)  # mean over three pixels, τ = 2
    torch.testing.assert_close(found["L_F, l1"], l1[order])
    l2 = centre @ (2 * scale**2 * difference) / (3 * 2.0**2)
    torch.testing.assert_close(found["L_F, l2"], l2[order])


def test_hard_answers_are_smoothed_as_in_training():
    logits, label = torch.tensor([0.5, 1.0, -1.0]), torch.tensor([0.0, 0.0, 1.0])
    found = mekd.logit_gradients(logits, label, Weighted(torch.eye(3)), "hard", temperature=1.0)
    torch.testing.assert_close(found["cross-entropy"], (logits.softmax(0) - label)[[2, 0, 1]])
    smooth = torch.tensor([0.005, 0.005, 0.99])
    torch.testing.assert_close(found["KD, T = 1"], (logits.softmax(0) - smooth)[[2, 0, 1]])


def test_curves_take_the_variants_that_name_the_setting(workspace):
    found = collect(
        rows(workspace, ("tau=8", "soft", 0.9), ("tau=2", "soft", 0.8), ("tau=2", "hard", 0.7), ("noise", "soft", 0.1),
             ("tau=2, without L_KL", "soft", 0.2), ("queries=10", "soft", 0.3), ("tau=2, beta=1", "soft", 0.4)),
        "tau", {"": "MEKD"},
    )  # fmt: skip
    assert found.keys() == {("digits", "soft", "MEKD"), ("digits", "hard", "MEKD")}
    assert found["digits", "soft", "MEKD"] == [(2.0, pytest.approx(80), 0.0), (8.0, pytest.approx(90), 0.0)]


def test_figure_6_has_a_line_per_access(workspace):
    points = [(f"tau={tau}", access, 0.9 - tau / 100) for tau in (1, 5) for access in ("soft", "hard")]
    figure = mekd.draw_temperature(rows(workspace, *points))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["soft", "hard"]
    assert list(axes.containers[0].lines[0].get_xdata()) == [1.0, 5.0]
    assert list(axes.containers[0].lines[0].get_ydata()) == pytest.approx([89.0, 85.0])


def test_figure_7_has_a_panel_per_access_and_a_line_per_part(workspace):
    parts = ("", ", without L_IM", ", without L_KL", ", without L_IM, without L_KL")
    points = [
        (f"queries={1000 * n}{part}", access, 0.5 + n / 100)
        for part in parts for n in (10, 20) for access in ("hard", "soft")
    ]  # fmt: skip
    figure = mekd.draw_queries(rows(workspace, *points))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["digits, soft", "digits, hard"]
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["MEKD", "without L_IM", "without L_KL", "without L_IM, L_KL"]
    assert list(figure.axes[1].containers[3].lines[0].get_ydata()) == pytest.approx([60.0, 70.0])


def test_without_such_rows_it_says_what_there_is(workspace, capsys):
    workspace.run(variant="noise")
    output = write_report([workspace.root])
    with pytest.raises(SystemExit):
        mekd.main(["temperature", str(output)])
    assert "expected rows with a variant such as 'tau=...', got only: noise" in capsys.readouterr().err


def test_images_of_the_same_latent_vectors_with_the_range_of_the_answers():
    one, other = mekd.same_latents([Weighted(torch.eye(3)), Weighted(2 * torch.eye(3))], 4)
    assert torch.equal(other, 2 * one)
    with pytest.raises(ValueError, match=r"one latent dimension, got \[3, 5\]"):
        mekd.same_latents([Weighted(torch.eye(3)), DCGANGenerator(5, 1, 28)], 4)
    teacher = SoftLabelTeacher(Linear(torch.tensor([[4.0], [0.0]])))
    pixels = torch.tensor([0.0, 0.5, 1.0, 1.0])[:, None, None, None]  # top: 1/2, σ(2), σ(4)
    figure = mekd.draw_images({"real": pixels, "made": pixels[3:]}, teacher)
    top = [0.5, *torch.sigmoid(torch.tensor([2.0, 4.0, 4.0])).tolist()]
    assert figure.axes[0].get_xlabel() == f"top probability 0.50–0.98, mean {sum(top) / 4:.2f}"
    assert figure.axes[1].get_xlabel() == "top probability 0.98–0.98, mean 0.98"


def test_the_command_draws_from_directories(tmp_path, capsys):
    torch.manual_seed(0)
    for name in ("with", "without"):
        save_network(DCGANGenerator(10, 1, 28), tmp_path / name / "network")
    save_network(LeNet5(image_size=28), tmp_path / "teacher" / "network")
    options = {"image_size": 28, "num_val": 10, "augmentation": {"class_path": "Anything"}}
    config = {"data": {"class_path": "kdlightning.data.DigitsDataModule", "init_args": options}}
    (tmp_path / "with" / "config.yaml").write_text(yaml.safe_dump(config))
    command = ["images", "--run", "with", "--without", "without", "--teacher", "teacher", "--number", "4"]
    assert mekd.main([*command, "--output", "images.png"]) == 0
    writer = TransferSetWriter("pool", {"access": "soft", "class_names": [str(k) for k in range(10)]})
    pixels = torch.randint(0, 256, (2, 1, 28, 28)).to(torch.uint8)
    writer.write({"index": torch.arange(2), "image": pixels, "answer": F.softmax(torch.randn(2, 10), 1)})
    writer.finish(torch.arange(2), {})
    command = ["gradients", "--student", "teacher", "--generator", "with", "--pool", "pool", "--image", "1"]
    assert mekd.main([*command, "--output", "gradients.png"]) == 0
    assert capsys.readouterr().out == "images.png\ngradients.png\n"
    assert all(Path(name).read_bytes().startswith(b"\x89PNG") for name in ("images.png", "gradients.png"))
    with pytest.raises(SystemExit):
        mekd.main(["gradients", "--student", "teacher", "--generator", "teacher", "--pool", "pool"])
    assert "teacher holds a LeNet5, not a generator" in capsys.readouterr().err
