"""What a module is given in Python: kept as settings where it is plain, refused where it cannot be used."""

import inspect
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, cast

import lightning.pytorch as L
from lightning.pytorch.core.mixins.hparams_mixin import HyperparametersMixin
from lightning.pytorch.utilities.parsing import collect_init_args
from torch import nn


def keep_plain_hyperparameters(module: L.LightningModule) -> None:
    """Store the arguments of a module's ``__init__`` as configuration, never as objects.

    From the CLI they are ``class_path`` dictionaries and a checkpoint can be rebuilt from them; from Python, networks
    and teachers are left out and have to be given to ``load_from_checkpoint``. Either way checkpoints load with
    ``weights_only=True``. Called by the base classes, whose frame leads to the subclasses' arguments.
    """
    frame = cast(FrameType, inspect.currentframe()).f_back
    arguments = collect_init_args(cast(FrameType, frame), [], classes=(HyperparametersMixin,))
    objects = [name for given in arguments for name, value in given.items() if not _plain(value)]
    module.save_hyperparameters(frame=frame, ignore=objects)  # it copies what it keeps
    if "_instantiator" in module.hparams:  # the command line has put dictionaries in the objects' place
        module.save_hyperparameters(frame=frame)


def check_networks(**networks: object) -> None:
    """Refuse, with a TypeError, arguments that are to be networks and are not."""
    for argument, given in networks.items():
        if not isinstance(given, nn.Module):
            raise TypeError(f"{argument}: expected a torch.nn.Module, got {_told(given)}")


def check_makers(**makers: Callable[..., Any] | None) -> None:
    """Refuse, with a TypeError, arguments that are to make an optimiser or a schedule and are one already."""
    for argument, given in makers.items():
        if given is not None and not callable(given):
            made, example = "a schedule of an optimiser", "torch.optim.lr_scheduler.CosineAnnealingLR, T_max=10"
            if "optimizer" in argument:
                made, example = "an optimiser of parameters", "torch.optim.SGD, lr=0.1"
            advice = f"such as functools.partial({example})"
            raise TypeError(f"{argument}: expected what makes {made}, {advice}, got {_told(given)}")


def _told(given: object) -> str:
    return repr(given) if isinstance(given, (str, int, float, type(None))) else f"a {type(given).__name__}"


def _plain(value: Any) -> bool:  # noqa: ANN401 - hyper-parameters are anything
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_plain(item) for item in value)
    return isinstance(value, (bool, int, float, str, type(None)))
