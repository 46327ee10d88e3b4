"""How a learning rate moves: every epoch, every step of a run whose length is known, or where a metric stands still."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as L
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, ReduceLROnPlateau

NEVER = 2**62  # Lightning would step it too late, after the checkpoint is saved: a resumed run would miss a step


class WarmupCosineLR(LambdaLR):
    """Rises to the optimiser's learning rate in a straight line, then falls along half a cosine; moves every step.

    Args:
        optimizer: whose rate it is.
        total_steps: of the whole run; a module that is given no number fills it in.
        warmup: the share of them that the rate rises, in [0, 1).
        final: where it ends, as a share of the optimiser's rate.

    Raises:
        ValueError: a share outside its interval, or no number of steps.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int | None = None, warmup: float = 0.05, final: float = 0.0
    ) -> None:
        if total_steps is None or total_steps < 1:
            raise ValueError(f"total_steps: expected the steps of the whole run, got {total_steps}")
        if not (0 <= warmup < 1 and 0 <= final <= 1):
            raise ValueError(f"expected warmup in [0, 1) and final in [0, 1], got {warmup} and {final}")
        self.total_steps, self.rising, self.final = total_steps, round(warmup * total_steps), final
        super().__init__(optimizer, self.share)

    def share(self, step: int) -> float:
        """The rate of a step, counted from 0, as a share of the optimiser's."""
        if step < self.rising:
            return (step + 1) / (self.rising + 1)
        done = min(1.0, (step - self.rising) / max(1, self.total_steps - self.rising))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2


def make_schedule(module: L.LightningModule, make: Callable[..., Any], optimizer: Optimizer) -> dict[str, Any]:
    """A schedule as Lightning's configuration: ``scheduler``, ``interval``, ``monitor``.

    One that has ``total_steps`` is told them, where it is not given any, and moves every step; so does a CyclicLR. A
    ReduceLROnPlateau follows its ``monitor``; without one ``val/accuracy`` where it looks for a maximum, else
    ``train/loss``. All others move every epoch.
    """
    named: dict[str, Any] = getattr(make, "keywords", {})
    parts = (make, getattr(make, "func", None), *getattr(make, "args", ()))
    kind = next((part for part in parts if inspect.isclass(part)), None)
    known = named.get("total_steps") or named.get("epochs")
    if kind is not None and not known and "total_steps" in inspect.signature(kind).parameters:
        make = partial(make, total_steps=total_steps(module))
    scheduler = make(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        default = "val/accuracy" if scheduler.mode == "max" else "train/loss"
        monitor = getattr(scheduler, "monitor", default)
        return {"scheduler": scheduler, "interval": "epoch", "frequency": NEVER, "monitor": monitor}
    every_step = hasattr(scheduler, "total_steps") or isinstance(scheduler, CyclicLR)
    return {"scheduler": scheduler, "interval": "step" if every_step else "epoch"}


def total_steps(module: L.LightningModule) -> int:
    """The steps that an optimiser makes in the whole run; a ValueError where nobody knows."""
    trainer = module.trainer
    steps = math.inf
    if not trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]
        steps = trainer.estimated_stepping_batches
        if not module.automatic_optimization:  # its optimisers step in turn, and Lightning counts both
            trainer.fit_loop.setup_data()
            batches = math.ceil(trainer.num_training_batches / getattr(module, "batches_a_step", 1))
            epochs = trainer.max_epochs or 0
            ends = [epochs * batches] if epochs > 0 else []
            steps = min([*ends, *([trainer.max_steps // 2] if trainer.max_steps > 0 else [])], default=math.inf)
    if not 0 < steps < math.inf:
        raise ValueError(
            "lr_scheduler: nobody knows how many steps this run will have: set trainer.max_epochs, or give the "
            "schedule its total_steps; a method that chooses its images anew needs them given"
        )
    return int(steps)


def follow_metric(module: L.LightningModule, configured: dict[str, Any] | None) -> None:
    """Step a ReduceLROnPlateau at an epoch's end, by the first process's metric; a ValueError without that metric."""
    if configured is None or not isinstance(configured["scheduler"], ReduceLROnPlateau):
        return
    trainer, monitor = module.trainer, configured["monitor"]
    here = trainer.callback_metrics.get(monitor)
    value = trainer.strategy.broadcast(None if here is None else float(here))
    if value is None:
        known = ", ".join(sorted(trainer.callback_metrics))
        raise ValueError(
            f"lr_scheduler: ReduceLROnPlateau follows {monitor}, which this run does not log; it has {known}"
        )
    configured["scheduler"].step(value)
