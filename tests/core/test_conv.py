import pytest
import torch

from bcos_core import BcosConv1d, BcosConv2d, BcosConv3d, BcosError, explain, functional

LAYERS = {
    1: (BcosConv1d, functional.bcos_conv1d),
    2: (BcosConv2d, functional.bcos_conv2d),
    3: (BcosConv3d, functional.bcos_conv3d),
}
OPTIONS = [
    {},
    {"stride": 2, "padding": 1, "groups": 2},
    {"padding": "same", "dilation": 2, "b": 1.5},
    {"padding": 1, "padding_mode": "circular", "max_out": 2, "b": 1},
]


@pytest.mark.parametrize("dims", LAYERS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_module_is_one_call_of_the_function(dims, options):
    layer_type, function = LAYERS[dims]
    layer = layer_type(4, 6, 3, **options)
    x = torch.randn(2, 4, *[6] * dims)
    assert torch.equal(layer(x), function(x, layer.weight, **options))
    torch.testing.assert_close(layer(x[0]), layer(x)[0])


@pytest.mark.parametrize("dims", LAYERS)
@pytest.mark.parametrize("options", [{"stride": 2, "padding": 3}, {"dilation": 2}, {"padding": "same"}], ids=str)
def test_output_has_the_shape_of_torchs_convolution(dims, options):
    plain = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[dims - 1]
    x = torch.randn(1, 4, *[7] * dims)
    assert LAYERS[dims][0](4, 6, 3, **options)(x).shape == plain(4, 6, 3, **options)(x).shape


def test_weight_is_drawn_as_torch_draws_it():
    torch.manual_seed(1)
    ours = BcosConv2d(4, 6, (3, 2), groups=2).weight
    torch.manual_seed(1)
    assert torch.equal(ours, torch.nn.Conv2d(4, 6, (3, 2), groups=2, bias=False).weight)


def test_the_weight_is_the_only_parameter():
    layer = BcosConv2d(4, 6, 3, max_out=2, dtype=torch.float64, device="meta")
    assert {name: p.shape for name, p in layer.named_parameters()} == {"weight": (12, 4, 3, 3)}
    assert layer.weight.dtype == torch.float64
    assert layer.weight.is_meta


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(BcosConv2d(4, 6, 3)) == "BcosConv2d(4, 6, kernel_size=(3, 3), b=2)"
    shown = repr(BcosConv1d(4, 6, 3, 2, b=1.5, padding="valid", max_out=2))
    assert shown == "BcosConv1d(4, 6, kernel_size=(3,), b=1.5, stride=(2,), padding='valid', max_out=2)"


@pytest.mark.parametrize("layer_type", [BcosConv1d, BcosConv2d, BcosConv3d])
def test_docstrings_describe_the_arguments(layer_type):
    assert "padding_mode:" in layer_type.__doc__


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((4, 6, 3), {"groups": 3}, "positive multiples of groups, got 4 and 6 with groups=3"),
        ((4, 6, 3), {"groups": 0}, "positive multiples of groups, got 4 and 6 with groups=0"),
        ((0, 6, 3), {}, "positive multiples of groups, got 0 and 6"),
        ((4, -2, 3), {}, "positive multiples of groups, got 4 and -2"),
        ((4, 6, (3, 3, 3)), {}, r"kernel_size must be one integer or 2, got \(3, 3, 3\)"),
        ((4, 6, 3), {"stride": (1,)}, r"stride must be one integer or 2, got \(1,\)"),
        ((4, 6, 3), {"dilation": (1,)}, r"dilation must be one integer or 2, got \(1,\)"),
        ((4, 6, 3), {"padding": (1, 2, 3)}, r"padding must be one integer or 2, got \(1, 2, 3\)"),
        ((4, 6, 3), {"padding": -2}, "padding must not be negative, got -2"),
        ((4, 6, 3), {"padding": "some"}, "padding must be a number, 'same' or 'valid', got 'some'"),
        ((4, 6, 3), {"padding": "same", "stride": 2}, r"padding='same' needs stride 1, got stride \(2, 2\)"),
        ((4, 6, 3), {"padding_mode": "zero"}, r"padding_mode must be one of \('zeros', .*\), got 'zero'"),
        ((4, 6, 3), {"b": 0.5}, r"b must be at least 1, got 0\.5"),
        ((4, 6, 3), {"max_out": 0}, "max_out must be at least 1, got 0"),
        ((4, 6, 0), {}, "kernel_size"),
        ((4, 6, 3), {"stride": 0}, "stride"),
        ((4, 6, 3), {"dilation": 0}, "dilation"),
    ],
)
def test_impossible_layers_are_refused_when_built(sizes, options, message):
    with pytest.raises(BcosError, match=message):
        BcosConv2d(*sizes, **options)


def test_options_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        BcosConv2d(4, 6, 3, 1, 0, 1, 1, 2.0)


def test_bias_is_added_after_the_scaling_and_explained_under_its_name():
    layer = BcosConv2d(3, 4, 3, bias=True, normalize_weight=False).double()
    assert not layer.bias.any()
    torch.nn.init.normal_(layer.bias)
    x = torch.rand(2, 3, 5, 5).double()
    expected = functional.bcos_conv2d(x, layer.weight, normalize_weight=False) + layer.bias[:, None, None]
    assert torch.equal(layer(x), expected)
    e = explain(torch.nn.Sequential(layer), x, target=1)
    torch.testing.assert_close(e.bias_terms["0.bias"], 9 * layer.bias[1].detach().expand(2))
    assert repr(layer).endswith("normalize_weight=False, bias=True)")
