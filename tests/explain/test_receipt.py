import pytest
import torch
from torch import nn

from bcos_core import BcosConv2d, BcosError, LogitLayer, explain, norms
from bcos_core.receipt import by_origin, number, receipts


class Network(nn.Module):
    """One constant of every origin."""

    def __init__(self):
        super().__init__()
        self.register_buffer("pixel_mean", torch.full((1, 3, 1, 1), 0.4))
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.pos_embed = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.head = nn.Linear(4, 5)
        self.logits = LogitLayer(logit_bias=-1.5)

    def forward(self, x):
        x = self.norm(self.conv(x - self.pixel_mean)) + self.pos_embed
        return self.logits(self.head(x.relu().mean((2, 3))))


@pytest.fixture
def net():
    net = Network().double()
    net.train()
    net(torch.rand(8, 3, 6, 6).double())
    return net.eval()


@pytest.mark.parametrize("target", [2, [[0, 4], [1, 1]]], ids=["one", "two"])
def test_every_receipt_adds_up(net, target):
    e = explain(net, torch.rand(2, 3, 6, 6).double(), target)
    made = receipts(e, model=net)
    assert [len(row) for row in made] == ([1, 1] if target == 2 else [2, 2])
    for i, row in enumerate(made):
        for t, receipt in enumerate(row):
            at = (i,) if target == 2 else (i, t)
            assert receipt.score == float(e.score[at])
            assert receipt.contributions == pytest.approx(float(e.contributions[at].sum()))
            assert receipt.bias == pytest.approx(sum(receipt.terms.values()))
            assert receipt.residual == receipt.score - receipt.contributions - receipt.bias
            assert abs(receipt.residual) < 1e-12
            assert receipt.passed
            assert receipt.verdict == "adds up"


def test_constants_are_summed_by_where_they_come_from(net):
    e = explain(net, torch.rand(1, 3, 6, 6).double(), 2)
    named = receipts(e)[0][0].terms
    origins = receipts(e, model=net)[0][0].terms
    assert set(origins) == {
        "logit bias",
        "norm shifts",
        "layer biases",
        "positions and tokens",
        "input normalisation",
    }
    assert origins["logit bias"] == -1.5
    assert origins["norm shifts"] == pytest.approx(named["norm.bias"] + named["norm.running_mean"])
    assert origins["layer biases"] == pytest.approx(named["conv.bias"] + named["head.bias"])
    assert origins["positions and tokens"] == named["pos_embed"]
    assert origins["input normalisation"] == named["pixel_mean"]
    sizes = [abs(value) for value in origins.values()]
    assert sizes == sorted(sizes, reverse=True)


def test_constant_that_is_no_logit_bias_is_another_constant():
    class Shifted(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + 0.25

    net = Shifted(BcosConv2d(6, 3, 1), nn.Flatten())
    e = explain(net, torch.rand(1, 6, 1, 1), 0)
    assert receipts(e, model=net)[0][0].terms == {"other constants": 0.25}


def test_logit_bias_is_known_beside_another_constant():
    class Shifted(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + 0.25

    net = Shifted(BcosConv2d(6, 3, 1), nn.Flatten(), LogitLayer(2.0, -1.5))
    e = explain(net, torch.rand(1, 6, 1, 1), 0)
    assert receipts(e, model=net)[0][0].terms == {"logit bias": -1.5, "other constants": 0.25}


def test_norms_of_ours_are_norms():
    net = nn.Sequential(BcosConv2d(6, 3, 1), norms.BatchNorm2d(3, bias=True), nn.Flatten())
    net(torch.rand(9, 6, 1, 1))
    nn.init.ones_(net[1].bias)
    e = explain(net.eval(), torch.rand(1, 6, 1, 1), 0)
    assert set(receipts(e, model=net)[0][0].terms) == {"norm shifts"}


def test_contrast_has_a_receipt_whose_logit_bias_cancels(net):
    e = explain(net, torch.rand(1, 3, 6, 6).double(), lambda z: z[:, 1] - z[:, 3])
    receipt = receipts(e, model=net)[0][0]
    assert receipt.passed
    assert receipt.terms.get("logit bias", 0) + receipt.terms.get("other constants", 0) == 0


def test_what_is_missing_is_said():
    net = nn.Sequential(BcosConv2d(6, 3, 1), nn.Flatten())
    e = explain(net, torch.rand(1, 6, 1, 1), 0)
    e.score.add_(1)
    receipt = receipts(e)[0][0]
    assert not receipt.passed
    assert receipt.verdict == "1.00 missing"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (12.345, "12.35"),
        (-3.0, "−3.00"),
        (0.1234, "0.123"),
        (0.99999, "1.00"),
        (0.09999, "0.100"),
        (-0.00123, "−0.00123"),
        (1e-9, "1.0e−09"),
    ],
)
def test_numbers_have_the_decimals_they_need(value, text):
    assert number(value) == text


def test_equation_has_the_same_decimals_everywhere(net):
    receipt = receipts(explain(net, torch.rand(1, 3, 6, 6).double(), 2))[0][0]
    left, right = receipt.equation.replace("−", "-").split(" = ")
    contributions, sign, bias, word = right.split(" ")
    assert word == "bias"
    assert sign in "+-"
    total = float(contributions) + (float(bias) if sign == "+" else -float(bias))
    assert float(left) == pytest.approx(total, abs=0.02)
    assert len({n.partition(".")[2].__len__() for n in (left, contributions, bias)}) == 1


def test_origins_need_a_module():
    with pytest.raises(BcosError, match=r"model must be a torch\.nn\.Module, got str"):
        by_origin({}, "resnet50")
