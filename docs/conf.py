"""The documentation site: ``make docs``. Its source is the repository, so that links read here as they do on GitHub."""

import re
from pathlib import Path

from sphinx.application import Sphinx

from kdlightning import __version__

project = "kdlightning"
author = copyright = "The kdlightning developers"  # noqa: A001 - Sphinx's name
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md", "docs/*.md", "docs/api/*"]
exclude_patterns = [".*", "site", "runs", "data", "cache", "wandb", "build", "dist"]  # not searched, for speed

CONTENTS = {
    "Guide": ["docs/guide", "docs/tutorial-method", "docs/tutorial-teacher", "docs/remote", "docs/wandb"],
    "Methods": [f"docs/method-{name}" for name in ("db3kd", "zsdb3kd", "mekd", "kd3", "shaderkd")],
    "Evidence": ["docs/results", "docs/fidelity", "experiments/README", "docs/boundary", "docs/decisions"],
    "Reference": [f"docs/api/{name}" for name in (
        "methods", "modules", "data", "teachers", "remote", "accounting", "networks", "functional", "callbacks",
        "report",
    )],
    "Project": ["docs/alternatives", "docs/responsible-use", "CONTRIBUTING", "CHANGELOG"],
}  # fmt: skip

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # GitHub's
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"kdlightning {release}"
html_copy_source = False
copybutton_exclude = ".linenos, .gp"


def page(app: Sphinx, document: str, source: list[str]) -> None:
    """Give the README, the first page, a table of contents, and let links lead out of the site to Markdown, too."""

    def link(found: re.Match[str]) -> str:
        target = Path(app.env.doc2path(document)).parent / found[1]
        return found[0] if app.env.path2doc(target.resolve()) in app.env.found_docs else f"](path:{found[1]})"

    source[0] = re.sub(r"\]\(([\w./-]+\.md)\)", link, source[0])
    if document == root_doc:
        for caption, pages in CONTENTS.items():
            source[0] += "\n```{{toctree}}\n:hidden:\n:caption: {}\n{}\n```\n".format(caption, "\n".join(pages))


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
    app.connect("autodoc-process-docstring", docstring)
    app.connect("build-finished", first_page)
