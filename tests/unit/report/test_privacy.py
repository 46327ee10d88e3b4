import json
import math

import pytest
import torch
from helpers import TinyNet, ToyDataModule, trainer
from torch import nn

from kdlightning.callbacks import PoolPrivacy
from kdlightning.callbacks.privacy import compare, nearest
from kdlightning.data import GeneratedDataModule, TransferSet
from kdlightning.data.sets import tensor_set
from kdlightning.methods import TeacherAnswers
from kdlightning.networks import LeNet5
from kdlightning.networks.gan import Generator
from kdlightning.report import read_runs, write_report
from kdlightning.report.figures import plot_privacy
from kdlightning.teachers import SoftLabelTeacher


class Random(ToyDataModule):
    """Independent pixels: local and held-out images are exchangeable."""

    def load(self):
        def make(count, seed):
            generator = torch.Generator().manual_seed(seed)
            return tensor_set(torch.randint(0, 256, (count, 1, 8, 8), generator=generator).to(torch.uint8), [0] * count)

        return make(self.number + self.num_val, 0), None, make(3, 1)


class Memory(Generator):
    """Answers every latent vector with one of a few images."""

    def __init__(self, images):
        super().__init__(3, 1, 8)
        self.images = images
        self.body = nn.Identity()

    def forward(self, latent):
        return self.images[(latent[:, 0].abs() * 1000).long() % len(self.images)]


def local_images(data):
    return data.candidate_pool().image.float() / 255


def answer(tmp_path, images, network=None, **options):
    data = GeneratedDataModule(Random(number=60, num_val=200), Memory(images), size=50)
    module = TeacherAnswers(SoftLabelTeacher(TinyNet()), str(tmp_path / "pool"))
    trainer(tmp_path, callbacks=[PoolPrivacy(network, **options)]).predict(module, data, return_predictions=False)
    return json.loads((tmp_path / "pool" / "privacy.json").read_text())


def test_the_nearest_row_is_exact():
    points, others = torch.rand(7, 5), torch.rand(1200, 5)
    others[1100] = points[3]
    distance, position = nearest(points, others)
    expected = (points[:, None] - others).norm(dim=2).min(1)
    assert position.tolist() == expected.indices.tolist()
    torch.testing.assert_close(distance, expected.values)
    assert (float(distance[3]), int(position[3])) == (0.0, 1100)


def test_distances_by_hand():
    local = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    held_out = torch.tensor([[0.0, 3.0], [13.0, 4.0], [0.0, 1.0]])  # at 3, 5 and 1
    pool = torch.tensor([[0.0, 0.0], [10.0, 1.0], [10.0, 2.0], [0.0, 9.0]])  # at 0, 1, 2 and 9
    found = compare(pool, local, held_out)
    assert found["threshold"] == 1.0  # of three, the least stands for 1 %
    assert found["share"] == 0.5
    assert found["share_expected"] == 0.25  # a fourth like them is the least of all with probability 1/4
    assert found["copies"] == 1
    assert (found["pool"][0], found["pool"][50], found["pool"][100]) == (0.0, 1.5, 9.0)
    assert (found["held_out"][0], found["held_out"][50], found["held_out"][100]) == (1.0, 3.0, 5.0)


def test_a_pool_of_copies_leaks(tmp_path):
    source = Random(number=60, num_val=200)
    record = answer(tmp_path, local_images(source)[:20])
    pixels = record["spaces"]["pixels"]
    assert (pixels["share"], pixels["copies"], pixels["pool"][0], pixels["pool"][100]) == (1.0, 50, 0.0, 0.0)
    assert record["spaces"].keys() == {"pixels"}
    counts = [record[key] for key in ("pool_images", "pool_size", "local_images", "held_out_images")]
    assert counts == [50, 50, 60, 200]
    assert (tmp_path / "pool" / "privacy.png").read_bytes().startswith(b"\x89PNG")


def test_independent_images_give_the_expected_share():
    generator = torch.Generator().manual_seed(1)
    local, held_out, pool = (torch.randn(n, 3, generator=generator) for n in (300, 4000, 4000))
    found = compare(pool, local, held_out)
    assert found["share_expected"] == pytest.approx(0.01)
    # threshold and share are both drawn: standard deviation sqrt(2 * 0.01 * 0.99 / 4000) = 0.0022
    assert found["share"] == pytest.approx(0.01, abs=0.006)
    assert found["share_by_chance"] == pytest.approx(0.01 + 1.645 * 0.0022, abs=0.0006)
    assert found["copies"] == 0
    leaking = torch.cat([pool[:3600], local.repeat(2, 1)[:400]])
    assert compare(leaking, local, held_out)["share"] == pytest.approx(0.1 + 0.9 * found["share"], abs=0.003)


def test_chance_with_few_held_out_images_has_a_closed_form():
    # the least of 9 lies above a share x of all images with probability (1 - x)^9
    pool, rest = torch.rand(100_000, 1), torch.rand(9, 1)
    found = compare(pool, torch.zeros(1, 1), rest)
    assert found["share_by_chance"] == pytest.approx(1 - 0.05 ** (1 / 9), abs=0.005)


def test_features_of_a_network_are_compared_too_and_the_pool_is_drawn(tmp_path):
    torch.manual_seed(0)
    network = LeNet5(image_size=32, num_classes=3)
    timm_like = _Upscaled(network)
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    record = answer(tmp_path, images, timm_like, number=30)
    assert list(record["spaces"]) == ["pixels", "features"]
    assert (record["pool_images"], record["pool_size"], record["held_out_images"]) == (30, 50, 30)
    assert record["network"] == "_Upscaled"
    made = TransferSet(tmp_path / "pool")
    source = Random(number=60, num_val=200)
    with torch.no_grad():
        pool = timm_like.forward_features(made.column("image").float() / 255)
        local = timm_like.forward_features(local_images(source))
    least = (pool[:, None] - local).norm(dim=2).min(1).values
    assert record["spaces"]["features"]["pool"][0] >= float(least.min()) - 1e-4
    assert record["spaces"]["features"]["pool"][100] <= float(least.max()) + 1e-4


class _Upscaled(nn.Module):
    """Features of a network, with timm's interface."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward_features(self, x):
        return self.network.neck(self.network.forward_features(nn.functional.interpolate(x, size=(32, 32))))

    def forward_head(self, features, pre_logits=False):
        return features


def test_a_rehearsal_and_an_unfinished_pool_write_nothing(tmp_path):
    data = GeneratedDataModule(Random(number=60), Memory(torch.rand(5, 1, 8, 8)), size=50)
    module = TeacherAnswers(SoftLabelTeacher(TinyNet()), str(tmp_path / "pool"))
    run = trainer(tmp_path, callbacks=[PoolPrivacy()], limit_predict_batches=1)
    run.predict(module, data, return_predictions=False)
    assert not list(tmp_path.rglob("privacy.*"))


def test_what_cannot_be_compared_is_refused_before_anything_is_asked(tmp_path):
    teacher = SoftLabelTeacher(TinyNet())
    module = TeacherAnswers(teacher, str(tmp_path / "pool"))
    run = trainer(tmp_path, callbacks=[PoolPrivacy()])
    with pytest.raises(TypeError, match="use GeneratedDataModule, not ToyDataModule"):
        run.predict(module, ToyDataModule(), return_predictions=False)
    data = GeneratedDataModule(ToyDataModule(num_val=0), Memory(torch.rand(5, 1, 8, 8)), size=5)
    with pytest.raises(ValueError, match="toy has no validation images: set num_val"):
        run.predict(module, data, return_predictions=False)
    with pytest.raises(ValueError, match="number: expected at least 1 image, got 0"):
        PoolPrivacy(number=0)
    assert teacher.paid.queries == 0


def test_the_report_says_what_was_found(workspace):
    workspace.run(queries=0)
    for name in ("pool-hard", "pool-soft"):  # the same images: said once
        workspace.privacy(name)
    workspace.privacy("noise", network=None, spaces={"pixels": workspace.nearness})
    output = write_report([workspace.root])
    markdown, page = (output / "report.md").read_text(), (output / "report.html").read_text()
    section = markdown.split("## Privacy: nearest local image")[1].split("## Runs")[0]
    assert [line for line in section.splitlines() if line.startswith("### ")] == [
        "### digits: noise",
        "### digits: pool-hard, pool-soft",
    ]
    assert "0.05 % of 2,000 pool images lie within 1.493 of one of 1,300 local images" in section
    assert "where 1.00 % of new real images would (100 compared; by chance, up to 3.00 % of such a pool)" in section
    assert section.count("no sign of copying at this distance, which is no proof of privacy.") == 2
    assert section.count("In LeNet5's features, 40.00 %") == 1
    assert section.count("the pool comes nearer to local images than new real images do.") == 1
    assert "| pool | pixels | 2,000 | 0 | 1 | 5 | 50 | 0.05 | 0 |" in section
    assert "| held-out real | features (LeNet5) | 100 | 0 | 2 | 10 | 100 | 1.00 | – |" in section
    assert (output / "privacy-digits-pool-hard-pool-soft.png").read_bytes().startswith(b"\x89PNG")
    assert "![Distance to the nearest local image, digits, noise](privacy-digits-noise.png)" in section
    assert page.count("<svg") == 2
    assert "<h2>Privacy: nearest local image</h2>" in page


def test_the_figure_has_a_panel_per_space(workspace):
    workspace.privacy("pool")
    (entry,) = read_runs([workspace.root]).privacy
    figure = plot_privacy(entry)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "L2 distance, pixels in [0, 1]",
        "L2 distance, LeNet5's features",
    ]
    held_out, pool, threshold = figure.axes[0].lines
    assert list(held_out.get_xdata()) == [2.0 * percent for percent in range(1, 101)]
    assert list(pool.get_ydata()) == list(range(1, 101))
    assert list(threshold.get_xdata()) == [1.49345, 1.49345]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pool_images": None}, "pool_images: expected a whole number that is not negative, got None"),
        ({"spaces": {}}, "spaces: expected distances in pixels or features, got {}"),
        (
            {"spaces": {"pixels": {"share": 1}}},
            "missing spaces.pixels.pool, spaces.pixels.held_out, spaces.pixels.thresh",
        ),
        ({"level": 2}, "level: expected a fraction in [0, 1], got 2"),
    ],
)
def test_what_is_wrong_is_said(workspace, changes, reason):
    path = workspace.privacy("pool", **changes)
    (problem,) = read_runs([workspace.root]).problems
    assert problem.path == path
    assert problem.reason.startswith(reason)


@pytest.mark.parametrize(
    ("quantiles", "reason"),
    [
        ([1], "spaces.pixels.pool: expected the quantiles at 0, 1, ..., 100 %, finite, got [1]"),
        ([math.inf] * 101, "spaces.pixels.pool: expected a number, got inf"),
    ],
)
def test_quantiles_are_a_hundred_and_one_finite_numbers(workspace, quantiles, reason):
    workspace.privacy("pool", spaces={"pixels": {**workspace.nearness, "pool": quantiles}})
    assert read_runs([workspace.root]).problems[0].reason == reason
