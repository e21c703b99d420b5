"""One contract for every registered explainer, on B-cos networks and a plain one."""

import copy

import pytest
import torch

import bcos_explain
from bcos_core import BcosError, explain
from bcos_explain.explainers import spatial_map

NAMES = bcos_explain.list_explainers()
QUICK = {"integrated_gradients": {"n_steps": 6}}


@pytest.fixture(params=NAMES)
def explainer(request):
    return bcos_explain.get_explainer(request.param, **QUICK.get(request.param, {}))


def test_all_four_methods_are_registered():
    assert {"bcos", "gradcam", "input_x_gradient", "integrated_gradients"} <= set(NAMES)


def test_shape_type_and_values(explainer, net_and_input):
    net, x = net_and_input
    a = explainer(net, x, None)
    assert a.shape in ((3, *x.shape[1:]), (3, *x.shape[2:]))
    assert a.dtype == x.dtype
    assert a.isfinite().all()
    assert sum(explainer(net, x, k).abs().sum() for k in range(5)) > 0


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
def test_exact_explainers_sum_to_the_logit(name, net_and_input):
    net, x = net_and_input
    bias = explain(net, x, 1).bias
    total = spatial_map(bcos_explain.get_explainer(name)(net, x, 1)).sum((1, 2)) + bias
    torch.testing.assert_close(total, net(x)[:, 1])


def test_exactness_is_described_as_it_is(explainer):
    spec = {type(bcos_explain.get_explainer(s.name)): s for s in bcos_explain.explainer_specs()}[type(explainer)]
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


def test_models_in_train_mode_are_refused_and_keep_their_statistics(explainer, net_and_input):
    net, x = net_and_input
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
