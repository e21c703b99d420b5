"""Derivatives by an image that a network sees as ``[u, 1 - u]``."""

import pytest
import torch
from explained_networks import PlainNet, calibrated
from torch import nn

from bcos_core import AddInverse
from bcos_explain import get_explainer
from bcos_explain.explainers import attribute, collect_remarks, spatial_map
from bcos_explain.explainers.gradient import image_signs

OF_DERIVATIVES = ["gradient", "guided_backprop", "smoothgrad"]
pytestmark = pytest.mark.filterwarnings("ignore::bcos_explain.explainers.ExplainerRemark")


def by_image(net, image, k):
    """``∂f_k/∂u`` summed over channels, through the encoding."""
    leaf = image.clone().requires_grad_()
    return torch.autograd.grad(net(AddInverse()(leaf))[:, k].sum(), leaf)[0].sum(1)


def converted():
    """A plain network, and the same with the stem ``[w, -w] / 2`` on an image and its inverse."""
    plain, image = calibrated("plain")
    plain, image = plain.double(), image.double()
    stem = plain.features[0]
    twice = nn.Conv2d(6, 8, 3, padding=1, dtype=torch.float64)
    twice.weight.data = torch.cat([stem.weight, -stem.weight], 1).detach() / 2
    twice.bias.data = stem.bias.detach() + stem.weight.detach().sum((1, 2, 3)) / 2  # right inside of the border
    six = PlainNet(6).double().eval()
    six.load_state_dict(plain.state_dict() | {"features.0.weight": twice.weight, "features.0.bias": twice.bias})
    return six, image


@pytest.mark.parametrize("name", ["bcos_rgb", "bcos_grey"])
def test_the_gradient_sums_to_the_derivative_by_the_image(name):
    net, x = calibrated(name)
    net, image = net.double(), x[:, : x.shape[1] // 2].double()
    maps = attribute(get_explainer("gradient"), net, AddInverse()(image), 2)
    torch.testing.assert_close(maps, by_image(net, image, 2))


def test_the_two_parts_of_the_gradient_are_those_of_the_chain_rule():
    net, x = calibrated("bcos_rgb")
    x = AddInverse()(x[:, :3]).requires_grad_()
    (g,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    ours = get_explainer("gradient")(net, x, 1)
    torch.testing.assert_close(ours, torch.cat([g[:, :3], -g[:, 3:]], 1))


@pytest.mark.parametrize("name", OF_DERIVATIVES)
def test_derivatives_of_a_converted_network_do_not_cancel(name):
    net, image = converted()
    x = AddInverse()(image)
    raw = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(net(raw)[:, 2].sum(), raw)
    assert g.sum(1).abs().max() < 1e-12 * g.abs().max()  # what summing the six channels would show
    with collect_remarks() as remarks:
        maps = attribute(get_explainer(name), net, x, 2)
    assert maps.abs().max() > 0.1 * g.abs().max()
    assert not any("cancel" in r.text for r in remarks)
    if name == "gradient":
        torch.testing.assert_close(maps, by_image(net, image, 2))


def test_smoothgrad_adds_noise_to_the_image_not_to_its_inverse():
    net, image = converted()
    generator = torch.Generator().manual_seed(7)
    noise = [torch.randn(6, *image.shape[2:], generator=generator, dtype=torch.float64)[:3] for _ in range(4)]
    expected = torch.zeros_like(image[:, 0])
    for i, u in enumerate(image):
        for drawn in noise:
            expected[i] += by_image(net, (u + 0.2 * (u.max() - u.min()) * drawn)[None], 3)[0] / 4
    smooth = get_explainer("smoothgrad", n_samples=4, noise=0.2, seed=7)
    torch.testing.assert_close(spatial_map(smooth(net, AddInverse()(image), 3)), expected)


def test_six_channels_of_anything_else_have_the_derivatives_that_they_have():
    net, x = calibrated("bcos_rgb")
    x.requires_grad_()
    (g,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    torch.testing.assert_close(get_explainer("gradient")(net, x, 1), g)


def test_the_encoding_is_seen_in_the_values_of_each_image():
    image = torch.rand(6, 3, 4, 5)
    x = AddInverse()(image)
    x[1] = torch.rand(6, 4, 5)  # no image with its inverse
    x[2, :, :2] = 0  # an image of which a part was taken away
    x[3] = 0  # nothing is left that could tell
    x[4, 5, 3, 4] += 0.1  # but for one value
    signs = image_signs(x)
    assert signs[:, :3].eq(1).all()
    assert signs[:, 3:].eq(torch.tensor([-1, 1, -1, 1, 1, -1]).view(6, 1, 1, 1)).all()
    assert image_signs(torch.rand(2, 3, 4, 4)).eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_encoding_is_seen_in_every_precision(dtype):
    image = torch.rand(2, 3, 16, 16)
    for x in (AddInverse()(image).to(dtype), AddInverse()(image.to(dtype)), AddInverse()(image.to(dtype)).float()):
        assert image_signs(x)[:, 3:].eq(-1).all()


@pytest.mark.parametrize("name", ["input_x_gradient", "integrated_gradients", "deeplift"])
def test_products_with_the_input_decompose_over_the_encoded_input(name):
    net, image = converted()
    x = AddInverse()(image)
    ours = get_explainer(name, **({"n_steps": 400} if name == "integrated_gradients" else {}))(net, x, 1)
    if name == "input_x_gradient":
        raw = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(net(raw)[:, 1].sum(), raw)
        torch.testing.assert_close(ours, x * g)
    else:
        difference = (net(x) - net(torch.zeros_like(x)))[:, 1]
        torch.testing.assert_close(ours.sum((1, 2, 3)), difference, rtol=0.01, atol=1e-3)
