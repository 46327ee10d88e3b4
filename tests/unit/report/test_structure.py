"""The folder's data flows one way: no file needs another that needs it."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kdlightning.report

FOLDER = Path(kdlightning.report.__file__).parent


def needs(folder):
    """What each file of the package imports of it, anywhere in it, type hints included."""
    files = {f"kdlightning.report.{path.stem}".removesuffix(".__init__"): path for path in folder.glob("*.py")}
    graph = {}
    for name, path in files.items():
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        wanted = {node.module for node in nodes} | {f"{node.module}.{a.name}" for node in nodes for a in node.names}
        submodules = {other for other in wanted if other in files and other != "kdlightning.report"}
        names = {a.name for node in nodes if node.module == "kdlightning.report" for a in node.names}
        whole = {"kdlightning.report"} if any(f"kdlightning.report.{one}" not in files for one in names) else set()
        graph[name] = (submodules | whole) - {name}
    return graph


def test_there_is_no_import_circle():
    order = list(TopologicalSorter(needs(FOLDER)).static_order())
    assert len(order) == len(list(FOLDER.glob("*.py")))
    assert order.index("kdlightning.report.text") < order.index("kdlightning.report.records")
    assert order.index("kdlightning.report.records") < order.index("kdlightning.report.rows")


def test_a_circle_would_be_seen(tmp_path):
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "a.py").write_text("def f():\n    from kdlightning.report.b import x\n")
    (tmp_path / "b.py").write_text("if TYPE_CHECKING:\n    from kdlightning.report import a\n")
    with pytest.raises(CycleError):
        list(TopologicalSorter(needs(tmp_path)).static_order())


def test_every_file_is_short():
    files = [path for path in FOLDER.rglob("*") if path.suffix in (".py", ".md", ".html", ".css", ".js")]
    assert {path.name for path in files if len(path.read_text().splitlines()) > 400} == set()


def test_the_docstring_says_who_writes_what_is_read():
    assert "RunResult" in kdlightning.report.__doc__
    assert "result.json" in kdlightning.report.__doc__
