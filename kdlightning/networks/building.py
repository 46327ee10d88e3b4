"""How a network is built again from a file: from code that is installed or was named, and without the internet."""

import importlib
import inspect
import os
import sys
import threading
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import nn

_state = threading.local()  # what this thread builds, and whether that tried to connect


def build(spec: Mapping[str, Any]) -> nn.Module:
    """Construct ``{"class_path", "init_args"}``; arguments that are such a mapping are constructed first.

    Pretrained weights are never fetched, whatever the arguments say.

    Raises:
        ValueError: there is no such class, or it cannot be built from these arguments, or not without the internet.
        TypeError: it is no module and makes none.
    """
    constructor = constructor_of(spec["class_path"])
    init_args = {
        name: build(value) if isinstance(value, dict) and "class_path" in value else value
        for name, value in without_downloads(spec).items()
    }
    with _offline(spec["class_path"]):
        try:
            return constructor(**init_args)
        except TypeError as error:
            raise ValueError(f"{spec['class_path']} cannot be built from {init_args}: {error}") from error


def without_downloads(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The ``init_args`` without those that fetch weights."""
    init_args = dict(spec.get("init_args", {}))
    if init_args.get("pretrained"):
        init_args["pretrained"] = False
    if spec["class_path"].split(".")[0] in ("kdlightning", "torchvision"):
        init_args |= {name: None for name in ("weights", "weights_backbone") if name in init_args}
    return init_args


def constructor_of(class_path: str) -> Callable[..., nn.Module]:
    """The class or function of a dotted path, if it makes a module: a file must not call anything else.

    A file names it, not the user: so nothing is imported that merely lies in the current folder. Code is taken from
    what is installed, from ``PYTHONPATH``, from the folder of the script that runs, or from what is imported already.
    """
    module_name, _, name = class_path.rpartition(".")
    try:
        with _named_places():
            constructor = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        top = module_name.partition(".")[0]
        if top and any(Path(f"{top}{end}").exists() for end in (".py", "/__init__.py")):
            remedy = f"if it is yours, say so: import {top} first, or set PYTHONPATH=."
            raise ValueError(f"{class_path} lies in the current folder, which may be anybody's; {remedy}") from error
        remedy = "install the package that defines it"
        raise ValueError(f"unknown network class {class_path!r} ({error}); {remedy}") from error
    function = inspect.isfunction(constructor)
    made = typing.get_type_hints(constructor).get("return") if function else constructor
    if not (inspect.isclass(made) and issubclass(made, nn.Module)):
        remedy = f"; write `def {name}(...) -> torch.nn.Module:`" if function else ""
        raise TypeError(f"{class_path} is neither a torch.nn.Module nor a function annotated to return one{remedy}")
    return cast(Callable[..., nn.Module], constructor)


@contextmanager
def _named_places() -> Iterator[None]:
    """Search for modules where somebody has said that there are some, not in any current folder."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    named = {Path(place).resolve() for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place}
    named |= {Path(script).resolve().parent} if script else set()
    here, before = Path.cwd(), sys.path[:]
    if here not in named:
        sys.path[:] = [place for place in before if Path(place).resolve() != here]
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _offline(class_path: str) -> Iterator[None]:
    """Let this thread connect to nothing; a ValueError if that is what the building failed for."""
    global _watched
    if not _watched:
        sys.addaudithook(_refuse)  # once: it cannot be taken away
        _watched = True
    outer = getattr(_state, "builds", None)
    _state.builds, _state.tried = class_path, False
    try:
        yield
    except Exception as error:
        if _state.tried:
            told = f"{class_path} connects to the internet when it is built, which a saved network must not"
            raise ValueError(f"{told}: give arguments that fetch nothing, its weights are in the file") from error
        raise
    finally:
        _state.builds = outer


_watched = False


def _refuse(event: str, _: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.getaddrinfo") and getattr(_state, "builds", None):
        _state.tried = True
        raise ConnectionRefusedError(f"{_state.builds} is built without the internet")
