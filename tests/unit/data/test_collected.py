import pytest
import torch
from helpers import ToyDataModule
from torch.utils.data import Subset

from kdlightning.data import (
    DigitsDataModule,
    NoImagesDataModule,
    RenderedCharactersDataModule,
    RenderedDigitsDataModule,
    UnionDataModule,
)
from kdlightning.data.rendered import CHARACTERS, DIGITS, render_glyphs


def characters(number=30, **options):
    return RenderedCharactersDataModule(number, image_size=16, **options)


def test_characters_depend_on_their_seed_alone():
    one, more, other = characters(), characters(150, channels=1), characters(render_seed=1)
    for data in (one, more, other):
        data.setup()
    grey = (one.train_set.images.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    assert (grey - more.train_set.images[:30].float()).abs().mean() < 0.5  # noise is clamped per channel
    assert torch.equal(one.train_set.labels, more.train_set.labels[:30])
    assert not torch.equal(one.train_set.images, other.train_set.images)
    assert one.test_set is None
    assert len(one.class_names) == 79


def test_one_character_in_eight_is_a_digit():
    data = characters(4000, channels=1)
    data.setup()
    assert (data.train_set.labels < 10).float().mean() == pytest.approx(10 / 79, abs=0.015)
    assert torch.bincount(data.train_set.labels, minlength=79).min() > 20
    assert CHARACTERS[:10] == DIGITS


def test_a_glyph_of_a_larger_alphabet_shows_itself():
    import numpy as np

    which = torch.full((20,), CHARACTERS.index("I"))
    slim = render_glyphs(np.random.default_rng(0), which, 32, 1, CHARACTERS)
    assert slim.shape == (20, 1, 32, 32)
    assert slim.dtype == torch.uint8


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"number": 0}, "number: expected at least 1, got 0"),
        ({"channels": 2}, "expected 1 .grey. or 3 .colour., got 2"),
    ],
)
def test_bad_arguments_of_characters(options, text):
    with pytest.raises(ValueError, match=text):
        RenderedCharactersDataModule(**options)


def union(fraction=1.0, source=None, pools=None):
    source = source or DigitsDataModule(image_size=16, seed=3)
    return UnionDataModule(source, pools or [RenderedDigitsDataModule(40, 1, num_val=0), characters(60)], fraction)


def test_a_union_has_the_sources_form_and_everyones_images():
    data = union()
    data.setup()
    assert data.train_set.images.shape == (100, 1, 16, 16)
    assert data.train_set.labels is None
    assert torch.equal(data.train_set.index, torch.arange(100))
    assert torch.equal(data.truth[:40], torch.arange(40) % 10)
    which = data.pools[1].train_set.labels
    assert torch.equal(data.truth[40:], torch.where(which < 10, which, -1))
    assert (data.name, data.num_classes, len(data.test_set)) == ("digits", 10, 397)
    assert len(data.val_set) == 100
    assert [pool["name"] for pool in data.identity()["pools"]] == ["rendered-digits", "rendered-characters"]


def test_a_larger_share_has_the_smaller_ones_images():
    half, third = union(0.5), union(0.3)
    for data in (half, third):
        data.setup()
    assert (len(half.train_set), len(third.train_set)) == (50, 30)
    assert set(third.train_set.index.tolist()) < set(half.train_set.index.tolist())
    position = half.train_set.index.tolist().index(third.train_set.index[7])
    assert torch.equal(half.train_set.images[position], third.train_set.images[7])
    assert half.truth[position] == third.truth[7]


def test_grey_pools_are_repeated_over_three_channels():
    task = NoImagesDataModule("web", num_classes=3, image_size=8, channels=3)
    data = UnionDataModule(task, [ToyDataModule(num_val=0)])
    data.setup()
    assert data.train_set.images.shape == (60, 3, 8, 8)
    assert torch.equal(data.train_set.images[:, 0], data.train_set.images[:, 2])


def test_nobody_knows_what_unlabelled_images_show():
    data = union(pools=[RenderedDigitsDataModule(40, 1, num_val=0), characters(60, unlabelled=True)])
    data.setup()
    assert data.truth is None


def test_bad_arguments_of_a_union():
    with pytest.raises(ValueError, match="share above 0 and up to 1, got 0"):
        union(0)
    with pytest.raises(ValueError, match="expected at least one data set"):
        UnionDataModule(DigitsDataModule(), [])
    with pytest.raises(ValueError, match="pools: expected images of the source's size, got a teacher_size"):
        UnionDataModule(DigitsDataModule(), [ToyDataModule(teacher_size=16)])


def test_a_selector_chooses_and_batches_are_shared_out():
    data = union()
    data.setup()
    data.eval_batch_size = 40
    assert [batch.index[0].item() for batch in data.shared_loader()] == [0, 40, 80]
    data.selector = lambda: Subset(data.train_set, [3, 50, 99])
    (batch,) = data.train_dataloader()
    assert sorted(batch.index.tolist()) == [3, 50, 99]
    place = batch.index.tolist().index(50)
    assert torch.equal(batch.image[place], data.train_set.images[50])
