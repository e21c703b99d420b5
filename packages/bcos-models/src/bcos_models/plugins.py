"""The plugin manager of this package, loaded once."""

from functools import cache

import pluggy

from bcos_core.plugins import Plugins, Registry, load_plugins
from bcos_models import hookspecs
from bcos_models.spec import ModelSpec


@cache
def _loaded() -> tuple[pluggy.PluginManager, Plugins, Registry[ModelSpec]]:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    plugins = load_plugins(manager, hookspecs.PROJECT)
    return manager, plugins, Registry("model", ModelSpec, manager.hook.bcos_models_specs, plugins)


def manager() -> pluggy.PluginManager:
    """Return the plugin manager, with every entry point registered."""
    return _loaded()[0]


def plugins() -> Plugins:
    """Which plugins there are, and which of them are broken."""
    return _loaded()[1]


def registry() -> Registry[ModelSpec]:
    """All models by name."""
    return _loaded()[2]
