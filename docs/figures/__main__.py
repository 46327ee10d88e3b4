"""The documents' drawings as SVG, beside their scripts: ``python docs/figures``, or with names of some."""

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = ("db3kd", "kd3", "mekd", "overview", "rooms", "shaderkd", "zsdb3kd")


def main(names: list[str], folder: Path = FOLDER) -> None:
    """Write the drawings of these names, or all."""
    for name in names or NAMES:
        importlib.import_module(name).draw().write(folder / f"{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
