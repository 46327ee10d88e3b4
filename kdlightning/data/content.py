"""What in a folder or an archive is an image, what lies beside images, and what is no content at all: one rule."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from kdlightning.data.archives import printable
from kdlightning.data.decoding import suffixes

_log = logging.getLogger(__name__)

# what systems and programs leave behind; so is whatever begins with a dot
_NOBODYS = frozenset({
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin", "system volume information",
    "lost+found", "@eadir",
})  # fmt: skip
# labels, captions and features beside the images, as WebDataset, img2dataset, Pascal VOC and others have them
_BESIDE = frozenset({
    ".cap", ".caption", ".cls", ".csv", ".json", ".jsonl", ".md", ".npy", ".npz", ".parquet", ".pickle", ".pkl", ".pt",
    ".pth", ".safetensors", ".text", ".tsv", ".txt", ".xml", ".yaml", ".yml",
})  # fmt: skip
_SAMPLE, _HEAD = 64, 2**16  # files whose first bytes make the identity


class Content(NamedTuple):
    """Names of files by the rule; names that are nobody's content are in none of them."""

    images: list[str]  #: by their suffix
    unknown: list[str]  #: which only a look at the file tells
    beside: list[str]  #: that belong to images


def sort_out(names: Iterable[str]) -> Content:
    """Tell apart names of files, with their folders below the root, in their order."""
    found, known = Content([], [], []), suffixes()
    for name in names:
        if name and not any(map(is_nobodys, name.split("/"))):
            suffix = _suffix(name)
            kind = found.images if suffix in known else found.beside if suffix in _BESIDE else found.unknown
            kind.append(name)
    return found


def counted(names: Iterable[str]) -> str:
    """How many files of each suffix there are, such as ``20 .heic, 1 without suffix``; the most frequent first."""
    numbers = Counter(printable(_suffix(name)) or "without suffix" for name in names).most_common()
    return ", ".join(f"{number} {suffix}" for suffix, number in numbers)


def walk(root: Path) -> list[str]:
    """Files below a folder that may be content, as sorted names with slashes.

    Links to files and to folders elsewhere are followed, to each folder once. Links to a folder that is walked anyway
    or that the link lies in are not, with a warning: they never end, or show images twice.
    """
    home = root.resolve()
    names, links, seen, folders = [], [], {home}, [("", home)]
    while folders:
        prefix, real = folders.pop()
        with os.scandir(root / prefix) as entries:
            here = sorted((entry for entry in entries if not is_nobodys(entry.name)), key=lambda entry: entry.name)
        for entry in reversed(here):  # the first is taken from the stack first
            name, place, link = f"{prefix}{entry.name}", Path(entry.path), entry.is_symlink()
            if not (place.is_dir() if link else entry.is_dir()):
                names.append(name)
                continue
            target = place.resolve() if link else real / entry.name
            if target in seen or (link and (target.is_relative_to(home) or real.is_relative_to(target))):
                links.append(name)
                continue
            seen.add(target)
            folders.append((f"{name}/", target))
    if links:
        which = ", ".join(sorted(map(printable, links))[:3])
        _log.warning("%s: %d links to folders seen already are not followed: %s", root, len(links), which)
    return sorted(names)


def digest(sizes: Mapping[str, int], head: Callable[[str, int], bytes]) -> str:
    """What files are, in 16 digits: of the names and sizes of all, and of the first bytes of some.

    Args:
        sizes: bytes by name, in any order.
        head: the first so many bytes of a file.
    """
    told, names = hashlib.sha256(), sorted(sizes)
    for name in names:
        told.update(f"{name}\n{sizes[name]}\n".encode("utf-8", "surrogateescape"))
    for name in names[:: max(1, len(names) // _SAMPLE)]:
        told.update(head(name, _HEAD))
    return told.hexdigest()[:16]


def is_nobodys(part: str) -> bool:
    """Whether a file or a folder of this name is never content."""
    return (part.startswith(".") and part not in (".", "..")) or part.lower() in _NOBODYS


def _suffix(name: str) -> str:
    stem, _, ending = name.rpartition("/")[2].rpartition(".")
    return f".{ending.lower()}" if stem else ""
