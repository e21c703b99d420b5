import pytest
import torch

from bcos_core import BcosError, BcosLinear, explain, functional


@pytest.mark.parametrize(("b", "max_out"), [(2.0, 1), (1.0, 2), (1.5, 3)])
def test_module_is_one_call_of_the_function(b, max_out):
    layer = BcosLinear(5, 4, b=b, max_out=max_out)
    assert layer.weight.shape == (4 * max_out, 5)
    x = torch.randn(2, 3, 5)
    assert torch.equal(layer(x), functional.bcos_linear(x, layer.weight, b=b, max_out=max_out))


def test_the_weight_is_the_only_parameter():
    assert [name for name, _ in BcosLinear(5, 4).named_parameters()] == ["weight"]


def test_weight_is_drawn_as_torch_draws_it():
    torch.manual_seed(1)
    ours = BcosLinear(5, 4).weight
    torch.manual_seed(1)
    assert torch.equal(ours, torch.nn.Linear(5, 4, bias=False).weight)


def test_device_and_dtype_are_those_asked_for():
    layer = BcosLinear(5, 4, device="meta", dtype=torch.float64)
    assert layer.weight.dtype == torch.float64
    assert layer.weight.is_meta


def test_repr_shows_max_out_only_where_used():
    assert repr(BcosLinear(5, 4)) == "BcosLinear(5, 4, b=2)"
    assert repr(BcosLinear(5, 4, b=1.25, max_out=2)) == "BcosLinear(5, 4, b=1.25, max_out=2)"


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((0, 4), {}, "BcosLinear needs at least 1 feature in and out, got 0 and 4"),
        ((4, 0), {}, "BcosLinear needs at least 1 feature in and out, got 4 and 0"),
        ((5, 4), {"b": 0.9}, r"b must be at least 1, got 0\.9"),
        ((5, 4), {"max_out": 0}, "max_out must be at least 1, got 0; use 1 for no MaxOut"),
    ],
)
def test_impossible_layers_are_refused_when_built(sizes, options, message):
    with pytest.raises(BcosError, match=message):
        BcosLinear(*sizes, **options)


def test_options_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        BcosLinear(5, 4, 2.0)


def test_bias_is_added_after_the_scaling():
    layer = BcosLinear(5, 4, bias=True, normalize_weight=False).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(3, 5).double()
    expected = functional.bcos_linear(x, layer.weight, normalize_weight=False) + layer.bias
    assert torch.equal(layer(x), expected)
    assert repr(layer) == "BcosLinear(5, 4, b=2, normalize_weight=False, bias=True)"


def test_bias_starts_at_zero_and_is_explained_under_its_name():
    layer = BcosLinear(5, 4, bias=True).double()
    assert not layer.bias.any()
    torch.nn.init.normal_(layer.bias)
    e = explain(torch.nn.Sequential(layer), torch.randn(3, 5).double(), target=1)
    torch.testing.assert_close(e.bias_terms["0.bias"], layer.bias[1].detach().expand(3))


def test_max_out_needs_weights_of_unit_norm():
    with pytest.raises(BcosError, match="normalize_weight=False needs max_out=1, got 2"):
        BcosLinear(5, 4, max_out=2, normalize_weight=False)
