"""The rooms of the package: imports go one way and never in a circle, weights are loaded in one place."""

import ast
import importlib
import inspect
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kdlightning
from kdlightning import methods
from kdlightning.moved import NAMES

PACKAGE = Path(kdlightning.__file__).parent
ROOMS = [  # each may import those above it
    ("types", "moved"),
    ("__init__",),
    ("functional", "networks", "shaders", "accounting"),
    ("teachers", "data"),
    ("remote", "modules"),
    ("methods", "callbacks", "serving", "report"),
    ("commands",),
    ("__main__", "start"),
]
FLOOR = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES_OF_FILES = {
    ".".join(("kdlightning", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in FILES
}


def room(module):
    return [*module.split("."), "__init__"][1]


def imported(file):
    """The modules that a file imports, wherever in it but for type checkers only."""
    tree = ast.parse(file.read_text())
    unread = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = {inner for node in unread for inner in ast.walk(node)}
    for node in (node for node in ast.walk(tree) if node not in skipped):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kdlightning":
            for alias in node.names:
                path = f"{node.module}.{alias.name}"
                yield path if path in NAMES_OF_FILES else node.module
        elif isinstance(node, ast.Import):
            yield from [alias.name for alias in node.names if alias.name.split(".")[0] == "kdlightning"]


@pytest.mark.parametrize("name", NAMES_OF_FILES)
def test_imports_only_go_upwards(name):
    other = {path for path in imported(NAMES_OF_FILES[name]) if room(path) != room(name)}
    assert {path for path in other if FLOOR[room(path)] >= FLOOR[room(name)]} == set()


def test_the_front_door_is_opened_by_those_who_come_in():
    code = "import kdlightning, sys; assert 'torch' not in sys.modules; print(kdlightning.distil.__module__)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "kdlightning.start"


def test_no_import_circle():
    try:
        TopologicalSorter({name: set(imported(file)) - {name} for name, file in NAMES_OF_FILES.items()}).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


@pytest.mark.parametrize(
    ("room", "foreign"), [("data", "teachers"), ("accounting", "teachers"), ("teachers", "remote")]
)
def test_rooms_that_do_not_know_each_other(room, foreign):
    paths = [path for file in (PACKAGE / room).glob("*.py") for path in imported(file)]
    assert paths
    assert [path for path in paths if path.startswith(f"kdlightning.{foreign}")] == []


def test_weights_are_loaded_in_one_place():
    calls = {
        file.relative_to(PACKAGE).as_posix()
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("load_file", "from_pretrained", "load_state_dict_from_url")
    }
    assert calls <= {"networks/pretrained.py", "networks/base.py", "networks/external.py"}
    assert not any("torch.load(" in file.read_text() for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_readable_pages(file):
    assert len(file.read_text().splitlines()) <= (300 if "methods" in file.parts else 400)


def test_methods_hold_methods_and_nothing_else():
    classes = [cls for cls in vars(methods).values() if inspect.isclass(cls)]
    assert classes
    assert [cls for cls in classes if inspect.isabstract(cls) or cls.__name__.endswith("Module")] == []


def test_every_method_is_in_the_table_of_all_and_has_tests():
    root = PACKAGE.parent
    table = (root / "docs/methods.md").read_text()
    folders = (root / "tests/unit/methods", root / "tests/unit/modules")
    tests = "".join(file.read_text() for folder in folders for file in folder.rglob("*.py"))
    for cls in [cls for cls in vars(methods).values() if inspect.isclass(cls)]:
        assert f"`{cls.__name__}`" in table
        assert f"{cls.__name__}(" in tests


@pytest.mark.parametrize(("package", "name"), [(package, name) for package, names in NAMES.items() for name in names])
def test_names_that_moved_are_still_found(package, name):
    with pytest.warns(DeprecationWarning, match=f"{package}.{name} is now {NAMES[package][name]}.{name}"):
        old = getattr(importlib.import_module(package), name)
    assert old is getattr(importlib.import_module(NAMES[package][name]), name)


def test_a_name_that_never_was_is_not_found():
    with pytest.raises(AttributeError, match="has no attribute 'KE'"):
        _ = methods.KE


MOVED = """
import importlib, warnings
from kdlightning.moved import MODULES
for old, new in MODULES.items():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        module = importlib.import_module(old)
    assert module is importlib.import_module(new)
    assert [str(one.message) for one in seen if old in str(one.message)] == [f"{old} is now {new}"]
"""


def test_modules_that_moved_are_still_found():
    subprocess.run([sys.executable, "-c", MOVED], check=True)


def test_a_users_old_import_still_makes_a_method():
    code = "from kdlightning.methods.base import DistillationModule as Old; from kdlightning import modules"
    subprocess.run([sys.executable, "-c", f"{code}; assert Old is modules.DistillationModule"], check=True)


def test_a_remote_teacher_is_a_page_and_has_few_options():
    providers = PACKAGE / "remote" / "providers"
    assert max(len(file.read_text().splitlines()) for file in providers.glob("*.py")) <= 120
    told = {}
    for file in [*(PACKAGE / "remote").glob("*.py"), *providers.glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                told[f"{file.name}:{node.lineno}"] = len([*node.args.args, *node.args.kwonlyargs]) - 1  # without self
    assert {place: number for place, number in told.items() if number > 12} == {}
    assert max(told.values()) == 12
