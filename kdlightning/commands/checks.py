"""What is looked at before a run begins: its checkpoint, and whether there is anything to measure."""

import inspect
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from jsonargparse import ArgumentParser, Namespace
from jsonargparse._util import import_object
from torch import nn

from kdlightning.commands.hints import returned
from kdlightning.modules import DistillationModule

ONE_START = {"overwrite": False, "restart": False, "ckpt_path": None}  # what belongs to one start, not to the run
_PYTHONS = sys.stdlib_module_names | {"builtins"}
_KNOWN = ("best", "last", "hpc")  # Lightning finds these itself


def check_checkpoint(path: Any) -> None:  # noqa: ANN401 - a setting
    """Refuse, with a ValueError, a checkpoint that is no file here: Lightning unpickles what an address answers."""
    if path is None or str(path) in _KNOWN or Path(path).exists():
        return
    remote = "://" in str(path) or str(path).startswith("registry")
    what = "download it first: an address is not opened" if remote else "there is none"
    raise ValueError(f"ckpt_path: expected a checkpoint's file on this machine, got {path}; {what}")


def check_metrics(trainer: L.Trainer, model: L.LightningModule) -> None:
    """Refuse, with a ValueError, a callback of the user that waits for a metric which no method of the package has."""
    if not type(model).__module__.startswith("kdlightning."):
        return  # what others log, nobody knows before
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = getattr(callback, "monitor", None)
        validated = isinstance(name, str) and name.startswith("val") and name != "val/accuracy"
        if isinstance(name, str) and (validated or not ("/" in name or name.startswith("lr"))):
            what = f"{type(callback).__name__}.monitor: there is no metric '{name}'"
            raise ValueError(f"{what}; expected val/accuracy, train/loss or another that metrics.csv names")


def check_trained(model: Any, config: Namespace, command: str) -> None:  # noqa: ANN401 - any LightningModule
    """Refuse, with a ValueError, to measure a student whose weights are drawn at random, wholly or in part.

    It is built once more with another seed: what is drawn then differs, what is loaded from a file does not.
    """
    if config.get("ckpt_path") is not None or not isinstance(model, DistillationModule):
        return
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--student", type=nn.Module)
    given = parser.parse_object({"student": config.model.init_args.student.as_dict()})
    with torch.random.fork_rng([]):
        torch.manual_seed(torch.initial_seed() + 1)
        again = parser.instantiate_classes(given).student.state_dict()
    drawn = [name for name, value in model.student.state_dict().items() if not torch.equal(value.cpu(), again[name])]
    if drawn:
        name = type(model.student).__name__
        raise ValueError(
            f"{command} measures a trained network, but the weights of {name} are random ({drawn[0]}). Give "
            "--ckpt_path runs/NAME/checkpoints/last.ckpt, or what a run has saved as the student: --model.student "
            "kdlightning.networks.load_network --model.student.source runs/NAME/network"
        )


def check_class_paths(config: Any) -> None:  # noqa: ANN401 - a configuration, or a value in one
    """Refuse, with a ValueError, a ``class_path`` that names no class, nor a function that says what class it makes.

    A file of settings comes from anywhere, and an option such as an optimiser takes whatever can be called: what is of
    Python's standard library, built in, or does not say what it returns could run any command.
    """
    values = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for value in values:
        check_class_paths(value)
    path = config.get("class_path") if isinstance(config, dict) else None
    if isinstance(path, str):
        made = import_object(path)
        made = made if inspect.isclass(made) else returned(made)
        room = path if inspect.isclass(made) and made.__module__ != "builtins" else "builtins"
        if {room.split(".")[0], getattr(made, "__module__", "builtins").split(".")[0]} & _PYTHONS:
            raise ValueError(
                f"class_path: {path} is not allowed in a configuration: expected a class of a package or of yours, or "
                "a function whose annotation says which class it returns"
            )
