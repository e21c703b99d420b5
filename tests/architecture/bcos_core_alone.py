"""Ten lines with bcos-core and nothing else of ours: build, train, explain. Run by nox and by a test."""

from importlib.util import find_spec

import torch
from torch import nn

from bcos_core import AddInverse, BcosConv2d, BcosLinear, explain
from bcos_core.losses import BinaryCrossEntropyLoss

model = nn.Sequential(
    AddInverse(), BcosConv2d(6, 16, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), BcosLinear(16, 4)
)
images, labels = torch.rand(8, 3, 16, 16), torch.arange(8) % 4
optimizer = torch.optim.Adam(model.parameters())
loss = BinaryCrossEntropyLoss()(model(images), labels)
loss.backward()
optimizer.step()
explanation = explain(model, images, target=labels)
assert torch.allclose(explanation.map.sum((1, 2)) + explanation.bias, explanation.score, atol=1e-6)
assert float(loss.detach()) > 0
assert not any(find_spec(name) for name in ("bcos_models", "bcos_explain", "bcos_cli"))
