import re

import pytest
import torch
from torch import nn

from bcos_core import AddInverse, BcosConv1d, BcosConv2d, BcosConv3d, BcosError, BcosLinear, explain
from bcos_core.receipt import receipts


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_inverse_channels_follow_the_channels(channels, batch):
    x = torch.rand(*batch, channels, 4, 5)
    y = AddInverse(dim=-3)(x)
    assert y.shape == (*batch, 2 * channels, 4, 5)
    assert torch.equal(y.narrow(-3, 0, channels), x)
    assert torch.equal(y.narrow(-3, channels, channels), 1 - x)


@pytest.mark.parametrize("dim", [1, -1])
def test_channels_may_stand_elsewhere(dim):
    x = torch.rand(2, 3)
    assert torch.equal(AddInverse(dim)(x), torch.cat([x, 1 - x], 1))


def test_every_pixel_has_the_same_sum():
    torch.testing.assert_close(AddInverse()(torch.rand(3, 4, 4)).sum(0), torch.full((4, 4), 3.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precision_is_kept(dtype):
    assert AddInverse()(torch.rand(3, 2, 2).to(dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers_are_refused(dtype):
    message = rf"AddInverse needs floats in \[0, 1\], got {dtype}; divide 8-bit images by 255 first"
    with pytest.raises(BcosError, match=message):
        AddInverse()(torch.ones(3, 2, 2, dtype=dtype))


def test_repr_shows_the_dimension():
    assert repr(AddInverse()) == "AddInverse(dim=-3)"


@pytest.mark.parametrize(
    ("conv", "dim", "encoding"),
    [
        (BcosConv1d, -2, r"AddInverse\(dim=-2\)"),
        (BcosConv2d, -3, r"AddInverse\(\)"),
        (BcosConv3d, -4, r"AddInverse\(dim=-4\)"),
    ],
)
def test_channels_without_their_inverse_are_refused_with_the_cure(conv, dim, encoding):
    x = torch.rand(2, 4, *[5] * conv.n_dims)
    assert AddInverse(dim)(x).shape[1] == 8
    with pytest.raises(BcosError, match=rf"needs 8; encode the input with {encoding} first, as model.transform does"):
        conv(8, 3, 1)(x)
    with pytest.raises(BcosError, match=rf"needs 2; leave {encoding} out"):
        conv(2, 3, 1)(x)
    with pytest.raises(BcosError, match=r"needs 7$"):
        conv(7, 3, 1)(x)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 4, 9), r"\(5, 4, 9\), whose channels could be in two dimensions; give dim=-2 for sequences \(N, C, L\)"),
        (
            (2, 2, 5, 4, 6),
            r"give dim=-4 for volumes \(N, C, D, H, W\), dim=-3 for images \(\.\.\., C, H, W\) of 5 channels",
        ),
    ],
)
def test_dimension_of_the_channels_is_not_guessed(shape, message):
    x = torch.rand(shape)
    with pytest.raises(BcosError, match=message):
        AddInverse()(x)
    for dim in (-2, -3, -4)[: len(shape) - 1]:
        if len(shape) + dim >= 0:
            assert torch.equal(AddInverse(dim)(x), torch.cat([x, 1 - x], dim))


@pytest.mark.parametrize("shape", [(1, 4, 5), (2, 4, 5), (3, 4, 5), (4, 4, 5), (7, 9, 4, 5), (2, 2, 3, 4, 5)])
def test_images_need_no_dimension(shape):
    x = torch.rand(shape)
    assert torch.equal(AddInverse()(x), torch.cat([x, 1 - x], -3))


def test_sequences_whose_batch_was_doubled_are_refused_with_the_cure():
    with pytest.raises(BcosError, match=r"needs 8; encode the input with AddInverse\(dim=-2\) first"):
        nn.Sequential(AddInverse(), BcosConv1d(8, 3, 1))(torch.rand(2, 4, 9))


def test_dimension_that_is_not_there_is_refused():
    with pytest.raises(BcosError, match=r"AddInverse\(dim=-3\) got an input of shape \(2, 5\), .* -1 for vectors"):
        AddInverse()(torch.rand(2, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inside_of_a_network_its_constant_has_a_name(dtype):
    model = nn.Sequential(AddInverse(), nn.Conv2d(6, 2, 5, bias=False), nn.Flatten()).to(dtype)
    x = torch.rand(2, 3, 5, 5, dtype=dtype)
    e = explain(model, x, 0)
    torch.testing.assert_close(e.bias_terms["inverse channels"], model[1].weight[0, 3:].sum().detach().expand(2))
    outside = explain(model[1:], AddInverse()(x), 0)
    torch.testing.assert_close(e.weight, outside.weight[:, :3] - outside.weight[:, 3:])
    assert not outside.bias_terms
    assert list(receipts(e, model=model)[0][0].terms) == ["inverse channels"]


PLAIN = [(nn.Conv1d, -2), (nn.Conv2d, -3), (nn.Conv3d, -4)]
PLAIN += [(nn.ConvTranspose1d, -2), (nn.ConvTranspose2d, -3), (nn.ConvTranspose3d, -4)]


@pytest.mark.parametrize(("conv", "dim"), PLAIN)
@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"bias": False}], ids=str)
def test_plain_layers_refuse_channels_without_their_inverse_as_bcos_layers_do(conv, dim, options):
    x = torch.rand(2, 4, *[5] * (-dim - 1))
    encoding = "AddInverse()" if dim == -3 else f"AddInverse(dim={dim})"
    given = re.escape(f"got 4 input channels (shape {tuple(x.shape)})")

    def explained(channels, x):
        return explain(nn.Sequential(conv(channels, 2, 1, **options), nn.Flatten(2)), x, 0, layer="0")

    cure = re.escape(f"encode the input with {encoding} first, as model.transform does where a model has one")
    with pytest.raises(BcosError, match=rf"^conv\w*d {given}, needs 8; {cure}$"):
        explained(8, x)
    with pytest.raises(BcosError, match=rf"{given}, needs 2; leave {re.escape(encoding)} out"):
        explained(2, x)
    with pytest.raises(BcosError, match=rf"{given}, needs 6$"):
        explained(6, x)
    assert explained(8, AddInverse(dim)(x)).residual.abs().max() < 1e-5


def test_groups_are_counted_where_they_are_given_by_place():
    class Functional(nn.Module):
        def forward(self, x):
            return nn.functional.conv2d(x, self.weight, None, 1, 0, 1, 2).flatten(2).sum(2)

    model = Functional()
    model.weight = nn.Parameter(torch.rand(4, 3, 1, 1))
    assert explain(model, torch.rand(2, 6, 4, 4), 1).residual.abs().max() < 1e-5
    with pytest.raises(BcosError, match=r"conv2d got 3 input channels .* needs 6; encode the input"):
        explain(model, torch.rand(2, 3, 4, 4), 1)


@pytest.mark.parametrize(("linear", "name"), [(nn.Linear, "linear"), (BcosLinear, "bcos_linear")])
def test_linear_layers_name_the_cure_too(linear, name):
    given = rf"^{name} got an input of shape \(2, 4\), needs"
    with pytest.raises(BcosError, match=rf"{given} 8 features .*; encode the input with AddInverse, .* model\.t"):
        explain(linear(8, 3), torch.rand(2, 4), 0)
    with pytest.raises(BcosError, match=rf"{given} 2 features .*; leave AddInverse, .* out"):
        explain(linear(2, 3), torch.rand(2, 4), 0)
    with pytest.raises(BcosError, match=rf"{given} 5 features in its last dimension$"):
        explain(linear(5, 3), torch.rand(2, 4), 0)
