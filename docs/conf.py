"""How Sphinx builds these pages: `make docs`."""

import re
from importlib.metadata import version as version_of

project = "Sojourn"
author = "The Sojourn developers"
version = release = version_of("sojourn")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"

html_theme = "pydata_sphinx_theme"
html_title = "Sojourn"
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False, "secondary_sidebar_items": ["page-toc"]}
html_sidebars = {"**": []}


def say_in_markup(app, what, name, obj, options, lines):
    """Docstrings here quote code as `this`; reStructuredText would take that for a reference."""
    lines[:] = [re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", say_in_markup)
