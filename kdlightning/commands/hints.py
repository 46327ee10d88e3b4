"""What the command line says about names it does not know: what was expected there, and the nearest valid name."""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import lightning.pytorch as L
import torch
from jsonargparse import ArgumentParser

# importing them also lets YAML and the command line use their short names
from kdlightning import callbacks, data, methods, modules, networks, remote, teachers

_PUBLIC = (methods, modules, data, networks, teachers, remote, remote.providers, callbacks)
_PLACES: dict[str, tuple[Any, ...]] = {  # where an option stands that was given without its place
    "trainer": (L.Trainer,),
    "data": tuple(vars(data).values()),
    "model": (*vars(methods).values(), *vars(modules).values()),
    "model.teacher": (*vars(teachers).values(), *vars(remote).values(), *vars(remote.providers).values()),
    "model.optimizer": (torch.optim.Adam, torch.optim.SGD),
}
_HELP_WITHOUT_CLASS = re.compile(
    r'Parser key "(model|data)":\s+- Problem with given class_path \'lightning\.Lightning\w+\':\s+'
    r"unrecognized arguments: --([\w.]+)\.help[= ](\S+)"
)

_WITHOUT_CLASS = re.compile(
    r'Parser key "(model|data)":\s+- Problem with given class_path \'lightning\.Lightning\w+\':\s+'
    r"Option '([\w.]+)' is not accepted"
)


def explain(message: str, parser: ArgumentParser) -> str:
    """A message of jsonargparse, with what was expected and the nearest valid name under it."""
    if found := _HELP_WITHOUT_CLASS.search(without_noise(message)):
        part, argument, asked = found.groups()
        return (
            f"{argument} belongs to a class that is not chosen yet: name the {part} before it, as in "
            f"--{part} NAME --{part}.{argument}.help {asked}"
        )
    if found := _WITHOUT_CLASS.search(without_noise(message)):
        part, argument = found.groups()
        return f"{argument} belongs to a class that is not chosen yet: name the {part} before it: --{part} NAME"
    hints = list(dict.fromkeys(_hints(message, parser)))
    return "\n".join([without_noise(message), *(f"  -> {hint}" for hint in hints)])


def without_noise(message: str) -> str:
    """A message of jsonargparse without the types that were tried, and without long values."""
    lines = (
        r"(?:- )?Does not validate against any of the Union subtypes\n\s*Subtypes: .*\n\s*Errors:",
        r"- Expected a <class 'NoneType'>",
        r"- Expected a path but .*",
        r"Given value type: .*",
        r"Given value: (?:.{41,}|None)",
    )
    # of a number or an object of its own, such as a budget, nobody gives the import path
    message = re.sub(
        r"(- Expected a <class '(?:int|float)'>)\n\s*- Expected a dot import path string: .*", r"\1", message
    )
    return re.sub(rf"(?:^|\n)\s*(?:{'|'.join(lines)})(?=\n|$)", "", message).strip().removeprefix("- ")


def public_class(name: str) -> Any:  # noqa: ANN401 - a class, if there is one
    """The class of a short name of this package's, or of an import path; None if there is none."""
    short = next((vars(module)[name] for module in _PUBLIC if name in vars(module)), None)
    return _import(name) if short is None and "." in name else short


def class_of(name: str) -> type:
    """The class of what a name in a configuration makes, also where it is a function's; `object` if nobody knows."""
    found = public_class(name)
    made = found if inspect.isclass(found) else returned(found)
    return made if inspect.isclass(made) else object


def returned(function: Any) -> Any:  # noqa: ANN401 - what a function's annotation says that it returns, if it does
    """The annotation of what a function returns, as an object; None without one."""
    try:
        return inspect.signature(function, eval_str=True).return_annotation
    except (TypeError, ValueError, NameError):
        return None


def _hints(message: str, parser: ArgumentParser) -> Iterator[str]:
    owner, key = None, None
    for line in message.splitlines():
        if found := re.search(r"class_path '([\w.]+)'", line):
            owner = _import(found[1])
        if found := re.search(r'Parser key "([\w.]+)"', line):
            key = found[1]
        if found := re.search(r"--([\w.]+)\.help: ", line):
            key = found[1]
        if found := re.search(r"Option '([\w.]+)' is not accepted", line):
            yield _within(found[1], parameters(owner)) or _nearest(found[1], parameters(owner), "argument")
        if found := re.search(r"import path string: ([\w.]+)|Import of '([\w.]+)' failed|no member '(\w+)'", line):
            yield _wanted(owner, key, next(filter(None, found.groups())), parser)
        if found := re.search(r"No module named '([\w.]+)'", line):
            yield f"modules are looked for in {Path.cwd()} and among the installed packages"
        if found := re.search(r"Expected a <class 'str'>\. Got value: (True|False|None|[\d.e+-]+)$", line):
            yield f"YAML takes a bare word for {found[1]} that was no, on, 1 or the like: write it in quotes"
        if found := re.search(r"[Uu]nrecognized arguments?: (.*)", line):
            yield from (_unrecognized(option, owner, parser) for option in re.findall(r"--([\w.]+)", found[1]))
        if found := re.search(r"[Kk]ey ['\"]*([\w.]+)['\"]* is not (?:accepted|expected)|for key \"(\S+)\"", line):
            yield _nearest(found[1] or found[2], [action.dest for action in parser._actions], "key")


def _unrecognized(option: str, owner: Any, parser: ArgumentParser) -> str:  # noqa: ANN401 - a class
    """The nearest option, of the program or, if help was asked for, of the class that was chosen."""
    if owner and option.endswith(".help"):
        return _nearest(option.removesuffix(".help"), parameters(owner), "argument")
    inner = [action.choices.values() for action in parser._actions if isinstance(action.choices, dict)]
    actions = [action for one in (parser, *chain(*inner)) for action in one._actions]
    names = {name.lstrip("-") for action in actions for name in action.option_strings}
    if longer := [name for name in names if name.startswith(option)]:
        return _nearest(option, longer, "option")
    for place, kinds in _PLACES.items():
        classes = (kind for kind in kinds if inspect.isclass(kind) and not issubclass(kind, BaseException))
        if option.split(".")[0] in chain(*map(parameters, classes)):
            return f"there is no option '{option}'; did you mean '{place}.{option}'?"
    return _nearest(option, names, "option")


def _wanted(owner: Any, key: str | None, given: str, parser: ArgumentParser) -> str:  # noqa: ANN401 - a class, or a function that makes one
    """What a parameter takes, and the nearest of those names."""
    annotation: Any = L.LightningDataModule if key == "data" else L.LightningModule
    place = f"'{key}'"
    for action in parser._actions:
        if action.dest == key and hasattr(action, "_typehint"):  # an option of its own, not a class's
            annotation = action._typehint
    if parameter := parameters(owner).get(key or ""):
        annotation, place = parameter.annotation, f"'{key}' of {owner.__name__}"
    bases = [base for base in (get_args(annotation) or (annotation,)) if inspect.isclass(base)]
    known = {name: cls for module in _PUBLIC for name, cls in vars(module).items() if inspect.isclass(cls)}
    fitting = {name for name, cls in known.items() if issubclass(cls, tuple(bases)) and not inspect.isabstract(cls)}
    kinds = " or ".join(base.__name__ for base in bases)
    # a class of the wrong kind is no misspelling: what is asked for is nearer than the nearest letters
    own = sorted({base.__name__ for base in bases} & fitting) if given in known else []
    near = own or nearest(given, sorted(fitting))
    known_as = f"a {known[given].__mro__[1].__name__}" if given in known else "none"
    return f"{place} takes a {kinds}; '{given}' is {known_as}" + (f"; did you mean '{near[0]}'?" if near else "")


def parameters(owner: Any) -> Mapping[str, inspect.Parameter]:  # noqa: ANN401 - a class, a function, or None
    """What it takes, with what its base classes take as far as it passes options on to them."""
    found: dict[str, inspect.Parameter] = {}
    for one in getattr(owner, "__mro__", (owner,) if owner else ()):
        if not isinstance(one, type) or "__init__" in vars(one):
            own = inspect.signature(one).parameters
            found = {**own, **found}
            if all(each.kind is not each.VAR_KEYWORD for each in own.values()):
                break
    return {name: each for name, each in found.items() if each.kind is not each.VAR_KEYWORD}


def nearest(given: str, names: Iterable[str], number: int = 1, cutoff: float = 0.0) -> list[str]:
    """The names that are most like one that was given, however it is capitalised; each once."""
    known = dict(reversed([(name.lower(), name) for name in names]))  # of names that differ by capitals alone the first
    return [known[name] for name in get_close_matches(given.lower(), known, n=number, cutoff=cutoff)]


def _nearest(given: str, names: Iterable[str], kind: str) -> str:
    near = nearest(given, names)
    return f"there is no {kind} '{given}'" + (f"; did you mean '{near[0]}'?" if near else "")


def _within(given: str, known: Mapping[str, inspect.Parameter]) -> str | None:
    """Of an argument that stands within another, as those of servers' replies did not always: where."""
    for name, parameter in known.items():
        for kind in get_args(parameter.annotation) or (parameter.annotation,):
            fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
            if found := fields & {given, given.removesuffix("_key"), given.removeprefix(f"{name}_")}:
                return f"'{given}' stands within '{name}', as in {name}: {{{found.pop()}: ...}}"
    return None


def _import(class_path: str) -> Any:  # noqa: ANN401 - a class, or a function that makes one
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except Exception:  # noqa: BLE001 - whatever a user's file does when it is imported, the message has it already
        return None
