"""Converted networks whose strides are anti-aliased."""

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18

from bcos_core import AddInverse, BcosConv2d, BcosError, explain
from bcos_models import bcosify, create_model, load_trained, save_pretrained
from bcos_models.convert.least_squares import fit_kernels
from bcos_models.convert.probe import probe_conversion

STATISTICS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
MEAN, STD = (torch.tensor(v)[:, None, None] for v in STATISTICS.values())


class Network(nn.Module):
    """A strided convolution, max pooling, a strided depthwise convolution, and one of two strides."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.uneven = nn.Conv2d(8, 8, 3, stride=(1, 2), padding=1)
        self.plain = nn.Conv2d(8, 12, 3, padding=1)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = self.pool(self.norm(self.stem(x)).relu())
        return self.head(self.plain(self.uneven(self.depthwise(x)).relu()).mean((2, 3)))


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_each_stride_is_filtered_and_the_weights_are_those_of_the_original(original, images):
    kept = {"b": 1, "keep_bias": True, "keep_norms": True}
    network = bcosify(original, antialias="blurpool", image_size=32, **kept, **STATISTICS)
    inner = network.network
    assert {name: type(inner.get_submodule(name)).__name__ for name in ("stem", "pool", "depthwise", "uneven")} == {
        "stem": "BlurredInput",
        "pool": "BlurPool2d",
        "depthwise": "BlurredInput",
        "uneven": "BcosConv2d",
    }
    assert type(inner.plain) is BcosConv2d
    assert type(inner.depthwise.conv) is nn.Conv2d

    def filtered(x):
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = (taps[:, None] * taps).repeat(x.shape[1], 1, 1, 1)
        return nn.functional.conv2d(nn.functional.pad(x, [1] * 4, mode="replicate"), kernel, groups=x.shape[1])

    x = original.norm(original.stem(filtered((images - MEAN) / STD))).relu()
    x = original.depthwise(filtered(filtered(x)[..., ::2, ::2]))
    expected = original.head(original.plain(original.uneven(x).relu()).mean((2, 3)))
    torch.testing.assert_close(network(AddInverse()(images)), expected)


@pytest.mark.parametrize(
    ("pool", "filtered"),
    [
        (nn.MaxPool2d(3, 2, 1), True),
        (nn.MaxPool2d(2), False),
        (nn.MaxPool2d(3, 2, ceil_mode=True), False),
        (nn.MaxPool2d(3, (2, 1), 1), False),
        (nn.MaxPool2d(5, 2, 2, dilation=1), True),
        (nn.MaxPool2d(3, 1, 1), False),
    ],
    ids=str,
)
def test_pooling_keeps_the_size_of_its_output(pool, filtered):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), pool, nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    made = bcosify(network, antialias="blurpool", image_size=33, **STATISTICS)
    assert (type(made.network[1]).__name__ == "BlurPool2d") is filtered
    x = torch.rand(1, 4, 33, 33)
    assert made.network[1](x).shape == pool(x).shape


@pytest.mark.parametrize("build", [resnet18, mobilenet_v2])
def test_anti_aliased_network_is_explained_exactly(build):
    torch.manual_seed(0)
    network = bcosify(build(num_classes=5).eval(), antialias="blurpool", image_size=64).double()
    e = explain(network, torch.rand(2, 6, 64, 64, dtype=torch.float64), 1)
    assert (e.residual.abs() < 1e-9).all()
    strided = [m for m in network.modules() if isinstance(m, nn.Conv2d | BcosConv2d) and max(m.stride) > 1]
    blurred = [m.conv for m in network.modules() if type(m).__name__ == "BlurredInput"]
    assert {id(m) for m in strided} == {id(m) for m in blurred}


def test_explanations_lose_the_pattern_of_the_strides():
    """A flat image has no structure: what varies between its pixels in W is the network's own aliasing."""

    def roughness(antialias):
        torch.manual_seed(0)
        network = bcosify(mobilenet_v2(num_classes=5).eval(), b=1.5, image_size=96, antialias=antialias).double()
        weight = explain(network, torch.full((1, 6, 96, 96), 0.5, dtype=torch.float64), 3).weight[..., 24:72, 24:72]
        spectrum = torch.fft.fft2(weight).abs().square().sum((0, 1))
        return 1 - spectrum[0, 0] / spectrum.sum()

    assert roughness("blurpool") < 0.75 * roughness("none")


def test_kernels_are_fitted_behind_the_filter(original, images):
    given = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    network = bcosify(original, b=1, antialias="blurpool", image_size=32, **STATISTICS).eval()
    x, wanted = AddInverse()(images), original((images - MEAN) / STD).detach()

    @torch.no_grad()
    def error():
        found = network(x)
        return float(((found - found.mean()) - (wanted - wanted.mean())).square().mean())

    before = error()
    assert fit_kernels(network, original, given, **STATISTICS) == 5
    assert error() < before / 2


def test_probe_has_a_step_of_its_own(original, images):
    names = [s.name for s in probe_conversion(original, images, antialias="blurpool", **STATISTICS)]
    assert names[1:3] == ["average pooling", "low-pass filters"]


def test_conversion_is_stored_and_read_again(tmp_path):
    network = create_model("torchvision/resnet18", num_classes=3, antialias="blurpool").eval()
    save_pretrained(network, tmp_path / "stored")
    x = torch.rand(1, 6, 64, 64)
    torch.testing.assert_close(load_trained(str(tmp_path / "stored")).model.eval()(x), network(x))


def test_filters_and_kept_max_pooling_exclude_each_other(original):
    with pytest.raises(BcosError, match=r"antialias=blurpool takes the place of max pooling; leave keep_pooling out"):
        bcosify(original, antialias="blurpool", keep_pooling=True, image_size=32)
    with pytest.raises(BcosError, match=r"antialias must be one of \('none', 'blurpool'\), got 'max'"):
        bcosify(original, antialias="max", image_size=32)
