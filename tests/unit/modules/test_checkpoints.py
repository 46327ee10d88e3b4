"""What a checkpoint and a logger keep of a module that was made in Python, and that every method is loaded again."""

import inspect
from functools import partial

import pytest
import torch
import yaml
from helpers import ToyDataModule, trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from kdlightning import methods
from kdlightning.data import UnionDataModule
from kdlightning.modules import DistillationModule, GeneratorModule, LabellingModule
from kdlightning.networks import CIFARResNet, DCGANCritic, DCGANGenerator
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher, WhiteBoxTeacher


def net(width=0.25):
    return CIFARResNet(8, num_classes=3, in_channels=1, image_size=8, width=width)


def soft(kind=SoftLabelTeacher):
    return kind(net(0.5))


def gan():
    return {"generator": DCGANGenerator(3, 1, 8, width=8), "critic": DCGANCritic(1, 8, width=4)}


def student():
    return {"student": net()}


hard, white = partial(soft, HardLabelTeacher), partial(soft, WhiteBoxTeacher)
# what each is given: objects anew, and a setting of its own that is not its default
MADE = {
    "AL": (student, {"temperature": 3.0}),
    "ActiveMixup": (lambda: {"teacher": soft(), **student()}, {"output": "set", "queries": 7}),
    "AnsweredKD": (student, {"confidence": 0.9}),
    "CAN": (student, {"width": 16}),
    "CDL": (student, {"floor": 1e-5}),
    "DAFL": (
        lambda: {"teacher": white(), "generator": gan()["generator"], **student()},
        {"images_per_step": 8, "activation_weight": 0.2},
    ),
    "DB3KD": (student, {"reduction": "sum"}),
    "DB3KDLabels": (lambda: {"teacher": hard()}, {"output": "set", "num_classes": 3, "rank": 7}),
    "DFND": (lambda: {"teacher": white(), **student()}, {"share": 0.25}),
    "DKD": (student, {"beta": 2.0}),
    "DeepInversion": (lambda: {"teacher": white()}, {"output": "set", "iterations": 3}),
    "InversionStudy": (lambda: {"networks": {"one": white()}, "judge": white()}, {"output": "set", "iterations": 3}),
    "KD": (lambda: {"teacher": soft(), **student()}, {"query_once": True}),
    "KD3": (lambda: {"teacher": white(), **student()}, {"embedding": 16}),
    "KnockoffSelection": (lambda: {"teacher": soft()}, {"output": "set", "queries": 5}),
    "MEKD": (lambda: {**student(), "generator": gan()["generator"]}, {"beta": 0.5}),
    "MEKDGenerator": (lambda: {**gan(), "teacher": soft()}, {"alpha": 0.25}),
    "ML": (student, {"confidence": 0.8}),
    "ShaderKD": (lambda: {"teacher": white(), **student()}, {"per_class": 4}),
    "Supervised": (student, {"mixup": 0.3}),
    "TeacherAnswers": (lambda: {"teacher": soft()}, {"output": "set", "at_budget": "finish"}),
    "ZSDB3KDImages": (lambda: {"teacher": hard()}, {"output": "set", "iterations": 4}),
}


def test_every_method_is_here():
    classes = [getattr(methods, name) for name in methods.__all__]
    assert set(MADE) == {cls.__name__ for cls in classes if not inspect.isabstract(cls)}


@pytest.mark.parametrize("method", MADE)
def test_every_method_is_loaded_from_its_checkpoint(method, tmp_path):
    make, settings = MADE[method]
    cls = getattr(methods, method)
    module, run = cls(**make(), **settings), trainer(tmp_path)
    run.strategy.connect(module)
    run.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert settings.items() <= checkpoint["hyper_parameters"].items()
    assert not [name for name in checkpoint["state_dict"] if name.startswith("teacher.")]
    again = cls.load_from_checkpoint(tmp_path / "x.ckpt", **make())
    assert again.strict_loading
    expected = module.state_dict()
    assert len(expected) == len(again.state_dict())
    assert all(torch.equal(expected[name], tensor) for name, tensor in again.state_dict().items())
    if isinstance(module, (DistillationModule, GeneratorModule)):
        assert expected


@pytest.mark.parametrize("method", ["KD", "DFND", "MEKDGenerator", "TeacherAnswers"])
def test_loggers_get_settings_and_no_weights(method, tmp_path):
    make, settings = MADE[method]
    module, logger = getattr(methods, method)(**make(), **settings), CSVLogger(tmp_path, name="log")
    run = trainer(tmp_path, logger=logger, limit_train_batches=1, limit_val_batches=0)
    if isinstance(module, LabellingModule):
        logger.log_hyperparams(module.hparams_initial)
        logger.save()
    else:
        toy = ToyDataModule()
        run.fit(module, datamodule=UnionDataModule(toy, [ToyDataModule(number=24)]) if method == "DFND" else toy)
    (file,) = tmp_path.rglob("hparams.yaml")
    written = yaml.safe_load(file.read_text())  # refuses !!python
    assert settings.items() <= written.items()
    assert file.stat().st_size < 1000
    assert not {"teacher", "student", "generator", "critic", "optimizer"} & set(written)
    assert dict(module.hparams_initial) == dict(module.hparams) == written


def test_networks_are_not_copied_to_remember_settings(monkeypatch):
    monkeypatch.setattr(nn.Module, "__deepcopy__", lambda *_: pytest.fail("copied"), raising=False)
    assert methods.Supervised(net(), mixup=0.1).hparams == {
        "label_smoothing": 0.0,
        "lr_scheduler": None,
        "mixup": 0.1,
    }


def test_a_student_that_is_missing_in_the_checkpoint_is_not_passed_over(tmp_path):
    make, settings = MADE["KD3"]
    module, run = methods.KD3(**make(), **settings), trainer(tmp_path)
    run.strategy.connect(module)
    run.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    del checkpoint["state_dict"]["head.weight"]
    torch.save(checkpoint, tmp_path / "y.ckpt")
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: .head.weight"):
        methods.KD3.load_from_checkpoint(tmp_path / "y.ckpt", **make())


@pytest.mark.parametrize("method", ["DFND", "KD"])
def test_averaged_weights_resume_and_know_no_teacher(method, tmp_path):
    make, settings = MADE[method]

    def fit(epochs, checkpoint=None):
        torch.manual_seed(0)
        module = getattr(methods, method)(**make(), **settings)
        kept = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        run = trainer(
            tmp_path, max_epochs=epochs, enable_checkpointing=True, callbacks=[EMAWeightAveraging(decay=0.5), kept]
        )
        toy = ToyDataModule()
        data = UnionDataModule(toy, [ToyDataModule(number=24)]) if method == "DFND" else toy
        run.fit(module, datamodule=data, ckpt_path=checkpoint)
        return module

    whole = fit(2)
    checkpoint = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    own = {"student"} if method == "KD" else {"student", "mistakes"}
    assert {name.split(".")[0] for name in checkpoint["state_dict"] | checkpoint["current_model_state"]} == own
    resumed = fit(2, tmp_path / "epoch=0.ckpt")
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in resumed.state_dict().items())
