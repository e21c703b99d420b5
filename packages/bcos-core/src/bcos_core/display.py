"""How explanations show themselves in notebooks. Imports no torch.

bcos-core draws no pictures. A package that does registers a function with :func:`register_html`, which
:class:`bcos_core.Explanation` calls; without one it shows a table.
"""

from typing import Any

from bcos_core.plugins import resolve

_renderers: list[str] = []


def register_html(renderer: str) -> None:
    """Let ``"module:function"`` turn explanations into HTML from now on; it is imported when one is shown."""
    _renderers[:] = [renderer]


def html_of(explanation: Any) -> str | None:
    """HTML that the registered function makes of an explanation; None if there is none."""
    if not _renderers:
        return None
    html: str = resolve(_renderers[0])(explanation)
    return html
