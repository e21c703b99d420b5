import pytest
import torch
from torch import nn

from bcos_core import BcosError, norms

EPS = 1e-5


def literal(norm, x, *, centered, frozen=False):
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        mean = token.mean()
        var = (token - mean).square().mean()
        var = var.detach() if frozen else var
        y = (token - mean if centered else token) / (var + EPS).sqrt()
        y = y if norm.weight is None else y * norm.weight
        rows.append(y if norm.bias is None else y + norm.bias)
    return torch.stack(rows).reshape(x.shape)


LAYERS = [(norms.LayerNorm, True), (norms.LayerNormUncentered, False)]
every = pytest.mark.parametrize(("layer", "centered"), LAYERS)


@every
@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"affine": False}], ids=str)
def test_layer_norm_is_its_definition(layer, centered, shape, options, randomized, gradient):
    norm = randomized(layer(6, **options).double())
    x = torch.randn(shape).double() + 1
    torch.testing.assert_close(norm(x), literal(norm, x, centered=centered))
    torch.testing.assert_close(gradient(norm, x), gradient(lambda v: literal(norm, v, centered=centered), x))


@every
def test_explanation_mode_freezes_the_variance_but_not_the_mean(layer, centered, randomized, gradient):
    norm = randomized(layer(6, bias=True).double())
    x = torch.randn(2, 3, 6).double() + 1
    expected = gradient(lambda v: literal(norm, v, centered=centered, frozen=True), x)
    torch.testing.assert_close(gradient(norm, x, explaining=True), expected)


def test_centred_norm_is_torchs_layer_norm():
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(norms.LayerNorm(6, eps=1e-3)(x), nn.LayerNorm(6, eps=1e-3, bias=False)(x))


@every
def test_default_has_a_weight_and_no_bias(layer, centered):
    assert [n for n, _ in layer(6).named_parameters()] == ["weight"]


@every
@pytest.mark.parametrize("shape", [(2, 5), (6, 2), ()])
def test_wrong_number_of_features_is_refused(layer, centered, shape):
    message = rf"{layer.__name__} got an input of shape .*, needs 6 features in its last dimension"
    with pytest.raises(BcosError, match=message):
        layer(6)(torch.zeros(shape))


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.0, 3e2])
def test_half_precision_stays_near_float32(layer, centered, dtype, value):
    norm = layer(6)
    x = (value + value * torch.rand(3, 6)).to(dtype)
    y, expected = norm.to(dtype)(x), norm.float()(x.float())
    assert y.dtype == dtype
    assert torch.isfinite(y).all()
    assert (y.float() - expected).abs().max() <= 0.05 * expected.abs().max()
