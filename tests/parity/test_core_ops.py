"""Layers and losses against the reference package, with the same weights."""

import pytest
import torch

import bcos_core
from bcos_core import losses

bcos = pytest.importorskip("bcos")
reference = pytest.importorskip("bcos.modules")

CONVS = [
    {"kernel_size": 3},
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 7, "padding": 3, "stride": 2},
    {"kernel_size": (3, 2), "padding": (1, 0), "stride": (1, 2)},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 3, "padding": 1, "groups": 4},
]
EXPONENTS = [(1, 1), (1.5, 1), (2, 1), (2.5, 2), (2, 3)]


@pytest.mark.parametrize(("b", "max_out"), EXPONENTS)
@pytest.mark.parametrize("options", CONVS, ids=str)
def test_conv_is_the_references(options, b, max_out, compare):
    ours = bcos_core.BcosConv2d(4, 8, **options, b=b, max_out=max_out)
    theirs = reference.BcosConv2d(4, 8, **options, b=b, max_out=max_out)
    ours.weight.data.copy_(theirs.linear.weight.data)
    compare(ours, theirs, torch.randn(2, 4, 8, 7), pairs=[(ours.weight, theirs.linear.weight)])


@pytest.mark.filterwarnings("ignore:dilation > 1 is much slower:UserWarning")
@pytest.mark.parametrize("b", [1, 2, 1.5])
def test_dilated_conv_is_the_references(b, compare):
    ours = bcos_core.BcosConv2d(4, 6, 3, padding=2, dilation=2, b=b)
    theirs = reference.BcosConv2d(4, 6, 3, padding=2, dilation=2, b=b)
    ours.weight.data.copy_(theirs.linear.weight.data)
    compare(ours, theirs, torch.randn(2, 4, 7, 7), pairs=[(ours.weight, theirs.linear.weight)])


@pytest.mark.parametrize(("b", "max_out"), EXPONENTS)
@pytest.mark.parametrize("shape", [(4, 8), (2, 3, 8)])
def test_linear_is_the_references(shape, b, max_out, compare):
    ours = bcos_core.BcosLinear(8, 5, b=b, max_out=max_out)
    theirs = reference.BcosLinear(8, 5, b=b, max_out=max_out)
    ours.weight.data.copy_(theirs.linear.weight.data)
    compare(ours, theirs, torch.randn(shape), pairs=[(ours.weight, theirs.linear.weight)])


@pytest.mark.parametrize("layer", ["BcosConv2d", "BcosLinear"])
def test_zero_input_is_the_references(layer, compare):
    sizes, x = ((4, 6, 3), torch.zeros(1, 4, 5, 5)) if layer == "BcosConv2d" else ((4, 6), torch.zeros(2, 4))
    ours, theirs = getattr(bcos_core, layer)(*sizes), getattr(reference, layer)(*sizes)
    ours.weight.data.copy_(theirs.linear.weight.data)
    compare(ours, theirs, x, pairs=[(ours.weight, theirs.linear.weight)])


@pytest.mark.parametrize("temperature", [None, 0.3, 2.0])
@pytest.mark.parametrize("bias", [None, -2.2])
def test_logit_layer_is_the_references(temperature, bias, compare):
    ours = bcos_core.LogitLayer(temperature, bias)
    theirs = reference.LogitLayer(temperature, bias)
    compare(ours, theirs, torch.randn(3, 5), explain=False)


INDICES = torch.tensor([3, 0, 3])
MULTI_HOT = torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0.25, 0, 1, 0, 0.5]])


class WithTarget(torch.nn.Module):
    def __init__(self, loss, target):
        super().__init__()
        self.loss, self.target = loss, target

    def forward(self, x):
        target = self.target.to(x.dtype) if self.target.is_floating_point() else self.target
        return self.loss(x, target)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("target", [INDICES, MULTI_HOT], ids=["indices", "multi-hot"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_the_references(smoothing, target, reduction, compare):
    ours = losses.BinaryCrossEntropyLoss(smoothing, reduction)
    theirs = reference.losses.BinaryCrossEntropyLoss(smoothing=smoothing, reduction=reduction)
    compare(WithTarget(ours, target), WithTarget(theirs, target), torch.randn(3, 5), explain=False)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("target", [INDICES, MULTI_HOT], ids=["indices", "multi-hot"])
@pytest.mark.parametrize("off_label", [None, 0.02])
def test_uniform_off_labels_are_the_references(off_label, target, reduction, compare):
    ours = losses.UniformOffLabelsBCELoss(off_label, reduction)
    theirs = reference.losses.UniformOffLabelsBCEWithLogitsLoss(reduction, off_label)
    compare(WithTarget(ours, target), WithTarget(theirs, target), torch.randn(3, 5), explain=False)


def test_whole_network_is_explained_as_by_the_reference(precision):
    """Convolutions, norms and head together: W of every class."""
    dtype, tolerance = precision
    theirs = torch.nn.Sequential(
        reference.BcosConv2d(6, 8, 3, padding=1, stride=2),
        reference.norms.BatchNormUncentered2d(8),
        reference.BcosConv2d(8, 8, 3, max_out=2),
        reference.norms.DetachablePositionNorm2d(8),
        reference.BcosConv2d(8, 5, 1, b=1.5),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        reference.LogitLayer(0.5, -1.4),
    )
    ours = torch.nn.Sequential(
        bcos_core.BcosConv2d(6, 8, 3, padding=1, stride=2),
        bcos_core.norms.BatchNormUncentered2d(8, bias=True),
        bcos_core.BcosConv2d(8, 8, 3, max_out=2),
        bcos_core.norms.PositionNorm2d(8, bias=True),
        bcos_core.BcosConv2d(8, 5, 1, b=1.5),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        bcos_core.LogitLayer(0.5, -1.4),
    )
    with torch.no_grad():
        theirs[1].running_var.uniform_(0.5, 1.5)
        ours[1].running_var.copy_(theirs[1].running_var)
        for i in (0, 2, 4):
            ours[i].weight.copy_(theirs[i].linear.weight)
    ours, theirs = ours.to(dtype).eval(), theirs.to(dtype).eval()
    x = torch.rand(2, 6, 8, 8, dtype=dtype)
    e = bcos_core.explain(ours, x, [list(range(5))] * 2)
    leaf = x.clone().requires_grad_()
    for module in theirs:
        if hasattr(module, "set_explanation_mode"):
            module.set_explanation_mode(True)
    logits = theirs(leaf)
    for k in range(5):
        weight = torch.autograd.grad(logits[:, k].sum(), leaf, retain_graph=True)[0]
        atol = tolerance * float(weight.abs().max())
        torch.testing.assert_close(e.weight[:, k], weight, rtol=tolerance, atol=atol)
    torch.testing.assert_close(e.logits, logits.detach(), rtol=tolerance, atol=tolerance)
