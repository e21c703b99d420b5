"""Optimizers and schedules against their formulas."""

import math

import pytest
import torch
from torch import nn

from bcos_cli.config import Optimizer, Schedule
from bcos_cli.train.optimization import make_optimizer, make_schedule
from bcos_core import BcosError
from bcos_models import create_model

LR = 0.2


def rates(config, epochs, steps_per_epoch):
    """Learning rate of every step, and after the last."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=LR)
    schedule = make_schedule(optimizer, config, LR, epochs, steps_per_epoch)
    found = [optimizer.param_groups[0]["lr"]]
    for step in range(1, epochs * steps_per_epoch + 1):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_from_the_learning_rate_to_its_final_share(final):
    total = 20
    found = rates(Schedule(final_factor=final), 4, 5)
    for step in range(total):
        expected = LR * (final + (1 - final) * (1 + math.cos(math.pi * step / total)) / 2)
        assert found[step] == pytest.approx(expected, rel=1e-9), step
    assert found[total] == pytest.approx(LR * final, abs=1e-12)


@pytest.mark.parametrize(("epochs", "warm"), [(2.0, 10), (0.5, 2), (1.1, 6)])
def test_warm_up_is_linear_from_its_share_to_the_full_rate(epochs, warm):
    found = rates(Schedule(warmup_epochs=epochs, warmup_factor=0.1), 4, 5)
    for step in range(warm):
        assert found[step] == pytest.approx(LR * (0.1 + 0.9 * step / warm), rel=1e-9), step
    for step in range(warm, 20):
        assert found[step] == pytest.approx(LR * (1 + math.cos(math.pi * (step - warm) / (20 - warm))) / 2, rel=1e-9), (
            step
        )


def test_warm_up_loses_nothing_at_its_end():
    """The largest rate is the recipe's."""
    found = rates(Schedule(warmup_epochs=1), 10, 10)
    assert max(found) == pytest.approx(LR, rel=1e-9)
    assert found.index(max(found)) == 10


def test_resumed_schedule_is_the_uninterrupted_one():
    whole = rates(Schedule(warmup_epochs=1), 4, 5)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=LR)
    schedule = make_schedule(optimizer, Schedule(warmup_epochs=1), LR, 4, 5)
    schedule.step_update(7)
    assert optimizer.param_groups[0]["lr"] == whole[7]


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimizer_by_name(name, kind):
    config = Optimizer(name=name, lr=0.3, weight_decay=0.1, momentum=0.7)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = make_optimizer(model, config)
    assert isinstance(optimizer, kind)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays == {id(p): 0.1 if p.ndim > 1 else 0.0 for p in model.parameters()}
    assert all(g["lr"] == 0.3 for g in optimizer.param_groups)
    assert name != "sgd" or all(g["momentum"] == 0.7 for g in optimizer.param_groups)


def test_linear_goes_to_its_final_share_and_constant_stays():
    found = rates(Schedule(name="linear", final_factor=0.2), 4, 5)
    assert found == pytest.approx([LR * (1 - 0.8 * step / 20) for step in range(21)], rel=1e-9)
    assert rates(Schedule(name="constant"), 2, 5) == pytest.approx([LR] * 11, rel=1e-12)


@pytest.mark.parametrize("warm", [0, 3])
def test_steps_multiply_the_rate_after_their_epochs(warm):
    found = rates(Schedule(name="step", step_epochs=[1, 3], step_factor=0.5, warmup_steps=warm), 4, 5)
    assert found[warm:5] == pytest.approx([LR] * (5 - warm))
    assert found[5:15] == pytest.approx([LR / 2] * 10)
    assert found[15:20] == pytest.approx([LR / 4] * 5)


def test_warm_up_may_be_counted_in_steps():
    found = rates(Schedule(warmup_steps=4, warmup_factor=0.0), 2, 10)
    assert found[:5] == pytest.approx([LR * step / 4 for step in range(5)], abs=1e-12)
    with pytest.raises(BcosError, match=r"a warm-up of 20 steps leaves nothing of 20; .* -o schedule\.warmup_"):
        rates(Schedule(warmup_steps=20), 2, 10)


@pytest.mark.parametrize("name", ["cifar10_resnet20", "vitc_ti_patch1_14", "densenet121", "convnext_tiny"])
def test_rates_fall_from_the_classifier_to_the_image_and_every_parameter_has_one(name):
    with torch.device("meta"):
        model = create_model(name)
    optimizer = make_optimizer(model, Optimizer(lr=0.1, layer_decay=0.5, weight_decay=0.1))
    scales = {id(p): group.get("lr_scale", 1.0) for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert scales.keys() == {id(p) for p in named.values()}
    classifier = [scales[id(p)] for p in model.get_classifier().parameters()]
    first = scales[id(next(iter(named.values())))]
    assert set(classifier) == {1.0} == {max(scales.values())}
    assert first == min(scales.values()) < 0.51


def test_layer_decay_is_a_factor_of_the_rate_in_every_step():
    model = create_model("cifar10_resnet20", depths=[1], width=8)
    optimizer = make_optimizer(model, Optimizer(lr=LR, layer_decay=0.5))
    make_schedule(optimizer, Schedule(name="linear"), LR, 1, 10).step_update(5)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(LR / 2 * group.get("lr_scale", 1.0))
    assert len({group["lr"] for group in optimizer.param_groups}) > 1


def test_layer_decay_needs_a_network_that_tells_its_classifier():
    with pytest.raises(BcosError, match=r"optimizer.layer_decay needs a network with get_classifier\(\)"):
        make_optimizer(nn.Linear(2, 2), Optimizer(layer_decay=0.5))


def test_lamb_is_there():
    assert type(make_optimizer(nn.Linear(2, 2), Optimizer(name="lamb"))).__name__ == "Lamb"


def test_nothing_to_train_is_refused():
    with pytest.raises(BcosError, match="all parameters are frozen"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False), Optimizer())
