"""The documents as a site: ``make docs``."""

import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

project = "lit_diffusion"
copyright = "the authors of lit_diffusion, MIT licence"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "lit_diffusion"
html_show_sphinx = False
html_theme_options = {  # so that lines of 100 characters fit
    "light_css_variables": {"code-font-size": "74%"},
}

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # Lightning's are in another markup
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes in a list, not as members of their own

# What stands outside docs/, and the page that it is a part of.
PAGES = {"index": "README.md", "contributing": "CONTRIBUTING.md"}


def add_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put README.md and CONTRIBUTING.md into the site, their links as they are seen from docs/."""
    if docname in PAGES:
        text = (ROOT / PAGES[docname]).read_text()
        source[0] = re.sub(r"\]\((?!https?:|#)([^)]+)\)", lambda m: f"]({from_docs(m[1])})", text) + source[0]
    else:
        source[0] = source[0].replace("](../CONTRIBUTING.md", "](contributing.md")


def from_docs(link: str) -> str:
    """Return a link of a file at the top as a link of a file in docs/."""
    for page, name in PAGES.items():
        if link.startswith(name):
            return link.replace(name, f"{page}.md", 1)
    return link.removeprefix("docs/") if link.startswith("docs/") else f"../{link}"


def formulas_as_code(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Make code blocks of what docstrings set apart by four spaces, as Markdown would."""
    text = re.sub(
        r"(?<=\n\n)((?: {4}.*\n|\n(?= {4}))+)",
        lambda m: f".. code-block:: text\n\n{m[1]}",
        "\n".join(lines) + "\n",
    )
    lines[:] = text.rstrip("\n").split("\n")


def skip(app: Sphinx, what: str, name: str, obj: object, skipped: bool, options: object) -> bool | None:
    """Leave out a NamedTuple's fields, which its docstring lists."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
    """Register the three."""
    app.connect("source-read", add_page)
    app.connect("autodoc-process-docstring", formulas_as_code, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip)
