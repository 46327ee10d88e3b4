"""What the figures of a report have in common: palette, fonts, canvases without pyplot.

Matplotlib is imported when a figure is drawn: nothing global, no display needed.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette without yellow and black: told apart with every common colour blindness, on white and on black
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK, GREY, PALE, PAPER = "#222222", "#6b6b6b", "#e6e6e6", "#fefefe"
_THEME = {INK: "ink", GREY: "soft", PALE: "line", PAPER: "page"}  # on an HTML page, these are the page's
_STYLE = {  # text.parse_math: names are not formulas
    "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titlepad": 10, "axes.edgecolor": GREY,
    "axes.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "text.color": INK, "xtick.color": GREY, "ytick.color": GREY, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.minor.size": 0, "grid.color": PALE, "grid.linewidth": 0.8, "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1, "figure.constrained_layout.h_pad": 0.1, "savefig.dpi": 200,
    "savefig.bbox": "tight", "svg.fonttype": "none", "svg.hashsalt": "kdlightning", "text.parse_math": False,
}  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """The fonts, lines and margins of every figure, while it is drawn and written."""
    from matplotlib import rc_context

    style: Mapping[Any, Any] = _STYLE
    with rc_context(dict(style)):
        yield


def new_figure(width: float, height: float) -> "tuple[Figure, Axes]":
    """A figure of so many inches with one pair of axes."""
    figure, panels = new_row(width, height, 1)
    return figure, panels[0]


def new_row(width: float, height: float, columns: int) -> "tuple[Figure, list[Axes]]":
    """A figure of so many inches with axes side by side that share their ordinate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, sharey=True, squeeze=False)[0])


def as_png(figure: "Figure") -> bytes:
    """The content of a PNG file."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def as_svg(figure: "Figure") -> str:
    """An ``<svg>`` to stand in HTML: text in the page's font, ink and paper as its custom properties."""
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r'<metadata>.*?</metadata>\s*| xmlns(:xlink)?="[^"]*"| id="\w+_\d+"', "", drawn, flags=re.DOTALL)
    for colour, name in _THEME.items():
        drawn = drawn.replace(colour, f"var(--{name})")
    return drawn


def thousands(queries: float) -> str:
    """A tick's label: ``"500"``, ``"20k"``, ``"1M"``."""
    from matplotlib.ticker import EngFormatter

    return str(EngFormatter(sep="")(queries))
