import pytest
import torch
from helpers import ToyDataModule
from PIL import Image

from kdlightning.data import BlendedDataModule


def task(**options):
    return ToyDataModule(number=60, num_val=20, image_size=16, **options)


def blended(**options):
    data = BlendedDataModule(task(), **options)
    data.setup()
    return data


def test_the_first_share_is_the_tasks_images_blended_into_crops_and_known_to_be():
    data = blended(number=100, relevant=0.3)
    crops = data.crops()
    images = data.train_set.images
    assert images.shape == (100, 1, 16, 16)
    assert data.truth.tolist()[30:] == [-1] * 70
    assert torch.equal(images[30:], crops[30:])
    ours = data.source.train_set
    # each blended image is |an image of the task of its class - its crop|, none of them twice
    distance = (ours.images.short()[None] - crops[:30, None].short()).abs() - images[:30, None].short()
    which = (distance.flatten(2) == 0).all(2).int().argmax(1)
    assert (distance[torch.arange(30), which] == 0).all()
    assert len(set(which.tolist())) == 30
    assert torch.equal(ours.labels[which], data.truth[:30])
    assert data.train_set.labels is None
    assert torch.equal(data.test_set.images, data.source.test_set.images)


def test_pools_of_other_shares_differ_in_what_is_blended_alone():
    few, many = (blended(number=50, relevant=relevant) for relevant in (0.1, 0.5))
    assert torch.equal(few.train_set.images[:5], many.train_set.images[:5])
    assert torch.equal(few.train_set.images[25:], many.train_set.images[25:])
    assert not torch.equal(few.train_set.images[5:25], many.train_set.images[5:25])
    assert few.identity() != many.identity()


def test_contrast_is_of_the_others_alone():
    plain, faint = (blended(number=50, relevant=0.2, contrast=contrast).train_set.images for contrast in (1.0, 0.25))
    assert torch.equal(plain[:10], faint[:10])
    plain, faint = plain[10:].double(), faint[10:].double()
    for kept, statistic in ((0.25, torch.std), (1.0, torch.mean)):  # to the rounding of pixels
        torch.testing.assert_close(statistic(faint, (1, 2, 3)), kept * statistic(plain, (1, 2, 3)), atol=0.5, rtol=0)


def test_photographs_of_ones_own(tmp_path):
    for level in (50, 200):
        Image.new("RGB", (64, 80), (level, level, level)).save(tmp_path / f"{level}.png")
    data = BlendedDataModule(task(), number=40, relevant=0.0, photos=str(tmp_path), cache=str(tmp_path / "cache"))
    data.setup()
    assert data.train_set.images.unique().tolist() == [50, 200]
    assert (data.train_set.images.flatten(1).amin(1) == data.train_set.images.flatten(1).amax(1)).all()
    assert data.identity()["blended"]["photos"] != "scikit-learn"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "number: expected at least 1, got 0"),
        ({"relevant": 1.5}, "relevant: expected a share from 0 to 1, got 1.5"),
        ({"contrast": -1.0}, "contrast: expected a share from 0 to 1, got -1.0"),
        ({"number": 200, "relevant": 0.5}, "relevant=0.5 of 200 images are 100, but toy has 60 training images"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        blended(**options)
