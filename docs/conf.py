"""The site: ``uv run nox -s site``. The repository is its source, so that links between documents hold."""

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import bcos_core

ROOT = Path(__file__).parents[1]

project = "B-cos networks"
author = "the bcos-core authors"
copyright = f"{datetime.now().year}, {author}"
version = release = bcos_core.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "RELEASING.md",
    "CODE_OF_CONDUCT.md",
    "docs/**",
    "packages/*/README.md",
    "packages/*/CHANGELOG.md",
    "packages/bcos-models/src/bcos_models/trained/*.md",
    "examples/**/*.md",
]
exclude_patterns = ["**/.venv/**", "**/node_modules/**"]
root_doc = "docs/index"
nitpicky = True
suppress_warnings = ["myst.header"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks hold their outputs; a test runs them

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "mixed"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype = False

# Types of other libraries, whose pages are elsewhere, and base classes that no page of ours describes.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!bcos_).*"),
    (r"py:class", r"bcos_core\.(conv|conv_transpose)\.BcosConv(Transpose)?"),
    (r"py:class", r"bcos_core\.norms\.(batch\.RunningNorm|base\.Norm)"),
    (r"py:class", r"bcos_cli\.config\.section\.Section"),
    (r"py:class", r"bcos_explain\.(metrics\.batches\.Batch|report\.data\._Pictures)"),
]

html_theme = "furo"
html_title = "B-cos networks"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options: dict[str, Any] = {"navigation_with_keys": True}
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
linkcheck_anchors = False

if os.environ.get("BCOS_SITE_ONLINE"):  # types of other libraries become links
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
    }


def escape_plain_text(_app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Let docstrings be plain text outside of literals: ``(N, C, *spatial)`` and ``|cos|`` are no markup."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...", "..", "=", "#")):
            parts = re.split(r"(``.+?``|:[\w:]+:`.+?`|`.+?`|\*\w+\*)", line)
            parts[::2] = [re.sub(r"(?<!\\)([*|])(?=\S)", r"\\\1", part) for part in parts[::2]]
            lines[i] = "".join(parts)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_plain_text, priority=0)
