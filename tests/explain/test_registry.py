import subprocess
import sys
from types import ModuleType

import numpy as np
import pluggy
import pytest

import bcos_explain
from bcos_core import BcosError
from bcos_core.plugins import Registry, load_plugins
from bcos_explain import ExplainerSpec, hookimpl, hookspecs
from bcos_explain.registry import is_signed


def test_listing_imports_no_torch():
    code = (
        "import sys, bcos_explain as b, bcos_explain.plugins as p\n"
        "assert b.list_explainers() and b.explainer_specs() and b.list_metrics() and b.metric_specs()\n"
        "assert p.plugins().infos\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'captum', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_every_public_name_exists():
    for name in bcos_explain.__all__:
        assert getattr(bcos_explain, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bcos_explain.nothing


def test_names_are_sorted_and_can_be_selected():
    assert bcos_explain.list_explainers() == sorted(bcos_explain.list_explainers())
    assert {"input_x_gradient", "integrated_gradients"} <= set(bcos_explain.list_explainers("*gradient*"))
    assert bcos_explain.list_metrics("grid*") == ["gridpg"]


def test_every_description_says_what_and_whence():
    for spec in [*bcos_explain.explainer_specs(), *bcos_explain.metric_specs()]:
        assert spec.summary, spec.name
        assert spec.source, spec.name


def test_every_metric_takes_what_it_says_it_needs():
    import inspect

    for spec in bcos_explain.metric_specs():
        parameters = list(inspect.signature(bcos_explain.get_metric(spec.name)).parameters)
        assert tuple(parameters[: len(spec.needs)]) == spec.needs


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(BcosError, match=r"there is no explainer 'grad_cam'; did you mean 'gradcam'\?"):
        bcos_explain.get_explainer("grad_cam")
    with pytest.raises(BcosError, match=r"there is no metric 'gridgp'; did you mean 'gridpg'\?"):
        bcos_explain.get_metric("gridgp")


def test_unknown_options_are_refused_with_a_suggestion():
    with pytest.raises(
        BcosError,
        match=r"explainer 'integrated_gradients' has no option 'steps'; did you mean 'n_steps'\?",
    ):
        bcos_explain.get_explainer("integrated_gradients", steps=5)
    with pytest.raises(BcosError, match="explainer 'bcos' has no option 'layer'; it has none"):
        bcos_explain.get_explainer("bcos", layer="x")


class FakeEntry:
    def __init__(self, name, load):
        self.name, self.value, self.load = name, f"{name}.plugin", load
        self.dist = type("Dist", (), {"name": f"{name}-package"})


def plugin_with(specs):
    module = ModuleType("plugin")
    module.bcos_explain_explainers = hookimpl(specs, specname="bcos_explain_explainers")
    return lambda: module


def broken_import():
    raise ImportError("no module named 'left_pad'")


def broken_hook():
    raise RuntimeError("cannot list")


def test_broken_plugins_are_named_and_do_not_stop_the_rest(monkeypatch):
    entries = [
        FakeEntry("a", broken_import),
        FakeEntry("b", plugin_with(broken_hook)),
        FakeEntry("c", plugin_with(lambda: [ExplainerSpec("mine", "m:f"), ExplainerSpec("bcos", "m:g")])),
        FakeEntry("d", plugin_with(lambda: [ExplainerSpec("other", "m:f")])),
    ]
    from bcos_explain import builtin

    builtin_entry = FakeEntry("builtin", lambda: builtin)
    builtin_entry.dist.name = "bcos-explain"
    monkeypatch.setattr("bcos_core.plugins.entry_points", lambda group: [*entries, builtin_entry])
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    plugins = load_plugins(manager, hookspecs.PROJECT)
    registry = Registry("explainer", ExplainerSpec, manager.hook.bcos_explain_explainers, plugins)
    assert {"bcos", "gradcam", "other"} <= set(registry.names())
    errors = {i.name.split(":")[1]: i.error for i in plugins.infos}
    assert errors["builtin"] is None
    assert errors["d"] is None
    assert "left_pad" in errors["a"]
    assert "cannot list" in errors["b"]
    assert "'bcos' is already registered" in errors["c"]
    assert registry["bcos"].builder.startswith("bcos_explain.")


def test_only_maps_of_both_signs_are_red_and_blue():
    positive, mixed = np.array([[0.0, 2.0]]), np.array([[-1.0, 2.0]])
    for name in ("gradcam", "layercam", "rise", "attention_rollout"):
        assert not is_signed(name, positive)
        assert is_signed(name, mixed)  # a contrast
    for name in ("bcos", "gradient", "of nobody"):
        assert is_signed(name, positive)
