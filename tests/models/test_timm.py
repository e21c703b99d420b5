"""timm's own functions on our models."""

import subprocess
import sys

import pytest
import timm
import torch

from bcos_core import explain
from bcos_models import create_model, get_spec, list_models


@pytest.fixture
def created(family):
    name, options = family
    return name, lambda **more: timm.create_model(f"bcos_{name}", **{**options, **more})


def test_every_model_is_registered():
    assert set(timm.list_models("bcos_*")) == {f"bcos_{name}" for name in list_models()}
    published = {f"bcos_{n}" for n in list_models() if get_spec(n).checkpoint is not None}
    assert set(timm.list_models("bcos_*", pretrained=True)) == published


def test_model_is_the_one_that_we_create(created, encoded):
    name, create = created
    torch.manual_seed(0)
    theirs = create().double().eval()
    torch.manual_seed(0)
    made = theirs.bcos_config
    ours = create_model(made.name, num_classes=5, **made.options).double().eval()
    x = encoded(name)
    torch.testing.assert_close(theirs(x), ours(x))


def test_description_has_size_crop_and_interpolation_and_no_mean(created):
    name, create = created
    seen = get_spec(name).input
    config = timm.data.resolve_model_data_config(create())
    assert config["input_size"] == (seen.encoded_channels, seen.size, seen.size)
    assert config["interpolation"] == "bilinear"
    assert config["crop_pct"] == pytest.approx(1.0 if seen.resize is None else seen.size / seen.resize)
    if seen.encoding == "add_inverse":
        assert (config["mean"], config["std"]) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("indices", [None, (0, 1)], ids=str)
def test_features_only_gives_maps_of_the_announced_shape(indices, created, encoded):
    name, create = created
    stages = len(create().stages)
    chosen = {} if indices is None else {"out_indices": indices}
    if stages < 4 and indices is None:
        chosen = {"out_indices": stages}
    net = create(features_only=True, **chosen).double().eval()
    maps = net(encoded(name))
    assert [m.shape[1] for m in maps] == net.feature_info.channels()
    side = encoded(name).shape[-1]
    assert [m.shape[-1] for m in maps] == [-(-side // r) for r in net.feature_info.reduction()]


def test_network_without_classes_gives_features(created, encoded):
    name, create = created
    model = create(num_classes=0).double().eval()
    assert model(encoded(name)).shape == (2, model.forward_head(model.forward_features(encoded(name)), True).shape[1])


def test_model_of_timm_is_explained_exactly(created, encoded):
    name, create = created
    model, x = create().double(), encoded(name)
    model(x)
    e = explain(model.eval(), x)
    assert (e.residual.abs() < 1e-9).all()


def test_feature_net_is_explained_too(encoded):
    net = timm.create_model("bcos_cifar10_resnet20", features_only=True).double().eval()
    e = explain(torch.nn.Sequential(net, Last()), encoded("cifar10_resnet20"), 3)
    assert (e.residual.abs() < 1e-9).all()


class Last(torch.nn.Module):
    def forward(self, maps):
        return maps[-1].mean((2, 3))


@pytest.mark.slow
def test_timm_may_be_imported_first():
    """The other order is that of these tests, whose fixtures import bcos_models."""
    code = "import timm, bcos_models; assert timm.create_model('bcos_cifar10_resnet20').num_classes == 10"
    subprocess.run([sys.executable, "-c", code], check=True)
