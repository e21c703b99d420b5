"""What every family has in common: classifier, features, freezing, logit bias."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from bcos_core import BcosError, explain
from bcos_models import create_model
from bcos_models.classifier import Logits


@pytest.fixture
def x(family, encoded):
    return encoded(family[0])


def test_head_of_the_features_is_the_network(small, x):
    torch.testing.assert_close(small.forward_head(small.forward_features(x)), small(x))


def test_logits_are_the_classifier_on_averaged_features(small, x):
    """Pooling commutes with a linear classifier only; B-cos classifiers vote position by position."""
    pooled = small.forward_head(small.forward_features(x), pre_logits=True)
    small.reset_classifier(0)
    assert small.num_classes == 0
    torch.testing.assert_close(small(x), pooled)
    assert pooled.ndim == 2


def test_classifier_is_the_last_layer_with_parameters(small):
    names = [name.rpartition(".")[0] for name, _ in small.named_parameters()]
    assert small.get_submodule(names[-1]) is small.get_classifier()
    assert names[-1] == small.classifier_name


def test_new_classifier_has_its_classes_and_their_bias(small, x):
    before = {k: v.clone() for k, v in small.state_dict().items()}
    small.reset_classifier(3)
    assert small(x).shape == (2, 3)
    assert small.get_classifier().weight.dtype == torch.float64
    assert not small.get_classifier().training
    if hasattr(small.logit_layer, "logit_bias") and "Bcos" in type(small.get_classifier()).__name__:
        assert small.logit_layer.logit_bias == pytest.approx(-math.log(2))
    after = small.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in after if not k.startswith(small.classifier_name))


def test_network_without_classifier_gets_one_again(small, x):
    small.reset_classifier(0)
    small.reset_classifier(4)
    assert small(x).shape == (2, 4)


def test_intermediates_are_the_stages(small, x):
    features, maps = small.forward_intermediates(x)
    torch.testing.assert_close(features, small.forward_features(x))
    assert len(maps) == len(small.feature_info)
    for info, feature_map in zip(small.feature_info, maps, strict=True):
        side = math.ceil(x.shape[-1] / info["reduction"])
        assert feature_map.shape == (2, info["num_chs"], side, side)


def test_chosen_intermediates_stop_early(small, x):
    _, maps = small.forward_intermediates(x)
    ran = []
    last = small.get_submodule(small.feature_info[-1]["module"])
    last.register_forward_hook(lambda *_: ran.append(1))
    (first,) = small.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(first, maps[0])
    assert not ran
    (final,) = small.forward_intermediates(x, indices=1, intermediates_only=True)
    torch.testing.assert_close(final, maps[-1])
    assert ran


def test_pruned_network_still_gives_its_maps(small, x):
    _, maps = small.forward_intermediates(x)
    kept = small.prune_intermediate_layers([0], prune_norm=True)
    assert kept == [0]
    (first,) = small.forward_intermediates(x, indices=kept, intermediates_only=True)
    torch.testing.assert_close(first, maps[0])
    assert len(small.stages) == 1


def test_frozen_network_trains_its_classifier_alone(small, x):
    small.freeze()
    small.train()
    before = {k: v.clone() for k, v in small.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in small.parameters() if p.requires_grad], lr=1.0)
    small(x).square().sum().backward()
    optimizer.step()
    changed = {k for k, v in small.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(k.startswith(small.classifier_name) for k in changed)


def test_unfrozen_network_trains_all(small, x):
    small.freeze()
    small.unfreeze()
    small.train()
    assert all(p.requires_grad for p in small.parameters())
    assert all(m.training for m in small.modules())


def test_network_can_be_pickled_and_copied(small, x):
    torch.testing.assert_close(pickle.loads(pickle.dumps(small))(x), small(x))
    torch.testing.assert_close(copy.deepcopy(small)(x), small(x))


def test_a_model_knows_its_transform_and_how_it_was_made(family):
    from PIL import Image

    name, options = family
    model = create_model(name, **options)
    assert model.bcos_config.name == name
    assert {**model.bcos_config.options, "num_classes": 5} == options
    x = model.transform(Image.new("RGB", (300, 260), "red"))[None]
    assert model.eval()(x).shape == (1, 5)


@pytest.mark.parametrize(
    ("classes", "pool", "message"), [(-1, None, "at least 0, got -1"), (3, "max", "must be 'avg'")]
)
def test_impossible_classifiers_are_refused(classes, pool, message):
    model = create_model("cifar10_resnet20", depths=(1,), width=4)
    with pytest.raises(BcosError, match=message):
        model.reset_classifier(classes, pool)


def test_other_formats_of_maps_are_refused():
    model = create_model("cifar10_resnet20", depths=(1,), width=4)
    with pytest.raises(BcosError, match="output_fmt must be 'NCHW', got 'NLC'"):
        model.forward_intermediates(torch.rand(1, 6, 8, 8), output_fmt="NLC")


def test_prior_is_the_probability_of_an_untrained_network():
    layer = Logits(prior=0.2).layer(7)
    assert torch.sigmoid(torch.tensor(layer.logit_bias)) == pytest.approx(0.2)
    assert Logits().layer(7).logit_bias == pytest.approx(-math.log(6))
    assert Logits(bias=None).layer(7).logit_bias is None


def test_multi_label_network_starts_at_its_prior():
    from bcos_core.losses import BinaryCrossEntropyLoss

    model = create_model("cifar10_resnet20", depths=(1,), width=64, prior=0.3).double()
    x, labels = torch.rand(4, 6, 8, 8).double(), (torch.rand(4, 10) < 0.3).double()
    logits = model(x)
    assert float(logits.detach().sigmoid().mean()) == pytest.approx(0.3, abs=0.1)
    BinaryCrossEntropyLoss()(logits, labels).backward()
    e = explain(model.eval(), x, [[0, 3]] * 4)
    assert (e.residual.abs() < 1e-9).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": 0.0}, "prior must be between 0 and 1, got 0.0"),
        ({"prior": 1.5}, "prior must be between 0 and 1, got 1.5"),
        ({"prior": 0.1, "logit_bias": 2.0}, "give prior or logit_bias, not both; got 0.1 and 2.0"),
    ],
    ids=str,
)
def test_impossible_priors_are_refused(options, message):
    with pytest.raises(BcosError, match=message):
        create_model("cifar10_resnet20", **options)


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_any_number_of_channels_is_encoded_and_explained(family, channels):
    name, options = family
    encoded = channels * (1 if name.startswith("standard_") else 2)
    model = create_model(name, in_chans=encoded, **options).double()
    assert model.transform.input.channels == channels
    x = torch.rand(2, encoded, 48, 48, dtype=torch.float64)
    model(x)
    e = explain(model.eval(), x, 1)
    assert e.weight.shape == x.shape
    assert (e.residual.abs() < 1e-9).all()
    assert model.transform(torch.rand(channels, 60, 60)).shape[0] == encoded


def test_odd_channels_have_no_inverse():
    model = create_model("cifar10_resnet20", in_chans=3)
    assert (model.transform.input.channels, model.transform.input.encoding) == (3, "none")
    values = torch.rand(3, 32, 32)
    torch.testing.assert_close(model.transform(values), values)


def test_stopping_early_gives_the_features_of_the_last_stage_that_ran(small, x):
    features, (first,) = small.forward_intermediates(x, indices=[0], stop_early=True)
    torch.testing.assert_close(small.as_map(features, x), first)


def test_norm_is_applied_to_the_last_map_of_densenets(calibrated, encoded, small_options):
    model, x = calibrated("densenet121", **small_options["densenet121"]), encoded("densenet121")
    _, maps = model.forward_intermediates(x, norm=True)
    torch.testing.assert_close(maps[-1], model.forward_features(x))


def test_stages_that_are_not_there_are_refused(small, x):
    with pytest.raises(BcosError, match=rf"the network has {len(small.stages)} stages, got indices=\[99\]"):
        small.forward_intermediates(x, indices=[99])


def test_hidden_size_is_what_the_classifier_sees(small, x):
    assert small.forward_head(small.forward_features(x), pre_logits=True).shape[1] == small.head_hidden_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": "8"}, "must be at least 1, got 10, 6 and '8'"),
        ({"depths": 3}, "the model 'cifar10_resnet20' cannot be built with {'depths': 3}"),
        ({"drop_path": "a"}, r"drop_path must be in \[0, 1\), got 'a'"),
        ({"prior": "0.3"}, "prior must be a number or None, got '0.3'"),
        ({"logit_bias": "x"}, "logit_bias must be a number, 'auto' or None, got 'x'"),
        ({"logit_temperature": "a"}, "logit_temperature must be a number or None, got 'a'"),
        ({"num_classes": 2.5}, "num_classes must be at least 1, got 2.5"),
    ],
    ids=str,
)
def test_options_of_another_type_are_refused(options, message):
    with pytest.raises(BcosError, match=message):
        create_model("cifar10_resnet20", **options)


def test_integers_of_numpy_are_integers():
    import numpy as np

    assert create_model("cifar10_resnet20", num_classes=np.int64(5), width=np.int64(8)).num_classes == 5


def test_plain_modules_are_classifiers_too():
    assert isinstance(create_model("standard_cifar10_resnet20").get_classifier(), nn.Conv2d)
