import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from kdlightning.data.augmentation import RandomAffine, affine


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 12, 20)])
def test_each_image_moves_as_torchvision_would_move_it_alone(shape):
    torch.manual_seed(0)
    images = torch.rand(4, *shape)
    angle, factor = torch.tensor([0.0, 30.0, -75.0, 180.0]), torch.tensor([1.0, 0.8, 1.3, 1.0])
    shift = torch.tensor([[0.0, 0.0], [2.0, -1.0], [-3.0, 4.0], [0.0, 5.0]])
    made = affine(images, angle, shift, factor)
    for k in range(4):
        alone = tvf.affine(
            images[k], float(angle[k]), shift[k].tolist(), float(factor[k]), [0.0, 0.0], InterpolationMode.BILINEAR
        )
        torch.testing.assert_close(made[k], alone, atol=1e-4, rtol=0)


def test_draws_are_the_images_own_and_within_their_ranges():
    torch.manual_seed(0)
    images = torch.zeros(500, 1, 21, 21)
    images[:, :, 10, 10] = 1.0
    moved = RandomAffine((0, 0), translate=(0.1, 0.2))(images)
    place = torch.arange(21.0)
    mass = moved.sum((1, 2, 3))
    across = (moved.sum((1, 2)) * place).sum(1) / mass - 10
    down = (moved.sum((1, 3)) * place).sum(1) / mass - 10
    assert 2.0 < across.abs().max() <= 2.1 + 1e-3
    assert 4.1 < down.abs().max() <= 4.2 + 1e-3
    assert across.unique().numel() > 490
    assert abs(float(across.mean())) < 0.15
    assert RandomAffine((-180, 180), fill=0.5)(torch.full((8, 1, 9, 9), 0.5)).eq(0.5).all()


@pytest.mark.parametrize(
    "given", [{"degrees": (10, -10)}, {"translate": (0.1, 1.5)}, {"scale": (0.0, 1.0)}, {"scale": (1.2, 0.8)}]
)
def test_ranges_that_are_none_are_refused(given):
    with pytest.raises(ValueError, match="expected degrees from the least on, shares in"):
        RandomAffine(**{"degrees": (-10, 10)} | given)
