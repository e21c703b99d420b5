import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bcos_core import AddInverse, BcosError, explain
from bcos_explain import get_explainer
from bcos_explain.explainers import spatial_map
from bcos_explain.explainers.feature_map import as_feature_map, last_feature_layer


def gradient(net, x, k):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(net(leaf)[:, k].sum(), leaf)[0]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 56, 56, 96), (2, 96, 56, 56)),
        ((2, 8, 8, 16), (2, 16, 8, 8)),
        ((2, 96, 56, 56), (2, 96, 56, 56)),
        ((2, 7, 7, 7), (2, 7, 7, 7)),
        ((2, 16, 7, 9), (2, 16, 7, 9)),
    ],
)
def test_channels_last_are_told_by_the_aspect_ratio(shape, expected):
    assert as_feature_map(torch.zeros(shape), 224, 224).shape == expected


def test_bcos_is_the_contributions_of_the_core(net_and_input):
    net, x = net_and_input
    assert torch.equal(get_explainer("bcos")(net, x, 3), explain(net, x, 3).contributions)


def test_input_x_gradient_is_literally_that(net_and_input):
    net, x = net_and_input
    torch.testing.assert_close(get_explainer("input_x_gradient")(net, x, 3), x * gradient(net, x, 3))


def test_gradient_methods_do_not_freeze_the_dynamic_factors(colour_net):
    x = AddInverse()(torch.rand(2, 3, 8, 8))
    exact = get_explainer("bcos")(colour_net, x, 0)
    assert not torch.allclose(get_explainer("input_x_gradient")(colour_net, x, 0), exact, atol=1e-4)


def test_integrated_gradients_converge_to_a_fine_riemann_sum(plain_net):
    net = plain_net.double()
    x = torch.rand(2, 3, 8, 8).double()
    alphas = (torch.arange(2000).double() + 0.5) / 2000
    line = (alphas[:, None, None, None, None] * x).flatten(0, 1)
    expected = x * gradient(net, line, 2).unflatten(0, (2000, 2)).mean(0)
    ours = get_explainer("integrated_gradients", n_steps=300)(net, x, 2)
    torch.testing.assert_close(ours, expected, atol=5e-5, rtol=0)


def test_integrated_gradients_sum_to_the_distance_from_the_baseline(net_and_input):
    net, x = net_and_input
    ours = get_explainer("integrated_gradients", n_steps=200)(net, x, 1)
    expected = (net(x) - net(torch.zeros_like(x)))[:, 1]
    torch.testing.assert_close(ours.sum((1, 2, 3)), expected, atol=2e-3, rtol=1e-3)


@pytest.mark.filterwarnings("ignore::bcos_explain.explainers.ExplainerRemark")
def test_integrated_gradients_bound_the_images_that_are_passed_at_once(plain_net):
    seen = []
    plain_net.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    x = torch.rand(2, 3, 8, 8)
    small = get_explainer("integrated_gradients", internal_batch_size=6)(plain_net, x, 1)
    assert max(seen) == 6
    assert sum(seen) == 2 + 1 + 2 * 50  # for the classes, at the zero input, and along the lines
    whole = get_explainer("integrated_gradients", internal_batch_size=1000)(plain_net, x, 1)
    torch.testing.assert_close(small, whole)
    one_by_one = get_explainer("integrated_gradients", internal_batch_size=1)(plain_net, x, 1)
    torch.testing.assert_close(one_by_one, whole)


@pytest.mark.parametrize("options", [{"n_steps": 0}, {"internal_batch_size": -1}, {"n_steps": "50"}])
def test_integrated_gradients_refuse_nonsense(options):
    with pytest.raises(BcosError, match="must be a whole number of at least 1, got"):
        get_explainer("integrated_gradients", **options)


def test_gradcam_is_captums_on_the_last_convolution_before_the_classifier(plain_net):
    x = torch.rand(3, 3, 12, 16)
    target = torch.tensor([0, 1, 2])
    layer = plain_net.features[3]
    plain_net.act = nn.ReLU()  # Captum does not survive an in-place operation after the layer
    ours = get_explainer("gradcam", layer="features.3")(plain_net, x, target)
    cam = captum.attr.LayerGradCam(plain_net, layer).attribute(x.requires_grad_(), target, relu_attributions=True)
    expected = F.interpolate(cam, (12, 16), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(ours, expected.detach())


def test_gradcam_is_its_definition(plain_net):
    x = torch.rand(1, 3, 8, 8)
    maps = plain_net.act(plain_net.features(x)).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(plain_net.pool(plain_net.head(maps))[0, 4].sum(), maps)
    cam = torch.zeros(4, 4)
    for c in range(12):
        alpha = sum(slopes[0, c, i, j] for i in range(4) for j in range(4)) / 16
        cam += alpha * maps[0, c].detach()
    expected = F.interpolate(cam.relu()[None, None], (8, 8), mode="bilinear")[0]
    torch.testing.assert_close(get_explainer("gradcam")(plain_net, x, 4), expected)


def test_gradcam_survives_activations_in_place(plain_net):
    x = torch.rand(2, 3, 8, 8)
    ours = get_explainer("gradcam", layer="features.3")(plain_net, x, 0)
    plain_net.act = nn.ReLU()
    torch.testing.assert_close(ours, get_explainer("gradcam", layer="features.3")(plain_net, x, 0))


def test_gradcam_is_never_negative(net_and_input):
    net, x = net_and_input
    for k in range(5):
        assert get_explainer("gradcam")(net, x, k).min() >= 0


def test_default_layer_is_the_last_map_before_the_classifier(plain_net):
    assert last_feature_layer(plain_net, torch.rand(1, 3, 8, 8)) is plain_net.act


def test_default_layer_without_named_classifier_is_the_last_map(colour_net):
    assert last_feature_layer(colour_net, torch.rand(1, 6, 8, 8)) is colour_net[3]


def test_default_layer_of_a_transformer_is_its_last_tokens(token_net):
    net = token_net("mean")
    assert last_feature_layer(net, torch.rand(1, 3, 16, 24)) is net.norm


def test_default_layer_stands_before_the_last_attention_if_only_the_class_token_counts(token_net):
    net, x = token_net("token"), torch.rand(2, 3, 16, 24)
    assert last_feature_layer(net, x) is net.block.norm1
    maps = get_explainer("gradcam")(net, x, 1)
    torch.testing.assert_close(maps, get_explainer("gradcam", layer="block.norm1")(net, x, 1))


def test_networks_that_ignore_their_input_get_empty_maps(token_net):
    net = token_net("mean")
    torch.nn.init.zeros_(net.head.weight)
    assert (get_explainer("gradcam")(net, torch.rand(1, 3, 16, 16), 0) == 0).all()


def test_gradcam_on_tokens_is_that_on_the_same_maps(token_net):
    net, x = token_net("mean"), torch.rand(2, 3, 16, 24)
    tokens = net.norm(
        net.block(torch.cat([net.token.expand(2, -1, -1), net.patches(x).flatten(2).transpose(1, 2)], dim=1))
    )
    maps = tokens[:, 1:].transpose(1, 2).reshape(2, 8, 4, 6).detach()
    alpha = net.head.weight[3] / 24  # the mean over tokens, then a linear head
    expected = (alpha.detach()[None, :, None, None] * maps).sum(1, keepdim=True).relu()
    expected = F.interpolate(expected, (16, 24), mode="bilinear")[:, 0]
    torch.testing.assert_close(get_explainer("gradcam")(net, x, 3), expected)


def test_gradcam_says_when_only_the_class_token_counts(token_net):
    net = token_net("token")
    with pytest.raises(BcosError, match="does not depend on the maps of layer 'norm'; name an earlier layer"):
        get_explainer("gradcam", layer="norm")(net, torch.rand(1, 3, 16, 16), 0)
    assert get_explainer("gradcam", layer="patches")(net, torch.rand(1, 3, 16, 16), 0).shape == (1, 16, 16)


def test_gradcam_refuses_layers_it_cannot_use(plain_net):
    x = torch.rand(1, 3, 8, 8)
    with pytest.raises(BcosError, match=r"has no layer 'features\.9'; did you mean 'features\.\d'"):
        get_explainer("gradcam", layer="features.9")(plain_net, x, 0)
    with pytest.raises(BcosError, match=r"the layer 'pool' gives \(1, 5, 1, 1\) for images of 8×8"):
        get_explainer("gradcam", layer="pool")(plain_net, x, 0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()
    with pytest.raises(BcosError, match="has no layer whose output is a map"):
        get_explainer("gradcam")(flat, x, 0)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 8, 7, 7), (2, 8, 7, 7)),
        ((2, 7, 7, 768), (2, 768, 7, 7)),
        ((2, 49, 8), (2, 8, 7, 7)),
        ((2, 50, 8), (2, 8, 7, 7)),
        ((2, 54, 8), (2, 8, 7, 7)),
        ((2, 8, 1, 1), None),
        ((2, 1000), None),
    ],
)
def test_outputs_are_arranged_as_maps(shape, expected):
    maps = as_feature_map(torch.rand(shape), 224, 224)
    assert expected == (None if maps is None else tuple(maps.shape))


def test_channels_last_and_tokens_keep_their_positions():
    maps = torch.rand(2, 64, 4, 6)
    torch.testing.assert_close(as_feature_map(maps.permute(0, 2, 3, 1), 40, 60), maps)
    tokens = torch.cat([torch.rand(2, 1, 64), maps.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(as_feature_map(tokens, 40, 60), maps)


def test_spatial_map_sums_channels_and_refuses_other_ranks():
    a = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(spatial_map(a), a.sum(1))
    assert spatial_map(a[:, 0]).shape == (2, 4, 5)
    with pytest.raises(BcosError, match=r"got shape \(4, 5\)"):
        spatial_map(a[0, 0])
