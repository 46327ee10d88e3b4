"""What is made once and kept on disk; every file is renamed into place when it is whole."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - plain JSON
    """Write plain JSON, also where several processes do so at once."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
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
    return np.load(array, mmap_mode="c"), json.loads(facts.read_text())
