"""Import paths of version 0.1, which still work, for one version more, with a DeprecationWarning: the one table."""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_ACCOUNTING = ("accounts", "journal", "ledger", "meter", "store", "terms")
_REMOTE = ("checks", "connection", "credentials", "description", "http", "networked", "protocol", "replay")
_MODULES = ("answered", "base", "generator", "labelling", "schedule")
_COMMANDS = ("cli", "costs", "estimate", "hints", "recipes", "tracking")

MODULES = {
    **{f"kdlightning.teachers.{name}": f"kdlightning.accounting.{name}" for name in _ACCOUNTING},
    **{f"kdlightning.teachers.{name}": f"kdlightning.remote.{name}" for name in _REMOTE},
    **{f"kdlightning.methods.{name}": f"kdlightning.modules.{name}" for name in _MODULES},
    **{f"kdlightning.{name}": f"kdlightning.commands.{name}" for name in _COMMANDS},
    **dict.fromkeys(("kdlightning.teachers.template", "kdlightning.remote.template"), "kdlightning.remote.writing"),
    "kdlightning.data.characters": "kdlightning.data.rendered",
    "kdlightning.teachers.remote": "kdlightning.remote.openinference",
    "kdlightning.methods.answers": "kdlightning.modules.asking",
    "kdlightning.methods.pool": "kdlightning.modules.selecting",
    "kdlightning.methods.baselines.adversarial": "kdlightning.modules.alternating",
    "kdlightning.methods.baselines.selection": "kdlightning.modules.rounds",
    "kdlightning.methods.baselines.twoplayer": "kdlightning.modules.alternating",
}
NAMES = {
    "kdlightning.teachers": {
        **dict.fromkeys(("AnswerJournal", "QueryBudgetExceededError", "QueryMeter"), "kdlightning.accounting"),
        **dict.fromkeys(("HTTPHardLabelTeacher", "HTTPSoftLabelTeacher", "Patience"), "kdlightning.remote"),
        **dict.fromkeys(("RemoteHardLabelTeacher", "RemoteSoftLabelTeacher"), "kdlightning.remote"),
        **dict.fromkeys(("RemoteTeacherError", "Tensors"), "kdlightning.remote"),
    },
    "kdlightning.methods": {
        **dict.fromkeys(("AnsweredModule", "DistillationModule", "GeneratorModule"), "kdlightning.modules"),
        **dict.fromkeys(("LabellingModule", "SelectingModule", "TaughtModule"), "kdlightning.modules"),
    },
}


def names_of(package: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package that some names have left."""

    def get(name: str) -> Any:  # noqa: ANN401 - whatever bears the name
        if name not in NAMES[package]:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        new = NAMES[package][name]
        warnings.warn(f"{package}.{name} is now {new}.{name}", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(new), name)

    return get


class Redirect(MetaPathFinder, Loader):
    """Imports a module of the table from where it is now."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """A spec for what has moved, None for everything else."""
        return ModuleSpec(name, self) if name in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of today in the place of the old one."""
        name, new = module.__name__, MODULES[module.__name__]
        warnings.warn(f"{name} is now {new}", DeprecationWarning, stacklevel=2)
        sys.modules[name] = importlib.import_module(new)
