import sys
import time
import types
from dataclasses import dataclass

import pluggy
import pytest

from bcos_core import BcosError, plugins
from bcos_core.plugin_guard import PluginError, plugin_errors
from bcos_core.plugins import PluginInfo, Plugins, Registry, first_result, load_plugins, resolve, suggestion

GROUP = "bcos_tests"
spec, impl = pluggy.HookspecMarker(GROUP), pluggy.HookimplMarker(GROUP)


class Specs:
    @spec
    def things(self):
        """Give things."""


@dataclass(frozen=True)
class Thing:
    name: str
    maker: str = "?"


@dataclass
class Entry:
    """What importlib.metadata gives, as far as it is used."""

    name: str
    value: str
    load: object
    dist: object = None


def entry(distribution, name, load, value=None):
    dist = types.SimpleNamespace(name=distribution) if distribution else None
    return Entry(name, value or f"{distribution}_{name}.plugin", load, dist)


def giving(*names, maker="?"):
    """Entry point's load() for a plugin whose hook returns these things."""

    class Plugin:
        @impl
        def things(self):
            return [Thing(name, maker) for name in names]

    return Plugin


def raising(error):
    def fail(*_):
        raise error

    return fail


@pytest.fixture
def load(monkeypatch):
    """Load fake entry points: (plugins, registry of their things)."""

    def run(*entries):
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(Specs)

        def entry_points(*, group):
            assert group == GROUP
            return list(entries)

        monkeypatch.setattr(plugins, "entry_points", entry_points)
        loaded = load_plugins(manager, GROUP)
        return loaded, Registry("thing", Thing, manager.hook.things, loaded)

    return run


def errors(loaded):
    return {info.name: info.error for info in loaded.infos}


def test_things_of_all_plugins_are_found_by_name(load):
    loaded, registry = load(entry("zoo", "a", giving("lion", "ape")), entry("farm", "b", giving("cow")))
    assert registry.names() == ["ape", "cow", "lion"]
    assert {t.name for t in registry} == {"lion", "ape", "cow"}
    assert registry["cow"] == Thing("cow")
    assert registry.owner("cow") == "farm:b"
    assert errors(loaded) == {"farm:b": None, "zoo:a": None}


def test_infos_say_where_a_plugin_comes_from(load):
    loaded, _ = load(entry("zoo", "a", giving(), value="zoo_package.hooks"))
    assert loaded.infos == [PluginInfo(GROUP, "zoo:a", "zoo_package.hooks", "zoo")]


def test_distribution_may_be_unknown(load):
    loaded, registry = load(entry(None, "a", giving("lion")))
    assert errors(loaded) == {"?:a": None}
    assert registry.owner("lion") == "?:a"


def test_own_plugins_come_first_then_the_others_by_name(load):
    loaded, registry = load(
        entry("zoo", "a", giving("z")),
        entry("art", "b", giving("b")),
        entry("art", "a", giving("a")),
        entry("bcos-models", "own", giving("own"), value="bcos_models.resnet.plugin"),
    )
    assert [i.name for i in loaded.infos] == ["bcos-models:own", "art:a", "art:b", "zoo:a"]
    assert [t.name for t in registry] == ["own", "a", "b", "z"]


def test_plugin_that_cannot_be_imported_is_named_and_the_rest_works(load):
    broken = entry("bad", "x", raising(ImportError("No module named 'rocket'\nsecond line")))
    loaded, registry = load(broken, entry("zoo", "a", giving("lion")))
    assert errors(loaded) == {"bad:x": "ImportError: No module named 'rocket'", "zoo:a": None}
    assert registry.names() == ["lion"]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("boom"), SyntaxError("bad"), KeyError("k"), ValueError(), SystemExit(0), KeyboardInterrupt("k")],
)
def test_plugin_may_fail_in_any_way(load, error):
    loaded, registry = load(entry("bad", "x", raising(error)), entry("zoo", "a", giving("lion")))
    assert errors(loaded)["bad:x"].startswith(f"{type(error).__name__}: ")
    assert registry.names() == ["lion"]


def test_plugin_with_an_unknown_hook_is_broken_and_contributes_nothing(load):
    class Future:
        @impl
        def things(self):
            return [Thing("unicorn")]

        @impl
        def hook_of_tomorrow(self):
            return []

    loaded, registry = load(entry("bad", "x", Future), entry("zoo", "a", giving("lion")))
    assert "hook_of_tomorrow" in errors(loaded)["bad:x"]
    assert errors(loaded)["zoo:a"] is None
    assert registry.names() == ["lion"]


other_impl = pluggy.HookimplMarker("bcos_explain")
UNMARKED = "its things is not marked as a hook; put @bcos_tests.hookspecs.hookimpl above it"


class Wrapper:
    @impl(wrapper=True)
    def things(self):
        return (yield)


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (types.SimpleNamespace(), "it has no hook of bcos_tests; mark one with bcos_tests.hookspecs.hookimpl"),
        (types.SimpleNamespace(things=lambda: [Thing("lion")]), UNMARKED),
        (types.SimpleNamespace(things=other_impl(lambda: [Thing("lion")])), UNMARKED),
        (
            types.SimpleNamespace(bcos_explain_metrics=other_impl(lambda: [])),
            "it has no hook of bcos_tests; those it has are of bcos_explain, whose entry points name it",
        ),
        (Wrapper(), "its things is a wrapper of the hook, which is not called; write the hook itself"),
    ],
    ids=["nothing", "no marker", "another marker", "another package's", "a wrapper"],
)
def test_plugin_without_a_hook_that_is_called_is_broken(plugin, reason, load):
    loaded, registry = load(entry("bad", "x", lambda: plugin), entry("zoo", "a", giving("ape")))
    assert errors(loaded) == {"bad:x": f"BcosError: {reason}", "zoo:a": None}
    assert registry.names() == ["ape"]


@pytest.mark.parametrize("described", [types.SimpleNamespace(name="lion"), Thing(None), Thing(3), {"name": "lion"}])
def test_description_of_another_type_is_broken(described, load):
    plugin = types.SimpleNamespace(things=impl(lambda: [described]))
    loaded, registry = load(entry("bad", "x", lambda: plugin), entry("zoo", "a", giving("ape")))
    assert errors(loaded)["bad:x"].startswith("BcosError: a thing is described by a Thing with a name, got ")
    assert registry.names() == ["ape"]


def test_plugin_that_asks_to_be_first_takes_no_name_of_ours(load):
    plugin = types.SimpleNamespace(things=impl(lambda: [Thing("resnet", "stranger")], trylast=True))
    own = entry("bcos-models", "own", giving("resnet", maker="us"))
    loaded, registry = load(entry("bad", "x", lambda: plugin), own)
    assert errors(loaded)["bcos-models:own"] is None
    assert registry["resnet"].maker == "us"


def leaving():
    yield Thing("snake")
    raise SystemExit(0)


@pytest.mark.parametrize(
    "result",
    [
        raising(RuntimeError("no\nluck")),
        raising(SystemExit(0)),
        raising(KeyboardInterrupt()),
        leaving,
        lambda *_: None,
        lambda *_: [object()],
    ],
)
def test_hook_that_raises_or_returns_nonsense_is_broken(load, result):
    bad = type("Bad", (), {"things": impl(lambda self: result())})
    loaded, registry = load(entry("bad", "x", bad), entry("zoo", "a", giving("lion")))
    assert errors(loaded)["bad:x"].split(":")[0] in {
        "RuntimeError",
        "TypeError",
        "BcosError",
        "SystemExit",
        "KeyboardInterrupt",
    }
    assert "\n" not in errors(loaded)["bad:x"]
    assert errors(loaded)["zoo:a"] is None
    assert registry.names() == ["lion"]


def test_what_plugins_print_is_not_in_the_output(load, capsys):
    class Loud:
        def __init__(self):
            sys.stdout.write("imported\n")

        @impl
        def things(self):
            sys.stdout.write("asked\n")
            return [Thing("parrot")]

    _, registry = load(entry("zoo", "a", Loud))
    assert registry.names() == ["parrot"]
    assert capsys.readouterr() == ("", "imported\nasked\n")


def test_a_plugin_that_hangs_is_named(load, monkeypatch, capsys):
    monkeypatch.setattr("bcos_core.plugin_guard.PATIENCE", 0.05)

    def slow():
        time.sleep(0.4)
        return giving("snail")()

    load(entry("zoo", "a", slow, value="zoo_package.hooks"))
    assert "still loading the plugin zoo:a (entry point zoo_package.hooks of zoo)" in capsys.readouterr().err


def test_name_that_is_taken_stays_with_the_first(load):
    loaded, registry = load(
        entry("art", "a", giving("resnet", maker="stranger")),
        entry("bcos-models", "own", giving("resnet", maker="us"), value="bcos_models.resnet.plugin"),
    )
    message = "BcosError: the thing 'resnet' is already registered by bcos-models:own; choose another name"
    assert errors(loaded) == {"bcos-models:own": None, "art:a": message}
    assert registry["resnet"].maker == "us"
    assert registry.owner("resnet") == "bcos-models:own"


def test_name_given_twice_by_one_plugin_is_refused(load):
    loaded, _ = load(entry("zoo", "a", giving("lion", "lion")))
    assert errors(loaded)["zoo:a"].endswith("'lion' is already registered by zoo:a; choose another name")


def test_two_entry_points_of_one_module_leave_one_working(load):
    plugin = giving("lion")()
    loaded, registry = load(entry("zoo", "a", lambda: plugin), entry("zoo", "b", lambda: plugin))
    assert errors(loaded)["zoo:a"] is None
    assert errors(loaded)["zoo:b"].startswith("ValueError: ")
    assert registry.names() == ["lion"]


def test_entry_point_found_twice_leaves_one_working(load):
    loaded, registry = load(entry("zoo", "a", giving("lion")), entry("zoo", "a", giving("lion")))
    assert registry.names() == ["lion"]
    assert [i.error is None for i in loaded.infos] == [True, False]


def test_unknown_name_is_refused_with_a_suggestion(load):
    _, registry = load(entry("zoo", "a", giving("lion", "ape")))
    with pytest.raises(BcosError, match=r"there is no thing 'lino'; did you mean 'lion'\?"):
        registry["lino"]
    with pytest.raises(BcosError, match=r"there is no thing 'xyz'; choose from ape, lion$"):
        registry["xyz"]


def test_name_that_a_run_used_says_which_package_had_it(load, monkeypatch):
    monkeypatch.setitem(plugins.MAKERS, ("thing", "lion"), "'zoo 1.2'")
    _, registry = load()
    with pytest.raises(BcosError, match=r"there is no thing 'lion'; it came with 'zoo 1.2'; install that if you trust"):
        registry["lion"]


def test_names_of_others_have_a_package_with_its_version(load):
    _, registry = load(entry("pluggy", "a", giving("lion")), entry("zoo", "a", giving("ape")))
    assert registry.makers() == {"lion": f"pluggy {pluggy.__version__}", "ape": "zoo"}
    assert load(entry("bcos-models", "own", giving("lion")))[1].makers() == {}


@dataclass(frozen=True)
class Built(Thing):
    builder: str = "no_such_module:f"


def test_code_of_a_plugin_is_named_where_it_fails_and_ours_is_not(load, monkeypatch):
    plugin = types.SimpleNamespace(things=impl(lambda: [Built("lion")]))
    _, registry = load(entry("zoo", "a", lambda: plugin), entry("bcos-models", "own", giving("cow")))
    with pytest.raises(PluginError, match=r"^the thing 'lion' of the plugin zoo:a: cannot load 'no_such_module:f'"):
        registry.builder("lion")
    with (
        pytest.raises(PluginError, match=r"^the thing 'lion' of the plugin zoo:a failed: KeyError: 'k'"),
        registry.running("lion"),
    ):
        raise KeyError("k")
    with pytest.raises(KeyError), registry.running("cow"):
        raise KeyError("k")


@pytest.mark.parametrize(
    "error", [BcosError("b must be at least 1"), MemoryError(), RuntimeError("not enough memory: 8")]
)
def test_mistakes_of_users_and_lack_of_memory_pass_through(error):
    with pytest.raises(type(error)) as raised, plugin_errors("the thing", ours=False):
        raise error
    assert raised.value is error


class Questions:
    @pluggy.HookspecMarker(GROUP)(firstresult=True)
    def question(self, name, other):
        """Answer."""


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda name: 1 / 0, "question of the plugin zoo:a failed: ZeroDivisionError: division by zero"),
        (lambda name: name, "question of the plugin zoo:a gave str, needed int"),
    ],
)
def test_first_result_names_the_plugin_that_cannot_answer(answer, message):
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Questions)
    manager.register(types.SimpleNamespace(question=impl(lambda name, other: None)), name="farm:b")
    manager.register(types.SimpleNamespace(question=impl(lambda other: other)), name="art:b")
    assert first_result(manager.hook.question, int, name="x", other=7) == 7
    manager.register(types.SimpleNamespace(question=impl(answer)), name="zoo:a")
    with pytest.raises(PluginError, match=message):
        first_result(manager.hook.question, int, name="x", other=7)


def test_no_plugins_give_an_empty_registry(load):
    loaded, registry = load()
    assert loaded.infos == []
    assert registry.names() == list(registry) == []


def test_mark_broken_touches_the_named_plugin_only():
    loaded = Plugins([PluginInfo("g", "a", "v", "d"), PluginInfo("g", "b", "v", "d")])
    loaded.mark_broken("b", "why")
    assert errors(loaded) == {"a": None, "b": "why"}


def test_suggestion_is_cut_after_twenty():
    names = [f"name{i:02d}" for i in range(21)]
    assert suggestion("q", names[:20]) == f"choose from {', '.join(names[:20])}"
    assert suggestion("q", iter(names)) == f"choose from {', '.join(names[:20])}, ..."


def test_resolve_finds_a_function():
    assert resolve("bcos_core.plugins:suggestion") is suggestion


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("bcos_core.plugins:nothing", "has no attribute 'nothing'"),
        ("bcos_core.plugins", "has no attribute ''"),
        (":f", "Empty module name"),
        ("..:f", "a relative name"),
        ("", "Empty module name"),
    ],
)
def test_resolve_says_what_is_wrong(reference, reason):
    with pytest.raises(BcosError, match=f"cannot load '{reference}': .*{reason}.*; a builder is named") as error:
        resolve(reference)
    assert error.value.__cause__ is not None


def test_resolve_gives_what_can_be_called():
    with pytest.raises(BcosError, match="'bcos_core:__name__' is a str, not a function"):
        resolve("bcos_core:__name__")


def test_resolve_does_not_hide_a_bug_in_the_module(monkeypatch, tmp_path):
    (tmp_path / "buggy_builder.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        resolve("buggy_builder:f")
    assert "buggy_builder" not in sys.modules
