"""Folders of real images for tests: scikit-learn's digits as files."""

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
