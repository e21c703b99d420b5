"""The smallest network of every family (module) of the installed timm, with weights that hide nothing."""

import json
import warnings
from functools import cache
from pathlib import Path

import timm
import torch
from timm.models import _registry
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

TABLE = Path(__file__).parent / "networks.json"
"""For each family the model, the image size, and the seconds that checking it took; made by ``make_table``."""
CLASSES = 10


@cache
def table():
    return json.loads(TABLE.read_text())


def families():
    """Names of models by family."""
    found = {}
    for name in timm.list_models():
        if not name.startswith("bcos_"):  # ours, if bcos_models has been imported
            found.setdefault(_registry._model_to_module[name], []).append(name)
    return found


def smallest(names):
    """Name of the model with the fewest parameters that is a classifier."""
    sizes = []
    with torch.device("meta"):
        for name in names:
            try:
                sizes.append((sum(p.numel() for p in timm.create_model(name, num_classes=CLASSES).parameters()), name))
            except Exception:
                continue
    return next(name for _, name in sorted(sizes) if not name.endswith("_enc"))  # encoders give no logits


def build(name, size):
    """The network, seeded, in eval mode, and a batch of two images it takes."""
    torch.manual_seed(0)
    try:
        network = timm.create_model(name, num_classes=CLASSES, img_size=size)
    except TypeError:  # takes images of any size
        network = timm.create_model(name, num_classes=CLASSES)
    channels = timm.get_pretrained_cfg(name).input_size[0]
    return network.eval(), torch.rand(2, channels, size, size)


def enliven(network, images):
    """Give constants values, and norms statistics: a fresh network has gains of 1e-6 and biases of 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim <= 1 or bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # plain average
            module.reset_running_stats()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.train()(torch.cat([images, torch.rand(6, *images.shape[1:], generator=generator)]))
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network.eval()
