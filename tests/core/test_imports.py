import importlib
import pkgutil
import pydoc
import subprocess
import sys

import pytest

import bcos_core


def run(code):
    """Run `code` in a fresh interpreter; its standard output."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_plugin_modules_can_be_imported_without_torch():
    code = "import sys, bcos_core, bcos_core.plugins, bcos_core.errors; print('torch' in sys.modules)"
    assert run(code) == "False"


def test_plugins_import_no_pluggy():
    assert run("import sys, bcos_core.plugins; print('pluggy' in sys.modules)") == "False"


def test_explain_is_the_function_whatever_was_imported_before():
    code = "import bcos_core.explainer; from bcos_core import explain; print(explain.__name__)"
    assert run(code) == "explain"


def test_only_torch_is_needed():
    """Everything loads with the other packages' dependencies out of reach."""
    modules = [m.name for m in pkgutil.walk_packages(bcos_core.__path__, "bcos_core.")]
    blocked = [
        "pluggy",
        "timm",
        "torchvision",
        "matplotlib",
        "captum",
        "safetensors",
        "typer",
        "rich",
        "accelerate",
    ]
    code = f"import sys, importlib\nfor name in {blocked!r}: sys.modules[name] = None\n"
    code += f"for name in {modules!r}: importlib.import_module(name)\nprint('fine')"
    assert run(code) == "fine"


@pytest.mark.parametrize("name", bcos_core.__all__)
def test_every_public_name_is_there(name):
    assert getattr(bcos_core, name) is not None


LAZY = ["bcos_core", "bcos_models", "bcos_explain", "bcos_cli.config"]


@pytest.mark.parametrize("name", LAZY)
def test_public_names_are_sorted_and_shown_before_they_are_loaded(name):
    package = pytest.importorskip(name)
    assert sorted(package.__all__) == package.__all__
    assert set(package.__all__) <= set(dir(package))


def test_help_describes_what_is_loaded_lazily():
    text = pydoc.plain(pydoc.render_doc(bcos_core))
    assert "class BcosConv2d" in text
    assert "explain(" in text


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'bcos_core' has no attribute 'nothing'"):
        _ = bcos_core.nothing


def test_norms_export_what_they_list():
    norms = importlib.import_module("bcos_core.norms")
    assert all(hasattr(norms, name) for name in norms.__all__)


def test_errors_are_value_errors():
    assert issubclass(bcos_core.BcosError, ValueError)
