"""The rooms of the package, read from its imports: a room stands above all that it uses."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from drawing import Drawing

PACKAGE = Path(__file__).parents[2] / "kdlightning"
WIDTH, FLOOR = 760, 84
WHAT = {
    "accounting": "queries, ledger", "callbacks": "what watches a run", "commands": "what is typed",
    "data": "images, transfer sets", "functional": "mathematics", "methods": "one file each",
    "modules": "what methods stand on", "networks": "students, weights", "remote": "teachers over HTTP",
    "report": "tables, figures", "serving": "a teacher as a server", "shaders": "programs → images",
    "teachers": "black and white boxes",
}  # fmt: skip


def uses() -> dict[str, set[str]]:
    """Every room, and the other rooms that its files import from."""
    rooms = {path.parent.name: set() for path in PACKAGE.glob("*/__init__.py")}
    for room in rooms:
        for file in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("kdlightning."):
                    rooms[room].add(node.module.split(".")[1])
    return {room: (used & rooms.keys()) - {room} for room, used in rooms.items()}


def direct(rooms: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that are drawn: those that no longer way implies."""
    below: dict[str, set[str]] = {}
    for room in TopologicalSorter(rooms).static_order():
        below[room] = rooms[room].union(*(below[used] for used in rooms[room]))
    return {room: used - set().union(*(below[other] for other in used)) for room, used in rooms.items()}


def floors(rooms: dict[str, set[str]]) -> list[list[str]]:
    """Rooms from the top down: each one floor below the lowest of those that use it."""
    users = {room: {other for other, used in rooms.items() if room in used} for room in rooms}
    depth: dict[str, int] = {}
    for room in TopologicalSorter(users).static_order():
        depth[room] = 1 + max((depth[user] for user in users[room]), default=-1)
    return [sorted(room for room in depth if depth[room] == level) for level in range(max(depth.values()) + 1)]


def draw() -> Drawing:
    """The floors, the topmost first, and an arrow from each room to what it stands on."""
    rooms = uses()
    levels = floors(rooms)
    drawing = Drawing(WIDTH, FLOOR * len(levels) + 18, "The rooms of kdlightning; arrows point to what a room uses")
    place: dict[str, tuple[float, float]] = {}
    for level, names in enumerate(levels):
        for number, name in enumerate(names):
            place[name] = (WIDTH * (number + 0.5) / len(names), 28 + FLOOR * level)
    for room, used in direct(rooms).items():
        for other in sorted(used):
            (x, y), (to_x, to_y) = place[room], place[other]
            drawing.arrow((x, y + 46), (to_x, to_y - 2))
    for name, (x, y) in place.items():
        drawing.box(x - 75, y, 150, 46, name, WHAT[name], kind="key" if name == "methods" else "box")
    return drawing
