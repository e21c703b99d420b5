"""The plugin manager of this package, loaded once."""

from functools import cache

import pluggy

from bcos_core.plugins import Plugins, Registry, load_plugins
from bcos_explain import hookspecs
from bcos_explain.spec import ExplainerSpec, MetricSpec


@cache
def _loaded() -> tuple[pluggy.PluginManager, Plugins, Registry[ExplainerSpec], Registry[MetricSpec]]:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    plugins = load_plugins(manager, hookspecs.PROJECT)
    explainers = Registry("explainer", ExplainerSpec, manager.hook.bcos_explain_explainers, plugins)
    metrics = Registry("metric", MetricSpec, manager.hook.bcos_explain_metrics, plugins)
    return manager, plugins, explainers, metrics


def manager() -> pluggy.PluginManager:
    """Return the plugin manager, with every entry point registered."""
    return _loaded()[0]


def plugins() -> Plugins:
    """Which plugins there are, and which of them are broken."""
    return _loaded()[1]


def explainers() -> Registry[ExplainerSpec]:
    """All explainers by name."""
    return _loaded()[2]


def metrics() -> Registry[MetricSpec]:
    """All metrics by name."""
    return _loaded()[3]
