"""Small networks that the tests of explainers and metrics explain."""

import torch
from torch import nn

from bcos_core import BcosConv2d, LogitLayer, norms


def bcos_net(channels):
    return nn.Sequential(
        BcosConv2d(channels, 8, 3, padding=1),
        norms.BatchNormUncentered2d(8),
        BcosConv2d(8, 12, 3, stride=2, padding=1),
        BcosConv2d(12, 5, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        LogitLayer(logit_bias=-1.4),
    )


class PlainNet(nn.Module):
    """A ReLU network with in-place activations and a classifier that it names."""

    def __init__(self, channels=3):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
        )
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Sequential(nn.Conv2d(12, 5, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.pool(self.head(self.act(self.features(x)))).flatten(1)


class TokenNet(nn.Module):
    """A small vision transformer with a class token."""

    def __init__(self, pool):
        super().__init__()
        self.pool = pool
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def get_classifier(self):
        return self.head

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        tokens = self.norm(self.block(tokens))
        return self.head(tokens[:, 0] if self.pool == "token" else tokens[:, 1:].mean(1))


BUILDERS = {
    "bcos_rgb": (lambda: bcos_net(6), 6),
    "bcos_grey": (lambda: bcos_net(2), 2),
    "plain": (PlainNet, 3),
    "tokens": (lambda: TokenNet("token"), 3),
}


def calibrated(name):
    """A network in eval mode with spread-out statistics, and a batch for it."""
    builder, channels = BUILDERS[name]
    net = builder()
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(8, channels, 12, 16))
    x = torch.rand(3, channels, 12, 16)
    return net.eval(), x
