"""Links in the documents lead somewhere, and commands in the README exist."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kdlightning import functional

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"(?<![\w#])-?\d+(?:\.\d+)?")
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


def test_what_a_message_tells_to_install_is_one_of_the_extras_and_can_be_had():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    offered = [{"socksio"}, *({re.split("[<>=]", one)[0] for one in extra} for extra in extras.values())]
    for file in sorted((ROOT / "kdlightning").rglob("*.py")):
        for told in re.findall(r"pip install ([\w. -]+)", file.read_text()):
            assert set(told.split()) in offered, f"{file}: {told}"


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


PACKAGES = (
    "accounting", "callbacks", "data", "methods", "modules", "networks", "remote", "remote.providers", "report",
    "start", "teachers", *(f"functional.{module.name}" for module in pkgutil.iter_modules(functional.__path__)),
)  # fmt: skip


def summaries():
    """What the API pages document: package and names, none for all that is public."""
    for file in (ROOT / "docs" / "api").glob("*.rst"):
        found = re.findall(r"^\.\. summary:: kdlightning\.(\S+)((?:\n+ +\w+)*)", file.read_text(), re.MULTILINE)
        yield from ((package, names.split()) for package, names in found)


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_public_is_documented(package):
    public = getattr(importlib.import_module(f"kdlightning.{package}"), "__all__", [])
    documented = {
        id(getattr(importlib.import_module(f"kdlightning.{other}"), name))
        for other, names in summaries()
        for name in names or getattr(importlib.import_module(f"kdlightning.{other}"), "__all__", [])
    }
    whole = (package, []) in list(summaries())
    module = importlib.import_module(f"kdlightning.{package}")
    assert [name for name in public if id(getattr(module, name)) not in documented] == []
    assert public or whole


def test_nothing_is_documented_that_is_not_there_or_twice():
    named = [(package, name) for package, names in summaries() for name in names]
    assert [one for one in named if not hasattr(importlib.import_module(f"kdlightning.{one[0]}"), one[1])] == []
    assert len(named) == len(set(named))
    assert {package for package, _ in summaries()} == set(PACKAGES)


@pytest.mark.parametrize("folder", [each.name for each in pkgutil.iter_modules(functional.__path__) if each.ispkg])
def test_a_functional_folder_names_something_public_of_every_file(folder):
    # its page shows what __all__ names
    package = importlib.import_module(f"{functional.__name__}.{folder}")
    shown = {getattr(getattr(package, name), "__module__", None) for name in package.__all__}
    assert {f"{package.__name__}.{each.name}" for each in pkgutil.iter_modules(package.__path__)} <= shown


def test_the_drawings_are_what_their_scripts_draw(tmp_path):
    # numbers may differ in the last place between processors: a pixel is not seen
    folder = ROOT / "docs" / "figures"
    # in a process of its own: scripts of the experiments' figures have the same names
    code = f"import sys; from pathlib import Path; sys.path.insert(0, {str(folder)!r})\n"
    code += f"from runpy import run_path; run_path({str(folder / '__main__.py')!r})['main']([], Path('.'))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {path.name for path in tmp_path.glob("*.svg")} == {path.name for path in folder.glob("*.svg")}
    for made in tmp_path.glob("*.svg"):
        name, drawn, kept = made.stem, made.read_text(), (folder / made.name).read_text()
        assert NUMBER.sub("#", drawn) == NUMBER.sub("#", kept), f"run `python docs/figures {name}`"
        pairs = zip(NUMBER.findall(drawn), NUMBER.findall(kept), strict=True)
        assert max(abs(float(one) - float(other)) for one, other in pairs) <= 1.0
