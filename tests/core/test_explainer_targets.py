"""What may be explained: classes, differences, callables, units of inner layers."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from bcos_core import (
    BcosConv1d,
    BcosConv2d,
    BcosError,
    BcosLinear,
    BcosSelfAttention,
    LogitLayer,
    explain,
    explanation_mode,
)


@pytest.mark.parametrize(
    "target",
    [3, torch.tensor(3), [3, 3, 3], (3, 3, 3), torch.tensor([3, 3, 3]), torch.tensor([3, 3, 3]).int()],
    ids=repr,
)
def test_one_target_for_each_input(net, images, target):
    e = explain(net, images, target)
    assert e.target.tolist() == [3, 3, 3]
    assert e.target.dtype == torch.int64
    torch.testing.assert_close(e.score, net(images)[:, 3])
    assert e.weight.shape == images.shape


@pytest.mark.parametrize("target", [[[0, 1]] * 3, torch.tensor([[0, 1]] * 3)], ids=["list", "tensor"])
def test_several_targets_for_each_input(net, images, target):
    e = explain(net, images, target)
    torch.testing.assert_close(e.score, net(images)[:, :2])
    assert e.bias.shape == (3, 2)


def test_one_column_of_targets_keeps_its_dimension(net, images):
    e = explain(net, images, [[1], [2], [3]])
    assert e.weight.shape == (3, 1, *images.shape[1:])
    assert e.score.shape == e.bias.shape == (3, 1)


def test_no_target_is_the_prediction(net, images):
    e = explain(net, images)
    assert torch.equal(e.target, net(images).argmax(1))
    torch.testing.assert_close(e.weight, explain(net, images, e.target).weight)


def test_a_callable_is_explained_as_it_is(net, images):
    e = explain(net, images, lambda z: z[:, 3] - 2 * z[:, 1])
    both = explain(net, images, [[3, 1]] * 3)
    torch.testing.assert_close(e.weight, both.weight[:, 0] - 2 * both.weight[:, 1])
    torch.testing.assert_close(e.bias, both.bias[:, 0] - 2 * both.bias[:, 1])
    assert e.target.tolist() == [0, 0, 0]


def test_a_callable_may_give_several_values(net, images):
    e = explain(net, images, lambda z: torch.stack([z[:, 0], z.sum(1)], 1))
    assert e.target.tolist() == [[0, 1]] * 3
    torch.testing.assert_close(e.score, torch.stack([net(images)[:, 0], net(images).sum(1)], 1))
    torch.testing.assert_close(e.weight[:, 0], explain(net, images, 0).weight)


def test_constants_of_a_callable_are_bias(images):
    net = nn.Sequential(BcosConv2d(3, 4, 6), nn.Flatten()).double()
    e = explain(net, images, lambda z: z[:, 0] + 2.5)
    torch.testing.assert_close(e.bias, torch.full((3,), 2.5).double())
    assert list(e.bias_terms) == ["constant"]


@pytest.mark.parametrize("target", [None, 1, [[0, 1]] * 3], ids=repr)
def test_relative_explains_the_distance_from_the_mean_output(net, images, target):
    e = explain(net, images, target, relative=True)
    absolute = explain(net, images, target)
    everything = explain(net, images, [list(range(5))] * 3)
    extra = (slice(None), None) if e.target.ndim == 2 else ()
    assert torch.equal(e.target, absolute.target)
    for name in ("weight", "bias", "score"):
        mean = getattr(everything, name).mean(1)[extra]
        torch.testing.assert_close(getattr(e, name), getattr(absolute, name) - mean)


def test_relative_contributions_of_all_classes_cancel(net, images):
    e = explain(net, images, [list(range(5))] * 3, relative=True)
    torch.testing.assert_close(e.weight.sum(1), torch.zeros_like(images), atol=1e-12, rtol=0)


@pytest.fixture
def cnn():
    return nn.Sequential(
        BcosConv2d(3, 4, 3),
        nn.Sequential(nn.Conv2d(4, 6, 2), nn.ReLU()),
        BcosConv2d(6, 5, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        LogitLayer(logit_bias=-1.0),
    ).double()


@pytest.mark.parametrize("target", [0, [5, 2, 0], [[1, 2]] * 3], ids=repr)
def test_layer_explains_a_channel_summed_over_positions(cnn, images, target, scale):
    by_name = explain(cnn, images, target, layer="1.0")
    by_module = explain(cnn, images, target, layer=cnn[1][0])
    prefix = explain(nn.Sequential(cnn[0], cnn[1][0]), images, target)
    values = cnn[1][0](cnn[0](images)).sum((2, 3))
    torch.testing.assert_close(by_name.logits, values)
    for name in ("weight", "bias", "score", "target"):
        assert torch.equal(getattr(by_name, name), getattr(by_module, name))
        torch.testing.assert_close(getattr(by_name, name), getattr(prefix, name))
    assert list(by_name.bias_terms) == ["1.0.bias"]
    assert (by_name.residual.abs() <= 1e-9 * scale(by_name)).all()


def test_layer_explains_a_single_unit_by_a_callable(cnn, images):
    e = explain(cnn, images, lambda z: z[:, 2, 1, 0], layer="0")
    torch.testing.assert_close(e.score, cnn[0](images)[:, 2, 1, 0])
    assert e.weight[:, :, 1:4, 0:3].abs().sum() > 0
    outside = e.weight.clone()
    outside[:, :, 1:4, 0:3] = 0
    assert (outside == 0).all()


def test_last_layer_is_the_model(cnn, images):
    assert torch.equal(explain(cnn, images, layer="5").weight, explain(cnn, images).weight)
    assert torch.equal(explain(cnn, images, layer=cnn).weight, explain(cnn, images).weight)


def test_layer_of_tokens_counts_features():
    net = nn.Sequential(BcosSelfAttention(4, 2), BcosLinear(4, 3)).double()
    x = torch.randn(2, 5, 4).double()
    e = explain(net, x, target=2, layer="0")
    torch.testing.assert_close(e.score, net[0](x).sum(1)[:, 2])
    assert e.logits.shape == (2, 4)


def test_layer_of_sequences_counts_channels():
    """(N, K, L) of a convolution is (N, K, *spatial): dimension 1 counts."""
    net = nn.Sequential(BcosConv1d(3, 4, 3), BcosConv1d(4, 2, 1)).double()
    x = torch.randn(2, 3, 9).double()
    e = explain(net, x, target=2, layer="0")
    assert e.logits.shape == (2, 4)
    torch.testing.assert_close(e.score, net[0](x).sum(2)[:, 2])


def test_layer_followed_by_an_in_place_operation_is_explained_before_it(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 6), nn.ReLU(inplace=True), nn.Flatten()).double()
    expected = nn.Sequential(net[0])(images).detach()[:, :, 0, 0]
    e = explain(net, images, target=[0, 1, 2], layer="0")
    torch.testing.assert_close(e.logits, expected)


def test_layer_leaves_no_hook(cnn, images):
    explain(cnn, images, layer="0", target=0)
    with pytest.raises(ValueError, match="target must be in"):
        explain(cnn, images, layer="0", target=99)
    assert not any(m._forward_hooks for m in cnn.modules())


def test_explain_works_inside_explanation_mode(net, images):
    expected = explain(net, images)
    with explanation_mode(net):
        inside = explain(net, images)
    torch.testing.assert_close(inside.weight, expected.weight)
    torch.testing.assert_close(inside.bias, expected.bias)


def test_a_small_difference_of_large_outputs_is_explained():
    """In float32 the outputs of -100 leave no more than 1e-5 of their difference."""
    model = nn.Sequential(BcosConv2d(6, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), LogitLayer(logit_bias=-100.0))
    x = torch.rand(2, 6, 8, 8) * 1e-3
    for options in ({"target": 0, "relative": True}, {"target": lambda z: z[:, 0] - z[:, 1]}):
        e = explain(model, x, **options)
        assert e.residual.abs().max() <= 3e-5
        assert e.contributions.abs().sum() > 0


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


Pair = namedtuple("Pair", "logits state")


class Wrapped(nn.Module):
    """Gives its logits in a container, scaled and shifted by further arguments."""

    def __init__(self, net, wrap):
        super().__init__()
        self.net = net
        self.wrap = wrap

    def forward(self, first, image=None, *, shift=0.0):
        x = first if image is None else image
        return self.wrap(self.net(x) + shift)


CONTAINERS = {
    "dictionary": (lambda z: {"n": 1, "logits": z, "loss": z.sum()}, lambda out: out["logits"]),
    "tuple": (lambda z: (z, [z, None]), lambda out: out[1][0]),
    "named tuple": (lambda z: Pair(z, 2 * z), lambda out: out.logits),
    "dataclass": (Output, lambda out: out.logits),
}


@pytest.mark.parametrize(("wrap", "logits"), CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("probe", [None, True])
def test_callable_picks_from_any_container(wrap, logits, probe, net, images):
    e = explain(Wrapped(net, wrap), images, lambda out: logits(out)[:, 2], probe=probe)
    plain = explain(net, images, 2)
    torch.testing.assert_close(e.weight, plain.weight)
    torch.testing.assert_close(e.score, plain.score)
    assert (e.largest >= plain.largest).all()


def test_container_without_a_callable_is_refused_with_an_example(net, images):
    with pytest.raises(BcosError, match=r"gives dict; give a callable target .* lambda out: out\['logits'\]\[:, 3\]"):
        explain(Wrapped(net, lambda z: {"logits": z}), images, 1)


def test_further_arguments_are_constants_by_name(net, images):
    model = Wrapped(net, lambda z: z)
    shift = torch.rand(3, 5, dtype=images.dtype, requires_grad=True)
    e = explain(model, images, 2, kwargs={"shift": 2 * shift})
    torch.testing.assert_close(e.bias_terms["argument shift"], 2 * shift[:, 2].detach())
    torch.testing.assert_close(e.weight, explain(net, images, 2).weight)
    unused = torch.rand(1)
    e = explain(model, images, 2, args=[None], kwargs={"shift": shift})
    torch.testing.assert_close(e.score, net(images)[:, 2] + shift[:, 2])
    e = explain(model, images, 2, argument="image", args=[unused], layer="net")
    torch.testing.assert_close(e.weight, explain(net, images, 2).weight)


@pytest.mark.parametrize(
    ("target", "indices"), [("c", [2, 2, 2]), (["a", "c", 1], [0, 2, 1]), ([["b", "e"]] * 3, [[1, 4]] * 3)]
)
def test_classes_have_names(target, indices, net, images):
    net.class_names = list("abcde")
    assert explain(net, images, target).target.tolist() == indices


def test_names_that_mean_no_class_are_refused(net, images):
    with pytest.raises(BcosError, match="the model has no class_names among which to find 'cat'"):
        explain(net, images, "cat")
    net.class_names = ["crane", "cat", "crane", "dog", "owl"]
    with pytest.raises(BcosError, match=r"the model has no class 'cats'; did you mean 'cat'\?"):
        explain(net, images, "cats")
    with pytest.raises(BcosError, match="the model has 2 classes 'crane'"):
        explain(net, images, "crane")


@pytest.mark.parametrize("target", [[[0], [1, 2], [3]], [{}, 1, 2], [None, 1, 2]])
def test_sequences_that_are_no_targets_are_refused(target, net, images):
    with pytest.raises(BcosError, match=r"target must be None, a class, \(N,\) or \(N, T\) classes, .*, got \["):
        explain(net, images, target)


class Graph(nn.Module):
    """Message passing from each node to the next."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, nodes):
        return self.layer(nodes + nodes.roll(1, 0))


class WholeGraph(nn.Module):
    def __init__(self):
        super().__init__()
        self.graph = Graph()

    def forward(self, x):
        return self.graph(x[0]).reshape(1, -1)


def test_inputs_that_see_each_other_are_refused_by_that_name():
    nodes = torch.rand(5, 4)
    with pytest.raises(BcosError, match="see each other: the output for input 0 depends on input 4; explain one"):
        explain(Graph(), nodes, 1)
    e = explain(WholeGraph(), nodes[None], 3 * 2 + 1)  # node 2, class 1
    of_nodes = e.contributions.sum(2)[0]
    assert of_nodes.nonzero().flatten().tolist() == [1, 2]
    torch.testing.assert_close(of_nodes.sum() + e.bias[0], e.score[0])
