"""Learning rates that move every step, every epoch, or by a metric."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers import TinyNet, ToyDataModule, trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import ReduceLROnPlateau as Monitored
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, OneCycleLR, ReduceLROnPlateau

from kdlightning.methods import Supervised
from kdlightning.modules import WarmupCosineLR
from kdlightning.modules.schedule import progress

SGD = partial(torch.optim.SGD, lr=0.1)


class Rates(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, *_):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates(root, schedule, epochs=2, ckpt=None, **options):
    watching = Rates()
    run = trainer(root, max_epochs=epochs, callbacks=[watching], **options)
    run.fit(Supervised(TinyNet(), SGD, schedule), ToyDataModule(), ckpt_path=ckpt)  # 4 batches an epoch
    run.save_checkpoint(root / f"{epochs}.ckpt")
    return watching.seen


def test_a_warm_up_and_a_cosine_over_the_whole_run(tmp_path):
    seen = rates(tmp_path, partial(WarmupCosineLR, warmup=0.25, final=0.1))
    falling = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert seen == pytest.approx([0.1 * share for share in (1 / 3, 2 / 3, *falling)])


def test_one_cycle_is_told_its_length_and_moves_every_step(tmp_path):
    seen = rates(tmp_path, partial(OneCycleLR, max_lr=1.0, total_steps=None))
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))])
    by_hand = OneCycleLR(optimizer, 1.0, total_steps=8)
    expected = []
    for _ in range(8):
        expected.append(by_hand.get_last_lr()[0])
        optimizer.step()
        by_hand.step()
    assert seen == pytest.approx(expected)
    accumulated = rates(tmp_path, partial(OneCycleLR, max_lr=1.0), accumulate_grad_batches=2)
    assert len(set(accumulated)) == 4
    assert rates(tmp_path, partial(OneCycleLR, max_lr=1.0), max_steps=3)[2:] == pytest.approx([4e-6])


def test_others_move_as_they_did(tmp_path):
    assert rates(tmp_path, partial(CosineAnnealingLR, T_max=2)) == pytest.approx([0.1] * 4 + [0.05] * 4)
    cyclic = partial(CyclicLR, base_lr=0.1, max_lr=0.3, step_size_up=4)
    assert rates(tmp_path, cyclic) == pytest.approx([0.1, 0.15, 0.2, 0.25, 0.3, 0.25, 0.2, 0.15])


@pytest.mark.parametrize(
    "schedule",
    [
        partial(ReduceLROnPlateau, patience=0, threshold=1e9),
        partial(ReduceLROnPlateau, mode="max", patience=0, threshold=1e9),
        partial(Monitored, monitor="train/ce", patience=0, threshold=1e9),
    ],
)
def test_a_plateau_lowers_the_rate_and_a_resumed_run_misses_no_step(tmp_path, schedule):
    whole = rates(tmp_path, schedule, epochs=4)
    patient = [1.0] if schedule.keywords.get("mode") == "max" else []  # the first is the best
    expected = [*patient, *(10.0**-epoch for epoch in range(4))][:4]
    assert whole[::4] == pytest.approx([0.1 * share for share in expected])
    rates(tmp_path, schedule, epochs=3)
    assert rates(tmp_path, schedule, epochs=4, ckpt=tmp_path / "3.ckpt") == whole[12:]


def test_what_cannot_be_known_or_seen_is_said(tmp_path):
    with pytest.raises(ValueError, match="ReduceLROnPlateau follows val/nothing, which this run does not log"):
        rates(tmp_path, partial(Monitored, monitor="val/nothing"))
    with pytest.raises(ValueError, match=r"nobody knows how many steps.*set trainer.max_epochs"):
        rates(tmp_path, WarmupCosineLR, epochs=-1)
    with pytest.raises(ValueError, match=r"warmup in \[0, 1\)"):
        rates(tmp_path, partial(WarmupCosineLR, warmup=1.5))
    rates(tmp_path, WarmupCosineLR)
    with pytest.raises(ValueError, match=r"schedules.0.total_steps was 8 and is 12"):
        rates(tmp_path, WarmupCosineLR, epochs=3, ckpt=tmp_path / "2.ckpt")


def test_progress_is_of_what_ends_the_run_first():
    def run(**told):
        return SimpleNamespace(**{"current_epoch": 1, "global_step": 30, "max_epochs": -1, "max_steps": -1, **told})

    assert progress(run(max_epochs=4)) == 0.25
    assert progress(run(max_steps=40)) == 0.75
    assert progress(run(max_epochs=4, max_steps=40)) == 0.75
    assert progress(run(max_epochs=2, max_steps=400)) == 0.5
    assert progress(run(max_epochs=2), epochs=2) == 1
    assert progress(run(max_steps=30), epochs=2) == 1
    assert progress(run()) is None
    assert progress(run(max_epochs=None, max_steps=300)) == 0.1
