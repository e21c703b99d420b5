"""What a receipt says of a score, and by how much contributions and constants may miss it."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bcos_core import AddInverse, BcosConv2d, BcosError, LogitLayer, explain
from bcos_core.completeness import ROUNDING, balance, rounding
from bcos_core.receipt import Receipt, number, receipts


def receipt(score=2.0, contributions=3.0, bias=-1.0, **more):
    values = {
        "absolute": 8.0,
        "terms": {"layer biases": bias},
        "residual": score - contributions - bias,
        "allowed": 1e-6,
    }
    return Receipt(score=score, contributions=contributions, bias=bias, **values | more)


@pytest.mark.parametrize(
    ("contributions", "bias", "share"),
    [(3.0, -1.0, 0.75), (-0.92, 10.39, 0.92 / 11.31), (0.0, 2.0, 0.0), (3.0, 0.0, 1.0)],
)
def test_share_of_the_image_is_that_of_its_contributions(contributions, bias, share):
    made = receipt(contributions + bias, contributions, bias)
    assert made.image_share == pytest.approx(share)
    assert made.bar_width == pytest.approx(100 * share)


def test_logit_bias_is_no_part_of_the_share():
    made = receipt(contributions=3.0, bias=-7.9, score=-4.9, terms={"logit bias": -6.9, "norm shifts": -1.0})
    assert made.image_share == pytest.approx(0.75)
    assert made.bar == "███████████████░░░░░ image share 75 %, bias without the logit bias 25 %"
    low = receipt(contributions=1.0, bias=-9.9, score=-8.9, terms={"logit bias": -6.9, "norm shifts": -3.0})
    (warning,) = low.warnings
    assert warning.startswith("75 % of this score, its logit bias aside, is bias")


def test_map_of_next_to_nothing_is_said():
    made = receipt(score=-2.2, contributions=7e-11, bias=-2.2, absolute=9e-11, terms={"logit bias": -2.2})
    assert made.image_share == 1  # of the logit without its constant: no warning of that
    assert any("are 9.0e−11 in absolute value, whatever the colours of the map" in line for line in made.warnings)


def test_nothing_has_no_share():
    made = receipt(score=-6.9, contributions=0.0, bias=-6.9, absolute=0.0, terms={"logit bias": -6.9})
    assert math.isnan(made.image_share)
    assert math.isnan(made.cancellation)
    assert made.shares == "image share undefined · cancellation undefined"
    assert made.bar_width == 0.0
    (warning,) = made.warnings
    assert warning.startswith("the image contributes next to nothing: of a score of −6.90 its contributions are 0.00")
    values = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert (values["image_share"], values["cancellation"]) == (None, None)


def test_receipt_warns_above_half_of_bias_and_not_below():
    assert receipt(contributions=3.0, bias=-2.9, score=0.1).warnings == []
    (warning,) = receipt(contributions=-0.92, bias=10.39, score=9.47).warnings
    assert warning == "92 % of this score is bias: it does not come from the image, and the map does not show it"


def test_bar_shows_the_shares():
    assert receipt(score=2.0, contributions=3.0, bias=-1.0).bar == "███████████████░░░░░ image share 75 %, bias 25 %"


def test_cancellation_is_shown():
    made = receipt(score=-7.4, contributions=-7.4, bias=0.0, absolute=919.0)
    assert made.cancellation == pytest.approx(7.4 / 919)
    assert made.cancelled == "cancellation 0.8 %: 919.00 of absolute contributions leave −7.40"
    assert made.shares == "image share 100 % · cancellation 0.8 %"
    assert {("  in absolute value", "919.00"), ("image share", "100 %"), ("cancellation", "0.8 %")} <= set(made.rows)


def test_what_is_held_constant_is_warned_of():
    (warning,) = receipt(held=-0.36).warnings
    assert warning.startswith("−0.360 of the bias depends on the image, but the network holds it constant")


def test_everything_is_in_the_dictionary():
    made = receipt(score=1.0, contributions=0.2, bias=0.8, probe=1e-8).to_dict()
    assert made["image_share"] == pytest.approx(0.2)
    assert made["cancellation"] == pytest.approx(0.2 / 8)
    assert made["absolute_contributions"] == 8.0
    assert made["probe"] == 1e-8
    assert len(made["warnings"]) == 1


class Backbone(nn.Module):
    """Most of its score comes from a part that records no gradient."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.adapter = nn.Linear(3, 8, bias=False)

    def forward(self, x):
        with torch.no_grad():
            features = self.backbone(x)
        return features + self.adapter(x.mean((2, 3)))


def test_a_backbone_without_gradients_is_named_as_held_constant():
    model, x = Backbone().eval(), torch.rand(1, 3, 8, 8)
    e = explain(model, x, 2)
    ((made,),) = receipts(e, model=model)
    assert list(e.bias_terms) == ["backbone.0 (frozen)"]
    assert list(made.terms) == ["depends on the image, held constant"]
    assert made.held == pytest.approx(made.bias)
    assert any("holds it constant" in warning for warning in made.warnings)


def parts_of(e):
    return e.contributions.flatten(1), e.bias_terms.values(), e.score


def test_allowed_residual_is_that_of_the_coarsest_type_that_values_had():
    class Casting(nn.Module):
        def __init__(self, dtype):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.dtype = nn.Conv2d(3, 4, 3), dtype

        def forward(self, x):
            return F.relu(self.conv(x)).to(self.dtype).to(x.dtype).mean((2, 3))

    x = torch.rand(2, 3, 8, 8)
    for given, dtype in [
        (torch.float32, torch.float32),
        (torch.float64, torch.float32),
        (torch.float32, torch.bfloat16),
    ]:
        e = explain(Casting(dtype).to(given), x.to(given), 1)
        parts = (e.contributions.flatten(1), *(term[:, None] for term in e.bias_terms.values()), e.score[:, None])
        added = sum(part.double().abs().sum(1) for part in parts) + e.score.abs()
        torch.testing.assert_close(e.allowed_residual, ROUNDING[dtype] * added)
        torch.testing.assert_close(balance(*parts_of(e), largest=e.score.abs()).size, added)
        ((made,), _) = receipts(e)
        assert made.allowed == pytest.approx(float(e.allowed_residual[0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_honest_networks_stay_far_below_the_allowed_residual(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(
        AddInverse(),
        BcosConv2d(6, 16, 3),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        BcosConv2d(16, 16, 3, stride=2),
        nn.Conv2d(16, 5, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        LogitLayer(logit_bias=-1.0),
    ).to(dtype)
    e = explain(model, torch.rand(4, 3, 16, 16).to(dtype), 1, probe=True)
    assert bool((e.residual.double().abs() < 0.5 * e.allowed_residual).all())
    assert float(e.probe.max()) < rounding([dtype])


def test_a_residual_of_a_thousandth_is_refused_in_every_precision_that_can_tell():
    class Slightly(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x + 1e-3 * x.abs().mean()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    class Net(nn.Module):
        def forward(self, x):
            return Slightly.apply(x)[:, :, 0, 0]

    for dtype in (torch.float64, torch.float32):
        with pytest.raises(BcosError, match="miss the output"):
            explain(Net(), torch.rand(2, 3, 4, 4).to(dtype), 1)


@pytest.mark.parametrize(
    ("value", "largest", "shown"),
    [
        (-0.0, None, "0.00"),
        (-1e-9, 5.0, "0.00"),
        (-3.2e-9, None, "−3.2e−09"),
        (-0.0, 3.2e-9, "0.0e+00"),
        (-0.00123, None, "−0.00123"),
        (-2.5, None, "−2.50"),
    ],
)
def test_zero_has_no_sign_and_little_is_not_zero(value, largest, shown):
    assert number(value, largest=largest) == shown
