import logging

import pytest
import torch
from explained_networks import calibrated

from bcos_core import BcosError
from bcos_explain import get_explainer
from bcos_explain.explainers import attribute

pytestmark = pytest.mark.filterwarnings("ignore::bcos_explain.explainers.ExplainerRemark")


class Limited:
    """An explainer with memory for a few images only."""

    several_targets = True

    def __init__(self, limit, error):
        self.limit = limit
        self.error = error
        self.sizes = []

    def __call__(self, model, x, target=None):
        self.sizes.append(len(x))
        if len(x) > self.limit:
            raise self.error
        return get_explainer("bcos")(model, x, target)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: not enough memory: you tried")],
)
def test_batches_are_halved_until_they_fit_and_stay_so(error, caplog):
    net, _ = calibrated("plain")
    x = torch.rand(11, 3, 12, 16)
    targets = torch.randint(0, 5, (11, 2))
    limited = Limited(2, error)
    with caplog.at_level(logging.WARNING):
        maps = attribute(limited, net, x, targets, batch_size=8)
    assert limited.sizes == [8, 4, 2, 2, 2, 2, 2, 1]
    assert "explaining 2 images at a time" in caplog.text
    torch.testing.assert_close(maps, get_explainer("bcos")(net, x, targets).sum(2))


def test_a_single_image_that_does_not_fit_is_refused():
    net, x = calibrated("plain")
    with pytest.raises(BcosError, match="out of memory with a single image"):
        attribute(Limited(0, torch.OutOfMemoryError("out")), net, x, 1)


def test_other_errors_are_not_hidden():
    net, x = calibrated("plain")
    with pytest.raises(RuntimeError, match="something else"):
        attribute(Limited(0, RuntimeError("something else")), net, x, 1)


def test_explainers_that_take_one_target_are_called_for_each():
    net, x = calibrated("plain")
    given = []

    def single(model, x, target=None):
        given.append(target.tolist())
        return get_explainer("gradcam")(model, x, target)

    targets = torch.tensor([[0, 3], [1, 1], [4, 2]])
    maps = attribute(single, net, x, targets)
    assert given == [[0, 1, 4], [3, 1, 2]]
    torch.testing.assert_close(maps, get_explainer("gradcam")(net, x, targets))


def test_targets_follow_their_images_into_batches():
    net, x = calibrated("plain")
    targets = torch.tensor([4, 0, 2])
    whole = get_explainer("gradient")(net, x, targets).sum(1)
    torch.testing.assert_close(attribute(get_explainer("gradient"), net, x, targets, batch_size=1), whole)


def test_maps_of_another_shape_are_refused():
    net, x = calibrated("plain")
    with pytest.raises(BcosError, match=r"gave maps of shape \(3, 5, 5\) for inputs of shape \(3, 3, 12, 16\)"):
        attribute(lambda *_: torch.zeros(3, 5, 5), net, x, 0)


def test_no_images_at_once_is_refused():
    net, x = calibrated("plain")
    with pytest.raises(BcosError, match="batch_size must be at least 1, got 0"):
        attribute(get_explainer("bcos"), net, x, 0, batch_size=0)


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion", "rise", "lime"])
def test_methods_that_pass_many_variants_pass_fewer_where_memory_runs_out(name, caplog):
    net, x = calibrated("plain")
    options = {"lime": {"n_samples": 20}, "rise": {"n_masks": 12}}.get(name, {})
    expected = get_explainer(name, **options)(net, x[:1], 2)
    sizes = []

    def limited(_module, args):
        sizes.append(len(args[0]))
        if len(args[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    net.register_forward_pre_hook(limited)
    found = get_explainer(name, **options)(net, x[:1], 2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert sum(size > 3 for size in sizes) <= 4
    assert "out of memory: passing 2 images at a time" in caplog.text


@pytest.mark.parametrize("target", [[0, 1, 2, 3], torch.zeros(1, 2, dtype=torch.int64)])
def test_targets_must_be_as_many_as_the_images(target, colour_net):
    with pytest.raises(BcosError, match="classes for 3 inputs"):
        attribute(get_explainer("gradient"), colour_net, torch.rand(3, 6, 8, 8), target)
