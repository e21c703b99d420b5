"""What all tests have in common."""

import ctypes
import gc
import multiprocessing
import resource
import sys
import types
from pathlib import Path

import pytest

LARGE = 3 << 30
"""Bytes of memory from which a process of tests gives back what it does not use."""


@pytest.fixture(autouse=True)
def memory():
    """Networks of every size come and go in one process, and glibc keeps the memory of those that are gone."""
    yield
    if not sys.platform.startswith("linux"):
        return
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    if resident > LARGE:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def processes():
    """Whoever starts processes ends them: those that stay keep open what this one had open, and hold up its end."""
    yield
    left = multiprocessing.active_children()
    for process in left:
        process.kill()
        process.join()
    assert left == []


def _clear_plugins():
    caches = {
        "bcos_core.rules.table": ["load_rules"],
        "bcos_models.plugins": ["_loaded"],
        "bcos_explain.plugins": ["_loaded"],
        "bcos_cli.plugins": ["_loaded", "recipes", "datasets", "losses"],
        "bcos_cli.main": ["build_app"],
    }
    for module, names in caches.items():
        for name in names if module in sys.modules else ():
            getattr(sys.modules[module], name).cache_clear()


@pytest.fixture
def stranger(monkeypatch):
    """Install a stranger's package: what its entry point ``zoo`` loads, by group, and code of ``stranger_code``."""
    import bcos_core.plugins as core
    from bcos_core.rules import table

    real = core.entry_points
    kept = [(registered, registered.copy()) for registered in (table.RULES, table.THIRD_PARTY)]

    def install(*, code=None, distribution="stranger", **plugins):
        module = types.ModuleType("stranger_code")
        vars(module).update(code or {})
        monkeypatch.setitem(sys.modules, "stranger_code", module)

        def entry_points(*, group):
            dist = types.SimpleNamespace(name=distribution)
            found = [plugins[group]] if group in plugins else []
            return [
                *real(group=group),
                *(types.SimpleNamespace(name="zoo", value="zoo", dist=dist, load=lambda p=p: p) for p in found),
            ]

        monkeypatch.setattr(core, "entry_points", entry_points)
        _clear_plugins()

    yield install
    monkeypatch.undo()
    _clear_plugins()
    for registered, before in kept:
        registered.clear()
        registered.update(before)


@pytest.fixture
def hooks():
    """Make a plugin of a group, with hooks that return these values."""

    def make(group, **returned):
        from importlib import import_module

        marker = import_module(f"{group}.hookspecs").hookimpl
        plugin = types.ModuleType("zoo")
        for name, value in returned.items():
            setattr(plugin, name, marker(value if callable(value) else lambda value=value: value))
        return plugin

    return make
