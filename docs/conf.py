"""Sphinx configuration: numpydoc docstrings, MyST pages, a gallery from examples/plot_*.py."""

import sys
import tomllib
from importlib import import_module
from pathlib import Path
from unittest.mock import MagicMock

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


def missing(name: str) -> bool:
    """Whether a framework cannot be imported here."""
    try:
        import_module(name)
    except ImportError:
        return True
    return False


WITHOUT_TORCH = missing("torch")
autodoc_mock_imports = ["torch"] if WITHOUT_TORCH else []
if missing("jax"):  # autodoc's own mock gives a plain function for jax.custom_vjp
    sys.modules |= {"jax": MagicMock(), "jax.numpy": MagicMock()}
    import_module("factorq.adapters.jax")
    del sys.modules["jax"], sys.modules["jax.numpy"]

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
    "filename_pattern": r"plot_(?!finetuning)" if WITHOUT_TORCH else r"plot_",  # others are shown, and not run
    "abort_on_example_error": True,
    "show_memory": False,
    "min_reported_time": 60,
    "download_all_examples": False,
}

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
exclude_patterns = ["_build", "auto_examples/*.ipynb", "auto_examples/*.py", "auto_examples/*.md5", "generated/parts"]
