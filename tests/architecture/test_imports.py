"""The layers of the package: imports only go upwards, weights are loaded in one place, methods are documented."""

import ast
import inspect
from pathlib import Path

import pytest

import kdlightning
from kdlightning import methods

PACKAGE = Path(kdlightning.__file__).parent
LAYERS = {
    "types": 0, "networks": 1, "functional": 1, "shaders": 1, "teachers": 2, "data": 2, "methods": 3,
    "serving": 3, "callbacks": 4, "report": 4, "hints": 5, "costs": 5, "tracking": 5, "cli": 6, "recipes": 7,
    "estimate": 8, "__main__": 8, "__init__": 0,
}  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def layer(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("kdlightning"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names if alias.name in LAYERS]
        elif isinstance(node, ast.Import):
            yield from [a.name.split(".")[1] for a in node.names if a.name.startswith("kdlightning.")]


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_go_upwards(file):
    own = layer(file)
    wrong = [name for name in imported(file) if name != own and LAYERS[name] >= LAYERS[own]]
    assert wrong == []


def test_data_does_not_import_teachers():
    assert [file.name for file in (PACKAGE / "data").glob("*.py") if "teachers" in imported(file)] == []


def test_weights_are_loaded_in_one_place():
    calls = {
        file.relative_to(PACKAGE).as_posix()
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("load_file", "from_pretrained", "load_state_dict_from_url")
    }
    assert calls <= {"networks/pretrained.py", "networks/base.py", "networks/external.py"}
    assert not any("torch.load(" in file.read_text() for file in FILES)


@pytest.mark.parametrize("file", sorted((PACKAGE / "methods").rglob("*.py")), ids=lambda path: path.name)
def test_methods_are_readable_pages(file):
    assert len(file.read_text().splitlines()) <= 300


def test_every_method_is_in_the_readme_and_has_tests():
    root = PACKAGE.parent
    readme = (root / "README.md").read_text()
    tests = "".join(file.read_text() for file in (root / "tests/unit/methods").rglob("*.py"))
    classes = [cls for cls in vars(methods).values() if inspect.isclass(cls) and not inspect.isabstract(cls)]
    concrete = [cls for cls in classes if not cls.__name__.endswith("Module")]  # those are for subclassing
    assert concrete
    for cls in concrete:
        assert f"`{cls.__name__}`" in readme
        assert f"{cls.__name__}(" in tests
