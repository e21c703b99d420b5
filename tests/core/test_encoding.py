import pytest
import torch
from torch import nn

from bcos_core import AddInverse, BcosConv1d, BcosConv2d, BcosConv3d, BcosError, explain
from bcos_core.receipt import receipts


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_inverse_channels_follow_the_channels(channels, batch):
    x = torch.rand(*batch, channels, 4, 5)
    y = AddInverse()(x)
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
