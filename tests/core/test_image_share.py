"""How much of a score the map accounts for, by hand."""

import math

import pytest
import torch
from torch import nn

from bcos_core import AddInverse, BcosConv2d, LogitLayer, explain
from bcos_core.image_share import percent
from bcos_core.receipt import receipts

HEAD = (nn.AdaptiveAvgPool2d(1), nn.Flatten())


def linear(weight, bias, *after):
    """``f(x) = weight · x + bias``, one output for each row."""
    layer = nn.Linear(len(weight[0]), len(weight)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return nn.Sequential(layer, *after)


def test_a_network_whose_only_constant_is_that_of_its_logits_has_the_share_1():
    torch.manual_seed(0)
    net = nn.Sequential(BcosConv2d(6, 8, 3), BcosConv2d(8, 1000, 3), *HEAD, LogitLayer(2.0, -math.log(999)))
    e = explain(net, AddInverse()(torch.rand(4, 3, 8, 8)))
    assert float(e.bias.max()) < -6  # beside contributions of a tenth
    assert e.image_share.tolist() == [1.0] * 4
    assert e.image_share.dtype == torch.float64


def test_kept_biases_are_counted_and_the_logit_bias_beside_them_is_not():
    x = torch.tensor([[1.0, 2.0], [0.0, 3.0]], dtype=torch.float64)
    net = linear([[2.0, 1.0], [-1.0, -3.0]], [4.0, 23.0], LogitLayer(2.0, -6.9))
    e = explain(net, x, [[0, 1], [0, 1]])
    # contributions (2 + 2) / 2, (-1 - 6) / 2; 3 / 2, -9 / 2; biases 4 / 2, 23 / 2
    expected = [[2 / (2 + 2), 3.5 / (3.5 + 11.5)], [1.5 / (1.5 + 2), 4.5 / (4.5 + 11.5)]]
    torch.testing.assert_close(e.image_share, torch.tensor(expected, dtype=torch.float64))


def test_a_bias_of_the_last_layer_is_no_constant_of_a_logit_layer():
    e = explain(linear([[1.0]], [3.0]), torch.ones(1, 1).double(), 0)
    assert e.image_share.tolist() == [0.25]


def test_contributions_that_cancel_do_not_hide_a_large_bias():
    """−9 is left of 5,009, beside a bias of 23: by absolute values the share would be 0.995."""
    e = explain(linear([[2500.0, -2509.0]], [23.0]), torch.ones(1, 2).double(), 0)
    assert e.image_share.item() == pytest.approx(9 / 32)
    assert e.cancellation.item() == pytest.approx(9 / 5009)
    absolute = e.contributions.abs().sum() / (e.contributions.abs().sum() + e.bias.abs().sum())
    assert absolute > 0.99


def test_cancellation_is_what_contributions_leave():
    weight = [[1.0, 2.0, -3.5], [1.0, 2.0, 3.0]]
    e = explain(linear(weight, [0.0, 0.0]), torch.ones(1, 3).double(), [[0, 1]])
    torch.testing.assert_close(e.cancellation, torch.tensor([[0.5 / 6.5, 1.0]], dtype=torch.float64))
    assert e.image_share.tolist() == [[1.0, 1.0]]


def test_nothing_has_neither():
    e = explain(linear([[1.0]], [0.0], LogitLayer(None, -2.0)), torch.tensor([[0.0], [1.0]]).double(), 0)
    assert [math.isnan(v) for v in e.image_share.tolist()] == [True, False]
    assert [math.isnan(v) for v in e.cancellation.tolist()] == [True, False]
    with_bias = explain(linear([[1.0]], [3.0]), torch.zeros(1, 1).double(), 0)
    assert with_bias.image_share.item() == 0
    assert math.isnan(with_bias.cancellation.item())


@pytest.mark.parametrize("by_origin", [False, True])
def test_receipts_say_the_same(by_origin):
    net = linear([[2.0, -1.0], [-1.0, -3.0]], [4.0, 23.0], LogitLayer(2.0, -6.9))
    e = explain(net, torch.rand(3, 2).double(), [[0, 1]] * 3)
    rows = receipts(e, model=net if by_origin else None)
    for name in ("image_share", "cancellation"):
        found = torch.tensor([[getattr(receipt, name) for receipt in row] for row in rows], dtype=torch.float64)
        torch.testing.assert_close(found, getattr(e, name))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.0042, "0.4 %"), (2e-7, "2e-05 %"), (0.284, "28 %"), (1.0, "100 %"), (math.nan, "undefined")],
)
def test_shares_as_text(share, text):
    assert percent(share) == text
