"""Pictures of explanations, which a package that is installed beside this one draws. Imports no torch.

bcos-core draws none. A package that does names its functions, of an :class:`bcos_core.Explanation`, in its
``pyproject.toml``: ``html``, for notebooks, returns HTML, or None for what it cannot draw; ``plot`` a figure.

.. code-block:: toml

    [project.entry-points."bcos_core.display"]
    html = "my_package.pictures:html"
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from bcos_core.plugins import resolve


def renderer(name: str) -> Callable[[Any], Any] | None:
    """Return the function that installed packages call `name`, the first by its module; None if there is none."""
    found = sorted(entry.value for entry in entry_points(group="bcos_core.display", name=name))
    return resolve(found[0]) if found else None
