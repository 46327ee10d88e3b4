import random

import pytest
import torch

from kdlightning.shaders import Program
from kdlightning.shaders.draw import Range
from kdlightning.shaders.graph import Colour, Node, X, constant
from kdlightning.shaders.program import LUMA

SEEDS = range(48)
KNOWN = [0.7136, 0.9483, 0.0643, 0.4574, 0.7136, 0.8276, 0.2268, 0.0101, 0.7136, 0.8505, 0.1, 0.3139]


@pytest.fixture(scope="module")
def images():
    return torch.cat([Program.from_seed(seed).render([1.5], 32) for seed in SEEDS])


def test_images_are_pixels_without_gradients(images):
    assert images.shape == (48, 3, 32, 32)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert not images.requires_grad


def test_a_seed_is_a_program_for_good():
    first, second = (Program.from_seed(11).render([0.5, 3.0], 16) for _ in range(2))
    assert torch.equal(first, second)
    # a change to the grammar changes every pool that was rendered by seed; then these numbers change too
    known = Program.from_seed(11).render([0.5], 2)[0].flatten()
    torch.testing.assert_close(known, torch.tensor(KNOWN), atol=2e-3, rtol=0)


def test_rendering_leaves_global_random_states_alone():
    python, own = random.getstate(), torch.get_rng_state()
    Program.from_seed(2).render([0.0], 4, variants=[5])
    assert random.getstate() == python
    assert torch.equal(torch.get_rng_state(), own)


def test_seeds_differ_in_structure_and_look(images):
    flat = images.flatten(1)
    apart = torch.cdist(flat, flat).div(flat.shape[1] ** 0.5)
    apart.fill_diagonal_(1)
    assert apart.min() > 0.05
    assert len({Program.from_seed(seed).glsl for seed in SEEDS}) == len(SEEDS)


def test_images_are_varied_and_rarely_constant(images):
    contrast = images.flatten(2).std(2).amax(1)
    assert (contrast < 0.02).float().mean() <= 0.05
    assert contrast.median() > 0.15
    centred = images - images.mean((2, 3), keepdim=True)
    beside = (centred[..., 1:] * centred[..., :-1]).sum((1, 2, 3)) / (centred**2).sum((1, 2, 3))
    assert ((beside > 0.85).sum() > 5, (beside < 0.6).sum() > 5) == (True, True)  # coarse ones and fine ones
    colourful = (images.amax(1) - images.amin(1)).mean((1, 2))
    assert ((colourful > 0.4).sum() > 5, (colourful < 0.15).sum() > 3) == (True, True)


@pytest.mark.parametrize("seed", [0, 5, 9])
def test_a_batch_of_times_is_each_alone(seed):
    program, times, variants = Program.from_seed(seed), [0.0, 2.0, 50.0], [0, 3, 4]
    together = program.render(times, 24, variants=variants)
    alone = [program.render([time], 24, variants=[one])[0] for time, one in zip(times, variants, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=0)
    same = program.render(torch.tensor(times), 24)
    torch.testing.assert_close(same, program.render(times, 24, variants=[0, 0, 0]), atol=1e-4, rtol=0)


def test_chunks_do_not_show(monkeypatch):
    program, times = Program.from_seed(4), torch.arange(5.0)
    whole = program.render(times, 16, variants=range(5))
    monkeypatch.setattr("kdlightning.shaders.program._CHUNK", {"cpu": 2 * 16**2})
    torch.testing.assert_close(program.render(times, 16, variants=range(5)), whole, atol=1e-4, rtol=0)


def test_variants_draw_every_number_from_its_range():
    program = Program.from_seed(7)
    numbers = program.parameters(range(200))
    low, high = (torch.tensor([getattr(span, end) for span in program.ranges]) for end in ("low", "high"))
    assert numbers.shape == (200, len(program.ranges))
    assert ((numbers >= low - 1e-6) & (numbers <= high + 1e-6)).all()
    assert torch.equal(numbers[3:4], program.parameters([3]))
    images = program.render([1.0] * 3, 16, variants=[0, 1, 2])
    assert (images[0] - images[1]).abs().mean() > 0.02


def test_parameters_that_the_graph_does_not_use_are_left_out():
    ranges = [Range(0, 1), Range(5, 6), Range(0.25, 0.250001)]
    program = Program(Colour(Node("parameter", value=2), constant(0), X), ranges)
    assert program.ranges == (ranges[2],)
    assert program.render([0.0], 1)[0, 0].item() == pytest.approx(0.25, abs=1e-5)
    assert "uniform float parameters[1];" in program.glsl


def test_one_channel_is_the_luma():
    program = Program.from_seed(3)
    grey, colour = (program.render([1.0], 8, channels=channels) for channels in (1, 3))
    torch.testing.assert_close(grey, (colour * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True))


def test_what_does_not_fit_is_refused():
    program = Program.from_seed(0)
    with pytest.raises(ValueError, match="as many variants as times, got 1 and 2"):
        program.render([0.0, 1.0], 8, variants=[1])
    with pytest.raises(ValueError, match="positive size and 1 or 3 channels, got 0 and 3"):
        program.render([0.0], 0)
    with pytest.raises(ValueError, match="got 8 and 4"):
        program.render([0.0], 8, channels=4)
