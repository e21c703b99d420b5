"""The plugin manager of this package, loaded once. Imports no torch."""

import platform
import warnings
from functools import cache

import pluggy

from bcos_cli import hookspecs
from bcos_cli.spec import DatasetSpec, LossSpec, RecipeSpec
from bcos_core import plugins as core
from bcos_core.plugin_guard import OURS
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

    found = [*bcos_models.plugins.plugins().infos, *bcos_explain.plugins.plugins().infos, *plugins().infos]
    if core.has_plugins("bcos_core"):  # rules of functions of torch, which is slow to import
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of broken ones, which are in the result
            from bcos_core.rules.table import load_rules

            found += load_rules().infos
    return found


def versions() -> dict[str, str]:
    """Versions of all that a run depends on: Python, our packages, torch, timm, and those that have plugins."""
    names = {*OURS, "accelerate", "timm", "torch", "torchvision", *(info.distribution for info in all_plugins())}
    found = {name.replace("_", "-"): core.version_of(name) for name in sorted(names)}
    return {"python": platform.python_version()} | {k: v for k, v in found.items() if v is not None}


def makers() -> dict[str, dict[str, str]]:
    """Package and version that each name comes with which is not ours, by kind."""
    import bcos_explain.plugins as explain
    import bcos_models.plugins as models

    registries = (models.registry(), explain.explainers(), explain.metrics(), recipes(), datasets(), losses())
    return {registry.kind: registry.makers() for registry in registries}


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
