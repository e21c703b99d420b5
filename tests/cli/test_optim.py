"""Losses, optimizers and the schedule against their formulas."""

import math

import pytest
import torch
from torch import nn

from bcos_cli.config import Optimizer, Schedule
from bcos_cli.training.losses import LossOptions, make_loss
from bcos_cli.training.optim import make_optimizer, make_schedule
from bcos_core.losses import BinaryCrossEntropyLoss, UniformOffLabelsBCELoss

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


@pytest.mark.parametrize(
    ("name", "training", "evaluation"),
    [
        ("bce", BinaryCrossEntropyLoss, BinaryCrossEntropyLoss),
        ("uniform_off_label_bce", UniformOffLabelsBCELoss, BinaryCrossEntropyLoss),
        ("cross_entropy", nn.CrossEntropyLoss, nn.CrossEntropyLoss),
    ],
)
def test_loss_by_name(name, training, evaluation):
    assert type(make_loss(name)) is training
    assert type(make_loss(name, LossOptions(evaluation=True))) is evaluation
    assert make_loss(name)(torch.randn(2, 3), torch.tensor([0, 2])).ndim == 0
