"""Accuracy against queries from committed records, as a report draws it and W&B gets it: docs/wandb-accuracy.png.

    python experiments/accuracy.py results/digits-demo.json docs/wandb-accuracy.png

A record is the ``results.json`` of ``python -m kdlightning report``; this needs no runs.
"""

import argparse
import io
from pathlib import Path

from PIL import Image

from kdlightning.report import draw_figures, load_rows


def main() -> None:
    """Draw the first data set of the records, in 64 colours and half of a report's resolution."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", metavar="RECORD", nargs="+", type=Path, help="results/NAME.json")
    parser.add_argument("output", type=Path, help="PNG file")
    arguments = parser.parse_args()
    rows = [row for path in arguments.records for row in load_rows(path)]
    pictures = draw_figures(rows, ())
    if not pictures:
        parser.error("no student of these records has asked a teacher anything")
    image = Image.open(io.BytesIO(pictures[0].png)).convert("RGB")
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    small.quantize(64).save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
