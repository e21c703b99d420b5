import itertools

import pytest
import torch

from bcos_core import BcosError
from bcos_explain.metrics import ConfidentImages


@pytest.fixture
def data():
    """(images, labels, confidences, predictions, keys) of 60 images, with many equal confidences."""
    labels = torch.randint(0, 4, (60,))
    predictions = torch.where(torch.rand(60) < 0.7, labels, (labels + 1) % 4)
    images = torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(60, 3, 2, 2)
    return images, labels, torch.randint(0, 4, (60,)) / 4, predictions, torch.arange(60)


def literal(data, capacity, above=0.0):
    _, labels, confidences, predictions, keys = (t.tolist() for t in data)
    kept = []
    for c in sorted(set(labels)):
        right = [i for i in keys if labels[i] == c == predictions[i] and confidences[i] > above]
        kept += sorted(right, key=lambda i: (-confidences[i], i))[:capacity]
    return kept


def collect(data, batches, **options):
    best = ConfidentImages(**options)
    for batch in batches:
        best.update(*(t[batch] for t in data))
    return best


@pytest.mark.parametrize("capacity", [1, 3, 100])
def test_keeps_the_most_confident_correct_images_of_each_class(data, capacity):
    best = collect(data, torch.arange(60).split(7), capacity=capacity)
    assert best.keys() == literal(data, capacity)
    assert len(best) == len(best.keys())


def test_result_does_not_depend_on_order_or_batches(data):
    expected = collect(data, [torch.arange(60)], capacity=3).keys()
    for seed, size in itertools.product(range(5), (1, 13)):
        order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
        assert collect(data, order.split(size), capacity=3).keys() == expected


def test_processes_are_merged_in_any_order(data):
    expected = collect(data, [torch.arange(60)], capacity=3)
    parts = [collect(data, [torch.arange(60)[r::3]], capacity=3).state() for r in range(3)]
    for order in itertools.permutations(parts):
        merged = ConfidentImages(3)
        for state in order:
            merged.merge(state)
        assert merged.keys() == expected.keys()
        for a, b in zip(merged.collected(), expected.collected(), strict=True):
            assert torch.equal(a, b)


def test_merging_what_is_known_changes_nothing(data):
    best = collect(data, [torch.arange(60)], capacity=3)
    keys = best.keys()
    best.merge(best.state())
    best.merge(ConfidentImages(3).state())
    assert best.keys() == keys


def test_images_stay_as_they_were_given(data):
    best = collect(data, [torch.arange(60)], capacity=2)
    images, labels, confidences = best.collected()
    assert images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == best.keys()
    assert torch.equal(labels, data[1][best.keys()])
    assert torch.equal(confidences.float(), data[2][best.keys()])


def test_kept_images_hold_no_batch_alive(data):
    best = collect(data, [torch.arange(60)], capacity=2)
    image = best._best[0][0][2]
    assert image.untyped_storage().nbytes() == image.numel()


def test_images_below_the_threshold_are_left_out(data):
    best = collect(data, [torch.arange(60)], capacity=100, min_confidence=0.5)
    assert best.keys() == literal(data, 100, above=0.5)


def test_keys_may_be_strings():
    best = ConfidentImages(1)
    one = torch.ones(2, dtype=torch.long)
    best.update(torch.rand(2, 3, 2, 2), one, torch.ones(2), one, ["b", "a"])
    assert best.keys() == ["a"]


def test_mistakes_are_refused(data):
    with pytest.raises(BcosError, match="capacity must be at least 1 image a class, got 0"):
        ConfidentImages(0)
    images, labels, confidences, predictions, keys = data
    with pytest.raises(BcosError, match=r"must be as many, got \[60, 60, 60, 60, 3\]"):
        ConfidentImages(1).update(images, labels, confidences, predictions, keys[:3])
    with pytest.raises(BcosError, match="60 of 60 confidences are NaN"):
        ConfidentImages(1).update(images, labels, confidences * torch.nan, predictions, keys)
    with pytest.raises(BcosError, match=r"no image was classified correctly with a confidence above 0\.9"):
        ConfidentImages(1, min_confidence=0.9).collected()
