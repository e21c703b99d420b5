"""What explainers say about their own results."""

import threading
import warnings

import pytest
import torch
from explained_networks import calibrated
from torch import nn

from bcos_explain import get_explainer
from bcos_explain.explainers import (
    ExplainerRemark,
    Remark,
    attribute,
    collect_remarks,
    remark,
    remark_lines,
    spatial_map,
)
from bcos_explain.explainers.remarks import remarks_about

CANCELLED = "the map is zero: its parts cancel, up to rounding"
ZERO = "the map is zero everywhere: the method found nothing for this class"


def lines_of(name, net, x, target=1, **options):
    with collect_remarks() as remarks:
        attribution = get_explainer(name, **options)(net, x, target)
    return attribution, remark_lines(remarks)


def test_a_remark_that_nobody_collects_is_a_warning():
    net, x = calibrated("bcos_rgb")
    with pytest.warns(ExplainerRemark, match="no ReLU was seen in this network"):
        get_explainer("guided_backprop")(net, x, 1)


def test_remarks_are_collected_by_the_thread_that_explains():
    def other():
        with collect_remarks() as own:
            remark("elsewhere")
        assert len(own) == 1

    with collect_remarks() as outer:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with collect_remarks() as inner:
            remark("inside")
        remark("outside")
    assert [[str(r) for r in found] for found in (outer, inner)] == [["outside"], ["inside"]]


def test_lines_give_each_text_once_with_its_largest_share():
    with collect_remarks() as remarks:
        remark("{share} is lost", torch.tensor([True, False, True]), torch.tensor([0.03, 0.9, 0.2]))
        remark("fell back")
        remark("fell back")
    assert remark_lines(remarks) == ["up to 20 % is lost", "fell back"]
    assert remark_lines(remarks[:1]) == ["3 % is lost"]
    assert str(Remark("{share}", 25.0)) == "more than 1000 %"


class Cancelling(nn.Module):
    """Logits that weigh channel c + 3 against channel c, and one that does not."""

    def forward(self, x):
        weights = torch.linspace(1, 2, 3).to(x).view(3, 1, 1)
        cancelled = (x[:, :3] * weights - x[:, 3:] * weights).sum((1, 2, 3))
        return torch.stack([cancelled, x[:, 0].sum((1, 2))], 1)


def test_maps_at_the_size_of_the_rounding_of_their_parts_are_zero_and_say_so():
    x = torch.rand(2, 6, 8, 8)
    noisy = torch.cat([torch.rand(2, 3, 8, 8)] * 2, 1) * torch.tensor([1.0] * 3 + [-1 - 1e-7] * 3).view(6, 1, 1)
    assert noisy.sum(1).any()
    with collect_remarks() as remarks:
        maps = attribute(get_explainer("gradient"), Cancelling(), x, torch.tensor([[1, 0]] * 2))
        assert not spatial_map(noisy).any()
    assert not maps[:, 1].any()
    assert (maps[:, 0] == 1).all()
    assert {(r.image, r.target) for r in remarks if r.target is not None} == {(0, 1), (1, 1)}
    assert remark_lines(remarks) == [CANCELLED]


def test_small_maps_whose_parts_do_not_cancel_stay():
    small = 1e-30 * torch.rand(2, 3, 8, 8)
    small[1] -= 0.999 * small[1].mean(0)
    torch.testing.assert_close(spatial_map(small), small.sum(1), rtol=1e-6, atol=0)


def test_maps_without_anything_say_so():
    net, x = calibrated("plain")
    nn.init.constant_(net.head[0].weight, -1.0)  # nothing speaks for any class
    with collect_remarks() as remarks:
        assert not attribute(get_explainer("gradcam"), net, x, torch.tensor([[0, 2]] * 3)).any()
    assert remark_lines(remarks) == [ZERO]


def test_remarks_are_numbered_by_image_and_target_whatever_the_batches():
    def zero_where_target_is_2(model, x, target):
        maps = torch.ones(len(x), *x.shape[2:])
        maps[target == 2] = 0
        return maps

    net, x = calibrated("plain")
    targets = torch.tensor([[0, 2], [1, 1], [2, 0]])

    def of_several_targets(model, x, target):
        return torch.stack([zero_where_target_is_2(model, x, column) for column in target.unbind(1)], 1)

    of_several_targets.several_targets = True
    for explainer in (zero_where_target_is_2, of_several_targets):
        for size in (None, 2, 1):
            with collect_remarks() as remarks:
                attribute(explainer, net, x, targets, batch_size=size)
            assert {(r.image, r.target) for r in remarks} == {(0, 1), (2, 0)}
            assert [str(r) for r in remarks_about(remarks, 0, 1)] == [ZERO]
            assert not remarks_about(remarks, 1, 0)


def test_a_part_that_memory_was_not_enough_for_leaves_no_remarks():
    def explainer(model, x, target):
        remark("said before memory ran out")
        if len(x) > 1:
            raise torch.OutOfMemoryError("out")
        return torch.ones(len(x), *x.shape[2:])

    net, x = calibrated("plain")
    with collect_remarks() as remarks:
        attribute(explainer, net, x, 0)
    assert len(remarks) == len(x)


@pytest.mark.parametrize(
    ("name", "options", "net_name", "cure"),
    [
        ("deeplift", {}, "tokens", "there is no rule for some of what this network computes"),
        ("integrated_gradients", {"n_steps": 1}, "plain", "raise n_steps"),
    ],
)
def test_methods_say_what_their_sum_misses_of_the_difference(name, options, net_name, cure):
    net, x = calibrated(net_name)
    net, x = net.double(), x[:1].double()
    attribution, lines = lines_of(name, net, x, **options)
    difference = (net(x) - net(torch.zeros_like(x)))[0, 1].detach()
    missed = float((attribution.sum() - difference).abs() / difference.abs())
    assert missed > 0.01
    shown = "more than 1000 %" if missed > 10 else f"{missed:.0%}".replace("%", " %")
    said = ["this is input times gradient: no module that DeepLIFT has a rule for ran in this network"]
    missing = f"the map's sum misses {shown} of f(x) - f(0); {cure}"
    assert lines == [*(said if net_name == "tokens" else []), missing]


@pytest.mark.parametrize("net", ["plain", "bcos_rgb"])
def test_methods_that_sum_to_the_difference_say_nothing(net):
    net, x = calibrated(net)
    for name in ("deeplift", "integrated_gradients"):
        options = {"n_steps": 400} if name == "integrated_gradients" else {}
        lines = lines_of(name, net.double(), x.double(), **options)[1]
        assert [line for line in lines if "misses" in line] == []


class Mean(nn.Module):
    """Logits that are the mean of the left half, and a constant."""

    def forward(self, x):
        left = x[..., : x.shape[-1] // 2].mean((1, 2, 3))
        return torch.stack([20 * left, torch.ones_like(left)], 1)


def test_rise_says_how_much_of_a_map_is_noise_of_its_masks():
    x = torch.ones(1, 3, 24, 24)
    options = {"confidence": "logit", "p": 0.5, "cells": 4}
    maps, lines = lines_of("rise", Mean(), x, 0, n_masks=2000, **options)
    assert lines == []
    again = get_explainer("rise", n_masks=2000, seed=1, **options)(Mean(), x, 0)
    assert torch.corrcoef(torch.stack([maps.flatten(), again.flatten()]))[0, 1] > 0.8
    _, (line,) = lines_of("rise", Mean(), x, 1, n_masks=40, **options)  # the constant: nothing but noise
    share = int(line.removeprefix("about ").partition(" %")[0])
    assert share > 40
    assert line.endswith("% of the map's variance is noise of the masks; raise n_masks")


def test_lime_says_where_there_are_more_cells_than_samples():
    net, x = calibrated("plain")  # 12×16 pixels
    assert lines_of("lime", net, x[:1], cell=4, n_samples=12)[1] == []
    expected = ["48 coefficients are fitted to 20 samples; raise n_samples or cell"]
    assert lines_of("lime", net, x[:1], cell=2, n_samples=20)[1] == expected


def test_rollout_says_that_it_knows_no_classes():
    net, x = calibrated("tokens")
    assert lines_of("attention_rollout", net, x)[1] == ["attention is the same for every class"]


def test_nothing_is_said_where_there_is_nothing_to_say():
    net, x = calibrated("plain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("bcos", "gradient", "input_x_gradient", "guided_backprop", "smoothgrad", "occlusion"):
            attribute(get_explainer(name), net, x, 1)
