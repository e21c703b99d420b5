"""Transposed convolutions: the B-cos transform of the inputs that reach each output."""

from itertools import product

import pytest
import torch
from torch import nn

from bcos_core import (
    BcosConv2d,
    BcosConvTranspose1d,
    BcosConvTranspose2d,
    BcosConvTranspose3d,
    BcosError,
    explain,
    functional,
)

LAYERS = {1: BcosConvTranspose1d, 2: BcosConvTranspose2d, 3: BcosConvTranspose3d}
PLAIN = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
CASES = [
    {"dims": 1},
    {"dims": 1, "stride": 3, "padding": 2, "output_padding": 1},
    {"dims": 2},
    {"dims": 2, "stride": 2, "padding": 1, "output_padding": 1},
    {"dims": 2, "stride": (1, 3), "padding": (2, 0), "output_padding": (0, 2), "kernel_size": (3, 2)},
    {"dims": 2, "stride": 3, "kernel_size": 1},
    {"dims": 2, "dilation": 2, "padding": 1, "output_padding": 1},
    {"dims": 2, "groups": 2, "stride": 2, "dilation": (1, 2)},
    {"dims": 2, "max_out": 3, "stride": 2},
    {"dims": 2, "max_out": 2, "groups": 2, "b": 1},
    {"dims": 2, "b": 1.5, "stride": 2},
    {"dims": 2, "b": 1},
    {"dims": 2, "groups": 4, "normalize_weight": False},
    {"dims": 2, "b": 2.5, "normalize_weight": False},
    {"dims": 3, "stride": 2, "padding": 1, "groups": 2, "kernel_size": 2},
]
ids = [str(case) for case in CASES]


def spread(value, n):
    return (value,) * n if isinstance(value, int) else value


def literal(layer, x):
    """Each output by itself: the inputs that the kernel carries there, then ``|cos|^(b-1) · ŵᵀx``."""
    n, sizes, kernel = layer.n_dims, x.shape[2:], layer.kernel_size
    padding, group_in = spread(layer.padding, n), layer.in_channels // layer.groups
    group_out = layer.out_channels // layer.groups
    axes = zip(sizes, layer.stride, padding, layer.dilation, kernel, layer.output_padding, strict=True)
    out_sizes = [(s - 1) * t - 2 * p + d * (k - 1) + o + 1 for s, t, p, d, k, o in axes]
    y = x.new_zeros(len(x), layer.out_channels, *out_sizes)
    for place in product(*map(range, out_sizes)):
        reach = [
            (q, tap)
            for q in product(*map(range, sizes))
            for tap in product(*map(range, kernel))
            if all(place[a] == q[a] * layer.stride[a] - padding[a] + tap[a] * layer.dilation[a] for a in range(n))
        ]
        for o in range(layer.out_channels):
            g, units = o // group_out, []
            channels = range(g * group_in, (g + 1) * group_in)
            norm2 = sum((x[(slice(None), c, *q)] ** 2 for c in channels for q, _ in reach), start=x.new_zeros(len(x)))
            for m in range(layer.max_out):
                column = layer.weight[g * group_in : (g + 1) * group_in, (o % group_out) * layer.max_out + m]
                unit = column / column.norm()
                parts = (x[(slice(None), c, *q)] * unit[(c - g * group_in, *tap)] for c in channels for q, tap in reach)
                units.append(sum(parts, start=x.new_zeros(len(x))))
            linear = torch.stack(units).amax(0)
            cos = (linear / (norm2 + 1e-6).sqrt()).abs()
            factor = 1 if layer.b == 1 else cos if layer.b == 2 else (cos + 1e-6) ** (layer.b - 1)
            scale = 1 if layer.normalize_weight else column.norm()
            y[(slice(None), o, *place)] = scale * factor * linear
    return y


def make(dims, kernel_size=3, **options):
    torch.manual_seed(0)
    return LAYERS[dims](4, 4, kernel_size, **options).double()


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_layer_is_its_definition(case):
    layer = make(**case)
    x = torch.randn(2, 4, *[3, 4, 2][: case["dims"]]).double()
    torch.testing.assert_close(layer(x), literal(layer, x), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(layer(x[0]), layer(x)[0])


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_shapes_are_those_of_torchs_layer(case):
    options = {k: v for k, v in case.items() if k not in ("dims", "b", "max_out", "normalize_weight")}
    plain = PLAIN[case["dims"]](4, 4, **{"kernel_size": 3, **options}, bias=False)
    layer = make(**{**case, "max_out": 1})
    x = torch.randn(1, 4, *[5] * case["dims"])
    assert layer.weight.shape == plain.weight.shape
    assert layer.double()(x.double()).shape == plain(x).shape


@pytest.mark.parametrize("groups", [1, 2])
def test_b_equal_one_is_torchs_layer_with_weights_of_unit_norm(groups):
    options = {"stride": 2, "padding": 1, "output_padding": 1, "groups": groups}
    plain = nn.ConvTranspose2d(4, 6, 3, **options, bias=False).double()
    x = torch.randn(2, 4, 5, 5).double()
    as_it_is = BcosConvTranspose2d(4, 6, 3, **options, b=1, normalize_weight=False).double()
    as_it_is.load_state_dict(plain.state_dict())
    torch.testing.assert_close(as_it_is(x), plain(x))
    layer = BcosConvTranspose2d(4, 6, 3, **options, b=1).double()
    layer.load_state_dict(plain.state_dict())
    with torch.no_grad():
        columns = plain.weight.unflatten(0, (groups, -1))
        columns /= columns.square().sum((1, 3, 4), keepdim=True).sqrt()
    torch.testing.assert_close(layer(x), plain(x))


def test_without_stride_it_is_the_convolution_with_flipped_kernels():
    layer = make(2)
    conv = BcosConv2d(4, 4, 3, padding=2).double()
    conv.weight.data = layer.weight.data.transpose(0, 1).flip(2, 3)
    x = torch.randn(2, 4, 5, 5).double()
    torch.testing.assert_close(layer(x), conv(x))


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_derivatives_are_right(case):
    layer = make(**case)
    x = torch.randn(1, 4, *[3, 3, 2][: case["dims"]]).double().requires_grad_()

    def function(x, weight):
        return layer.transform(x, weight, layer.padding)

    assert torch.autograd.gradcheck(function, (x, layer.weight))


@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.parametrize("bias", [False, True])
def test_contributions_and_bias_sum_to_the_output(case, bias):
    layer = make(**case, bias=bias)
    if bias:
        nn.init.normal_(layer.bias)
    model = nn.Sequential(layer, nn.Flatten(2))
    x = torch.randn(2, 4, *[3] * case["dims"]).double()
    e = explain(model, x, 2, layer="0", probe=True)
    positions = layer(x)[0, 0].numel()
    torch.testing.assert_close(e.score, layer(x)[:, 2].flatten(1).sum(1))
    torch.testing.assert_close(e.bias, (layer.bias[2] * positions if bias else torch.zeros(())).double().expand(2))
    assert (e.residual.abs() <= e.allowed_residual).all()


def test_encoder_and_decoder_are_explained_together():
    model = nn.Sequential(
        BcosConv2d(6, 8, 3, stride=2, padding=1), BcosConvTranspose2d(8, 5, 4, stride=2, padding=1), nn.Flatten(2)
    )
    e = explain(model, torch.rand(2, 6, 8, 8), lambda z: z[:, 3, 9], layer="2", probe=True)
    torch.testing.assert_close(e.map.sum((1, 2)) + e.bias, e.score)
    assert (e.probe < 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_squares_in_float32(dtype):
    layer, x = make(2, stride=2).float(), 300 * torch.ones(1, 4, 3, 3)
    y = layer.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), layer.float()(x), rtol=0.05, atol=0.05 * 300)


def test_output_that_no_input_reaches_is_zero():
    y = make(2, 1, stride=3, output_padding=2)(torch.randn(1, 4, 2, 2).double())
    assert y[0, :, 1].eq(0).all()
    assert y[0, :, 0, 0].ne(0).all()


@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1}, {"stride": (3, 2), "dilation": 2, "kernel_size": 2}])
def test_size_of_the_output_may_be_chosen_as_in_pytorch(options):
    layer, x = make(2, b=1, normalize_weight=False, **options), torch.randn(2, 4, 5, 6).double()
    plain = nn.ConvTranspose2d(4, 4, **{"kernel_size": 3} | options, bias=False).double()
    plain.load_state_dict(layer.state_dict())
    height, width = layer(x).shape[2:]
    for size in ([height, width], [height + 1, width], [height, width + 1], [2, 4, height + 1, width + 1]):
        assert layer(x, size).shape[2:] == tuple(size[-2:])
        torch.testing.assert_close(layer(x, size), plain(x, size))
    torch.testing.assert_close(layer(x[0], [height + 1, width]), plain(x[0], [height + 1, width]))


def test_repr_shows_what_differs_from_the_defaults():
    layer = BcosConvTranspose2d(4, 6, 3, 2, 1, 1)
    shown = "BcosConvTranspose2d(4, 6, kernel_size=(3, 3), b=2, stride=(2, 2), padding=1, output_padding=(1, 1))"
    assert repr(layer) == shown
    assert "output_padding:" in layer.__doc__


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(2, output_padding=1), r"output_padding must be below the stride or the dilation, got 1 with"),
        (lambda: make(2, output_padding=-1), "output_padding must be below the stride"),
        (lambda: make(2, padding="same"), "padding must be one integer or 2, got same"),
        (
            lambda: make(2, stride=2)(torch.rand(1, 4, 5, 5).double(), [13, 11]),
            r"output_size must be 2 numbers, or 4 .*, from \[11, 11\] to \[12, 12\] .*, got \(13, 11\)",
        ),
        (lambda: make(2)(torch.rand(1, 4, 5, 5).double(), [7]), r"output_size must be 2 numbers, .*, got \(7,\)"),
        (lambda: make(2, groups=3), "positive multiples of groups, got 4 and 4 with groups=3"),
        (lambda: make(2)(torch.rand(1, 3, 5, 5).double()), r"bcos_conv_transpose2d got 3 input channels .* needs 4"),
        (lambda: make(2)(torch.rand(5).double()), r"bcos_conv_transpose2d got an input of shape \(5,\)"),
        (lambda: functional.bcos_conv_transpose(torch.rand(2), torch.rand(2, 2)), "weight of 3, 4 or 5 dimensions"),
        (
            lambda: functional.bcos_conv_transpose(torch.rand(1, 2, 3), torch.rand(2, 3, 3), max_out=2),
            "does not divide",
        ),
    ],
    ids=range(10),
)
def test_mistakes_are_answered_in_words(call, message):
    with pytest.raises(BcosError, match=message):
        call()
