"""Folders of real images for tests, and archives: scikit-learn's digits as files."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def write_digits(root, per_class, side=16, flat=False, mode="L", classes=10):
    """``root/<class>/<number>.png``, or without class folders."""
    digits = load_digits()
    for label in range(classes):
        for number in np.flatnonzero(digits.target == label)[:per_class]:
            folder = root if flat else root / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            grey = Image.fromarray((digits.images[number] * 15.9).astype(np.uint8)).resize((side, side + 2))
            grey.convert(mode).save(folder / f"{number:04}.png")
    return root


def pack(path, files):
    """Contents by name as an archive: a zip, or a tar that is packed as its suffix says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{path.suffix[1:].removeprefix('tar')}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
