"""What the figures of a report have in common: palette, style, and how they are written, all without pyplot."""

import io
import re
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

# Okabe & Ito's palette without yellow and black: told apart with every common colour blindness, on white and on black
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK, GREY, PALE, PAPER = "#222222", "#6b6b6b", "#e6e6e6", "#fefefe"
_THEME = {INK: "ink", GREY: "soft", PALE: "line", PAPER: "page"}  # on an HTML page, these are the page's
STYLE: dict[Any, Any] = {  # text.parse_math: names are not formulas
    "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titlepad": 10, "axes.edgecolor": GREY,
    "axes.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "text.color": INK, "xtick.color": GREY, "ytick.color": GREY, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.minor.size": 0, "grid.color": PALE, "grid.linewidth": 0.8, "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1, "figure.constrained_layout.h_pad": 0.1, "savefig.dpi": 200,
    "savefig.bbox": "tight", "svg.fonttype": "none", "svg.hashsalt": "kdlightning", "text.parse_math": False,
}  # fmt: skip
THOUSANDS = EngFormatter(sep="")  # "500", "20k", "1M"


@rc_context(STYLE)
def as_png(figure: Figure) -> bytes:
    """The content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@rc_context(STYLE)
def as_svg(figure: Figure) -> str:
    """An ``<svg>`` to stand in HTML: text in the page's font, ink and paper as its custom properties."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r'<metadata>.*?</metadata>\s*| xmlns(:xlink)?="[^"]*"| id="\w+_\d+"', "", drawn, flags=re.DOTALL)
    for colour, name in _THEME.items():
        drawn = drawn.replace(colour, f"var(--{name})")
    return drawn
