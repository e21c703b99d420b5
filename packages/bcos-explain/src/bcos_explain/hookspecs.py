"""The hooks through which packages add explainers and metrics. Imports no torch.

A plugin is a module with functions marked ``@hookimpl``, named in its package's ``pyproject.toml``:

.. code-block:: toml

    [project.entry-points.bcos_explain]
    mine = "my_package.plugin"
"""

from collections.abc import Iterable

import pluggy

from bcos_explain.spec import ExplainerSpec, MetricSpec

PROJECT = "bcos_explain"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def bcos_explain_explainers() -> Iterable[ExplainerSpec]:
    """Return the descriptions of the explainers this plugin offers. Must be quick and import no torch."""
    raise NotImplementedError


@hookspec
def bcos_explain_metrics() -> Iterable[MetricSpec]:
    """Return the descriptions of the metrics this plugin offers. Must be quick and import no torch."""
    raise NotImplementedError
