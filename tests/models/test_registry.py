import subprocess
import sys
from dataclasses import replace

import pytest

import bcos_models
from bcos_core import BcosError
from bcos_models import (
    InputSpec,
    ModelSpec,
    create_model,
    get_spec,
    hookimpl,
    list_models,
    model_specs,
    plugins,
)


def plugin(*specs):
    class Stranger:
        @hookimpl
        def bcos_models_specs(self):
            return specs

    return Stranger()


def raising(error):
    def load():
        raise error

    return load


def errors():
    return {i.name: i.error for i in plugins.plugins().infos if i.name.startswith("stranger")}


def build_tiny(*, num_classes, in_chans, size=1):
    from torch import nn

    return nn.Conv2d(in_chans, num_classes, size)


def build_anything(*, num_classes, in_chans, **options):
    made = build_tiny(num_classes=num_classes, in_chans=in_chans)
    made.options = options
    return made


TINY = ModelSpec("tiny", f"{__name__}:build_tiny", "tiny", input=InputSpec(channels=4), num_classes=7)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, sys))
    monkeypatch.setitem(globals(), "__spec__", __spec__)
    module = type(sys)(TINY.builder.partition(":")[0])
    module.build_tiny, module.build_anything = build_tiny, build_anything
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_names_are_sorted_and_filtered_by_a_shell_pattern():
    names = list_models()
    assert names == sorted(names)
    assert list_models("cifar10_*") == [n for n in names if n.startswith("cifar10_")]
    assert list_models("*resnet20") == ["cifar10_resnet20", "standard_cifar10_resnet20"]
    assert list_models("RESNET18") == []
    assert [s.name for s in model_specs()] == names


@pytest.mark.parametrize("look_up", [get_spec, create_model])
def test_unknown_model_is_refused_with_a_suggestion(look_up):
    with pytest.raises(BcosError, match=r"there is no model 'resnet_50'; did you mean 'resnet50'\?"):
        look_up("resnet_50")


def test_model_without_published_weights_says_what_to_do_instead():
    with pytest.raises(BcosError, match="there are no published weights of 'resnext101_32x8d'; give weights=FILE"):
        create_model("resnext101_32x8d", pretrained=True)


def test_published_and_other_weights_are_refused_together():
    with pytest.raises(BcosError, match=r"give pretrained=True or weights='mine.safetensors', not both"):
        create_model("resnet18", pretrained=True, weights="mine.safetensors")


def test_strangers_model_is_built_with_its_channels_and_classes(entry_points):
    entry_points(zoo=lambda: plugin(TINY))
    assert "tiny" in list_models()
    assert create_model("tiny").weight.shape == (7, 8, 1, 1)
    assert create_model("tiny", num_classes=2, in_chans=3, size=5).weight.shape == (2, 3, 5, 5)
    assert errors() == {"stranger:zoo": None}


def test_callers_options_win_over_those_of_the_description(entry_points):
    entry_points(zoo=lambda: plugin(replace(TINY, options={"size": 3, "in_chans": 1})))
    assert create_model("tiny").weight.shape == (7, 1, 3, 3)
    assert create_model("tiny", size=2).weight.shape == (7, 1, 2, 2)


def test_builder_with_keywords_of_its_own_takes_any_option(entry_points):
    entry_points(zoo=lambda: plugin(replace(TINY, builder=TINY.builder.replace("tiny", "anything"))))
    assert create_model("tiny", colour="red").options == {"colour": "red"}


def test_broken_plugin_is_named_and_the_rest_works(entry_points):
    entry_points(bad=raising(ImportError("No module named 'rocket'")), zoo=lambda: plugin(TINY))
    assert errors() == {"stranger:bad": "ImportError: No module named 'rocket'", "stranger:zoo": None}
    assert {"tiny", "resnet18"} <= set(list_models())


def test_name_that_is_taken_stays_ours_and_the_stranger_is_named(entry_points):
    entry_points(zoo=lambda: plugin(replace(TINY, name="resnet18")))
    message = "BcosError: the model 'resnet18' is already registered by bcos-models:resnet; choose another name"
    assert errors() == {"stranger:zoo": message}
    assert get_spec("resnet18").family == "resnet"


@pytest.mark.parametrize("builder", ["no_such_module:f", "bcos_models:no_such_function"])
def test_builder_that_is_not_there_is_named_when_it_is_used(builder, entry_points):
    entry_points(zoo=lambda: plugin(replace(TINY, builder=builder)))
    assert "tiny" in list_models()
    with pytest.raises(BcosError, match=f"cannot load '{builder}'"):
        create_model("tiny")


def test_listing_and_descriptions_import_no_torch():
    code = (
        "import sys, bcos_models; bcos_models.list_models(); bcos_models.get_spec('resnet50');"
        "bcos_models.model_specs(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr


@pytest.mark.parametrize("name", bcos_models.__all__)
def test_every_public_name_is_there(name):
    assert getattr(bcos_models, name) is not None


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'bcos_models' has no attribute 'nothing'"):
        _ = bcos_models.nothing


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoding": "inverse"}, "encoding must be one of .*, got 'inverse'"),
        ({"size": 0}, "size of an input must be 1 to 4,096, got 0"),
        ({"size": "224"}, "size of an input must be 1 to 4,096, got '224'"),
        ({"size": 10**9}, "size of an input must be 1 to 4,096, got 1000000000"),
        ({"resize": 0}, "resize of an input must be 1 to 8,192, got 0"),
        ({"channels": 0}, "channels of an input must be 1 to 1,024, got 0"),
        ({"encoding": ["none"]}, "encoding must be one of"),
        ({"mean": (float("nan"),) * 3}, "mean of an input must have a finite number for each channel"),
        ({"std": (0.0, 1.0, 1.0)}, "std of an input must have"),
        ({"std": (1.0,), "encoding": "standardize"}, "std of an input must have"),
        ({"mean": 0.5}, "mean of an input must have"),
    ],
)
def test_impossible_input_is_refused(values, message):
    with pytest.raises(BcosError, match=message):
        InputSpec(**values)


@pytest.mark.parametrize(("encoding", "channels"), [("add_inverse", 6), ("standardize", 3)])
def test_encoded_channels(encoding, channels):
    assert InputSpec(encoding=encoding).encoded_channels == channels
