"""Rules of other packages, found by entry point.

A package names a mapping of functions to rules, as :func:`bcos_core.register_rules` takes it, in its
``pyproject.toml``:

.. code-block:: toml

    [project.entry-points.bcos_core]
    mine = "my_package.rules:RULES"
"""

import warnings
from functools import cache
from importlib.metadata import entry_points

from bcos_core.plugin_guard import error_summary, plugin_guard
from bcos_core.rules.table import register_rules

GROUP = "bcos_core"


@cache
def load_rules() -> None:
    """Register the rules of every installed package, once; called when a network is first explained.

    A package whose rules cannot be loaded is named in a warning; the others keep working.
    """
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        what = f"the rules {entry.name!r} ({entry.value})"
        try:
            with plugin_guard(what):
                register_rules(entry.load())
        except Exception as reason:  # a third-party module may raise anything
            warnings.warn(f"{what} are not used: {error_summary(reason)}", stacklevel=2)
