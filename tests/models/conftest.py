from types import SimpleNamespace

import pytest
import torch

from bcos_models import create_model, get_spec, plugins

SIDE = {"cifar10": 12, "other": 48}
"""Side of the input of models for small images, and of those for ImageNet."""


@pytest.fixture(autouse=True)
def seeded():
    """Same numbers every time; one thread, since small tensors on busy cores only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def encoded():
    """Random encoded float64 input for a model: (N, C, side, side)."""

    def make(name, n=2, side=None):
        spec = get_spec(name).input
        side = side or SIDE["cifar10" if "cifar10" in name else "other"]
        x = torch.rand(n, spec.channels, side, side, dtype=torch.float64)
        return torch.cat([x, 1 - x], 1) if spec.encoding == "add_inverse" else (x - 0.5) / 0.25

    return make


@pytest.fixture
def calibrated(encoded):
    """Build a model in float64 whose running statistics are those of its input; eval mode."""

    def make(name, side=None, **options):
        model = create_model(name, **options).double()
        if name.startswith("vgg"):  # every layer without norm shrinks by the cosine: positive weights keep a signal
            with torch.no_grad():
                for weight in model.parameters():
                    weight.abs_()
        norms = [m for m in model.modules() if hasattr(m, "running_var")]
        for norm in norms:
            norm.momentum = None
        with torch.no_grad():
            model.train()
            for _ in range(2):
                model(encoded(name, 3, side))
        return model.eval()

    return make


@pytest.fixture
def entry_points(monkeypatch):
    """Add entry points of a stranger's distribution to our own; reload the registry now and afterwards."""
    import bcos_core.plugins as core_plugins

    real = core_plugins.entry_points

    def install(**modules):
        def found(*, group):
            ours = list(real(group=group))
            dist = SimpleNamespace(name="stranger")
            return ours + [
                SimpleNamespace(name=name, value=f"stranger.{name}", dist=dist, load=load)
                for name, load in modules.items()
            ]

        monkeypatch.setattr(core_plugins, "entry_points", found)
        plugins._loaded.cache_clear()

    yield install
    monkeypatch.undo()
    plugins._loaded.cache_clear()
