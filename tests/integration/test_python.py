"""The package from Python, with loaders, datamodules, networks and optimisers as people have them."""

import copy
import json
import re
from functools import partial
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from helpers import ToyDataModule, trainer
from torch.utils.data import DataLoader, TensorDataset

from kdlightning import methods
from kdlightning.callbacks import Agreement, ConfusionMatrix, GeneratorQuality, QueryLogger, RunProgress, RunResult
from kdlightning.commands import cli
from kdlightning.data import DatasetDataModule, GeneratedDataModule, TransferSet, TransferSetDataModule
from kdlightning.networks import CIFARResNet, DCGANCritic, DCGANGenerator, fingerprint
from kdlightning.report import read_runs
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher, WhiteBoxTeacher
from kdlightning.types import Batch


def net(classes=3, width=0.25):
    torch.manual_seed(0)
    return CIFARResNet(8, num_classes=classes, in_channels=1, image_size=8, width=width)


def generator():
    return DCGANGenerator(3, 1, 8, width=8)


def toy(number=24):
    data = ToyDataModule(number, num_val=0)
    data.setup()
    return TensorDataset(data.train_set.images, data.train_set.labels)


def loader(collate=None, number=24):
    return DataLoader(toy(number), batch_size=8, collate_fn=collate)


def stacked(items):
    return torch.stack([item[0] for item in items]), torch.stack([item[1] for item in items])


COLLATED = {
    "pairs": None,
    "hugging face": lambda items: dict(zip(("pixel_values", "labels"), stacked(items), strict=True)),
    "batches": lambda items: Batch(stacked(items)[0], torch.arange(len(items)), stacked(items)[1]),
}


class Own(L.LightningDataModule):
    """A datamodule that knows nothing of this package, with the hook that people augment images in."""

    image_size = "8 x 8"

    def train_dataloader(self):
        return loader()

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    def on_after_batch_transfer(self, batch, dataloader_idx):
        image, label = batch
        return image.flip(3), label


@pytest.mark.parametrize("collate", COLLATED)
def test_a_plain_loader_is_trained_tested_and_predicted_on(collate, tmp_path):
    images = loader(COLLATED[collate])
    callbacks = [RunResult(), ConfusionMatrix(), QueryLogger(), Agreement(), RunProgress()]
    run = trainer(tmp_path, callbacks=callbacks, enable_progress_bar=True)
    module = methods.KD(student=net(), teacher=net(width=0.5))
    run.fit(module, images, images)
    run.test(module, images, verbose=False)
    record = json.loads((tmp_path / "result.json").read_text())
    assert (record["dataset"], record["queries"], record["access"]) == ("TensorDataset", 24, "soft")
    assert record["macs"] > 0
    saved = json.loads((tmp_path / "network/config.json").read_text())
    assert record["fingerprint"] == saved["fingerprint"] == fingerprint(module.student)
    assert 0 <= record["agreement"] <= 1
    expected = (module.eval()(toy().tensors[0] / 255).argmax(1) == toy().tensors[1]).float().mean()
    assert record["accuracy"] == pytest.approx(float(expected))
    predicted = torch.cat([part["probabilities"] for part in run.predict(module, images)])
    torch.testing.assert_close(predicted, module(toy().tensors[0] / 255).softmax(1))


def test_an_own_datamodule_keeps_its_own_hooks(tmp_path):
    seen = []

    class Watched(methods.KD):
        def losses(self, batch):
            seen.append(batch.image)
            return super().losses(batch)

    run = trainer(tmp_path, callbacks=[RunResult()])
    module = Watched(net(), net())
    run.fit(module, datamodule=Own())
    run.test(module, datamodule=Own(), verbose=False)
    torch.testing.assert_close(torch.cat(seen), toy().tensors[0].flip(3) / 255)
    assert json.loads((tmp_path / "result.json").read_text())["dataset"] == "Own"


TRAINED = {
    "Supervised": lambda: methods.Supervised(net()),
    "DAFL": lambda: methods.DAFL(net(width=0.5), net(), generator(), images_per_step=8),
    "MEKDGenerator": lambda: methods.MEKDGenerator(generator(), DCGANCritic(1, 8, width=4), net()),
}
ANSWERED = {
    "AnsweredKD": lambda: methods.AnsweredKD(net()),
    "AL": lambda: methods.AL(net()),
    "DB3KD": lambda: methods.DB3KD(net()),
    "DKD": lambda: methods.DKD(net()),
    "MEKD": lambda: methods.MEKD(net(), generator()),
}


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("given", [{"train_dataloaders": None}, {"datamodule": None}], ids=["loader", "datamodule"])
def test_methods_that_train_on_batches_take_any(method, given, tmp_path):
    (place,) = given
    run = trainer(tmp_path, limit_val_batches=0)
    run.fit(TRAINED[method](), **{place: Own() if place == "datamodule" else loader()})
    assert run.callback_metrics


def answers(items):
    image, label = stacked(items)
    return {"image": image, "answer": torch.nn.functional.one_hot(label, 3).float() * 0.7 + 0.1}


@pytest.mark.parametrize("method", ANSWERED)
def test_answers_that_one_has_already_are_learnt_from(method, tmp_path):
    run = trainer(tmp_path)
    run.fit(ANSWERED[method](), loader(answers))
    assert all(value.isfinite() for value in run.callback_metrics.values())
    with pytest.raises(ValueError, match=r"trains on a .*[Tt]ransfer.?[Ss]et.* {'image': ..., 'answer': ...}"):
        trainer(tmp_path).fit(ANSWERED[method](), loader())


@pytest.mark.parametrize(("method", "settings"), [("KD3", {"selection": "all"}), ("ShaderKD", {}), ("DFND", {})])
def test_methods_that_choose_want_a_datamodule_and_one_is_made_of_a_data_set(method, settings, tmp_path):
    def module():
        return getattr(methods, method)(net(width=0.5), net(), **settings)

    with pytest.raises(ValueError, match=rf"{method} chooses from a pool: .* DatasetDataModule\(dataset\)"):
        trainer(tmp_path).fit(module(), loader())
    run = trainer(tmp_path)
    run.fit(module(), datamodule=DatasetDataModule(toy(), batch_size=8))
    assert run.global_step


def test_labelling_wants_a_datamodule_and_one_is_made_of_a_data_set(tmp_path):
    for data in ({"dataloaders": loader()}, {"datamodule": Own()}):
        with pytest.raises(
            TypeError, match=r"TeacherAnswers labels a datamodule .* DatasetDataModule\(dataset\) .* got"
        ):
            trainer(tmp_path).predict(methods.TeacherAnswers(net(), "answers"), **data)
    data = DatasetDataModule(toy(), num_val=4, num_classes=3)
    trainer(tmp_path).predict(methods.TeacherAnswers(net(), "answers"), datamodule=data)
    assert TransferSet("answers").manifest["queries"] == 20
    run = trainer(tmp_path)
    run.fit(methods.AnsweredKD(net()), datamodule=TransferSetDataModule(data, "answers"))
    assert run.callback_metrics["train/kd"].isfinite()


@pytest.mark.parametrize(
    ("teacher", "student", "text"),
    [
        (net(), net(4), "the teacher has 3 classes, the student CIFARResNet answers 4: set the student's num_clas"),
        (net(), CIFARResNet(8, 3, in_channels=3, image_size=8), r"the student .* not take images .*\(1, 8, 8\)"),
        (CIFARResNet(8, 3, in_channels=3, image_size=8), net(), r"the teacher .* not take images .*\(1, 8, 8\)"),
        (net(2), net(2), "labels: expected class indices from 0 to 1, got 2 for a student of 2 classes"),
    ],
)
def test_what_does_not_fit_a_loader_is_refused_before_anything_is_paid(teacher, student, text, tmp_path):
    for stage in ("fit", "validate"):
        module = methods.KD(teacher, student)
        with pytest.raises(ValueError, match=text):
            getattr(trainer(tmp_path), stage)(module, loader())
        assert module.teacher.paid.queries == 0


def test_a_last_image_alone_is_refused_where_a_network_normalises_batches(tmp_path):
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3), torch.nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="the last batch of 17 images has one: give the loader drop_last=True"):
        trainer(tmp_path).fit(methods.Supervised(student), loader(number=17))
    whole = DataLoader(toy(17), batch_size=8, drop_last=True)
    trainer(tmp_path).fit(methods.Supervised(student), whole)
    trainer(tmp_path).fit(methods.Supervised(net()), loader(number=17))  # its maps are larger than a pixel


def test_made_images_have_the_shape_of_the_loaders(tmp_path):
    large = DCGANGenerator(3, 1, 16, width=8)
    modules = (
        methods.MEKDGenerator(large, DCGANCritic(1, 8, width=4)),
        methods.MEKDGenerator(generator(), DCGANCritic(1, 16, width=4)),
        methods.DAFL(net(), net(), large),
    )
    for module in modules:
        with pytest.raises(ValueError, match="images of 1 channels and 16 pixels, but those of the loader have 1 chan"):
            trainer(tmp_path).fit(module, loader())


def test_a_generators_quality_is_told_of_data_that_one_can_look_at(tmp_path):
    module = methods.MEKDGenerator(generator(), DCGANCritic(1, 8, width=4))
    with pytest.raises(TypeError, match=r"GeneratorQuality compares .* DatasetDataModule\(dataset\) .* got a loader"):
        trainer(tmp_path, callbacks=[GeneratorQuality(net())]).fit(module, loader())


def test_queries_are_spread_over_batches_that_are_known(tmp_path):
    module = methods.MEKDGenerator(generator(), DCGANCritic(1, 8, width=4), net(), queries=10)
    sampler = torch.utils.data.BatchSampler(range(24), 8, drop_last=False)
    with pytest.raises(ValueError, match=r"MEKDGenerator spreads its .* expected a DataLoader with a batch_size"):
        trainer(tmp_path).fit(module, DataLoader(toy(), batch_sampler=sampler))
    assert module.teacher.paid.queries == 0


def test_a_student_that_is_its_own_teacher_is_refused(tmp_path):
    network = net()
    with pytest.raises(ValueError, match=r"CIFARResNet has no weight to train; .* copy.deepcopy\(network\)"):
        trainer(tmp_path).fit(methods.KD(network, network), loader())


def test_a_sanity_check_leaves_a_white_box_differentiable(tmp_path):
    module = methods.DAFL(net(width=0.5), net(), generator(), images_per_step=8)
    run = trainer(tmp_path, num_sanity_val_steps=1)
    run.fit(module, loader(), loader())
    assert run.callback_metrics["train/one_hot"].isfinite()


def test_a_loader_without_indices_is_not_remembered(tmp_path):
    module = methods.KD(net(), net(), query_once=True)
    with pytest.raises(ValueError, match=r"query_once remembers .* yield dicts with 'index', or give query_once=False"):
        trainer(tmp_path).fit(module, loader())
    assert module.teacher.paid.queries == 0


def test_a_network_becomes_the_teacher_that_the_method_needs(tmp_path):
    network = net(width=0.5)
    assert type(methods.KD(network, net()).teacher) is SoftLabelTeacher
    assert type(methods.DB3KDLabels(network, "set", 3).teacher) is HardLabelTeacher
    assert type(methods.TeacherAnswers(network, "set").teacher) is SoftLabelTeacher
    assert type(methods.DFND(network, net()).teacher) is SoftLabelTeacher
    assert methods.KD3(network, net()).teacher.network is network
    # a white box has nothing to hide, so it can be asked as well
    assert methods.KD(WhiteBoxTeacher(network), net()).teacher.identity["name"] == "CIFARResNet"


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: methods.KD(HardLabelTeacher(net()), net()), TypeError,
         "expected a SoftLabelTeacher or TopKTeacher, got a HardLabelTeacher: .*, and it answers labels"),
        (lambda: methods.DB3KDLabels(SoftLabelTeacher(net()), "set", 3), TypeError, "needs labels, and it answers pro"),
        (lambda: methods.ShaderKD(SoftLabelTeacher(net()), net()), TypeError, "expected a WhiteBoxTeacher, got a Soft"),
        (lambda: methods.KD(None, net()), TypeError, "or a network to make one of, got a NoneType"),
        (lambda: methods.KD("nowhere", net()), FileNotFoundError, "there is no saved network at nowhere"),
        (lambda: methods.KD(net(), SoftLabelTeacher(net())), TypeError, "student: expected a torch.nn.Module, got a S"),
        (lambda: methods.KD3(net(), "ResNet8"), TypeError, "student: expected a torch.nn.Module, got 'ResNet8'"),
        (lambda: methods.KD(net(), net(), optimizer=torch.optim.Adam(net().parameters())), TypeError,
         r"optimizer: expected what makes an optimiser .* functools.partial\(torch.optim.SGD, lr=0.1\), got a\w* Adam"),
        (lambda: methods.KD(net(), net(), optimizer="adam"), TypeError, "optimizer: expected what makes .* got 'adam'"),
        (lambda: methods.KD(net(), net(), lr_scheduler=0.1), TypeError, "lr_scheduler: expected what makes a schedule"),
        (lambda: methods.DAFL(net(), net(), generator(), generator_optimizer=1), TypeError, "generator_optimizer: exp"),
        (lambda: methods.AL(net(), discriminator_optimizer=1), TypeError, "discriminator_optimizer: expected"),
        (lambda: methods.MEKDGenerator(generator(), DCGANCritic(1, 8), critic_optimizer=1), TypeError, "critic_opti"),
        (lambda: methods.MEKDGenerator(generator(), "critic"), TypeError, "critic: expected a torch.nn.Module, got"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_before_training(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.SGD, partial(torch.optim.SGD, lr=0.1), lambda parameters: torch.optim.SGD(parameters, 0.1)],
    ids=["class", "partial", "function"],
)
def test_an_optimiser_is_whatever_makes_one(optimizer, tmp_path):
    run = trainer(tmp_path)
    run.fit(methods.Supervised(net(), optimizer), loader())
    assert type(run.optimizers[0]) is torch.optim.SGD


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_notebook"])
def test_copies_of_the_process_are_refused_before_anything_is_asked(strategy, tmp_path):
    module = methods.KD(net(), net())
    with pytest.raises(Exception, match=r"ValueError: .* neither queries nor records come back: .* devices=1"):
        trainer(tmp_path, strategy=strategy, callbacks=[QueryLogger()]).fit(module, loader())
    assert QueryLogger._teacher(module).paid.queries == 0
    with pytest.raises(Exception, match=r"ValueError: .* run in copies of this process"):
        trainer(tmp_path, strategy=strategy).predict(
            methods.TeacherAnswers(net(), "answers"), datamodule=DatasetDataModule(toy())
        )
    assert not (tmp_path / "answers").exists()


def test_a_teacher_does_not_travel_to_a_spawned_process(tmp_path):
    with pytest.raises(TypeError, match=r"a SoftLabelTeacher cannot be pickled: .* ddp_spawn does not"):
        trainer(tmp_path, strategy="ddp_spawn").fit(methods.KD(net(), net()), loader())
    teacher = SoftLabelTeacher(net())
    assert copy.deepcopy([teacher]) == [teacher]


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_notebook", "ddp_spawn"])
def test_the_command_line_refuses_copies_of_the_process(strategy, capsys):
    arguments = ["fit", "--model", "Supervised", "--model.student", "LeNet5Fifth", "--data", "DigitsDataModule"]
    with pytest.raises(SystemExit, match="2"):
        cli.main([*arguments, "--trainer.accelerator=cpu", "--trainer.devices=2", f"--trainer.strategy={strategy}"])
    error = capsys.readouterr().err
    assert "kdlightning: error: trainer.strategy ddp_fork, ddp_notebook and ddp_spawn run in copies of this" in error
    assert "Traceback" not in error


def test_the_page_is_one_session_that_runs(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "python.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    session = {"__name__": "session"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page.name}, block {number}", "exec"), session)
    for method in ("KD", "AnsweredKD", "DB3KD", "MEKD", "ZSDB3KDImages", "KD3", "ShaderKD"):
        assert method in session
    assert sum(text.count("assert ") for text in blocks) >= 8
    assert TransferSet("runs/python/zero").manifest["queries"] > 0


def test_records_of_python_runs_are_read_and_belong_to_their_network(tmp_path, monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    seeds = []
    for number, seed in enumerate((7, 7, 8)):
        method = methods.KD(net(), net(width=0.5))
        run = trainer(tmp_path / str(number), callbacks=[RunResult(), Agreement(net())])
        torch.manual_seed(seed)
        run.fit(method, loader())
        run.test(method, loader())
        (found,) = read_runs([tmp_path / str(number)]).runs
        assert (found.queries, found.teacher_accuracy is None) == (24, False)
        seeds.append(found.seed)
    assert seeds[0] == seeds[1] != seeds[2]
    with pytest.raises(TypeError, match="teacher: expected a SoftLabelTeacher or BlackBoxTeacher, or a network"):
        Agreement(3)


def test_a_generator_knows_what_its_training_has_asked(tmp_path):
    module = methods.MEKDGenerator(generator(), DCGANCritic(1, 8, width=4), net(), queries=16)
    trainer(tmp_path).fit(module, datamodule=ToyDataModule(24))
    pool = GeneratedDataModule(ToyDataModule(24), module.generator, size=16)
    assert pool.paid.queries == module.paid.queries == 16


def test_labels_that_are_no_classes_are_refused_at_the_end_of_a_test_and_in_a_later_batch(tmp_path):
    images, labels = torch.rand(12, 1, 8, 8), torch.arange(12) % 3 + 1  # they begin at 1
    late = torch.cat([torch.zeros(6, dtype=torch.long), labels[:6]])
    module = methods.Supervised(net())
    refused = "labels: expected class indices from 0 to 2, got 3 for a student of 3 classes"
    with pytest.raises(ValueError, match=refused):
        trainer(tmp_path).test(module, DataLoader(TensorDataset(images, late), 6))
    with pytest.raises(ValueError, match=refused):
        trainer(tmp_path).fit(methods.Supervised(net()), DataLoader(TensorDataset(images, late), 6))


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        (lambda _: torch.tensor(1.0), "got Tensor"),
        (lambda _: {}, "got none"),
        (lambda _: {"ce": torch.zeros(4)}, r"got ce of shape \(4,\)"),
        (lambda _: {"ce": torch.tensor(1.0), "own": 0.5}, "got own: 0.5"),
    ],
)
def test_what_are_no_losses_is_said(tmp_path, losses, told):
    module = methods.Supervised(net())
    module.losses = losses
    with pytest.raises(TypeError, match=f"Supervised.losses: expected a dict of names to scalar tensors, {told}"):
        trainer(tmp_path).fit(module, loader())
