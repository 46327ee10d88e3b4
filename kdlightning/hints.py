"""What the command line says about names it does not know: what was expected there, and the nearest valid name."""

import importlib
import inspect
import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

import lightning.pytorch as L
from jsonargparse import ArgumentParser

# importing them also lets YAML and the command line use their short names
from kdlightning import callbacks, data, methods, networks, teachers

_PUBLIC = (methods, data, networks, teachers, callbacks)


def explain(message: str, parser: ArgumentParser) -> str:
    """A message of jsonargparse, with what was expected and the nearest valid name under it.

    Args:
        message: what jsonargparse says.
        parser: whose options are known.
    """
    noise = r"\n\s*(?:- Expected a <class 'NoneType'>|Given value(?: type)?: .*|- Expected a path but .*)"
    hints = list(dict.fromkeys(_hints(message, parser)))
    return "\n".join([re.sub(noise, "", message).rstrip(), *(f"  -> {hint}" for hint in hints)])


def public_class(name: str) -> Any:  # noqa: ANN401 - a class, if there is one
    """The class of a short name of this package's, or of an import path; None if there is none."""
    short = next((getattr(module, name) for module in _PUBLIC if hasattr(module, name)), None)
    return _import(name) if short is None and "." in name else short


def _hints(message: str, parser: ArgumentParser) -> Iterator[str]:
    owner, key = None, None
    for line in message.splitlines():
        if found := re.search(r"class_path '([\w.]+)'", line):
            owner = _import(found[1])
        if found := re.search(r'Parser key "([\w.]+)"', line):
            key = found[1]
        if found := re.search(r"Option '([\w.]+)' is not accepted", line):
            yield _nearest(found[1], set(inspect.signature(owner).parameters) if owner else set(), "argument")
        if found := re.search(r"import path string: ([\w.]+)|Import of '([\w.]+)' failed|no member '(\w+)'", line):
            yield _wanted(owner, key, next(filter(None, found.groups())))
        if found := re.search(r"[Uu]nrecognized arguments?: (.*)", line):
            names = {option.lstrip("-") for action in parser._actions for option in action.option_strings}
            subparsers = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
            for choices in subparsers:
                for sub in choices.values():
                    names |= {option.lstrip("-") for one in sub._actions for option in one.option_strings}
            for option in re.findall(r"--([\w.]+)", found[1]):
                yield _nearest(option, names, "option")
        if found := re.search(
            r"[Kk]ey '?\"?([\w.]+)'?\"? is not (?:accepted|expected)|No action for key \"([\w.]+)\"", line
        ):
            names = {action.dest for action in parser._actions}
            yield _nearest(found[1] or found[2], names, "key")


def _wanted(owner: Any, key: str | None, given: str) -> str:  # noqa: ANN401 - a class, or a function that makes one
    """What a parameter takes, and the nearest of those names."""
    if owner is not None and key is not None and key in inspect.signature(owner).parameters:
        annotation, place = inspect.signature(owner).parameters[key].annotation, f"'{key}' of {owner.__name__}"
    else:
        annotation = L.LightningDataModule if key == "data" else L.LightningModule
        place = f"'{key}'"
    bases = [base for base in (get_args(annotation) or (annotation,)) if inspect.isclass(base)]
    known = {name: cls for module in _PUBLIC for name, cls in vars(module).items() if inspect.isclass(cls)}
    fitting = {name for name, cls in known.items() if issubclass(cls, tuple(bases)) and not inspect.isabstract(cls)}
    kinds = " or ".join(base.__name__ for base in bases)
    near = get_close_matches(given, fitting, n=1, cutoff=0.0)
    known_as = f"'{given}' is a {known[given].__mro__[1].__name__}" if given in known else f"'{given}' is none"
    return f"{place} takes a {kinds}; {known_as}" + (f"; did you mean '{near[0]}'?" if near else "")


def _nearest(given: str, names: set[str], kind: str) -> str:
    near = get_close_matches(given, names - {"self"}, n=1, cutoff=0.0)
    return f"there is no {kind} '{given}'" + (f"; did you mean '{near[0]}'?" if near else "")


def _import(class_path: str) -> Any:  # noqa: ANN401 - a class, or a function that makes one
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name, None)
