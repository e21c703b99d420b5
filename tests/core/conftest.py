import pytest
import torch
from torch import nn

from bcos_core import (
    AddInverse,
    BcosConv2d,
    BcosLinear,
    BcosSelfAttention,
    LogitLayer,
    explanation_mode,
    norms,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def randomized():
    """Fill every parameter and buffer, so that nothing is hidden by a one or a zero; then eval mode."""

    def randomize(model, *, train=False):
        with torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5)
                elif tensor.is_floating_point():
                    tensor.normal_(0.1, 0.5)
        return model.train(train)

    return randomize


@pytest.fixture
def gradient():
    """Gradient of Σ f(x)·v for a fixed v, optionally in explanation mode."""

    def compute(function, x, *, explaining=False):
        leaf = x.detach().clone().requires_grad_()
        if explaining:
            with explanation_mode(function):
                y = function(leaf)
        else:
            y = function(leaf)
        cotangent = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
        return torch.autograd.grad((y * cotangent).sum(), leaf)[0]

    return compute


@pytest.fixture
def scale():
    """Size against which an explanation's rounding error is measured, (N,) or (N, T)."""

    def compute(e):
        return e.contributions.abs().flatten(e.target.ndim).sum(-1) + e.score.abs() + e.bias.abs()

    return compute


class MixedTransformer(nn.Module):
    """Plain and B-cos layers, a learned position parameter, residual connections."""

    def __init__(self):
        super().__init__()
        self.encode = AddInverse()
        self.patches = nn.Conv2d(6, 8, 2, stride=2)
        self.position = nn.Parameter(torch.zeros(1, 9, 8))
        self.norm1 = nn.LayerNorm(8)
        self.attention = BcosSelfAttention(8, 2)
        self.norm2 = norms.LayerNormUncentered(8)
        self.mlp = BcosLinear(8, 8, b=1.5, max_out=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.patches(self.encode(x)).flatten(2).transpose(1, 2) + self.position
        tokens = tokens + self.attention(self.norm1(tokens))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return self.head(tokens.mean(1))


def bcos_cnn():
    return nn.Sequential(
        BcosConv2d(3, 8, 3, padding=1),
        norms.BatchNormUncentered2d(8),
        BcosConv2d(8, 8, 3, b=2.5, max_out=2, groups=2),
        norms.LayerNorm2d(8),
        BcosConv2d(8, 5, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        LogitLayer(logit_temperature=0.7, logit_bias=-1.5),
    )


def mixed_cnn():
    return nn.Sequential(
        AddInverse(),
        nn.Conv2d(6, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        BcosConv2d(8, 8, 3, padding=2, stride=2),
        nn.GroupNorm(2, 8),
        BcosConv2d(8, 8, 2, padding="same", b=1.5),
        nn.InstanceNorm2d(8, affine=True),
        norms.PositionNorm2d(8, bias=True),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 5),
        LogitLayer(logit_bias=-1.5),
    )


NETS = {"bcos_cnn": bcos_cnn, "mixed_cnn": mixed_cnn, "mixed_transformer": MixedTransformer}


@pytest.fixture(params=NETS)
def net(request, randomized):
    """Networks of every kind of layer, float64, for inputs (N, 3, 6, 6); five outputs."""
    return randomized(NETS[request.param]().double())


@pytest.fixture
def images():
    return torch.rand(3, 3, 6, 6, dtype=torch.float64)
