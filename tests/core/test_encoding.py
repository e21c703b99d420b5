import pytest
import torch

from bcos_core import AddInverse, BcosError


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
