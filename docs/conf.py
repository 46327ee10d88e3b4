"""The documentation site: ``make docs``. Its source is the repository, so that links read here as they do on GitHub."""

import importlib
import inspect
import re
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext import autosummary

from kdlightning import __version__

project = "kdlightning"
author = copyright = "The kdlightning developers"  # noqa: A001 - Sphinx's name
release = __version__

extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton",
]  # fmt: skip
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md", "docs/*.md", "docs/api/*"]
exclude_patterns = [".*", "site", "runs", "data", "cache", "wandb", "build", "dist"]  # not searched, for speed

CONTENTS = {
    "Guide": [f"docs/{name}" for name in (
        "start", "guide", "python", "tutorial-method", "tutorial-teacher", "tutorial-vlm", "teachers", "remote",
        "wandb",
    )],
    "Methods": [f"docs/{name}" for name in (
        "methods", "method-db3kd", "method-zsdb3kd", "method-mekd", "method-kd3", "method-shaderkd",
    )],
    "Evidence": [
        *(f"docs/{name}" for name in ("results", "reliability", "fidelity", "boundary")), "experiments/README",
    ],
    "Reference": [f"docs/api/{name}" for name in (
        "methods-answers", "methods-db3kd", "methods-mekd", "methods-pools", "methods-datafree", "methods-baselines",
        "modules", "data-named", "data-own", "data-made", "data-transfer", "teachers", "remote", "accounting",
        "networks", "functional", "callbacks", "report", "start",
    )],
    "Project": [
        "docs/architecture", "docs/decisions", "docs/alternatives", "docs/responsible-use", "CONTRIBUTING", "CHANGELOG",
    ],
}  # fmt: skip

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # GitHub's
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autosummary_generate = False
autosummary.WELL_KNOWN_ABBREVIATIONS += ("Eq.", "Eqs.", "Sec.", "Fig.")  # these end no sentence
add_module_names = False
default_role = "py:obj"  # `DB3KD` in a docstring is a link
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"kdlightning {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
copybutton_exclude = ".linenos, .gp"


def page(app: Sphinx, document: str, source: list[str]) -> None:
    """Give the README, the first page, a table of contents, and let links lead out of the site to Markdown, too."""

    def link(found: re.Match[str]) -> str:
        target = Path(app.env.doc2path(document)).parent / found[1]
        return found[0] if app.env.path2doc(target.resolve()) in app.env.found_docs else f"](path:{found[1]})"

    source[0] = re.sub(r"\]\(([\w./-]+\.md)\)", link, source[0])
    source[0] = re.sub(r"^\.\. summary:: (\S+)((?:\n+ +\w+)*)", summary, source[0], flags=re.M)
    if document == root_doc:
        for caption, pages in CONTENTS.items():
            source[0] += "\n```{{toctree}}\n:hidden:\n:caption: {}\n{}\n```\n".format(caption, "\n".join(pages))


def summary(found: re.Match[str]) -> str:
    """``.. summary:: PACKAGE`` and names: a table of them, and then each in full; without names all that is public."""
    package = importlib.import_module(found[1])
    own = [name for name, member in vars(package).items() if getattr(member, "__module__", None) == found[1]]
    public = getattr(package, "__all__", [name for name in own if not name.startswith("_")])
    names = found[2].split() or public
    table = "".join(f"   {name}\n" for name in names)
    kinds = {name: _kind(getattr(package, name)) for name in names}
    full = "".join(f".. auto{kinds[name]}:: {name}\n{MEMBERS[kinds[name]]}\n" for name in names)
    return f".. currentmodule:: {found[1]}\n\n.. autosummary::\n   :nosignatures:\n\n{table}\n{full}"


MEMBERS = {"class": "   :members:\n", "function": "", "data": ""}


def _kind(member: object) -> str:
    return "class" if inspect.isclass(member) else "function" if inspect.isfunction(member) else "data"


def reference(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element) -> nodes.Element | None:
    """Find a public name without its package, or by the file that it is written in."""
    domain = env.domains.python_domain
    name = node.get("reftarget", "").rpartition(".")[2]
    paths = [path for path in domain.objects if path.rpartition(".")[2] == name and path.count(".") < 4]
    if node.get("refdomain") != "py" or not paths:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", min(paths, key=len), node, text)


def skip(app: Sphinx, what: str, name: str, member: object, skipped: bool, options: object) -> bool | None:
    """Leave out what NamedTuple writes of its fields: the class's docstring has them."""
    return True if str(getattr(member, "__doc__", "")).startswith("Alias for field number") else None


def before(app: Sphinx, what: str, name: str, member: object, options: object, lines: list[str]) -> None:
    """Before napoleon, which takes "K." for a list, and what stands before a property's colon for its type."""
    lines[:] = [re.sub(r"^( +\w+: )(\w)\.$", r"\1*\2*.", line) for line in lines]
    if what in ("attribute", "property") and lines:
        lines[0] = lines[0].replace(": ", " – ")
    if what == "data" and lines[:1] == str(type(member).__doc__).splitlines()[:1]:
        lines.clear()  # a constant has its type's docstring


def docstring(*arguments: list[str]) -> None:
    """Make what reads well in a source file reStructuredText: an empty line before a list, citations as text."""

    def one_line(found: re.Match[str]) -> str:
        return re.sub(r"\n *", " ", found[1])

    lines = arguments[-1]
    text = re.sub(r"\[(\w+\d{4}\w?)\]_", r"[\1]", "\n".join(lines))
    text = re.sub(r"^\.\. (\[\w+\].*(?:\n +.*)*\n?)", lambda found: one_line(found) + "\n\n", text, flags=re.M)
    text = re.sub(r"^(\d\d?\. .*(?:\n(?!\d\d?\. ) *\S.*)+)", one_line, text, flags=re.M)
    lines[:] = re.sub(r"(?<!\n)\n(1\. )", r"\n\n\1", text).split("\n")


def first_page(app: Sphinx, error: Exception | None) -> None:
    """Lead from the site's address to its first page."""
    if error is None:
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html"><title>{project}</title>\n'
        Path(app.outdir, "index.html").write_text(page)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", page)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", before, priority=400)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("missing-reference", reference)
    app.connect("build-finished", first_page)
