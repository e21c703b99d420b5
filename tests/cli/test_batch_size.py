"""How an effective batch is split."""

import pytest

from bcos_cli.config import Train
from bcos_cli.train.batch_size import BatchPlan, plan_batches
from bcos_core import BcosError


def plan(world, **train):
    return plan_batches(Train(epochs=1, **train), world)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("size", [12, 24, 60, 132])
@pytest.mark.parametrize("most", [None, 1, 5, 7, 100])
def test_every_split_makes_the_effective_batch_in_as_few_parts_as_fit(world, size, most):
    found = plan(world, batch_size=size, max_batch=most)
    share = size // world
    assert found.effective == size
    assert found.per_process <= (most or share)
    fewer = [parts for parts in range(1, found.accumulate) if share % parts == 0 and share // parts <= (most or share)]
    assert fewer == []


def test_accumulated_batches_by_choice():
    assert plan(2, batch_size=24, accumulate=3) == BatchPlan(4, 3, 2)


@pytest.mark.parametrize(
    ("world", "train", "message"),
    [
        (3, {"batch_size": 64}, "train.batch_size=64 cannot be split over 3 processes; make it a multiple of 3"),
        (2, {"batch_size": 12, "accumulate": 4}, "over 2 processes and 4 accumulated batches; make it a multiple of 8"),
    ],
)
def test_batch_that_cannot_be_split_is_refused_with_those_that_can(world, train, message):
    with pytest.raises(BcosError, match=message):
        plan(world, **train)
