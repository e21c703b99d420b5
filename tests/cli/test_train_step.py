"""One step: what is drawn, mixed, clipped."""

import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from bcos_cli.config import Mixing
from bcos_cli.train.model import build
from bcos_cli.train.optimization import make_mixup
from bcos_cli.train.train_step import TrainStep, seed_batch


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_what_is_drawn_is_a_function_of_seed_epoch_batch_and_process():
    found = {}
    for key in [(s, e, b, r) for s in (0, 1) for e in (0, 1) for b in (0, 1) for r in (0, 1)]:
        seed_batch(*key)
        found[key] = draws()
    assert len(set(found.values())) == 16
    for key, expected in reversed(found.items()):
        seed_batch(*key)
        assert draws() == expected


def test_nothing_is_mixed_unless_asked():
    assert make_mixup(Mixing(), 3, multi_label=False) is None


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_are_mixed_as_images_are(kind, multi_label):
    seed_batch(0, 0, 0, 0)
    mixing = make_mixup(Mixing(**{kind: 1.0}), 2, multi_label)
    images = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None, None].expand(4, 1, 8, 8).clone()
    labels = torch.tensor([0, 1, 0, 1])
    if multi_label:
        labels = torch.eye(2)[labels]
    mixed, targets = mixing(images, labels)
    assert targets.shape == (4, 2)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    share = targets[:, 1]
    torch.testing.assert_close(mixed.mean((1, 2, 3)), share, atol=1e-6, rtol=0)
    assert 0 < float(share[0]) < 1


@pytest.fixture
def train_step(recipe):
    def make(**sections):
        made = recipe(**sections)
        torch.manual_seed(0)
        trained = build(made, ["rows", "columns", "corner"])
        accelerator = Accelerator(cpu=True)
        model, optimizer = accelerator.prepare(trained.model, torch.optim.SGD(trained.model.parameters(), lr=1.0))
        return TrainStep(
            made.train, made.clipping, None, trained.encode, model, optimizer,
            lambda z, t, _: 1e3 * nn.functional.cross_entropy(z, t), accelerator,
        )  # fmt: skip

    return make


def change(step):
    before = [p.detach().clone() for p in step.model.parameters()]
    step.run(torch.randint(0, 255, (6, 1, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2]))
    return before, [b - p.detach() for b, p in zip(before, step.model.parameters(), strict=True)]


def test_adaptive_clipping_bounds_each_units_change_by_its_weight(train_step):
    before, steps = change(train_step(clipping={"adaptive": 0.01}))
    clipped = 0
    for weight, step in zip(before, steps, strict=True):
        if weight.ndim == 4:
            norms = weight.flatten(1).norm(dim=1).clamp(min=1e-3), step.flatten(1).norm(dim=1)
            assert (norms[1] <= 0.01 * norms[0] * 1.001).all()
            clipped += int((norms[1] > 0.0099 * norms[0]).sum())
    assert clipped


def test_clipping_the_norm_bounds_the_whole_step(train_step):
    _, free = change(train_step())
    _, bound = change(train_step(clipping={"norm": 0.5}))
    assert torch.cat([s.flatten() for s in free]).norm() > 1
    torch.testing.assert_close(torch.cat([s.flatten() for s in bound]).norm(), torch.tensor(0.5), rtol=1e-4, atol=0)
