"""A run once more, from the answers that a query ledger has kept: nobody is asked, nothing is paid."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml

from kdlightning.accounting.ledger import QueryLedger
from kdlightning.remote.networked import NetworkedTeacher

Config = dict[str, Any]


def replay(ledger: Path, config: Path, output: Path | None, rest: Sequence[str]) -> int:
    """Run a configuration offline, in a process of its own, whose exit code is returned.

    The configuration is ``config.yaml`` in the old run's directory, or the file that it was started with; the new
    directory, if none is given, the old one with ``-replay`` appended; the rest are more arguments of ``fit`` or
    ``predict``, which win over the configuration's.

    Raises:
        FileNotFoundError: there is no such ledger or configuration.
        ValueError: it is no configuration, or has no teacher behind a connection.
    """
    QueryLedger(ledger, readonly=True).close()  # is there
    given = yaml.safe_load(config.read_text(encoding="utf-8"))
    if not isinstance(given, dict) or not isinstance(given.get("model"), dict):
        raise ValueError(f"{config}: expected the configuration of a fit or a predict, such as runs/x/config.yaml")
    command = "predict" if "output" in given["model"].get("init_args", {}) else "fit"
    made, output = offline(given, command, ledger, output)
    output.mkdir(parents=True, exist_ok=True)
    file = output / "replay.yaml"
    file.write_text(yaml.safe_dump(made, sort_keys=False))
    arguments = [sys.executable, "-m", "kdlightning", command, "--config", str(file), *rest]
    return subprocess.run(arguments, check=False).returncode


def offline(config: Config, command: str, ledger: Path, output: Path | None) -> tuple[Config, Path]:
    """A run's configuration with teachers that answer from a ledger alone, and its new directory; see :func:`replay`.

    Raises:
        ValueError: there is no teacher behind a connection in it.
    """
    trainer = config.get("trainer", {})
    old = config["model"]["init_args"]["output"] if command == "predict" else trainer.get("default_root_dir")
    old = old or "runs/run"
    new = output or Path(f"{old}-replay")
    made = _moved(config, str(old), str(new))
    made.setdefault("trainer", {})["default_root_dir"] = str(new)
    # a replay is a run from its beginning
    made |= {key: value for key, value in {"ckpt_path": None, "restart": False}.items() if key in made}
    if not (teachers := list(_teachers(made))):
        raise ValueError("expected a teacher behind a connection in the configuration: a ledger has only its answers")
    for arguments in teachers:
        arguments |= {"offline": True, "ledger": str(ledger)}
    return made, new


def _moved(value: Any, old: str, new: str) -> Any:  # noqa: ANN401 - anything that YAML holds
    """The same, with paths into the new directory where they led into the old one."""
    if isinstance(value, dict):
        return {key: _moved(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, old, new) for item in value]
    if isinstance(value, str) and (value == old or value.startswith(old + os.sep)):
        return new + value[len(old) :]
    return value


def _teachers(value: Any) -> Iterator[Config]:  # noqa: ANN401 - anything that YAML holds
    """The arguments of all teachers behind a connection."""
    if isinstance(value, dict) and _is_networked(str(value.get("class_path"))):
        yield value.setdefault("init_args", {})
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _teachers(item)


def _is_networked(class_path: str) -> bool:
    with suppress(ImportError, AttributeError, ValueError):
        found = resolve_name(class_path if "." in class_path else f"kdlightning.remote.{class_path}")
        return isinstance(found, type) and issubclass(found, NetworkedTeacher)
    return False
