import pytest
import torch
from explained_networks import TokenNet, calibrated

from bcos_core import BcosError
from bcos_explain.neurons import LayerOutputs, TopActivations, explain_neuron


def literal(net, layer, x):
    seen = []
    handle = net.get_submodule(layer).register_forward_hook(lambda *args: seen.append(args[2]))
    net(x)
    handle.remove()
    return seen[0].detach()


def test_outputs_are_those_of_the_layer_and_leave_no_hook():
    net, x = calibrated("bcos_rgb")
    torch.testing.assert_close(LayerOutputs(net, "2")(x), literal(net, "2", x))
    assert all(not m._forward_hooks for m in net.modules())


def test_outputs_before_an_in_place_activation_are_kept():
    net, x = calibrated("plain")
    assert LayerOutputs(net, "features.3")(x).min() < 0


def test_outputs_without_positions_have_one():
    net, x = calibrated("bcos_rgb")
    assert LayerOutputs(net, "5")(x).shape == (3, 5, 1, 1)


def test_tokens_become_maps_without_the_class_token():
    net = TokenNet("token").eval()
    x = torch.rand(2, 3, 16, 12)
    tokens = literal(net, "block", x)
    expected = tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 3))
    torch.testing.assert_close(LayerOutputs(net, "block")(x), expected)


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_the_most_activating_images_are_found_in_any_batches(batch):
    activations = torch.rand(50, 6, 4, 5)
    top = TopActivations(channels=[4, 1], count=3)
    for start in range(0, 50, batch):
        top.update(activations[start : start + batch], range(start, min(start + batch, 50)))
    for channel, found in top.collected().items():
        by_image = {i: float(activations[i, channel].max()) for i in range(50)}
        expected = sorted(by_image, key=by_image.get, reverse=True)[:3]
        assert [a.key for a in found] == expected
        for a in found:
            assert a.score == by_image[a.key] == float(activations[a.key, channel][a.position])
    assert list(top.collected()) == [1, 4]


def test_processes_together_find_what_one_finds():
    activations = torch.rand(20, 3, 2, 2)
    whole, first, second = (TopActivations(count=4) for _ in range(3))
    whole.update(activations, range(20))
    first.update(activations[::2], range(0, 20, 2))
    second.update(activations[1::2], range(1, 20, 2))
    first.merge(second)
    assert first.collected() == whole.collected()
    assert first.strongest(2) == whole.strongest(2)


def test_channels_are_ordered_by_their_strongest_activation():
    activations = torch.zeros(2, 3, 1, 1)
    activations[1, 2], activations[0, 0] = 5.0, 2.0
    top = TopActivations()
    top.update(activations, [0, 1])
    assert top.strongest(2) == [2, 0]


@pytest.mark.parametrize(
    ("name", "layer"), [("bcos_rgb", "2"), ("bcos_rgb", "0"), ("plain", "features.3"), ("tokens", "block")]
)
def test_contributions_and_bias_sum_to_the_activation(name, layer):
    net, x = calibrated(name)
    net, x = net.double(), x.double()
    maps = LayerOutputs(net, layer)(x)
    top = TopActivations(count=3)
    top.update(maps, range(3))
    for channel, found in list(top.collected().items())[:3]:
        positions = {a.key: a.position for a in found}
        scores = torch.tensor([{a.key: a.score for a in found}[i] for i in range(3)], dtype=torch.float64)
        e = explain_neuron(net, x, layer, channel, [positions[i] for i in range(3)])
        torch.testing.assert_close(e.score, scores)
        torch.testing.assert_close(e.contributions.sum((1, 2, 3)) + e.bias, scores)
        torch.testing.assert_close(explain_neuron(net, x, layer, channel).score, scores)


def test_a_position_sees_no_further_than_its_receptive_field():
    net, x = calibrated("bcos_rgb")
    e = explain_neuron(net, x, "0", 3, [(5, 6)] * 3)
    outside = torch.ones(12, 16, dtype=torch.bool)
    outside[4:7, 5:8] = False
    assert not e.weight[..., outside].any()
    assert e.weight[..., ~outside].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("9", 0), "has no layer '9'"),
        (("2", 12), "channels from 0 to 11, got 12"),
        (("2", 0, [(0, 0), (0, 0), (6, 0)]), r"positions up to \(5, 7\), got \(6, 0\)"),
    ],
)
def test_what_is_not_there_is_refused(arguments, message):
    net, x = calibrated("bcos_rgb")
    with pytest.raises(BcosError, match=message):
        explain_neuron(net, x, *arguments)


def test_unknown_layers_and_channels_are_refused():
    net, x = calibrated("bcos_rgb")
    with pytest.raises(BcosError, match="the model has no layer 'stem'"):
        LayerOutputs(net, "stem")
    with pytest.raises(BcosError, match="the layer has 12 channels, from 0 to 11; got 40"):
        TopActivations(channels=[40]).update(LayerOutputs(net, "2")(x), range(3))
    with pytest.raises(BcosError, match="count must be at least 1"):
        TopActivations(count=0)
