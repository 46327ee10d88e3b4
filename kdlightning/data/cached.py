"""What is made once and kept on disk; every file is renamed into place when it is whole."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor


def write_text(path: Path, content: str) -> None:
    """Write text, also where several processes do so at once."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(content)
    temporary.replace(path)


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - plain JSON
    """Write plain JSON."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors from any device; tied weights, which share memory that the format refuses, are copied."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}, temporary)
    temporary.replace(path)


def kept(array: Path, facts: Path, make: Callable[[], tuple[np.ndarray, Any]]) -> tuple[np.ndarray, Any]:
    """An array, memory-mapped as a private copy, and the plain JSON about it; made if one of them is not there."""
    if not (array.exists() and facts.exists()):
        made, about = make()
        array.parent.mkdir(parents=True, exist_ok=True)
        temporary = array.with_suffix(f".{os.getpid()}.npy")
        np.save(temporary, made)
        temporary.replace(array)
        write_json(facts, about)
    return np.load(array, mmap_mode="c"), json.loads(facts.read_text(encoding="utf-8"))


def passed_once(key: str, check: Callable[[], None], cache: str = "cache") -> None:
    """Run a check, which raises, unless it has passed before under this key."""
    place = Path(cache) / f"checked-{key}"
    if not place.exists():
        check()
        with suppress(OSError):  # then the next start looks again
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
