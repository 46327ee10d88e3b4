import pytest
import torch
from helpers import TinyNet
from torch import nn

from kdlightning.networks import (
    Adapter,
    CIFARResNet,
    LeNet5,
    LeNet5Classic,
    LeNet5Fifth,
    ResNet18,
    SharedClassifierNetwork,
    count_macs,
    count_parameters,
    load_network,
    save_network,
)


def test_lenet_pair_has_the_size_that_fits_the_papers():
    teacher, student = LeNet5Classic(), LeNet5Classic(width=0.5)
    network = SharedClassifierNetwork.of(student, teacher)
    assert network.map_size is None
    # 15,738 of the half network, 420 + 10 of them its classifier; a 42 → 84 connector, and the teacher's 84 → 10
    assert count_parameters(network) == 15_738 - 430 + (42 * 84 + 84) + (84 * 10 + 10) == 19_770
    assert count_macs(network, (1, 32, 32)) == 137_688  # printed: 0.14M
    assert count_macs(LeNet5Classic(width=0.5), (1, 32, 32)) == 137_688 - 42 * 84 - 84 * 10 + 42 * 10
    assert not network.classifier.weight.requires_grad


def test_a_fifth_of_lenet_is_an_eleventh_with_its_connector():
    teacher, student = LeNet5(), LeNet5Fifth()
    assert count_parameters(teacher) / count_parameters(student) == pytest.approx(24, abs=0.5)
    network = SharedClassifierNetwork.of(student, teacher)  # 40 → 200, and the teacher's 200 → 10
    assert count_parameters(network) == 7_964 - 410 + (40 * 200 + 200) + 2_010 == 17_764
    assert count_parameters(teacher) / count_parameters(network) == pytest.approx(11, abs=0.5)


def test_a_student_that_grows_by_half_or_more_is_told_before_it_is_trained(caplog):
    SharedClassifierNetwork.of(LeNet5Classic(width=0.5), LeNet5Classic())  # 15,738 become 19,770
    assert caplog.messages == []
    network = SharedClassifierNetwork.of(CIFARResNet(8, 10, 3, 32), ResNet18(width=0.5))
    (told,) = caplog.messages
    grown = f"grows from {count_parameters(CIFARResNet(8, 10, 3, 32)):,} to {count_parameters(network):,} parameters"
    assert told.startswith(
        f"CIFARResNet {grown} by a connector to the teacher's 256 features and its classifier; features"
    )


def test_equal_widths_need_no_connector_unless_told():
    def resnet():
        return ResNet18(width=0.125)

    plain = SharedClassifierNetwork.of(resnet(), resnet())
    assert count_parameters(plain) == count_parameters(resnet())
    connected = SharedClassifierNetwork.of(resnet(), resnet(), connect=True)
    width = 64
    convolutions = width * (width // 2) * 2 + 9 * (width // 2) ** 2
    assert count_parameters(connected) - count_parameters(plain) == convolutions + 2 * (width + width)


def test_the_connector_of_the_papers_pair_is_as_large_as_the_released_one():
    network = SharedClassifierNetwork(ResNet18(), 512, 10, 4, connect=True)
    assert count_parameters(network.connector) == 854_016


def test_the_larger_map_is_averaged_down():
    student = CIFARResNet(8, 3, 1, 32, width=0.25)  # maps of 8 x 8
    network = SharedClassifierNetwork(student, 20, 3, map_size=4).eval()
    images = torch.rand(2, 1, 32, 32)
    features = network.forward_features(images)
    assert features.shape == (2, 20, 4, 4)
    pooled = nn.functional.avg_pool2d(student.forward_features(images), 2)
    torch.testing.assert_close(features, network.connector(pooled))
    vector = network.forward_head(features, pre_logits=True)
    torch.testing.assert_close(vector, features.mean((2, 3)))
    torch.testing.assert_close(network(images), network.classifier(vector))


@pytest.mark.parametrize("maps", [True, False])
def test_saved_and_loaded_it_gives_the_same_logits(tmp_path, maps):
    student = CIFARResNet(8, 5, 1, 16, width=0.25, mean=[0.3], std=[0.4])
    network = SharedClassifierNetwork(student, 24, 5, map_size=4 if maps else None, activation=True).eval()
    save_network(network, tmp_path / "net")
    images = torch.rand(3, 1, 16, 16)
    again = load_network(tmp_path / "net")
    assert torch.equal(again(images), network(images))
    assert count_parameters(again) == count_parameters(network)


def test_features_by_what_the_teacher_reads():
    def of(**options):
        return SharedClassifierNetwork.of(CIFARResNet(8, 10, 3, 32), ResNet18(width=0.125), **options)

    assert of().map_size == 4
    assert of(features="vector").map_size is None
    with pytest.raises(ValueError, match=r"its vector \(84,\): use vector"):
        SharedClassifierNetwork.of(LeNet5Classic(), LeNet5Classic(), features="map")


def test_a_teacher_that_is_being_trained_stays_as_it_is():
    teacher = ResNet18(width=0.125).train()
    with torch.no_grad():
        teacher(torch.rand(4, 3, 32, 32))
    before = {name: value.clone() for name, value in teacher.named_buffers()}
    assert SharedClassifierNetwork.of(CIFARResNet(8, 10, 3, 32), teacher).map_size == 4
    assert all(torch.equal(value, before[name]) for name, value in teacher.named_buffers())
    assert all(module.training for module in teacher.modules())


def test_a_connector_of_vectors_is_linear():
    """A ReLU there, as after a map's convolutions, left a third of LeNet-5's features without a gradient."""
    network = SharedClassifierNetwork.of(LeNet5Classic(width=0.5), LeNet5Classic()).eval()
    vectors = network.forward_features(torch.rand(8, 1, 32, 32))
    assert isinstance(network.connector, nn.Linear)
    assert (vectors < 0).any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"wrap it in kdlightning\.networks\.Adapter"):
        SharedClassifierNetwork(TinyNet(), 8, 3)
    with pytest.raises(TypeError, match="has no forward_features"):
        SharedClassifierNetwork(Adapter(TinyNet(), 3, in_channels=1, image_size=8), 8, 3)
    teacher = LeNet5Classic()
    teacher.classifier = nn.Sequential(teacher.classifier)
    with pytest.raises(TypeError, match=r"ends in torch.nn.Linear, got Sequential"):
        SharedClassifierNetwork.of(LeNet5Classic(), teacher)


def test_timm_students_lose_their_own_classifier():
    timm = pytest.importorskip("timm")
    assert timm.__version__
    from kdlightning.networks import TimmNetwork

    student = TimmNetwork("resnet18", 10, input_size=32)
    network = SharedClassifierNetwork.of(student, ResNet18(width=0.25)).eval()
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert isinstance(network.student.model.fc, nn.Identity)
