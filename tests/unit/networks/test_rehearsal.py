"""What a network is tried for when it comes in, and that the trial leaves no trace."""

import random
import warnings
from dataclasses import dataclass

import pytest
import torch
from helpers import TinyNet, ToyDataModule, rehearsed, trainer
from torch import Tensor, nn
from torchvision.models import GoogLeNet

from kdlightning.callbacks import RunResult
from kdlightning.methods import KD, Supervised, TeacherAnswers
from kdlightning.networks import AlexNetQuarter, LeNet5Fifth, ResNet8, fingerprint, load_network, save_network
from kdlightning.networks.rehearsal import rehearse_student, rehearse_teacher, untouched
from kdlightning.serving import ServedModel
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher, WhiteBoxTeacher

SHAPE = (1, 8, 8)


class Answering(nn.Module):
    """A classifier whose answer goes through a function."""

    def __init__(self, dress=lambda logits: logits, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.dress, self.linear = dress, nn.Linear(64, classes)

    def forward(self, x):
        return self.dress(self.linear(x.flatten(1)))


class Viewing(TinyNet):
    """Flattens by view, as networks of old do: no layout but the usual one."""

    def forward(self, x):
        return self.classifier(self.body(x).view(x.size(0), -1))


@dataclass
class Output:
    logits: Tensor
    hidden_states: None = None


BAD = {
    "a tuple of 2 for 2 images; wrap it in a module whose forward returns the logits alone": lambda z: (z, z),
    "a dict with out, aux for 2 images": lambda z: {"out": z, "aux": z},
    r"\(2, 1\) for 2 images; a single logit z answers one class: for two classes return torch.cat": lambda z: z[:, :1],
    r"\(2,\) for 2 images; a single logit": lambda z: z[:, 0],
    r"\(2, 3, 1, 1\) for 2 images; these are features": lambda z: z[:, :, None, None],
    r"int64 \(2,\) for 2 images; return the logits whose argmax": lambda z: z.argmax(1),
    r"\(1, 3\) for 2 images; return one row for each image": lambda z: z[:1],
    "NaN or infinite: are its weights whole": lambda z: z / 0 * 0,
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_logits_is_refused_in_a_sentence_wherever_it_comes_in(text):
    net = Answering(BAD[text])
    teacher = SoftLabelTeacher(net, budget=9)
    with pytest.raises(ValueError, match=f"the teacher Answering.*{text}"):
        teacher.query(torch.rand(2, *SHAPE))
    assert teacher.paid.queries == 0
    for comes_in in (
        lambda: WhiteBoxTeacher(net).rehearse(SHAPE),
        lambda: ServedModel(net, "net", "soft", shape=SHAPE),
        lambda: rehearse_student(net, SHAPE),
    ):
        with pytest.raises(ValueError, match=text):
            comes_in()


@pytest.mark.parametrize("dress", [Output, lambda z: {"logits": z, "features": z}])
def test_logits_beside_other_things_are_taken(dress, tmp_path):
    plain, net, x = Answering(), Answering(dress), torch.rand(4, *SHAPE)
    assert torch.equal(SoftLabelTeacher(net).query(x), plain(x).softmax(1))
    white = WhiteBoxTeacher(Answering(dress))
    white.rehearse(SHAPE)
    assert torch.equal(white(x), plain(x))
    student = Answering(dress)
    run = trainer(tmp_path)
    run.fit(Supervised(student), datamodule=ToyDataModule())
    assert "train/ce" in run.callback_metrics
    assert student(x).shape == (4, 3)


def test_auxiliary_classifiers_are_told_of_and_left_out():
    net = GoogLeNet(num_classes=3, init_weights=False)
    with pytest.warns(UserWarning, match="GoogLeNet has auxiliary classifiers, which nothing trains here"):
        assert rehearse_student(net, (3, 64, 64)) == (3, 1)
    assert net.train()(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_a_network_that_flattens_by_view_keeps_its_own_layout(tmp_path):
    torch.manual_seed(0)
    net, x = Viewing(), torch.rand(5, *SHAPE)
    net.eval()
    expected = net(x).softmax(1)
    assert torch.equal(SoftLabelTeacher(net).query(x), expected)
    assert net.body[0].weight.is_contiguous()
    assert ServedModel(net, "net", "soft", shape=SHAPE).num_classes == 3
    trainer(tmp_path).fit(KD(SoftLabelTeacher(net), Viewing()), datamodule=ToyDataModule())
    usual = TinyNet(channels=2)
    SoftLabelTeacher(usual).query(torch.rand(1, 2, 8, 8))
    assert usual.body[0].weight.is_contiguous(memory_format=torch.channels_last)  # the faster one, where it works


def test_a_student_is_trained_in_the_faster_layout_where_it_can_be(tmp_path):
    torch.manual_seed(0)
    viewing, usual = Viewing(), ResNet8(3, 1, image_size=8)
    before = fingerprint(usual)
    for net in (viewing, usual):
        rehearse_student(net, SHAPE)
    assert viewing.body[0].weight.is_contiguous()
    convolutions = [tensor for tensor in usual.parameters() if tensor.ndim == 4 and tensor.shape[1] > 1]
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in convolutions)
    assert fingerprint(usual) == before  # the same weights
    run = trainer(tmp_path)
    run.fit(Supervised(usual), datamodule=ToyDataModule())
    state = run.optimizers[0].state
    assert all(one["exp_avg"].stride() == tensor.stride() for tensor, one in state.items())


def test_probabilities_are_warned_of_and_log_probabilities_are_logits():
    x = torch.rand(4, *SHAPE)
    with pytest.warns(UserWarning, match=r"the teacher Answering seems to answer probabilities p.*answer log\(p\)"):
        SoftLabelTeacher(Answering(lambda z: z.softmax(1))).query(x)
    with pytest.warns(UserWarning, match="the student Answering seems to answer probabilities"):
        rehearse_student(Answering(lambda z: z.softmax(1)), SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = SoftLabelTeacher(Answering(lambda z: z.log_softmax(1))).query(x)
    torch.testing.assert_close(answer, Answering()(x).softmax(1))


def test_the_trial_leaves_no_trace():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.5), TinyNet(), nn.BatchNorm1d(3, momentum=0.9))
    net[1].body.eval()
    modes = [module.training for module in net.modules()]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state, python = torch.random.get_rng_state(), random.getstate()
    assert rehearse_student(net, SHAPE) == (3, 2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert python == random.getstate()
    assert modes == [module.training for module in net.modules()]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_buffer_that_was_replaced_comes_back():
    class Replacing(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, x):
            self.mean = self.mean + 1
            return x

    net = Replacing()
    mean = net.mean
    with untouched(net):
        net(torch.ones(1))
    assert net.mean is mean
    assert not mean.any()


@pytest.mark.parametrize("kind", [SoftLabelTeacher, HardLabelTeacher, WhiteBoxTeacher])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_teacher_in_half_precision_answers_float_images(tmp_path, kind, mixed):
    torch.manual_seed(0)
    net = LeNet5Fifth().half()
    if mixed:
        net.classifier.float()
    path, x = save_network(net, tmp_path / "net"), torch.rand(3, 1, 28, 28)
    loaded = load_network(path)
    assert {tensor.dtype for tensor in loaded.parameters()} == {tensor.dtype for tensor in net.parameters()}
    teacher = kind(path)
    told = teacher.identity["fingerprint"]
    teacher.rehearse((1, 28, 28))
    assert teacher.identity["fingerprint"] == told  # of the weights as they are stored
    logits = net.float()(x)
    expected = {"soft": logits.softmax(1), "hard": logits.argmax(1), "white": logits}[kind.access]
    answer = teacher(x) if kind is WhiteBoxTeacher else teacher.query(x)
    torch.testing.assert_close(answer, expected)


def test_a_network_that_converts_images_itself_keeps_its_precision():
    class Exact(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 3).double()

        def forward(self, x):
            return self.linear(x.double().flatten(1))

    net = Exact()
    SoftLabelTeacher(net).query(torch.rand(2, *SHAPE))
    assert net.linear.weight.dtype == torch.float64


def test_a_student_in_half_precision_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"student LeNet5Fifth does not take .* in float16, .* give network.float\(\)"):
        rehearse_student(LeNet5Fifth().half(), (1, 28, 28))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_a_precision_that_changes_the_weights_is_refused_at_the_start(tmp_path, precision):
    teacher = SoftLabelTeacher(Answering())
    run = trainer(tmp_path, precision=precision)
    with pytest.raises(
        ValueError, match=f"trainer.precision {precision} cannot .* give 32-true, 16-mixed or bf16-mixed"
    ):
        run.fit(KD(teacher, TinyNet()), datamodule=ToyDataModule())
    with pytest.raises(ValueError, match="cannot be used"):
        run.predict(TeacherAnswers(teacher, str(tmp_path / "set")), datamodule=ToyDataModule())
    assert teacher.paid.queries == 0


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten())
        self.classifier = nn.LazyLinear(3)

    def forward(self, x):
        return self.classifier(self.body(x))


def test_lazy_layers_get_their_weights_before_the_first_step_and_are_saved(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"Lazy is no trained network: body.0.weight has no weights before"):
        SoftLabelTeacher(Lazy())
    net = Lazy()
    trainer(tmp_path).fit(Supervised(net), datamodule=ToyDataModule())
    assert net.classifier.weight.shape == (3, 4 * 36)
    monkeypatch.setattr("helpers.Lazy", Lazy, raising=False)
    path = save_network(net, tmp_path / "net", class_path="helpers.Lazy", init_args={})
    x = torch.rand(2, *SHAPE)
    torch.testing.assert_close(load_network(path)(x), net.eval()(x))  # another layout


def test_an_exported_program_answers_unless_it_was_exported_in_training():
    torch.manual_seed(0)
    net, x = TinyNet(), torch.rand(4, *SHAPE)
    shapes = ({0: torch.export.Dim("n")},)
    training = torch.export.export(net.train(), (x,), dynamic_shapes=shapes).module()
    program = torch.export.export(net.eval(), (x,), dynamic_shapes=shapes).module()
    expected = net(x).softmax(1)
    torch.testing.assert_close(SoftLabelTeacher(program).query(x), expected)
    white = WhiteBoxTeacher(program).train()
    torch.testing.assert_close(white(x).softmax(1), expected)
    with pytest.raises(ValueError, match=r"was exported while it was training: export it after network\.eval\(\)"):
        SoftLabelTeacher(training).query(x)
    with pytest.raises(ValueError, match="an exported program has no training mode"):
        rehearse_student(program, SHAPE)


def test_torchscript_answers_under_its_own_name(tmp_path):
    net, x = TinyNet().eval(), torch.rand(3, *SHAPE)
    traced = torch.jit.trace(net, torch.rand(2, *SHAPE))
    traced.save(str(tmp_path / "net.pt"))
    for program in (traced, torch.jit.script(net), torch.jit.load(str(tmp_path / "net.pt"))):
        teacher = HardLabelTeacher(program)
        assert torch.equal(teacher.query(x), net(x).argmax(1))
        assert teacher.identity["name"] == "TinyNet"
        torch.testing.assert_close(WhiteBoxTeacher(program)(x).softmax(1), net(x).softmax(1))


def test_a_reason_without_words_is_named():
    class Asserting(nn.Module):
        def forward(self, x):
            raise AssertionError

    with pytest.raises(ValueError, match=r"Asserting does not take images of shape \(1, 8, 8\): AssertionError"):
        rehearse_teacher(Asserting(), SHAPE)


@pytest.mark.parametrize("access", [SoftLabelTeacher, HardLabelTeacher, WhiteBoxTeacher])
@pytest.mark.parametrize(
    ("net", "text"),
    [
        (lambda: Answering(classes=4), "the teacher has 4 classes, but the data set toy has 3"),
        (lambda: TinyNet(channels=3), r"the teacher TinyNet does not take images of shape \(1, 8, 8\): .*channels"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_anything_is_paid(tmp_path, access, net, text):
    teacher = access(net())
    module = Supervised(TinyNet())
    module.teacher = teacher
    with pytest.raises(ValueError, match=text):
        trainer(tmp_path).fit(module, datamodule=ToyDataModule())
    if access is not WhiteBoxTeacher:
        assert teacher.paid.queries == 0
        with pytest.raises(ValueError, match=text):
            trainer(tmp_path).predict(TeacherAnswers(teacher, str(tmp_path / "set")), datamodule=ToyDataModule())
        assert not (tmp_path / "set").exists()


class Single(TinyNet):
    """Normalises a map of one pixel, and writes down how many images it was trained on."""

    def __init__(self):
        super().__init__()
        self.norm, self.sizes = nn.BatchNorm1d(3), []

    def forward(self, x):
        if self.training and not rehearsed(x):
            self.sizes.append(len(x))
        return self.norm(super().forward(x))


def test_a_last_batch_of_one_is_left_out_where_it_cannot_be_trained_on(tmp_path):
    data = ToyDataModule(number=49)  # of 16: three, and one image
    net = Single()
    trainer(tmp_path).fit(Supervised(net), datamodule=data)
    assert net.sizes == [16, 16, 16]
    seen = []
    plain = TinyNet()
    plain.register_forward_hook(lambda module, x, _: seen.append(len(x[0])) if module.training else None)
    trainer(tmp_path).fit(Supervised(plain), datamodule=ToyDataModule(number=49))
    assert seen[-4:] == [16, 16, 16, 1]
    for options in ({"number": 5, "batch_size": 1}, {"number": 1}):
        with pytest.raises(ValueError, match="toy: the network's batch normalisation needs two images in a batch, got"):
            trainer(tmp_path).fit(Supervised(Single()), datamodule=ToyDataModule(**options))


def test_alexnet_needs_two():
    assert rehearse_student(AlexNetQuarter(3, image_size=16), (3, 16, 16)) == (3, 2)
    assert rehearse_student(LeNet5Fifth(), (1, 28, 28)) == (10, 1)


def test_a_student_that_cannot_be_saved_is_refused_before_the_first_step(tmp_path):
    teacher = SoftLabelTeacher(TinyNet())
    run = trainer(tmp_path, callbacks=[RunResult()])
    with pytest.raises(
        ValueError, match=r"how this torch.* was constructed is not known, so that it cannot be saved: take Torchvision"
    ):
        run.fit(KD(teacher, nn.Sequential(nn.Flatten(), nn.Linear(64, 3))), datamodule=ToyDataModule())
    assert (teacher.paid.queries, run.global_step) == (0, 0)


def test_a_saved_student_says_its_classes(tmp_path):
    data = ToyDataModule()
    data.class_names = ["low", "middle", "high"]
    student = ResNet8(3, 1)
    trainer(tmp_path, callbacks=[RunResult()]).fit(Supervised(student), datamodule=data)
    assert load_network(tmp_path / "network").class_names == ["low", "middle", "high"]


@pytest.mark.parametrize("kind", [HardLabelTeacher, WhiteBoxTeacher])
def test_classes_in_another_order_are_refused_where_both_orders_are_known(tmp_path, kind):
    path = save_network(ResNet8(3, 1), tmp_path / "net", class_names=["elk", "cat", "dog"])
    module = Supervised(TinyNet())
    module.teacher = kind(path)
    data = ToyDataModule()
    data.class_names = ["cat", "dog", "elk"]
    with pytest.raises(
        ValueError, match="3 classes of toy have another number for the teacher: cat is 0 here and 1 there"
    ):
        trainer(tmp_path).fit(module, datamodule=data)
    data.class_names = ["elk", "cat", "dog"]
    trainer(tmp_path).fit(module, datamodule=data)
