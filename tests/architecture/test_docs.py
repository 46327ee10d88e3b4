"""Links in the documents lead somewhere, and commands in the README exist."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

from kdlightning import functional

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "experiments").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_the_readmes_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert used
    assert used <= targets


def test_every_page_is_in_the_sites_table_of_contents():
    # read, not imported: Sphinx is an extra
    tree = ast.parse((ROOT / "docs" / "conf.py").read_text())
    table = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "CONTENTS")
    listed = [page for pages in eval(compile(ast.Expression(table), "conf.py", "eval")).values() for page in pages]
    pages = {
        str(file.relative_to(ROOT).with_suffix(""))
        for pattern in ("docs/*.md", "docs/api/*.rst", "experiments/README.md", "CONTRIBUTING.md", "CHANGELOG.md")
        for file in ROOT.glob(pattern)
    }
    assert sorted(listed) == sorted(pages)


def test_every_public_package_has_an_api_page():
    public = (
        "accounting", "callbacks", "data", "functional", "methods", "modules", "networks", "remote", "report",
        "teachers",
    )  # fmt: skip
    documented = {file.stem: file.read_text() for file in (ROOT / "docs" / "api").glob("*.rst")}
    assert set(documented) == set(public)
    assert all(f".. automodule:: kdlightning.{name}\n" in documented[name] for name in public if name != "functional")
    modules = {module.name for module in pkgutil.iter_modules(functional.__path__)}
    assert modules == set(re.findall(r"automodule:: kdlightning\.functional\.(\w+)", documented["functional"]))


@pytest.mark.parametrize("folder", [each.name for each in pkgutil.iter_modules(functional.__path__) if each.ispkg])
def test_a_functional_folder_names_something_public_of_every_file(folder):
    # its page shows what __all__ names
    package = importlib.import_module(f"{functional.__name__}.{folder}")
    shown = {getattr(getattr(package, name), "__module__", None) for name in package.__all__}
    assert {f"{package.__name__}.{each.name}" for each in pkgutil.iter_modules(package.__path__)} <= shown
