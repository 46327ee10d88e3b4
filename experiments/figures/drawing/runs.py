"""What finished runs hold."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kdlightning.networks import load_network
from kdlightning.report import Row, load_rows


def network_at(path: Path) -> nn.Module:
    """The network of a run's directory, or of a saved network's."""
    return load_network(path / "network" if (path / "network").is_dir() else path)


def rows_at(paths: Sequence[Path]) -> list[Row]:
    """The rows of several reports."""
    return [row for path in paths for row in load_rows(path / "results.json" if path.is_dir() else path)]


def flat(value: Any, name: str = "") -> dict[str, Any]:  # noqa: ANN401 - YAML
    """A configuration by dotted names: ``{"a": {"b": [1]}}`` → ``{"a.b.0": 1}``."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        inner = [flat(one, f"{name}.{part}" if name else str(part)) for part, one in parts]
        return {key: leaf for one in inner for key, leaf in one.items()}
    return {name: value}


def build(spec: Any) -> Any:  # noqa: ANN401 - YAML
    """Construct ``class_path`` and ``init_args``, inner ones first; names without dots are the package's data modules.

    Raises:
        ValueError: there is no such class, or it does not take these arguments.
    """
    if isinstance(spec, list):
        return [build(one) for one in spec]
    if not isinstance(spec, dict) or "class_path" not in spec:
        return spec
    module, _, name = spec["class_path"].rpartition(".")
    given = spec.get("init_args") or {}
    options = {key: None if key == "augmentation" else build(value) for key, value in given.items()}
    try:
        return getattr(importlib.import_module(module or "kdlightning.data"), name)(**options)
    except (AttributeError, ImportError, TypeError) as error:
        raise ValueError(f"{spec['class_path']}: {error}") from error
