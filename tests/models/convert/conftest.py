import pytest
import torch
from torch import nn


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, 2, 1)
        self.act = nn.ReLU()
        self.excite = nn.Conv2d(2, channels, 1)

    def forward(self, x):
        return x * self.excite(self.act(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()


class Plain(nn.Module):
    """A CNN of what CNNs have: conv with bias, batch norm, ReLU, max pooling, a gate, pooling, linear classifier."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.gate = Gate(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, groups=2, bias=False)
        self.norm2 = nn.GroupNorm(2, 12)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = self.maxpool(self.act(self.bn1(self.conv1(x))))
        x = self.norm2(self.conv2(self.gate(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Transformer(nn.Module):
    """One block with fused query, key and value, a class token, positions, and a norm before the head."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 17, 8))
        self.norm1 = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)
        self.norm2 = nn.LayerNorm(8)
        self.fc1 = nn.Linear(8, 16)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.positions
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.proj(nn.functional.scaled_dot_product_attention(q, k, v))
        x = x + self.fc2(self.act(self.fc1(self.norm2(x))))
        return self.head(x[:, 0])


def enlivened(network):
    """Fill every constant, so that nothing is hidden by a one or a zero; then eval mode."""
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.3 * torch.randn_like(tensor))
    return network.double().eval()


@pytest.fixture
def cnn():
    torch.manual_seed(0)
    return enlivened(Plain())


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    return enlivened(Transformer())


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.rand(3, 3, 16, 16).double()


@pytest.fixture
def statistics():
    return {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
