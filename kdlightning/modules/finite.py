"""A training that has left the numbers is stopped: what it would end with is no result."""

from collections.abc import Mapping

import lightning.pytorch as L
import torch
from lightning.pytorch.tuner.lr_finder import _LRCallback
from torch import Tensor


class NotFiniteError(RuntimeError):
    """A loss or a weight is not a number, or infinite."""


def check_losses(module: L.LightningModule, losses: Mapping[str, Tensor]) -> None:
    """Refuse, with a NotFiniteError, losses ``()`` that are not finite; looks at the device once for all of them."""
    values = torch.stack([value.float() for value in losses.values()]).tolist()
    wrong = [f"{name} is {value}" for name, value in zip(losses, values, strict=True) if value - value != 0]
    _refuse(module, wrong)


def check_terms(module: L.LightningModule, terms: object) -> None:
    """Refuse, with a TypeError, what a subclass calls its losses and are none."""
    wrong = f"got {type(terms).__name__}"
    if isinstance(terms, Mapping):
        odd = {name: term for name, term in terms.items() if not isinstance(term, Tensor) or term.ndim}
        if terms and not odd:
            return
        told = [f"{n} of shape {tuple(t.shape)}" if isinstance(t, Tensor) else f"{n}: {t!r}" for n, t in odd.items()]
        wrong = f"got {', '.join(told)}" if odd else "got none"
    raise TypeError(f"{type(module).__name__}.losses: expected a dict of names to scalar tensors, {wrong}")


def check_weights(module: L.LightningModule) -> None:
    """Refuse, with a NotFiniteError, weights or statistics that are not finite; a teacher's are not looked at."""
    state = {name: value for name, value in module.state_dict().items() if not name.startswith("teacher.")}
    floating = {name: value for name, value in state.items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in floating.values()]).tolist() if floating else []
    wrong = [name for name, good in zip(floating, finite, strict=True) if not good]
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    _refuse(module, [f"{wrong[0]}{more} has values that are not finite"] if wrong else [])


def _refuse(module: L.LightningModule, wrong: list[str]) -> None:
    trainer = module.trainer
    if any(isinstance(one, _LRCallback) for one in trainer.callbacks):  # type: ignore[attr-defined]  # tries too high ones
        return
    if trainer.strategy.reduce_boolean_decision(not wrong, all=True):
        return
    rates = sorted({f"{group['lr']:g}" for optimizer in trainer.optimizers for group in optimizer.param_groups})
    what = ", ".join(wrong) or "a loss or a weight of another process is not finite"
    raise NotFiniteError(
        f"{what}, in epoch {trainer.current_epoch + 1} after {trainer.global_step} steps: the training has failed and "
        f"is no result. Try a lower learning rate (it is {' and '.join(rates)}), or --trainer.gradient_clip_val 1; "
        "a loss of probabilities also fails at a temperature near 0"
    )
