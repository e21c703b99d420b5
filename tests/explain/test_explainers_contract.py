"""One contract for every registered explainer, on B-cos networks, a plain one and a transformer."""

import copy
import threading

import pytest
import torch
from explained_networks import BUILDERS, calibrated

import bcos_explain
from bcos_core import BcosError, explain
from bcos_explain.explainers import attribute, spatial_map

NAMES = bcos_explain.list_explainers()
QUICK = {
    "integrated_gradients": {"n_steps": 6},
    "lime": {"n_samples": 20, "cell": 4, "alpha": 0.01},
    "occlusion": {"window": 4, "stride": 2},
    "rise": {"n_masks": 20, "cells": 3, "p": 0.5, "confidence": "logit"},
    "smoothgrad": {"n_samples": 3},
}
TRANSFORMERS_ONLY = {"attention_rollout"}
SAME_FOR_EVERY_CLASS = {"attention_rollout"}

pytestmark = pytest.mark.filterwarnings("ignore::bcos_explain.explainers.ExplainerRemark")


def quick(name):
    return bcos_explain.get_explainer(name, **QUICK.get(name, {}))


@pytest.fixture(params=NAMES)
def explainer(request):
    return quick(request.param)


@pytest.fixture(params=BUILDERS)
def net_and_input(request, explainer):
    fitting = {"tokens"} if explainer in map(quick, TRANSFORMERS_ONLY) else set(BUILDERS)
    if request.param not in fitting:
        pytest.skip("for transformers")
    return calibrated(request.param)


def test_all_methods_are_registered():
    assert set(NAMES) >= set(
        "attention_rollout bcos bcos_relative deeplift gradcam gradient guided_backprop input_x_gradient "
        "integrated_gradients layercam lime occlusion rise smoothgrad".split()
    )


def test_shape_type_and_values(explainer, net_and_input):
    net, x = net_and_input
    a = explainer(net, x, None)
    assert a.shape in ((3, *x.shape[1:]), (3, *x.shape[2:]))
    assert a.dtype == x.dtype
    assert a.isfinite().all()
    assert sum(explainer(net, x, k).abs().sum() for k in range(5)) > 0


def test_several_targets_are_those_of_single_calls(explainer, net_and_input):
    net, x = net_and_input
    targets = torch.tensor([[0, 3], [1, 1], [4, 2]])
    together = explainer(net, x, targets)
    assert together.shape[:2] == (3, 2)
    for t in range(2):
        torch.testing.assert_close(together[:, t], explainer(net, x, targets[:, t]), atol=1e-6, rtol=1e-4)


def test_one_forward_pass_serves_all_targets(explainer, net_and_input):
    net, x = net_and_input
    explainer(net, x, 0)  # the first time outputs are compared
    passed = []
    handle = next(m for m in net.modules() if not list(m.children())).register_forward_hook(
        lambda _m, args, _o: passed.append(len(args[0]))
    )
    explainer(net, x, torch.tensor([0, 3, 4]))
    alone = sum(passed)
    passed.clear()
    explainer(net, x, torch.tensor([[0, 3, 1], [1, 2, 0], [4, 2, 0]]))
    handle.remove()
    assert alone > 0
    assert sum(passed) == alone


def test_threads_explain_one_model_as_one_thread_would(explainer, net_and_input):
    net, x = net_and_input
    expected = [explainer(net, x, k) for k in range(4)]
    found = [None] * 4

    def work(k):
        found[k] = explainer(net, x, k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, one in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, one, atol=1e-6, rtol=1e-4)


def test_maps_in_small_batches_are_those_of_one(explainer, net_and_input):
    net, x = net_and_input
    targets = torch.tensor([[0, 3], [1, 1], [4, 2]])
    whole = attribute(explainer, net, x, targets)
    assert whole.shape == (3, 2, *x.shape[2:])
    torch.testing.assert_close(attribute(explainer, net, x, targets, batch_size=2), whole, atol=1e-6, rtol=1e-4)


def test_result_is_detached_and_owns_its_memory(explainer, net_and_input):
    net, x = net_and_input
    before = x.clone()
    a = explainer(net, x, 1)
    kept = a.clone()
    assert not a.requires_grad
    assert a.grad_fn is None
    assert a.is_contiguous()
    explainer(net, torch.rand_like(x), 2)
    a.mul_(1)
    assert torch.equal(a, kept)
    a.zero_()
    assert torch.equal(x, before)


def test_nothing_is_changed(explainer, net_and_input):
    net, x = net_and_input
    x.requires_grad_()
    x.grad = torch.ones_like(x)
    for p in net.parameters():
        p.grad = torch.full_like(p, 2.0)
    state = copy.deepcopy(net.state_dict())
    modes = [m.training for m in net.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    explainer(net, x, None)
    assert (x.grad == 1).all()
    assert x.requires_grad
    assert all((p.grad == 2).all() for p in net.parameters())
    assert all(p.requires_grad for p in net.parameters())
    assert [m.training for m in net.modules()] == modes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()] == hooks
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_deterministic(explainer, net_and_input):
    net, x = net_and_input
    assert torch.equal(explainer(net, x, 0), explainer(net, x, 0))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_without_recorded_gradients(explainer, net_and_input, mode):
    net, x = net_and_input
    expected = explainer(net, x, 2)
    with mode():
        torch.testing.assert_close(explainer(net, x.clone(), 2), expected)
        assert not torch.is_grad_enabled()


def test_targets_may_come_from_inference_mode(explainer, net_and_input):
    net, x = net_and_input
    expected = explainer(net, x, torch.tensor([0, 3, 1]))
    with torch.inference_mode():
        target = torch.tensor([0, 3, 1]) + 0
        torch.testing.assert_close(explainer(net, x.clone(), target), expected)
    torch.testing.assert_close(explainer(net, x, target), expected)


def test_works_with_frozen_parameters(explainer, net_and_input):
    net, x = net_and_input
    expected = explainer(net, x, 2)
    torch.testing.assert_close(explainer(net.requires_grad_(False), x, 2), expected)


def test_targets_none_integer_and_tensor_agree(explainer, net_and_input):
    net, x = net_and_input
    predicted = net(x).argmax(1)
    torch.testing.assert_close(explainer(net, x), explainer(net, x, predicted))
    mixed = explainer(net, x, torch.tensor([0, 3, 4]))
    for i, k in enumerate((0, 3, 4)):
        torch.testing.assert_close(mixed[i], explainer(net, x, k)[i], atol=1e-6, rtol=1e-4)


def test_images_are_explained_independently(explainer, net_and_input):
    net, x = net_and_input
    batch = explainer(net, x, 1)
    torch.testing.assert_close(batch[1:2], explainer(net, x[1:2], 1), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", [s.name for s in bcos_explain.explainer_specs() if s.exact])
@pytest.mark.parametrize("net", BUILDERS)
def test_exact_explainers_sum_to_the_logit(name, net):
    net, x = calibrated(net)
    bias = explain(net, x, 1).bias
    total = spatial_map(bcos_explain.get_explainer(name)(net, x, 1)).sum((1, 2)) + bias
    torch.testing.assert_close(total, net(x)[:, 1])


def test_exactness_is_described_as_it_is(explainer):
    spec = next(s for s in bcos_explain.explainer_specs() if quick(s.name) == explainer)
    assert spec.exact == getattr(explainer, "exact", False)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, r"target must be in \[0, 5\) for 5 outputs, got values from 5 to 5"),
        (torch.tensor([0, 1]), r"got shape \(2,\)"),
        (torch.tensor([0.5, 1, 2]), "integer class indices, got torch.float32"),
    ],
)
def test_impossible_targets_are_refused(explainer, net_and_input, target, message):
    net, x = net_and_input
    with pytest.raises(BcosError, match=message):
        explainer(net, x, target)


@pytest.mark.parametrize("net", ["bcos_rgb", "plain"])
def test_models_in_train_mode_are_refused_and_keep_their_statistics(explainer, net):
    net, x = calibrated(net)
    net.train()
    state = copy.deepcopy(net.state_dict())
    with pytest.raises(BcosError, match=r"call model.eval\(\) first"):
        explainer(net, x, 0)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(6, 8, 8), r"use x\[None\] for one image"),
        (torch.zeros(1, 6, 8, 8, dtype=torch.uint8), "got torch.uint8; convert images to floats"),
        (torch.rand(0, 6, 8, 8), r"got shape \(0, 6, 8, 8\)"),
    ],
)
def test_inputs_that_are_no_batch_of_images_are_refused(explainer, colour_net, x, message):
    with pytest.raises(BcosError, match=message):
        explainer(colour_net, x, 0)


@pytest.mark.parametrize(
    ("named", "indices"),
    [
        ("d", 3),
        (["a", "d", 4], torch.tensor([0, 3, 4])),
        ([["a", "b"], ["d", "c"], ["e", "a"]], torch.tensor([[0, 1], [3, 2], [4, 0]])),
    ],
    ids=str,
)
def test_classes_have_names(explainer, net_and_input, named, indices):
    net, x = net_and_input
    net.class_names = list("abcde")
    expected = attribute(explainer, net, x, indices)
    assert torch.equal(attribute(explainer, net, x, named), expected)
    torch.testing.assert_close(attribute(explainer, net, x, named, batch_size=2), expected, atol=1e-5, rtol=1e-4)
    if getattr(explainer, "several_targets", False) or not isinstance(named, list) or not isinstance(named[0], list):
        assert torch.equal(explainer(net, x, named), explainer(net, x, indices))


def test_names_that_mean_no_class_are_refused(explainer, net_and_input):
    net, x = net_and_input
    with pytest.raises(BcosError, match="the model has no class_names among which to find 'd'"):
        explainer(net, x, "d")
    net.class_names = list("abcde")
    with pytest.raises(BcosError, match="the model has no class 'f'"):
        explainer(net, x, ["a", "f", "b"])
