"""A fit that asks its teacher, stopped in the middle of an epoch, goes on and asks nothing twice."""

import copy

import pytest
import torch
from helpers import Linear, TinyNet, ToyDataModule, rehearsed, trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from kdlightning.callbacks import QueryLogger
from kdlightning.methods import DFND, KD
from kdlightning.teachers import SoftLabelTeacher

EPOCHS = 3


class Counted(torch.nn.Module):
    """Counts the images that reach it."""

    num_classes, asked = 3, 0

    def __init__(self):
        super().__init__()
        self.inner = Linear(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        self.asked += 0 if rehearsed(x) else len(x)
        return self.inner(x)


class Stop(Callback):
    """As a signal would, after so many batches."""

    def __init__(self, batches):
        self.batches = batches

    def on_train_batch_end(self, trainer, *_):
        self.batches -= 1
        if not self.batches:
            raise SystemExit(143)


def fit(root, make, network, stop=0, resume=None, budget=None):
    torch.manual_seed(0)
    module = make(SoftLabelTeacher(network, budget), TinyNet())
    checkpoint = ModelCheckpoint(root / "checkpoints", filename="last", enable_version_counter=False)
    run = trainer(
        root, max_epochs=EPOCHS, callbacks=[QueryLogger(), checkpoint, *([Stop(stop)] if stop else [])],
        enable_checkpointing=True,
    )  # fmt: skip
    run.fit(module, datamodule=ToyDataModule(augmentation=torch.nn.Dropout(0.1)), ckpt_path=resume)
    return module


MAKE = {"KD": KD, "DFND": lambda teacher, student: DFND(teacher, student, share=0.5)}
ASKED = {"KD": EPOCHS * 60, "DFND": 60 + EPOCHS * 30}  # the pool once, then half of it in each epoch


@pytest.mark.parametrize("method", MAKE)
@pytest.mark.parametrize("stop", [1, 3, 5])  # KD's epochs have 4 batches, DFND's 2
def test_a_stopped_run_pays_for_every_answer_once(tmp_path, method, stop):
    whole = fit(tmp_path / "whole", MAKE[method], Counted())
    network = Counted()
    with pytest.raises(SystemExit):
        fit(tmp_path / "run", MAKE[method], network, stop=stop)
    assert 0 < network.asked < ASKED[method]
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    made = fit(tmp_path / "run", MAKE[method], network, resume=last if last.exists() else None, budget=ASKED[method])
    assert network.asked == made.teacher.paid.queries == whole.teacher.paid.queries == ASKED[method]
    for mine, theirs in zip(made.student.parameters(), whole.student.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert not list((tmp_path / "run" / "journal").iterdir())


def test_what_a_run_still_has_to_ask_is_foreseen(tmp_path):
    network = Counted()
    with pytest.raises(SystemExit):
        fit(tmp_path, KD, network, stop=6)  # an epoch, and two batches of the next
    data = ToyDataModule(augmentation=torch.nn.Dropout(0.1))
    data.setup("fit")
    module = KD(SoftLabelTeacher(copy.deepcopy(network)), TinyNet())
    estimate = module.estimate(trainer(tmp_path, max_epochs=EPOCHS), data, done=4)
    assert (estimate.least, estimate.most, estimate.kept) == (180, 180, 60 + 32)


def test_superfluous_answers_are_deleted(tmp_path):
    with pytest.raises(SystemExit):
        fit(tmp_path, KD, Counted(), stop=11)
    assert sorted(file.name.split("-epoch-")[1] for file in (tmp_path / "journal").iterdir()) == [
        "1-rank-0",
        "2-rank-0",
    ]
