"""What is made once and kept on disk: every file is renamed into place when it is whole, and knows its checksum."""

import json
import os
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kdlightning.accounting.disk import UnwrittenError

_SUM = "crc32"


class DamagedFileError(RuntimeError):
    """A file does not hold what was written into it, or was never one of its kind."""


@contextmanager
def whole(path: Path, suffix: str = ".tmp") -> Iterator[Path]:
    """A place to write a file to, which is renamed to ``path`` at the end; also where several processes do so at once.

    An OSError, in words, where the disk is full or may not be written to; nothing is left there then.
    """
    temporary = path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UnwrittenError(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sweep(directory: Path) -> None:
    """Delete what killed processes left half-written; only where no other process writes."""
    for pattern in ("*.tmp", ".tmp??????"):  # ours, and what safetensors writes to
        for file in directory.glob(pattern):
            file.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write text, also where several processes do so at once."""
    with whole(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - plain JSON
    """Write plain JSON."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum."""
    write_json(path, {**content, _SUM: _sum_of_json(content)})


def read_record(path: Path) -> dict[str, Any]:
    """What :func:`write_record` wrote, or an object without a checksum; a DamagedFileError where that is wrong."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged: expected JSON ({error})") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} is damaged: expected a JSON object, got a {type(content).__name__}")
    expected = content.pop(_SUM, None)
    if expected not in (None, _sum_of_json(content)):
        raise DamagedFileError(f"{path} is damaged, or was changed: its checksum is not {expected}")
    return content


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between two records, for a sentence: by name, also within objects, with plain values."""
    told = []
    for key in sorted(key for key in {*there, *here} if there.get(key) != here.get(key)):
        one, other = there.get(key), here.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            told += [f"{key}.{inner}" for inner in differing(one, other).split("; ")]
        else:
            long = any(isinstance(value, (Mapping, list)) for value in (one, other))
            told.append(key if long else f"{key} {one}, now {other}")
    return "; ".join(told)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **notes: str) -> None:
    """Write tensors from any device, with a checksum and notes; tied weights, which the format refuses, are copied."""
    copies = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    with whole(path) as temporary:
        save_file(copies, temporary, {**notes, _SUM: _sum_of_tensors(copies, notes)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What :func:`write_tensors` wrote: tensors and notes. A file without a checksum is read as it is.

    A DamagedFileError where the file is not what was written, or no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise DamagedFileError(f"{path} is damaged, or no safetensors file ({error})") from error
    if notes is None:
        return tensors, {}
    expected = notes.pop(_SUM, None)
    if expected != _sum_of_tensors(tensors, notes):
        raise DamagedFileError(f"{path} is damaged: its checksum is not {expected}")
    return tensors, notes


def kept(array: Path, facts: Path, make: Callable[[], tuple[np.ndarray, Any]]) -> tuple[np.ndarray, Any]:
    """An array, memory-mapped as a private copy, and the plain JSON about it; made if one of them is not there."""
    if array.exists() and facts.exists():
        with suppress(EOFError, ValueError):  # cut off, as by a full disk or a copy: made anew
            return np.load(array, mmap_mode="c"), json.loads(facts.read_text(encoding="utf-8"))
    made, about = make()
    array.parent.mkdir(parents=True, exist_ok=True)
    with whole(array, ".npy") as temporary:
        np.save(temporary, made)
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


def _sum_of_json(content: Mapping[str, Any]) -> str:
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def _sum_of_tensors(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> str:
    total = zlib.crc32(repr(sorted(notes.items())).encode())
    for name in sorted(tensors):
        value = tensors[name]
        total = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), total)
        total = zlib.crc32(value.contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
