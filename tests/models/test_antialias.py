"""Anti-aliased down-sampling: exact, weight-compatible, and less sensitive to shifts."""

import math

import pytest
import torch
import torch.nn.functional as F

from bcos_core import BcosConv2d, BcosError, explain
from bcos_models import create_model
from bcos_models.layers import BlurredConv2d, blur_pool

FAMILIES = ["cifar10_resnet20", "resnet18", "densenet121", "vgg11_bnu", "convnext_atto", "vitc_ti_patch1_14"]


def literal_blur(x, stride):
    taps = 2 * stride - 1
    kernel = torch.tensor([math.comb(taps - 1, k) for k in range(taps)], dtype=x.dtype) / 2 ** (taps - 1)
    kernel = (kernel[:, None] * kernel)[None, None].repeat(x.shape[1], 1, 1, 1)
    pad = (stride - 1 + taps - 1) // 2
    return F.conv2d(F.pad(x, [pad] * 4, mode="replicate"), kernel, stride=stride, groups=x.shape[1])


@pytest.mark.parametrize("stride", [2, 4])
def test_strided_convolution_is_filtered_before_it_is_subsampled(stride):
    x = torch.randn(2, 6, 16, 16, dtype=torch.float64)
    blurred = BlurredConv2d(6, 4, 3, stride, 1, b=1.5).double()
    plain = BcosConv2d(6, 4, 3, 1, 1, b=1.5).double()
    plain.load_state_dict(blurred.state_dict())
    torch.testing.assert_close(blurred(x), literal_blur(plain(x), stride))


def test_convolution_without_stride_is_as_it_was():
    assert isinstance(BlurredConv2d(6, 4, 3, 1, 1).blur, torch.nn.Identity)


def test_pooling_is_the_low_pass_filter():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(blur_pool(3, 2, 1).double()(x), literal_blur(x, 2))


@pytest.mark.parametrize("stride", [2, 4])
def test_little_is_left_of_what_would_alias(stride):
    """A wave of the period of two strides is the shortest that the output can tell; half of that is noise."""
    wave = torch.cos(2 * torch.pi * torch.arange(64.0) / stride).expand(1, 1, 64, 64)
    inner = blur_pool(stride, stride)(wave)[..., 4:-4, 4:-4]
    assert float(inner.abs().max()) < 0.2
    subsampled = wave[..., ::stride, ::stride]
    assert float(subsampled.abs().max()) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_it_with_the_same_shapes_and_weights(name, small_options):
    options = {"num_classes": 5, **small_options[name]}
    plain, blurred = create_model(name, **options), create_model(name, antialias="blurpool", **options)
    blurred.load_state_dict(plain.state_dict())
    x = torch.rand(2, 6, 64, 64)
    plain.eval(), blurred.eval()
    shapes = [m.shape for m in plain.forward_intermediates(x, intermediates_only=True)]
    assert [m.shape for m in blurred.forward_intermediates(x, intermediates_only=True)] == shapes
    assert not torch.allclose(plain(x), blurred(x), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_anti_aliased_network_is_explained_exactly(name, small_options):
    model = create_model(name, antialias="blurpool", num_classes=5, **small_options[name]).double()
    x = torch.rand(3, 6, 48, 48, dtype=torch.float64)
    model(x)
    e = explain(model.eval(), x, 1)
    assert (e.residual.abs() < 1e-9).all()


def test_explanations_lose_the_pattern_of_the_strides(calibrated):
    """A flat image has no structure: what varies between its pixels in W is the network's own aliasing."""

    def roughness(**options):
        torch.manual_seed(0)
        model = calibrated("resnet18", side=64, width=16, **options)
        x = torch.full((1, 6, 96, 96), 0.5, dtype=torch.float64)
        weight = explain(model, x, 3).weight[..., 24:72, 24:72]
        spectrum = torch.fft.fft2(weight).abs().square().sum((0, 1))
        return 1 - spectrum[0, 0] / spectrum.sum()

    assert roughness(antialias="blurpool") < 0.75 * roughness()


def test_unknown_filter_is_refused():
    with pytest.raises(BcosError, match=r"antialias must be one of \('none', 'blurpool'\), got 'max'"):
        create_model("resnet18", antialias="max")
