"""Each rule of conversion, and a stranger's."""

import pytest
import timm.layers
import torch
from timm.layers.pool2d_same import MaxPool2dSame
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from bcos_core import (
    BcosConv1d,
    BcosConv2d,
    BcosConv3d,
    BcosConvTranspose1d,
    BcosConvTranspose2d,
    BcosConvTranspose3d,
    BcosError,
    BcosLinear,
)
from bcos_core.norms import BatchNormUncentered2d
from bcos_models import Conversion, ConversionOptions, bcosify, hookimpl, plugins
from bcos_models.convert.rules import convert_layer
from bcos_models.convert.walk import is_query_key_value

EXACT = ConversionOptions(b=1.0, keep_bias=True)
WEIGHTED = [
    (nn.Linear(4, 3), (2, 5, 4), BcosLinear),
    (timm.layers.Linear(4, 3), (2, 4), BcosLinear),
    (nn.Conv1d(4, 6, 3, stride=2, groups=2), (2, 4, 9), BcosConv1d),
    (nn.Conv2d(4, 6, (3, 2), padding=(1, 0), dilation=2), (2, 4, 9, 8), BcosConv2d),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 9, 8), BcosConv2d),
    (nn.Conv2d(4, 6, 5, padding="same"), (2, 4, 9, 8), BcosConv2d),
    (nn.Conv3d(4, 6, 2), (2, 4, 3, 4, 5), BcosConv3d),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2, output_padding=1), (2, 4, 9), BcosConvTranspose1d),
    (nn.ConvTranspose2d(4, 6, (3, 2), padding=(1, 0), dilation=2), (2, 4, 9, 8), BcosConvTranspose2d),
    (nn.ConvTranspose3d(4, 6, 2, stride=2), (2, 4, 3, 4, 5), BcosConvTranspose3d),
    (timm.layers.Conv2dSame(4, 6, 3, stride=2), (2, 4, 9, 8), BcosConv2d),
    (timm.layers.StdConv2d(4, 6, 3, bias=True), (2, 4, 9, 8), BcosConv2d),
    (timm.layers.StdConv2dSame(4, 6, 3, stride=2), (2, 4, 9, 8), BcosConv2d),
    (timm.layers.ScaledStdConv2d(4, 6, 3, gamma=1.7), (2, 4, 9, 8), BcosConv2d),
    (timm.layers.ScaledStdConv2dSame(4, 6, 3, stride=2, gamma=1.7), (2, 4, 9, 8), BcosConv2d),
]


@pytest.mark.parametrize(("layer", "shape", "kind"), WEIGHTED, ids=[repr(layer) for layer, _, _ in WEIGHTED])
def test_weighted_layer_with_b_1_computes_what_it_did(layer, shape, kind):
    layer = layer.double()
    conversion = convert_layer(layer, EXACT)
    assert isinstance(conversion.module, kind)
    x = torch.randn(shape).double()
    torch.testing.assert_close(conversion.module(x), layer(x))


@pytest.mark.parametrize(("layer", "shape", "kind"), WEIGHTED, ids=[repr(layer) for layer, _, _ in WEIGHTED])
def test_weighted_layer_with_b_2_is_scaled_by_the_cosine(layer, shape, kind):
    """At most what the layer gave, of the same sign; equal where x is aligned with the weight."""
    layer = layer.double()
    new = convert_layer(layer, ConversionOptions()).module
    assert "bias" not in dict(new.named_parameters())
    x = torch.randn(shape).double()
    bias = 0 if layer.bias is None else layer.bias.reshape(-1, *[1] * (len(shape) - 2)) if len(shape) > 3 else None
    if bias is None:
        bias = layer.bias if isinstance(layer, nn.Linear) else layer.bias[:, None]
    linear, scaled = layer(x) - bias, new(x)
    assert (scaled * linear >= -1e-12).all()
    assert (scaled.abs() <= linear.abs() + 1e-9).all()
    assert (scaled.abs() < 0.9 * linear.abs()).any()


def test_half_a_convolution_of_somebody_else_has_no_rule():
    class Odd(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) ** 2

    class OddTransposed(nn.ConvTranspose2d):
        def forward(self, x):
            return super().forward(x) ** 2

    class OddLinear(nn.Linear):
        def forward(self, x):
            return super().forward(x).relu()

    assert convert_layer(Odd(3, 4, 3), EXACT) is None
    assert convert_layer(OddLinear(3, 4), EXACT) is None
    assert convert_layer(OddTransposed(3, 4, 3), EXACT) is None


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(4), nn.BatchNorm2d(4, affine=False), nn.BatchNorm3d(4, eps=0.1)], ids=repr
)
def test_uncentred_batch_norm_with_folded_mean_computes_what_it_did(norm):
    with torch.no_grad():
        for tensor in (*norm.parameters(), norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.5, 2)
    norm = norm.double().eval()
    conversion = convert_layer(norm, EXACT)
    assert isinstance(conversion.module, BatchNormUncentered2d)
    shape = {"BatchNorm1d": (3, 4), "BatchNorm2d": (3, 4, 5, 5), "BatchNorm3d": (3, 4, 2, 3, 2)}[type(norm).__name__]
    x = torch.randn(shape).double()
    torch.testing.assert_close(conversion.module(x), norm(x))


def test_batch_norm_with_activation_keeps_the_activation():
    norm = timm.layers.BatchNormAct2d(4, act_layer=nn.SiLU).eval()
    new = convert_layer(norm, EXACT).module
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(new(x), norm(x))
    assert isinstance(new.act, nn.SiLU)


def test_norms_of_one_sample_lose_their_bias_alone():
    norm = nn.LayerNorm(4)
    conversion = convert_layer(norm, ConversionOptions())
    assert conversion.module is norm
    assert norm.bias is None
    assert conversion.dropped == ("bias",)
    assert convert_layer(nn.LayerNorm(4), EXACT) is None
    assert convert_layer(nn.LayerNorm(4), ConversionOptions(keep_norms=True)) is None


def test_norm_over_one_feature_keeps_its_bias_which_is_all_it_gives():
    assert convert_layer(nn.LayerNorm(1), ConversionOptions()) is None


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (nn.MaxPool2d(3, 2, 1), (2, 4, 9, 8)),
        (nn.MaxPool2d(3, 2, ceil_mode=True), (2, 4, 8, 8)),
        (nn.MaxPool1d(2), (2, 4, 9)),
        (nn.MaxPool3d(2), (2, 4, 4, 4, 4)),
        (nn.AdaptiveMaxPool2d((2, 3)), (2, 4, 8, 9)),
        (MaxPool2dSame(3, 2), (2, 4, 9, 8)),
    ],
    ids=repr,
)
def test_average_pooling_has_the_shape_of_the_max_pooling(pool, shape):
    new = convert_layer(pool, ConversionOptions()).module
    x = torch.rand(shape)
    assert new(x).shape == pool(x).shape
    inside = new(torch.ones(shape))
    assert (inside <= 1 + 1e-6).all()
    assert convert_layer(pool, ConversionOptions(keep_pooling=True)) is None


def test_max_pooling_with_dilation_or_indices_stays():
    assert convert_layer(nn.MaxPool2d(2, dilation=2), ConversionOptions()) is None
    assert convert_layer(nn.MaxPool2d(2, return_indices=True), ConversionOptions()) is None


@pytest.mark.parametrize("act", [nn.ReLU(), nn.GELU(), nn.SiLU(), nn.PReLU(), timm.layers.GELUTanh()], ids=repr)
def test_activations_go_only_on_request(act):
    assert convert_layer(act, ConversionOptions()) is None
    assert isinstance(convert_layer(act, ConversionOptions(keep_activations=False)).module, nn.Identity)


def test_gates_are_no_activations():
    for gate in (nn.Sigmoid(), nn.Softmax(-1), nn.Hardsigmoid(), nn.Tanh()):
        assert convert_layer(gate, ConversionOptions(keep_activations=False)) is None


def masks(n, heads, tokens):
    causal = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    padding = torch.zeros(n, tokens, dtype=torch.bool)
    padding[0, -1] = True
    each = torch.randn(n * heads, tokens, tokens).double()
    return [{}, {"attn_mask": causal}, {"key_padding_mask": padding}, {"attn_mask": each}]


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_of_pytorch_with_b_1_computes_what_it_did(options, case, need_weights):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, **options).double().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    new = convert_layer(layer, EXACT).module
    assert isinstance(new.out_proj, BcosLinear)
    x = torch.randn(3, 5, 8).double() if options.get("batch_first") else torch.randn(5, 3, 8).double()
    given = masks(3, 2, 5)[case]
    expected, attention = layer(x, x, x, need_weights=need_weights, **given)
    found, shown = new(x, x, x, need_weights=need_weights, **given)
    torch.testing.assert_close(found, expected)
    assert (attention is None and shown is None) or torch.allclose(attention, shown)


def test_attention_takes_one_sequence_without_a_batch():
    layer = nn.MultiheadAttention(8, 2).double().eval()
    new, x = convert_layer(layer, EXACT).module, torch.randn(5, 8).double()
    for found, expected in zip(new(x, x, x), layer(x, x, x), strict=True):
        torch.testing.assert_close(found, expected)


def test_rarer_attention_stays():
    for layer in (nn.MultiheadAttention(8, 2, kdim=4), nn.MultiheadAttention(8, 2, add_zero_attn=True)):
        assert convert_layer(layer, EXACT) is None


def test_names_of_queries_keys_and_values_are_known():
    assert all(map(is_query_key_value, ("blocks.0.attn.qkv", "attn.to_q", "a.k_proj", "qkv.conv", "self.query", "kv")))
    assert not any(map(is_query_key_value, ("attn.proj", "mlp.fc1", "quality", "blocks.0", "keypoints", "head")))


class Scale(nn.Module):
    """A layer nobody knows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8))
        self.register_buffer("offset", torch.randn(8))

    def forward(self, x):
        return x * self.weight[:, None, None] + self.offset[:, None, None]


@pytest.fixture
def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), Scale(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


@pytest.fixture
def stranger():
    registered = []

    def register(function):
        class Plugin:
            @hookimpl
            def bcos_models_convert_layer(self, layer, options):
                return function(layer) if isinstance(layer, Scale) else None

        registered.append(Plugin())
        plugins.manager().register(registered[-1])

    yield register
    for plugin in registered:
        plugins.manager().unregister(plugin)


def test_layer_without_a_rule_stays_and_is_told(network):
    conversion = bcosify(network, image_size=16).conversion
    assert next(s for s in conversion.steps if s.name == "1").reason == "no rule for it"
    assert "network.1.offset" in conversion.constants


def test_rule_of_a_plugin_converts_its_layer(network, stranger):
    def rule(layer):
        new = nn.Conv2d(8, 8, 1, groups=8, bias=False)
        new.weight = nn.Parameter(layer.weight[:, None, None, None].detach())
        return Conversion(new, "scale becomes a convolution", dropped=("weight", "offset"))

    stranger(rule)
    network[1].offset.zero_()
    conversion = bcosify(network, image_size=16, logit_bias=None).conversion
    assert next(s for s in conversion.steps if s.name == "1").reason == "scale becomes a convolution"


def test_rule_that_loses_a_weight_is_refused(network, stranger):
    stranger(lambda layer: Conversion(nn.Identity(), "thrown away"))
    with pytest.raises(BcosError, match=r"the conversion of '1' loses a weight: its weight is not in the Identity"):
        bcosify(network, image_size=16)


def test_rule_that_changes_a_weight_is_refused(network, stranger):
    def rule(layer):
        new = Scale()
        new.offset = layer.offset
        return Conversion(new, "drawn anew")

    stranger(rule)
    with pytest.raises(BcosError, match="its weight is another in the Scale"):
        bcosify(network, image_size=16)


def test_rule_that_is_not_exact_with_everything_kept_is_refused(network, stranger):
    stranger(lambda layer: Conversion(nn.Identity(), "ignored", dropped=("weight", "offset")))
    with pytest.raises(
        BcosError, match="does not reproduce the network with B = 1 and everything kept: the logits differ"
    ):
        bcosify(network, image_size=16)


def test_squeeze_and_excitation_of_timm_is_a_gate():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), SqueezeExcite(8, 0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    conversion = bcosify(network, image_size=16).conversion
    kept = {s.name for s in conversion.kept}
    assert {"1.conv_reduce", "1.conv_expand"} <= kept
