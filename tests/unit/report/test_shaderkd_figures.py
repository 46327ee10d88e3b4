import pytest
import shaderkd as figures
import torch
from PIL import Image

from kdlightning.networks import LeNet5Classic, save_network


def test_a_sheet_has_an_image_for_every_program():
    picture = figures.sheet(side=3, size=16)
    assert picture.shape == (3, 3 * 17 + 1, 3 * 17 + 1)
    first = picture[:, 1:17, 1:17]
    torch.testing.assert_close(first, figures.Program.from_seed(0).render([2.0], 16)[0].mul(255).round() / 255)
    assert (picture[:, 1:17, 18:34] - first).abs().max() > 0.1


def test_the_attack_shows_both_sides_of_the_boundary(tmp_path, capsys):
    torch.manual_seed(0)
    network = LeNet5Classic(num_classes=3, image_size=16)
    network.classifier.weight.data *= 20
    save_network(network, tmp_path / "net")
    out = tmp_path / "a" / "attack.png"
    assert figures.main(["attack", "--teacher", str(tmp_path / "net"), "--output", str(out), "--epsilon", "60"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    width, height = Image.open(out).size
    assert height == 4 * 17 + 1
    assert (width - 1) % 17 == 0
    with pytest.raises(RuntimeError, match="no image reached its target within 1e-06/255"):
        figures.attack(tmp_path / "net", epsilon=1e-6)
    with pytest.raises(SystemExit):
        figures.main(["attack", "--output", str(out)])


def test_the_distance_to_a_class_s_boundary_is_that_to_the_nearest_hyperplane():
    layer = torch.nn.Linear(2, 3)
    layer.weight.data, layer.bias.data = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]), torch.tensor([0.0, 0.5, 0])
    found = figures.signed_distance(layer, torch.tensor([[2.0, 0.0], [2.0, 3.0]]), 0)
    nearest = 2 / 5**0.5  # to class 2: (1, -2) x = 0; to class 1, x = 0.5, it is 1.5
    torch.testing.assert_close(found, torch.tensor([nearest, -4 / 5**0.5]))


def test_the_boundary_lies_between_the_images_before_and_behind_it(tmp_path, capsys):
    torch.manual_seed(0)
    network = LeNet5Classic(num_classes=3, image_size=16)
    network.classifier.weight.data *= 20
    save_network(network, tmp_path / "net")
    (axes,) = figures.boundary(tmp_path / "net", epsilon=60).axes
    across = {each.get_label(): each.get_offsets()[:, 0] for each in axes.collections if each.get_label()[0] != "_"}
    assert set(across) == {"start", "deeper", "before", "behind"}
    assert across["before"].max() <= 0 <= across["behind"].min()
    assert len(across["deeper"]) == 2 * len(across["before"])
    deeper = across["deeper"].reshape(2, -1)
    assert (deeper[0] >= across["behind"]).mean() > 0.9
    assert (deeper[1] <= across["before"]).mean() > 0.9
    out = tmp_path / "boundary.png"
    assert figures.main(["boundary", "--teacher", str(tmp_path / "net"), "--output", str(out), "--epsilon", "60"]) == 0
    assert Image.open(out).size == (900, 600)
