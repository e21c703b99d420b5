import pytest
import torch

from bcos_cli.evaluate.samplers import SampledImages
from bcos_core import BcosError


def seen(total, batch, count, first=0, last=None):
    sampled = SampledImages(count, total)
    images = torch.arange(total, dtype=torch.uint8)[:, None, None, None]
    for start in range(first, total if last is None else last, batch):
        part = slice(start, min(start + batch, total if last is None else last))
        positions = torch.arange(total)[part]
        sampled.update(images[part], positions % 3, torch.rand(len(positions)), positions % 2, positions)
    return sampled


@pytest.mark.parametrize(("total", "count"), [(10, 4), (7, 7), (5, 9), (100, 1), (97, 13)])
def test_images_are_spread_evenly(total, count):
    images, labels, positions = seen(total, 3, count).collected()
    assert positions == [i * total // count for i in range(count)] if count < total else list(range(total))
    assert images.flatten().tolist() == positions
    assert labels.tolist() == [p % 3 for p in positions]


def test_processes_together_see_what_one_sees():
    first, second = seen(20, 4, 6, 0, 9), seen(20, 4, 6, 9, 20)
    first.merge(second.state())
    second.merge(first.state())
    for ours, theirs, whole in zip(first.collected(), second.collected(), seen(20, 5, 6).collected(), strict=True):
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(whole))
        assert torch.equal(torch.as_tensor(theirs), torch.as_tensor(whole))


def test_no_images_are_refused():
    with pytest.raises(BcosError, match="images must be at least 1, got 0"):
        SampledImages(0, 5)
