"""A sheet to draw on, written as SVG: plain shapes, the colours of the page in light and in dark."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Self

Point = tuple[float, float]

STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;font-size:14px;fill:#1f2328}
.sheet{fill:#fff;stroke:#d0d7de}.box{fill:#f6f8fa;stroke:#8c959f}.key{fill:#ddf4ff;stroke:#0969da}
.ink,.dash{stroke:#57606a;fill:none;stroke-width:1.5}.dash{stroke-dasharray:4 4}.head{fill:#57606a}
.a{fill:#0969da}.b{fill:#bc4c00}.c{fill:#1a7f37}.faint{fill-opacity:.13}.hollow{fill-opacity:.12}
.a.line{stroke:#0969da}.b.line{stroke:#bc4c00}.c.line{stroke:#1a7f37}.line{fill:none!important;stroke-width:2}
.small{font-size:12px}.note{fill:#57606a;font-size:12px}.bold{font-weight:600}
@media(prefers-color-scheme:dark){
text{fill:#e6edf3}.sheet{fill:#0d1117;stroke:#30363d}.box{fill:#161b22;stroke:#6e7681}.key{fill:#12233a;stroke:#4493f8}
.ink,.dash{stroke:#9198a1}.head,.note{fill:#9198a1}.a{fill:#58a6ff}.b{fill:#f0883e}.c{fill:#3fb950}
.a.line{stroke:#58a6ff}.b.line{stroke:#f0883e}.c.line{stroke:#3fb950}}
""".replace("\n", "")


class Drawing:
    """Shapes in pixels, from the top left corner.

    Args:
        width: of the sheet.
        height: of the sheet.
        title: what the picture shows, for who cannot see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height = width, height
        self._parts = [f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>"]
        self.box(0.5, 0.5, width - 1, height - 1, kind="sheet")

    def box(self, x: float, y: float, width: float, height: float, *lines: str, kind: str = "box") -> Self:
        """A rectangle with lines of text in its middle, the first one bold."""
        self._parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>')
        top = y + height / 2 + 5 - 9 * (len(lines) - 1)
        for number, line in enumerate(lines):
            self.text(x + width / 2, top + 18 * number, line, "small" if number else "bold")
        return self

    def text(self, x: float, y: float, content: str, kind: str = "", anchor: str = "middle") -> Self:
        """One line, around, after (``start``) or before (``end``) a point."""
        self._parts.append(
            f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(content)}</text>'
        )
        return self

    def line(self, points: Iterable[Point], kind: str = "ink") -> Self:
        """A line through points."""
        self._parts.append(f'<polyline class="{kind}" points="{_path(points)}"/>')
        return self

    def arrow(self, start: Point, end: Point, kind: str = "ink") -> Self:
        """A line with a head."""
        length = max(((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5, 1e-6)
        u, v = (end[0] - start[0]) / length, (end[1] - start[1]) / length
        back = (end[0] - 8 * u, end[1] - 8 * v)
        head = [end, (back[0] - 4 * v, back[1] + 4 * u), (back[0] + 4 * v, back[1] - 4 * u)]
        self.line([start, back], kind)
        return self.area(head, "head")

    def area(self, points: Iterable[Point], kind: str) -> Self:
        """A filled polygon."""
        self._parts.append(f'<polygon class="{kind}" points="{_path(points)}"/>')
        return self

    def dot(self, at: Point, kind: str, radius: float = 4) -> Self:
        """A disc."""
        self._parts.append(f'<circle class="{kind}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:g}"/>')
        return self

    def ring(self, at: Point, kind: str, radius: float = 4) -> Self:
        """A circle that is not filled."""
        return self.dot(at, f"{kind} line", radius)

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str]]) -> Self:
        """One line for each (kind, meaning); a kind with ``line`` is shown as a ring, others as a disc."""
        for number, (kind, meaning) in enumerate(entries):
            self.dot((x, y + 22 * number - 4), kind, 5).text(x + 14, y + 22 * number, meaning, "small", "start")
        return self

    def __str__(self) -> str:
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img">'
        return "\n".join([head, *self._parts, "</svg>\n"])

    def write(self, path: Path) -> None:
        """Write the SVG file."""
        path.write_text(str(self))


def _path(points: Iterable[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
