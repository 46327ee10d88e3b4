"""What a step costs beside its own arithmetic is bounded: the line looks twice a second, a batch moves by one call."""

from types import SimpleNamespace

import lightning.pytorch as L
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device

from kdlightning.callbacks import RunProgress, progress
from kdlightning.data import DigitsDataModule
from kdlightning.methods import Supervised
from kdlightning.networks import LeNet5Fifth
from kdlightning.types import Batch


def test_the_line_looks_at_the_metrics_twice_a_second(monkeypatch):
    clock, looks = SimpleNamespace(now=100.0, monotonic=lambda: clock.now), []
    look = RunProgress._look
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(RunProgress, "_look", lambda self, batch: (looks.append(batch), look(self, batch)))

    class TenStepsASecond(L.Callback):
        def on_train_batch_start(self, *_):
            clock.now += 0.1

    trainer = L.Trainer(
        max_epochs=1, limit_train_batches=40, limit_val_batches=0, accelerator="cpu", logger=False,
        enable_checkpointing=False, callbacks=[TenStepsASecond(), RunProgress()],
    )  # fmt: skip
    trainer.fit(Supervised(LeNet5Fifth(image_size=32)), DigitsDataModule(batch_size=4, image_size=32))
    assert len(looks) == 8  # 40 steps in 4 s: at the first, and every half second
    assert looks[0] == 1


def test_a_batch_moves_to_its_device_by_one_call(monkeypatch):
    calls, to = [], Batch.to
    monkeypatch.setattr(Batch, "to", lambda self, *where, **how: (calls.append(where), to(self, *where, **how))[1])
    batch = Batch(torch.ones(2, 1, 4, 4), torch.tensor([1, 0]))
    moved = move_data_to_device(batch, torch.device("meta"))
    assert len(calls) == 1
    assert [part if part is None else part.device.type for part in moved[:2]] == ["meta", "meta"]
    assert type(moved) is Batch
