"""How explanations show themselves in notebooks. Imports no torch.

Pictures are no business of bcos-core's: a package that draws says with :func:`register_html` which function
does, and :class:`bcos_core.Explanation` calls it. Without one there is a table.
"""

from typing import Any

from bcos_core.plugins import resolve

_renderers: list[str] = []


def register_html(renderer: str) -> None:
    """Let ``"module:function"`` turn explanations into HTML from now on; it is imported when one is shown."""
    _renderers[:] = [renderer]


def html_of(explanation: Any) -> str | None:
    """What the registered function makes of an explanation; None without one."""
    if not _renderers:
        return None
    html: str = resolve(_renderers[0])(explanation)
    return html
