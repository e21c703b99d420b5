"""Explainers of plugins: what is not a map is one line that names the plugin."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from bcos_core import BcosError, explain
from bcos_core.plugin_guard import PluginError
from bcos_explain import ExplainerSpec, explain_batch, get_explainer
from bcos_explain.explainers import attribute
from bcos_explain.explainers.contract import LinearMapExplainer

MODEL = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
X = torch.rand(4, 2, 6, 5)


@pytest.fixture
def get(stranger, hooks):
    """Return the explainer ``mine`` of a stranger's package, which this builder makes."""

    def install(builder):
        specs = [ExplainerSpec("mine", "stranger_code:build", "a summary")]
        stranger(code={"build": builder}, bcos_explain=hooks("bcos_explain", bcos_explain_explainers=specs))
        return get_explainer("mine")

    return install


@pytest.mark.parametrize(
    ("explainer", "message"),
    [
        (lambda m, x, target: x.numpy(), "gave ndarray, needed Tensor"),
        (lambda m, x, target: None, "gave None, needed Tensor"),
        (lambda m, x, target: x[:1], r"gave a map of shape \(1, 2, 6, 5\), needed \(4, \[C\], 6, 5\)"),
        (lambda m, x, target: x.sum((1, 2)), r"gave a map of shape \(4, 5\), needed"),
        (lambda m, x, target: x[..., :3], r"gave a map of shape \(4, 2, 6, 3\), needed"),
        (lambda m, x, target: x.no_such_thing, "failed: AttributeError: 'Tensor' object has no attribute"),
    ],
)
def test_result_that_is_no_map_names_the_plugin(explainer, message, get):
    made = get(lambda: explainer)
    for explained in (lambda: attribute(made, MODEL, X, 1), lambda: explain_batch(MODEL, X, 1, ("mine",))):
        with pytest.raises(PluginError, match=rf"^the explainer 'mine' of the plugin stranger:zoo {message}"):
            explained()


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (lambda: None, r": its builder gave NoneType, needed explainer\(model, x, target\)"),
        (lambda: 1 / 0, " failed: ZeroDivisionError: division by zero"),
    ],
)
def test_builder_that_makes_no_explainer_names_the_plugin(builder, message, get):
    with pytest.raises(PluginError, match=f"^the explainer 'mine' of the plugin stranger:zoo{message}"):
        get(builder)


def test_maps_with_and_without_channels_pass_as_they_are(get):
    assert torch.equal(get(lambda: lambda m, x, target: x)(MODEL, X), X)
    assert torch.equal(get(lambda: lambda m, x, target: x[:, 0])(MODEL, X), X[:, 0])
    assert attribute(get(lambda: lambda m, x, target: x), MODEL, X, torch.tensor([[0, 1]] * 4)).shape == (4, 2, 6, 5)


def test_refusal_of_an_explainer_and_lack_of_memory_stay_what_they_are(get):
    def refusing(model, x, target):
        raise BcosError("it needs attention")

    def large(model, x, target):
        if len(x) > 1:
            raise torch.OutOfMemoryError
        return x

    with pytest.raises(BcosError, match=r"^it needs attention") as raised:
        attribute(get(lambda: refusing), MODEL, X)
    assert not isinstance(raised.value, PluginError)
    torch.testing.assert_close(attribute(get(lambda: large), MODEL, X), X.sum(1))


@dataclass(frozen=True)
class OffW:
    several_targets: bool = True
    result: object = None

    def __call__(self, model, x, target=None):
        return self.explanation(model, x, target).map

    def explanation(self, model, x, target=None, *, probe=None):
        return explain(model, x, target, probe=probe) if self.result is None else self.result


def test_explainer_that_reads_off_w_still_does(get):
    made = get(OffW)
    assert isinstance(made, LinearMapExplainer)
    assert not isinstance(get(lambda: lambda m, x, target: x), LinearMapExplainer)
    assert (made.several_targets, repr(made)) == (True, repr(OffW()))
    (image,) = explain_batch(MODEL, X[:1], 1, {"mine": made})
    assert image.explanations[0].weight is not None
    with pytest.raises(PluginError, match=r"^the explainer 'mine' of the plugin stranger:zoo gave int, needed Expl"):
        explain_batch(MODEL, X, 1, {"mine": get(lambda: OffW(result=3))})


def test_array_of_an_explainer_that_is_no_plugin_is_refused():
    with pytest.raises(BcosError, match=r"the explainer gave ndarray, needed a tensor \(N, \[C,\] H, W\)"):
        attribute(lambda m, x, target: x.numpy(), MODEL, X)


def test_names_of_classes_are_looked_up_for_plugins(get):
    seen = []

    def explainer(model, x, target):
        seen.append(target)
        return (
            x if target is None or isinstance(target, int) or target.ndim == 1 else x[:, None].expand(-1, 2, -1, -1, -1)
        )

    model = copy.deepcopy(MODEL)
    model.class_names = ["cat", "dog", "owl"]
    made = get(lambda: explainer)
    made(model, X, "owl")
    made(model, X, ["cat", "dog", "owl", 0])
    made(model, X, [["cat", "dog"]] * 4)
    assert seen[0] == 2
    assert seen[1].tolist() == [0, 1, 2, 0]
    assert seen[2].tolist() == [[0, 1]] * 4
