from itertools import product

import pytest
import torch
import torch.nn.functional as F

from bcos_core import BcosError, functional
from bcos_core.functional import bcos_conv2d

CONVS = {1: functional.bcos_conv1d, 2: functional.bcos_conv2d, 3: functional.bcos_conv3d}


def border(i, size, mode):
    """The index that stands at position i of an axis; `size` stands for a zero."""
    if 0 <= i < size:
        return i
    if mode == "zeros":
        return size
    if mode == "replicate":
        return min(max(i, 0), size - 1)
    if mode == "circular":
        return i % size
    return -i if i < 0 else 2 * (size - 1) - i


def literal_conv(x, weight, stride, padding, dilation, groups, b, max_out, mode):
    """Patches cut out index by index; ``|cos|^(b-1) * w_hat^T patch`` for each position and channel."""
    sizes, kernel = x.shape[2:], weight.shape[2:]
    n_dims = len(sizes)
    stride, dilation = [(v,) * n_dims if isinstance(v, int) else v for v in (stride, dilation)]
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if padding == "same":
        pads = [(r // 2, r - r // 2) for r in reach]
    else:
        padding = 0 if padding == "valid" else padding
        pads = [(p, p) for p in ((padding,) * n_dims if isinstance(padding, int) else padding)]
    x = F.pad(x, [0, 1] * n_dims)  # a zero at index `size` of each axis
    out_group = weight.shape[0] // max_out // groups
    out_sizes = [(s + sum(p) - r - 1) // t + 1 for s, p, r, t in zip(sizes, pads, reach, stride, strict=True)]
    patches = []
    for position in product(*map(range, out_sizes)):
        patch = x
        for axis in range(n_dims):
            start = position[axis] * stride[axis] - pads[axis][0]
            taps = [border(start + k * dilation[axis], sizes[axis], mode) for k in range(kernel[axis])]
            patch = patch.index_select(axis + 2, torch.tensor(taps))
        patches.append(patch.unflatten(1, (groups, -1)).flatten(2))
    patches = torch.stack(patches, -1)  # (N, G, C/G * kernel, positions)
    channels = []
    for o in range(weight.shape[0] // max_out):
        patch = patches[:, o // out_group]
        units = [(row / row.norm()).reshape(1, -1, 1) for row in weight[o * max_out : (o + 1) * max_out]]
        linear = torch.stack([(unit * patch).sum(1) for unit in units]).amax(0)
        cos = (linear / (patch.square().sum(1) + 1e-6).sqrt()).abs()
        channels.append(linear * (1 if b == 1 else cos if b == 2 else (cos + 1e-6) ** (b - 1)))
    return torch.stack(channels, 1).reshape(x.shape[0], -1, *out_sizes)


CASES = [
    {"dims": 1, "kernel": (3,)},
    {"dims": 1, "kernel": (4,), "padding": "same", "groups": 2},
    {"dims": 1, "kernel": (3,), "stride": 2, "padding": 3, "padding_mode": "circular"},
    {"dims": 2, "kernel": (3, 3)},
    {"dims": 2, "kernel": (1, 1)},
    {"dims": 2, "kernel": (1, 1), "stride": 2},
    {"dims": 2, "kernel": (3, 3), "padding": 1, "stride": 2},
    {"dims": 2, "kernel": (3, 2), "padding": (2, 1), "stride": (1, 2)},
    {"dims": 2, "kernel": (3, 3), "padding": "same"},
    {"dims": 2, "kernel": (3, 3), "padding": "valid"},
    {"dims": 2, "kernel": (2, 4), "padding": "same"},
    {"dims": 2, "kernel": (2, 3), "padding": "same", "padding_mode": "reflect"},
    {"dims": 2, "kernel": (2, 2), "padding": "same", "dilation": 3},
    {"dims": 2, "kernel": (3, 3), "padding": 4},
    {"dims": 2, "kernel": (3, 3), "padding": 2, "dilation": 2},
    {"dims": 2, "kernel": (3, 2), "padding": 2, "dilation": (1, 2), "groups": 2, "stride": 2},
    {"dims": 2, "kernel": (3, 3), "groups": 2, "padding": 1},
    {"dims": 2, "kernel": (3, 3), "groups": 4, "padding": 1, "padding_mode": "replicate"},
    {"dims": 2, "kernel": (3, 3), "padding": 2, "padding_mode": "reflect"},
    {"dims": 2, "kernel": (3, 3), "padding": (1, 2), "padding_mode": "circular", "stride": 2},
    {"dims": 2, "kernel": (3, 3), "padding": (0, 3), "padding_mode": "replicate", "dilation": 2},
    {"dims": 3, "kernel": (2, 3, 1), "padding": (1, 1, 0)},
    {"dims": 3, "kernel": (2, 2, 2), "padding": "same", "groups": 2},
    {"dims": 3, "kernel": (2, 2, 2), "stride": (1, 2, 2), "padding": 1, "padding_mode": "replicate"},
]


def split(case, max_out=1):
    """Input, weight and options of a case."""
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros"} | case
    dims, kernel = options.pop("dims"), options.pop("kernel")
    x = torch.randn(2, 4, *(5, 6, 4)[:dims]).double()
    weight = torch.randn(4 * max_out, 4 // options["groups"], *kernel).double()
    return CONVS[dims], x, weight, options


@pytest.mark.parametrize(("b", "max_out"), [(1, 3), (1.5, 1), (2, 1), (2.5, 2)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv_is_its_definition(case, b, max_out):
    conv, x, weight, options = split(case, max_out)
    literal = {k: v for k, v in options.items() if k != "padding_mode"}
    expected = literal_conv(x, weight, **literal, b=b, max_out=max_out, mode=options["padding_mode"])
    actual = conv(x, weight, **options, b=b, max_out=max_out)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_sample_may_come_without_a_batch(case):
    conv, x, weight, options = split(case)
    torch.testing.assert_close(conv(x[0], weight, **options), conv(x, weight, **options)[0])


@pytest.mark.parametrize(("b", "max_out"), [(1, 1), (1.5, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("index", [5, 12, 15, 18])
def test_gradients_are_those_of_finite_differences(index, b, max_out):
    conv, x, weight, options = split(CASES[index], max_out)
    x = x[:1].requires_grad_()

    def transform(x, weight):
        return conv(x, weight, **options, b=b, max_out=max_out)

    assert torch.autograd.gradcheck(transform, (x, weight.requires_grad_()), fast_mode=True)


@pytest.mark.parametrize("b", [1, 2, 1.5])
def test_scale_of_the_weight_does_not_matter(b):
    x, weight = torch.randn(1, 4, 5, 5).double(), torch.randn(3, 4, 3, 3).double()
    scales = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64).reshape(3, 1, 1, 1)
    torch.testing.assert_close(bcos_conv2d(x, weight * scales, b=b), bcos_conv2d(x, weight, b=b))


@pytest.mark.parametrize("b", [1, 1.5, 2, 2.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_zero_weight_row_gives_zero(b, dtype):
    weight = torch.randn(3, 4, 2, 2)
    weight[1] = 0
    y = bcos_conv2d(torch.randn(2, 4, 4, 4).to(dtype), weight.to(dtype), b=b)
    assert (y[:, 1] == 0).all()
    assert y[:, [0, 2]].abs().sum() > 0


def test_b_equal_one_is_linear():
    x, weight = torch.randn(1, 4, 5, 5).double(), torch.randn(3, 4, 3, 3).double()
    unit = weight / weight.flatten(1).norm(dim=1).reshape(3, 1, 1, 1)
    torch.testing.assert_close(bcos_conv2d(x, weight, 1, 1, b=1), F.conv2d(x, unit, padding=1))


@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")  # of the oracle
@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_is_placed_as_torch_places_it(kernel, dilation):
    x, weight = torch.randn(1, 4, 7, 7).double(), torch.randn(3, 4, kernel, kernel).double()
    weight = functional.unit_norm(weight)
    expected = F.conv2d(x, weight, padding="same", dilation=dilation)
    torch.testing.assert_close(bcos_conv2d(x, weight, 1, "same", dilation, b=1), expected)


def test_depthwise_groups_see_their_own_channel_only():
    x, weight = torch.randn(1, 2, 4, 4), torch.randn(2, 1, 3, 3)
    changed = x.clone()
    changed[:, 1] *= 5
    before, after = (bcos_conv2d(v, weight, groups=2) for v in (x, changed))
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.equal(before[:, 1], after[:, 1])


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 6, 4, 4), {"b": 0}, "b must be at least 1, got 0"),
        ((1, 6, 4, 4), {"max_out": 0}, "max_out must be at least 1, got 0"),
        ((1, 6, 4, 4), {"max_out": 3}, "max_out=3 does not divide the 4 rows"),
        ((1, 3, 4, 4), {}, "got 3 input channels .*, needs 6; encode the input with AddInverse"),
        ((1, 5, 4, 4), {}, r"got 5 input channels \(shape \(1, 5, 4, 4\)\), needs 6$"),
        ((4, 4), {}, r"got an input of shape \(4, 4\), needs 4 dimensions \(N, C, \*spatial\), or 3"),
        ((1, 6, 4, 4), {"padding": "full"}, "padding must be a number, 'same' or 'valid', got 'full'"),
        (
            (1, 6, 4, 4),
            {"padding": "same", "stride": 2},
            r"padding='same' needs stride 1, got stride \(2, 2\)",
        ),
        ((1, 6, 4, 4), {"padding": -1}, "padding must not be negative, got -1"),
        ((1, 6, 4, 4), {"stride": (1, 1, 1)}, r"stride must be one integer or 2, got \(1, 1, 1\)"),
    ],
)
def test_conv_errors_say_what_is_needed(shape, options, message):
    with pytest.raises(BcosError, match=message):
        bcos_conv2d(torch.zeros(shape), torch.ones(4, 6, 3, 3), **options)


def test_weight_of_the_wrong_rank_is_refused():
    with pytest.raises(BcosError, match=r"bcos_conv1d needs a weight of 3 dimensions, got \(4, 6, 3, 3\)"):
        functional.bcos_conv1d(torch.zeros(1, 6, 4), torch.ones(4, 6, 3, 3))


@pytest.mark.parametrize("b", [1, 1.5, 2])
def test_weights_that_are_not_normalised_keep_their_norm(b):
    """The transform with ŵ, times the norm of each kernel."""
    x, w = torch.randn(2, 4, 6, 6).double(), 3 * torch.randn(6, 2, 3, 3).double()
    options = {"stride": 2, "padding": 1, "groups": 2, "b": b}
    norms = w.flatten(1).norm(dim=1)[:, None, None]
    expected = bcos_conv2d(x, w, **options) * norms
    torch.testing.assert_close(bcos_conv2d(x, w, **options, normalize_weight=False), expected, rtol=1e-4, atol=1e-5)
