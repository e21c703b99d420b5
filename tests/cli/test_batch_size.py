"""How an effective batch is split, and the largest batch that fits."""

import psutil
import pytest
import torch
from same_runs import assert_same

from bcos_cli.config import Train, load_recipe
from bcos_cli.train import max_batch
from bcos_cli.train.batch_size import BatchPlan, plan_batches
from bcos_cli.train.trainer import train
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


@pytest.mark.parametrize(("fits", "found"), [(100, 24), (24, 24), (23, 12), (7, 6), (1, 1), (0, 0)])
def test_the_largest_batch_is_tried_on_the_device(fits, found):
    tried = []

    def step(size):
        tried.append(size)
        if size > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    sizes = [24, 12, 8, 6, 4, 3, 2, 1]
    assert max_batch._fitting_device(step, sizes) == found
    assert set(tried) == {size for size in sizes if size >= found}


def test_other_errors_of_a_trial_are_not_taken_for_little_memory():
    def step(size):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        max_batch._fitting_device(step, [2, 1])


@pytest.fixture
def free(monkeypatch):
    """Set the free memory of this machine, in bytes."""

    def set_free(size):
        memory = psutil.virtual_memory()._replace(available=size)
        monkeypatch.setattr(max_batch.psutil, "virtual_memory", lambda: memory)

    return set_free


def test_on_a_cpu_activations_are_measured(free):
    weight = torch.randn(10, 1000, requires_grad=True)

    def step(size):  # tanh keeps its output, 1,000 numbers of 4 bytes an image; the product keeps its input, another
        ((torch.ones(size, 10) @ weight).tanh() * 1.0).exp().sum().backward()

    free(2 * 6 * (2 * 4000 + 40) + 100)  # half of it for activations, and their inputs are kept too
    assert max_batch._fitting_memory(step, [24, 12, 6, 3, 1]) == 6


def test_auto_is_a_number_in_the_run_which_gives_what_that_number_gives_and_resumes(recipe, free, tmp_path, capsys):
    free(150_000)
    auto = recipe(train={"max_batch": "auto", "epochs": 1})
    train(auto, tmp_path / "run")
    number = load_recipe(str(tmp_path / "run/config.yaml"), needs=()).train.max_batch
    assert number in (1, 2, 4)
    assert f"train.max_batch: {number} of the 8 images of a process fit at once (auto)" in capsys.readouterr().err
    train(recipe(train={"max_batch": number, "epochs": 1}), tmp_path / "given")
    assert_same(tmp_path / "run", tmp_path / "given")
    free(10**9)
    train(auto, tmp_path / "run", resume=True)
    assert load_recipe(str(tmp_path / "run/config.yaml"), needs=()).train.max_batch == number


def test_too_little_memory_for_one_image_is_said(recipe, free, tmp_path):
    free(100)
    with pytest.raises(BcosError, match=r"train.max_batch=auto: not even 1 images? fits? into the memory of cpu"):
        train(recipe(train={"max_batch": "auto"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
