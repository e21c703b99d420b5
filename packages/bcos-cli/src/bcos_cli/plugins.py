"""The plugin manager of this package, loaded once. Imports no torch."""

from functools import cache

import pluggy

from bcos_cli import hookspecs
from bcos_cli.spec import DatasetSpec, LossSpec, RecipeSpec
from bcos_core.plugins import PluginInfo, Plugins, Registry, load_plugins


@cache
def _loaded() -> tuple[pluggy.PluginManager, Plugins]:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager, load_plugins(manager, hookspecs.PROJECT)


def manager() -> pluggy.PluginManager:
    """Return the plugin manager, with every entry point registered."""
    return _loaded()[0]


def plugins() -> Plugins:
    """Which plugins there are, and which of them are broken."""
    recipes(), datasets(), losses()
    return _loaded()[1]


def all_plugins() -> list[PluginInfo]:
    """Plugins of every package that has hooks."""
    import bcos_explain.plugins
    import bcos_models.plugins

    return [*bcos_models.plugins.plugins().infos, *bcos_explain.plugins.plugins().infos, *plugins().infos]


@cache
def recipes() -> Registry[RecipeSpec]:
    """All recipes by name."""
    return Registry("recipe", RecipeSpec, manager().hook.bcos_cli_recipes, _loaded()[1])


@cache
def datasets() -> Registry[DatasetSpec]:
    """All data sets by name."""
    return Registry("data set", DatasetSpec, manager().hook.bcos_cli_datasets, _loaded()[1])


@cache
def losses() -> Registry[LossSpec]:
    """All losses by name."""
    return Registry("loss", LossSpec, manager().hook.bcos_cli_losses, _loaded()[1])
