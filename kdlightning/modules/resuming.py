"""A run that goes on is the same run: what has changed since its checkpoint is refused, or taken over and said."""

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any, cast

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback

_log = logging.getLogger(__name__)

_ELSEWHERE = ("optimizer", "lr_scheduler", "teacher", "_instantiator")  # compared as what they make, or who they are


class Resumption(Callback):
    """Compares a run with the checkpoint that it goes on from; every training module brings it.

    Another method or setting of it, network, teacher, data set, seed, optimiser or schedule is a ValueError. Other
    options of the same optimiser, such as ``lr``, are taken over with a warning, unless a schedule moves them.
    """

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}
        self._before: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: what the run was begun with."""
        return self._facts

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What it was begun with, to be compared."""
        self._before = state_dict

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:  # only where a fit goes on
        """Compare the method and its settings."""
        old, new = (_ours(settings) for settings in (checkpoint.get("hyper_parameters", {}), pl_module.hparams))
        _refuse({"model": old}, {"model": new})

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the rest: the optimisers are made, and have not taken over the checkpoint's state yet."""
        data, before = cast(Any, trainer).datamodule, self._before
        schedules = [_plain(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]
        self._facts = {
            "teacher": _plain(getattr(pl_module, "teacher_identity", None) or {}),
            "data": _plain(_identity(data)),
            "run": {"seed_everything": seed} if (seed := os.environ.get("PL_GLOBAL_SEED")) else {},
            "optimizer": {str(number): type(one).__name__ for number, one in enumerate(trainer.optimizers)},
            "schedules": {str(number): one for number, one in enumerate(schedules)},
            "options": [[_plain(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers],
        }
        compared = self._facts.keys() & before.keys() - (set() if schedules else {"options"})
        _refuse({part: before[part] for part in compared}, self._facts)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over what the optimisers are told now: they have the checkpoint's options."""
        old, self._before = self._before.get("options"), {}
        for name, was, now in [] if old is None else _changes(old, self._facts["options"]):
            number, group, option = name.split(".")[:3]
            trainer.optimizers[int(number)].param_groups[int(group)][option] = now
            _log.warning("the run goes on with %s %s, where its checkpoint has %s", option, now, was)


def _identity(data: Any) -> dict[str, Any]:  # noqa: ANN401 - any datamodule, or None
    """What the data are; a transfer set says what it was made of, which does not have to be there any more."""
    manifest = getattr(getattr(data, "transfer_set", None), "manifest", {})
    told: dict[str, Any] = manifest.get("source") or (data.identity() if hasattr(data, "identity") else {})
    return told


def _ours(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not name.endswith(_ELSEWHERE)}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    kinds = (bool, int, float, str)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if isinstance(value, kinds) or (isinstance(value, (list, tuple)) and all(type(one) in kinds for one in value))
    }


def _changes(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401 - plain values
    """What both have and differ in: its dotted name, the old and the new value."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in old.keys() & new.keys():
            yield from _changes(old[key], new[key], f"{name}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and any(isinstance(one, (Mapping, list)) for one in old):
        for number, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from _changes(one, other, f"{name}.{number}".lstrip("."))
    elif old != new:
        yield name, old, new


def _refuse(old: dict[str, Any], new: dict[str, Any]) -> None:
    if changed := sorted(_changes(old, new), key=lambda change: change[0]):
        told = ", ".join(f"{name} was {was} and is {now}" for name, was, now in changed)
        raise ValueError(
            f"a run goes on with what it was begun with, but since the checkpoint {told}. Give it as it was, or begin "
            "a new run; one that starts from trained weights takes kdlightning.networks.load_network as its student"
        )
