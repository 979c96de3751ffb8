"""Sphinx configuration: numpydoc docstrings, MyST pages, a gallery from examples/plot_*.py."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = PROJECT["name"]
author = copyright = PROJECT["authors"][0]["name"]
release = version = PROJECT["version"]

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "sphinx_click",
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # numpydoc's type field says more: it has the shapes
autodoc_member_order = "bysource"
autosummary_generate = False
numpydoc_show_class_members = False
suppress_warnings = [
    "ref.python",  # a name that fq exports has two homes, factorq.X and factorq.module.X
    "config.cache",  # sphinx-gallery keeps functions in its configuration
]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"plot_",
    "abort_on_example_error": True,
    "show_memory": False,
    "min_reported_time": 60,
    "download_all_examples": False,
}

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
exclude_patterns = ["_build", "auto_examples/*.ipynb", "auto_examples/*.py", "auto_examples/*.md5", "generated/parts"]
