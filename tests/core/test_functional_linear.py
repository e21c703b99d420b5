import pytest
import torch
import torch.nn.functional as F

from bcos_core import BcosError
from bcos_core.functional import bcos_linear, unit_norm


def literal_linear(x, weight, b, max_out):
    """|cos|^(b-1) * w_hat^T x, one number after the other."""
    rows = [w / w.norm() for w in weight]
    out = []
    for vector in x.reshape(-1, x.shape[-1]):
        for o in range(len(rows) // max_out):
            linear = max(float(rows[o * max_out + m] @ vector) for m in range(max_out))
            cos = abs(linear / (float(vector.norm()) + 1e-12))
            factor = {1: 1.0, 2: cos}.get(b, (cos + 1e-6) ** (b - 1))
            out.append(factor * linear)
    return torch.tensor(out, dtype=x.dtype).reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize("max_out", [1, 3])
@pytest.mark.parametrize("b", [1, 1.5, 2, 2.5])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
def test_linear_is_its_definition(shape, b, max_out):
    x, weight = torch.randn(shape).double(), torch.randn(6, 5).double()
    expected = literal_linear(x, weight, b, max_out)
    torch.testing.assert_close(bcos_linear(x, weight, b=b, max_out=max_out), expected, rtol=1e-12, atol=1e-12)


def test_b_equal_one_is_linear():
    x, y = torch.randn(2, 3, 5).double()
    weight = torch.randn(4, 5).double()
    combined = bcos_linear(2 * x - 3 * y, weight, b=1)
    torch.testing.assert_close(combined, 2 * bcos_linear(x, weight, b=1) - 3 * bcos_linear(y, weight, b=1))


def test_b_equal_two_is_the_default():
    x, weight = torch.randn(2, 5), torch.randn(4, 5)
    assert torch.equal(bcos_linear(x, weight), bcos_linear(x, weight, b=2))


@pytest.mark.parametrize("b", [1.5, 2, 2.5])
def test_output_is_bounded_by_the_input_norm_and_reached_when_aligned(b):
    weight = torch.randn(4, 5).double()
    assert (bcos_linear(torch.randn(50, 5).double(), weight, b=b).abs() <= 50).all()
    aligned = bcos_linear(3 * weight, weight, b=b).diagonal()
    torch.testing.assert_close(aligned, 3 * weight.norm(dim=1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("b", [1, 2, 1.5])
def test_scale_of_the_weight_does_not_matter(b):
    x, weight = torch.randn(3, 5).double(), torch.randn(4, 5).double()
    scales = torch.tensor([[1e-3], [1.0], [7.0], [1e3]], dtype=torch.float64)
    torch.testing.assert_close(bcos_linear(x, weight * scales, b=b), bcos_linear(x, weight, b=b))


@pytest.mark.parametrize("b", [1, 2, 1.5])
@pytest.mark.parametrize("max_out", [1, 2])
def test_gradients_are_those_of_finite_differences(b, max_out):
    x, weight = torch.randn(3, 5).double().requires_grad_(), torch.randn(4, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: bcos_linear(x, w, b=b, max_out=max_out), (x, weight))


@pytest.mark.parametrize("b", [1, 1.5, 2, 2.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_zero_weight_row_gives_zero(b, dtype):
    weight = torch.randn(3, 5)
    weight[1] = 0
    y = bcos_linear(torch.randn(2, 5).to(dtype), weight.to(dtype), b=b)
    assert (y[:, 1] == 0).all()
    assert (y[:, [0, 2]] != 0).all()


def test_unit_norm_rows_have_norm_one():
    norms = unit_norm(torch.randn(4, 3, 2, 2)).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(4))


def test_b_equal_one_is_torchs_linear_with_unit_rows():
    x, weight = torch.randn(3, 5), torch.randn(4, 5)
    torch.testing.assert_close(bcos_linear(x, weight, b=1), F.linear(x, F.normalize(weight, dim=1)))


def test_empty_batch_gives_an_empty_batch():
    assert bcos_linear(torch.empty(0, 5), torch.randn(4, 5)).shape == (0, 4)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 5), {"b": 0.5}, r"b must be at least 1, got 0\.5; use b=1 for a linear layer"),
        ((2, 5), {"b": float("nan")}, "b must be at least 1, got nan"),
        ((2, 5), {"max_out": 0}, "max_out must be at least 1, got 0; use 1 for no MaxOut"),
        ((2, 5), {"max_out": 3}, "max_out=3 does not divide the 4 rows of the weight"),
        ((2, 6), {}, r"bcos_linear got an input of shape \(2, 6\), needs 5 features in its last dimension"),
        ((), {}, r"bcos_linear got an input of shape \(\), needs 5 features"),
    ],
)
def test_linear_errors_say_what_is_needed(shape, options, message):
    with pytest.raises(BcosError, match=message):
        bcos_linear(torch.zeros(shape), torch.ones(4, 5), **options)


@pytest.mark.parametrize("b", [1, 1.5, 2, 3])
def test_weights_that_are_not_normalised_keep_their_norm(b):
    """``|cos(x, ŵ)|^(B-1) · wᵀx``, row by row."""
    x, w = torch.randn(3, 4).double(), 3 * torch.randn(5, 4).double()
    expected = torch.stack(
        [torch.stack([(torch.cosine_similarity(v, row, dim=0).abs() ** (b - 1)) * (row @ v) for row in w]) for v in x]
    )
    torch.testing.assert_close(bcos_linear(x, w, b=b, normalize_weight=False), expected, rtol=1e-5, atol=1e-5)
