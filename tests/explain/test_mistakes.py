"""What is refused in words, or said, where a number would be wrong: inputs, targets, labels, arrays."""

import threading

import numpy as np
import pytest
import torch
from explained_networks import calibrated
from torch import nn

from bcos_core import AddInverse, BcosError
from bcos_explain import get_explainer, get_metric
from bcos_explain.explainers.remarks import collect_remarks
from bcos_explain.export import export_explainer
from bcos_explain.metrics import difull, grid_pointing_game, max_sensitivity, pixel_deletion
from bcos_explain.neurons import TopActivations, explain_neuron
from bcos_explain.render import contribution_rgb, input_image

METHODS = ("gradient", "gradcam", "rise", "occlusion", "integrated_gradients", "smoothgrad", "deeplift", "lime", "bcos")


@pytest.fixture
def net_and_x():
    return calibrated("bcos_rgb")


@pytest.mark.parametrize("method", METHODS)
def test_values_that_are_not_finite_are_refused(method, net_and_x):
    net, x = net_and_x
    x = x.clone()
    x[0, 0, 1, 1] = torch.nan
    with pytest.raises(BcosError, match="holds 1 non-finite values"):
        get_explainer(method)(net, x, 0)


@pytest.mark.parametrize("method", METHODS)
def test_another_precision_is_refused(method, net_and_x):
    net, x = net_and_x
    with pytest.raises(BcosError, match=r"the input is torch.float64, the model's parameters are torch.float32"):
        get_explainer(method)(net, x.double(), 0)


def test_outputs_that_are_not_finite_are_refused(net_and_x):
    net, x = net_and_x
    with pytest.raises(BcosError, match="outputs are not finite"):
        get_explainer("lime")(nn.Sequential(net, nn.LogSigmoid(), nn.Threshold(0, -torch.inf)).eval(), x, 0)


def test_callable_targets_are_for_the_exact_map(net_and_x):
    net, x = net_and_x
    with pytest.raises(BcosError, match="a callable target is for the method bcos"):
        get_explainer("gradient")(net, x, lambda z: z[:, 0])


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.bool])
def test_integers_of_unknown_range_are_refused(dtype, net_and_x):
    net, _ = net_and_x
    images = torch.ones(2, 3, 8, 8).to(dtype)
    with pytest.raises(BcosError, match=r"floats in \[0, 1\] or 8-bit integers"):
        pixel_deletion(net, get_explainer("gradient"), images, encode=AddInverse())
    with pytest.raises(BcosError, match=r"floats in \[0, 1\] or 8-bit integers"):
        input_image(images[0])


def test_arrays_are_refused_by_metrics(net_and_x):
    net, _ = net_and_x
    with pytest.raises(BcosError, match=r"metrics need images \(M, C, H, W\), at least one, got ndarray"):
        pixel_deletion(net, get_explainer("gradient"), np.zeros((2, 3, 8, 8)), encode=AddInverse())


@pytest.mark.parametrize("labels", [[1, 2, 3, 5], [-1, 0, 1, 2]])
def test_labels_that_the_network_does_not_have_are_refused(labels, net_and_x):
    net, _ = net_and_x  # of 5 classes
    grids = torch.tensor([[3, 0, 1, 2]])
    images = torch.rand(4, 3, 12, 12)
    for game in (difull, grid_pointing_game):
        options = {"grids": grids, "encode": AddInverse()}
        with pytest.raises(BcosError, match=r"\[0, 5\)"):
            game(net, get_explainer("input_x_gradient"), images, labels, torch.ones(4), **options)


def test_flipped_arrays_are_pictures():
    values = np.arange(12.0).reshape(3, 4)
    flipped = contribution_rgb(values[:, ::-1])
    np.testing.assert_array_equal(flipped, contribution_rgb(np.ascontiguousarray(values[:, ::-1])))
    picture = np.random.default_rng(0).random((3, 5, 6))
    np.testing.assert_array_equal(input_image(picture[::-1]), input_image(np.ascontiguousarray(picture[::-1])))


def test_neurons_need_a_position_for_each_image_and_finite_values(net_and_x):
    net, x = net_and_x
    layer = next(name for name, module in net.named_modules() if name and not list(module.children()))
    with pytest.raises(BcosError, match=f"there are 1 positions for {len(x)} images"):
        explain_neuron(net, x, layer, 0, positions=[(0, 0)])
    with pytest.raises(BcosError, match="not finite"):
        TopActivations().update(torch.tensor([1.0, torch.nan]).reshape(2, 1, 1, 1), [0, 1])


@pytest.mark.filterwarnings("ignore::bcos_explain.explainers.ExplainerRemark")
@pytest.mark.parametrize("method", ["rise", "lime", "smoothgrad"])
def test_draws_do_not_depend_on_the_default_precision(method, net_and_x):
    net, x = net_and_x
    options = {"rise": {"n_masks": 20}, "lime": {"n_samples": 40}, "smoothgrad": {"n_samples": 2}}[method]
    before = get_explainer(method, **options)(net, x, 0)
    torch.set_default_dtype(torch.float64)
    try:
        again = get_explainer(method, **options)(net, x, 0)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(again, before, atol=1e-4, rtol=1e-3)


def test_a_map_that_is_not_finite_is_said(net_and_x):
    net, x = net_and_x

    def broken(model, x, target):
        return torch.full((len(x), *x.shape[2:]), torch.nan)

    with collect_remarks() as remarks:
        max_sensitivity(net, broken, x, samples=1)
    assert any("not finite" in str(remark) for remark in remarks)


def test_a_model_that_cannot_be_copied_is_refused(net_and_x):
    net, x = net_and_x
    net.lock = threading.Lock()
    with pytest.raises(BcosError, match="the model cannot be copied"):
        get_explainer("gradcam")(net, x, 0)
    with pytest.raises(BcosError, match="the model cannot be copied"):
        get_metric("randomisation")(net, get_explainer("gradient"), x)


def test_a_network_that_takes_another_path_for_another_image_is_not_exported():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return (self.one if float(x.detach().mean()) > 0.4 else self.other)(x).mean((2, 3))

    with pytest.raises(BcosError, match="reads values of its input, and may take another path"):
        export_explainer(Branching().eval(), 0.5 + 0.5 * torch.rand(2, 3, 8, 8))


def test_grids_need_a_network_that_takes_their_size(net_and_x):
    net, _ = net_and_x

    class OneSize(nn.Sequential):
        def forward(self, x):
            assert x.shape[-1] == 12, f"Input width ({x.shape[-1]}) does not match model (12)."
            return super().forward(x)

    with pytest.raises(BcosError, match=r"not take grids of 2×2 images, 24×24 \(.*Input width \(24\).*dynamic_img"):
        grid_pointing_game(
            OneSize(net).eval(),
            get_explainer("bcos"),
            torch.rand(4, 3, 12, 12),
            torch.arange(4),
            torch.ones(4),
            encode=AddInverse(),
        )
