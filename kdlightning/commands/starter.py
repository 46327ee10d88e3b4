"""What `--print_config` adds to a method, so that the file it prints starts: data, teacher, student, their sizes."""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args

import yaml
from torch import nn

from kdlightning.commands.hints import parameters, public_class
from kdlightning.methods import DB3KD, MEKD
from kdlightning.modules import AnsweredModule, LabellingModule, SelectingModule
from kdlightning.networks.gan import Critic, Generator
from kdlightning.teachers import BlackBoxTeacher, HardLabelTeacher, WhiteBoxTeacher

_TEACHER = "runs/demo/teacher/network"  # what `make demo` trains
_DIGITS = {"data": "DigitsDataModule", "data.image_size": "28", "data.batch_size": "64", "data.num_val": "100"}


def completed(arguments: Sequence[str]) -> list[str]:
    """A command line; with ``--print_config``, a model and no file, also with what the model still needs.

    Options that are given stay as they are. The rest is what the demonstration has, at the size of the data.
    """
    told = dict(_told(arguments))
    model = public_class(told.get("model", ""))
    printing = any(one.startswith("--print_config") for one in arguments)
    if not (printing and isinstance(model, type)) or {"config", "c"} & told.keys():
        return list(arguments)
    added: dict[str, str] = {}
    if "data" not in told:
        added |= _data(model)
    shape = _shape({**added, **told})
    needed = dict(parameters(model))
    if "networks" in needed:
        del needed["teacher"]  # it is the first of them
    for name, parameter in needed.items():
        if parameter.default is parameter.empty and name != "self" and f"model.{name}" not in told:
            added |= _argument(model, name, parameter.annotation, shape)
    for place in ("model.student", "model.generator", "model.critic"):
        kind = public_class({**added, **told}.get(place, ""))
        wanted = parameters(kind) if isinstance(kind, type) else {}
        added |= {f"{place}.{name}": str(value) for name, value in shape.items() if name in wanted}
    if not issubclass(model, LabellingModule) and not {"trainer.max_epochs", "trainer.max_steps"} & told.keys():
        added["trainer.max_epochs"] = "10"
    return [*arguments, *(f"--{name}={value}" for name, value in added.items() if name not in told)]


def _told(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options and their values."""
    for position, argument in enumerate(arguments):
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            yield name, value if equals else "".join(arguments[position + 1 : position + 2])


def _data(model: type) -> dict[str, str]:
    """The digits, in the way that a method reads images."""
    source = {name.replace("data", "data.source", 1): value for name, value in _DIGITS.items()}
    if issubclass(model, MEKD):
        return {"data": "GeneratedDataModule", **source, "data.path": "runs/teacheranswers"}
    if issubclass(model, (AnsweredModule, DB3KD)):
        path = "runs/db3kdlabels" if issubclass(model, DB3KD) else "runs/teacheranswers"
        return {"data": "TransferSetDataModule", **source, "data.path": path}
    if issubclass(model, SelectingModule):
        return {"data": "ShaderDataModule", **source, "data.size": "1000", "data.cache": "runs/cache"}
    if issubclass(model, LabellingModule) and "image" in model.columns and not hasattr(model, "choose"):
        return {"data": "NoiseDataModule", **source, "data.size": "1000"}  # images are made of them
    few = {"data.num_samples": "500"} if getattr(model, "renumbers", False) else {}
    return {**_DIGITS, **few}


def _shape(options: Mapping[str, str]) -> dict[str, Any]:
    """What a network needs to know of the images: of the data, or of its source; as far as it can be told."""
    place = "data.source" if "data.source" in options else "data"
    kind = public_class(options.get(place, ""))
    if not isinstance(kind, type):
        return {}
    given = {name.removeprefix(f"{place}."): value for name, value in options.items() if name.startswith(f"{place}.")}
    data: Any = kind
    with suppress(Exception):  # whatever the user's files are like: the run itself will say it
        data = kind(**{name: yaml.safe_load(value) for name, value in given.items() if "." not in name})
    size = getattr(data, "image_size", None) or yaml.safe_load(given.get("image_size", "null")) or data.native_size
    known = {"num_classes": getattr(data, "num_classes", None), "in_channels": getattr(data, "channels", None)}
    known |= {"channels": known["in_channels"], "image_size": size, "latent_dim": known["num_classes"]}
    return {name: value for name, value in known.items() if isinstance(value, int)}


def _argument(model: type, name: str, annotation: Any, shape: Mapping[str, Any]) -> dict[str, str]:  # noqa: ANN401
    """A value for an argument that has no default, with options of its own."""
    kinds = [kind for kind in (get_args(annotation) or (annotation,)) if inspect.isclass(kind)]
    place = f"model.{name}"
    if name == "networks":
        return {place: json.dumps({"demo": {"class_path": "WhiteBoxTeacher", "init_args": {"network": _TEACHER}}})}
    for base, chosen in (
        (HardLabelTeacher, "HardLabelTeacher"), (BlackBoxTeacher, "SoftLabelTeacher"),
        (WhiteBoxTeacher, "WhiteBoxTeacher"),
    ):  # fmt: skip
        if any(issubclass(kind, base) for kind in kinds):
            return {place: chosen, f"{place}.network": _TEACHER}
    if str in kinds:
        return {place: f"runs/{model.__name__.lower()}" if name == "output" else "runs/mekdgenerator-seed0/network"}
    if any(issubclass(kind, Generator) for kind in kinds):
        return {place: "TransposedGenerator"}
    if any(issubclass(kind, Critic) for kind in kinds):
        return {place: "DCGANCritic"}
    if nn.Module in kinds:
        return {place: "LeNet5Half"}
    if name == "num_classes":
        return {place: str(shape.get("num_classes", 10))}
    return {place: "1000"} if name == "queries" else {}
