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
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            model.train()
            model(encoded(name, 3, side))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
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


FAMILIES = {
    "resnet18": {"depths": (1, 1), "width": 8},
    "resnet50": {"depths": (1, 1), "width": 8},
    "cifar10_resnet20": {"depths": (1, 1), "width": 8},
    "densenet121": {"depths": (2, 2), "growth_rate": 8, "width": 8},
    "vgg11_bnu": {"depths": (1, 1), "width": 8, "head_width": 16},
    "convnext_atto": {"depths": (1, 1), "widths": (8, 16)},
    "convnext_atto_bnu": {"depths": (1, 1), "widths": (8, 16)},
    "simple_vit_ti_patch16_224": {"depth": 2, "dim": 32, "heads": 2},
    "vitc_ti_patch1_14": {"depth": 2, "dim": 32, "heads": 2, "stem": (8, 16, 16)},
    "standard_vitc_ti_patch1_14": {"depth": 2, "dim": 32, "heads": 2, "stem": (8, 16, 16)},
    "standard_cifar10_resnet20": {"depths": (1, 1), "width": 8},
}


@pytest.fixture
def small_options():
    """Options that make a small network, by name."""
    return FAMILIES


@pytest.fixture(params=FAMILIES)
def family(request):
    """Name and options of a small network of every kind."""
    return request.param, {"num_classes": 5, **FAMILIES[request.param]}


@pytest.fixture
def small(family, calibrated):
    """A small calibrated network of every kind, in float64 and eval mode."""
    name, options = family
    return calibrated(name, **options)
