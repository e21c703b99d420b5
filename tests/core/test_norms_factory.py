from itertools import product

import pytest
import torch
from torch import nn

import bcos_core
from bcos_core import BcosError, norms

KINDS = ["all", "batch", "group", "instance", "layer", "position"]


def test_there_are_twelve_norms():
    assert sorted(norms.norm_names()) == sorted(f"{k}{u}" for k, u in product(KINDS, ["", "_uncentered"]))


@pytest.mark.parametrize("name", norms.norm_names())
def test_name_says_which_class(name):
    kind, _, uncentered = name.partition("_")
    norm = norms.make_norm(name, 4)
    assert type(norm).__name__ == f"{kind.title()}Norm{'Uncentered' if uncentered else ''}2d"


@pytest.mark.parametrize("name", norms.norm_names())
def test_linear_is_the_default(name):
    assert [n for n, _ in norms.make_norm(name, 4).named_parameters()] == ["weight"]


@pytest.mark.parametrize("name", norms.norm_names())
def test_a_fresh_norm_has_unit_weight_and_zero_bias(name):
    norm = norms.make_norm(name, 4, affine="affine")
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()


@pytest.mark.parametrize("name", norms.norm_names())
@pytest.mark.parametrize("affine", ["affine", "linear", "plain"])
def test_parameters_and_statistics_can_be_reset(name, affine):
    norm = norms.make_norm(name, 4, affine=affine)
    fresh = {key: value.clone() for key, value in norm.state_dict().items()}
    norm(torch.randn(3, 4, 5, 5))
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    norm.reset_parameters()
    for key, value in norm.state_dict().items():
        assert torch.equal(value, fresh[key]), key


def test_every_layer_with_parameters_can_reset_them():
    public = [getattr(bcos_core, name) for name in bcos_core.__all__] + [getattr(norms, name) for name in norms.__all__]
    layers = [c for c in public if isinstance(c, type) and issubclass(c, nn.Module)]
    without = {c.__name__ for c in layers if not hasattr(c, "reset_parameters")}
    assert without == {f"{b}{kind}Attention" for b in ("", "Bcos") for kind in ("Self", "Cross")} | {
        "AddInverse",
        "LogitLayer",
    }  # have none of their own


def test_group_norm_has_two_groups():
    assert norms.make_norm("group", 4).num_groups == 2
    assert norms.make_norm("instance", 4).num_groups == 4
    assert norms.make_norm("layer_uncentered", 4).num_groups == 1


def test_eps_is_passed_on():
    assert norms.make_norm("position", 4).eps == 1e-5
    assert norms.make_norm("position", 4, eps=1e-6).eps == 1e-6


def test_none_is_the_identity():
    assert isinstance(norms.make_norm("none", 4), nn.Identity)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("batch_uncentred", {}, "there is no norm 'batch_uncentred'; did you mean 'batch_uncentered'?"),
        ("nonne", {}, "there is no norm 'nonne'; did you mean 'none'?"),
        ("xyz", {}, "there is no norm 'xyz'; choose from none, all, batch"),
        ("batch", {"affine": True}, r"affine must be one of \('affine', 'linear', 'plain'\), got True"),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(name, options, message):
    with pytest.raises(BcosError, match=message.replace("?", r"\?")):
        norms.make_norm(name, 4, **options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: norms.GroupNorm2d(3, 4), "num_groups must divide num_channels, got 3 and 4"),
        (lambda: norms.GroupNormUncentered2d(0, 4), "num_groups must divide num_channels, got 0 and 4"),
        (lambda: norms.make_norm("group", 3), "num_groups must divide num_channels, got 2 and 3"),
        (lambda: norms.LayerNorm(4, affine=False, bias=True), "bias=True needs affine=True"),
        (lambda: norms.BatchNorm2d(4, affine=False, bias=True), "bias=True needs affine=True"),
        (lambda: norms.PositionNorm2d(0), "a norm needs at least 1 feature, got 0"),
        (lambda: norms.InstanceNorm2d(0), "a norm needs at least 1 feature, got 0"),
    ],
)
def test_impossible_norms_are_refused_when_built(build, message):
    with pytest.raises(BcosError, match=message):
        build()


def test_all_norm_has_one_parameter_for_everything():
    assert norms.AllNormUncentered2d(8).weight.shape == torch.Size([1])


def test_repr_shows_groups_and_kind():
    assert repr(norms.GroupNorm2d(2, 4, affine=False)) == "GroupNorm2d(2, 4, eps=1e-05, plain)"
