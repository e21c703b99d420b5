"""The plan of a split's samples: pure, so that properties are tried on many random cases."""

import random
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import pytest

from bcos_cli.data.sample_order import Drawing, SampleOrder
from bcos_cli.data.shards import HoldOut, Shards

CASES = range(60)


def case(seed):
    """A random plan, the number of workers, and the positions of the samples that it is about."""
    draw = random.Random(seed)
    lengths = [draw.randint(1, 12) for _ in range(draw.randint(1, 7))]
    part = draw.choice(["held out", "rest"])
    hold_out = HoldOut(draw.choice([0.1, 0.5]), seed) if draw.random() < 0.5 else None
    shards = Shards([f"{k}.tar" for k in range(len(lengths))], lengths, hold_out, part)
    order = SampleOrder(shards, seed=seed, world=draw.randint(1, 5), batch_size=draw.randint(1, 5))
    return order, draw.randint(1, 5), positions(shards.slices(0, shards.total))


def positions(slices):
    return [p.position + k - p.start for p in slices for k in range(p.start, p.stop) if k not in p.left_out]


def ranks(order):
    return [replace(order, rank=rank) for rank in range(order.world)]


@pytest.mark.parametrize("seed", CASES)
def test_evaluation_takes_every_sample_once_by_any_number_of_processes_and_workers(seed):
    order, workers, everything = case(seed)
    taken = []
    for own in ranks(order):
        of_workers = [positions(own.evaluation(worker, workers)) for worker in range(workers)]
        assert sum(map(len, of_workers)) == own.length
        for worker, found in enumerate(of_workers):
            batches = own.worker_batches(worker, workers)
            assert -(-len(found) // own.batch_size) == len(batches)
            assert len(found) % own.batch_size == 0 or batches.stop == own.batches
            taken += found
    assert taken == everything
    lengths = [own.length for own in ranks(order)]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("seed", CASES)
def test_evaluation_goes_on_at_any_batch(seed):
    order, workers, _ = case(seed)
    for own in ranks(order):
        for worker in range(workers):
            whole = positions(own.evaluation(worker, workers))
            for done in range(len(own.worker_batches(worker, workers)) + 1):
                rest = positions(own.evaluation(worker, workers, done))
                assert rest == whole[done * own.batch_size :]


@pytest.mark.parametrize("seed", CASES)
def test_training_takes_as_much_for_each_process_no_sample_twice_and_leaves_less_than_a_step(seed):
    order, workers, everything = case(seed)
    drawing = Drawing(shuffle=seed % 2 * 4, multiple=1 + seed % 3)
    step = order.world * order.batch_size * drawing.multiple
    if step > len(everything):
        return
    order = replace(order, drawing=drawing)
    for epoch in (0, 1, 7):
        taken = []
        for own in ranks(order):
            first = [next(own.training(drawing, epoch, worker, workers)) for worker in range(workers)]
            found = [positions(turn.slices) for turn in first]
            sizes = [len(own.worker_batches(worker, workers)) * own.batch_size for worker in range(workers)]
            assert [len(of_worker) for of_worker in found] == sizes
            assert sum(sizes) == own.length == ranks(order)[0].length
            assert own.length % (own.batch_size * drawing.multiple) == 0
            taken += [p for of_worker in found for p in of_worker]
            second = list(islice(own.training(drawing, epoch, 0, workers), 2))[1]
            assert sorted(positions(second.slices)) == sorted(p for of_worker in found for p in of_worker)
        assert len(set(taken)) == len(taken) > len(everything) - step
        if epoch == 0:
            assert sorted(taken + positions(order.left_over(drawing))) == everything


@pytest.mark.parametrize("seed", CASES)
def test_repeats_see_each_sample_in_one_epoch_of_a_cycle(seed):
    order, workers, everything = case(seed)
    drawing = Drawing(shuffle=4, repeats=2)
    order = replace(order, batch_size=2 * order.batch_size)
    if order.world * order.batch_size > len(everything):
        return
    order = replace(order, drawing=drawing)
    for cycle in (0, 3):
        taken = [
            position
            for epoch in (2 * cycle, 2 * cycle + 1)
            for own in ranks(order)
            for worker in range(workers)
            for position in positions(next(own.training(drawing, epoch, worker, workers)).slices)
        ]
        assert len(set(taken)) == len(taken) == order.length * order.world
        assert set(taken) <= set(everything)


@pytest.mark.parametrize("most", [1, 5, 100])
def test_evaluation_of_the_first_samples_alone(most):
    order = SampleOrder(Shards(["a.tar", "b.tar"], [4, 9]), batch_size=2, most=most)
    taken = [p for worker in range(2) for p in positions(order.evaluation(worker, 2))]
    assert taken == list(range(13))[:most]
    assert order.batches == -(-len(taken) // 2)


def test_classes_are_drawn_as_often_as_they_are_rare():
    drawing = Drawing(class_counts=(30, 10, 0, 20))
    counts = [sum(drawing.copies(label, f"{k}") for k in range(3000)) / 3000 for label in range(4)]
    assert counts == pytest.approx([20 / 30, 2, 1, 1], abs=0.03)
    assert Drawing().copies(5, "any") == 1


def test_plan_imports_no_torch():
    code = "import sys, bcos_cli.data.sample_order; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
