"""Results own their memory; calls leave nothing behind."""

import gc
import weakref

import pytest
import torch

from bcos_core import explain


def tensors(e):
    return {
        "input": e.input,
        "logits": e.logits,
        "target": e.target,
        "score": e.score,
        "weight": e.weight,
        "bias": e.bias,
    } | {f"term {k}": v for k, v in e.bias_terms.items()}


TARGETS = {
    "none": None,
    "many": [[0, 1]] * 3,
    "callable": lambda z: z,
    "callable for one": lambda z: z[:, 0],
}


@pytest.fixture(params=TARGETS)
def target(request):
    return TARGETS[request.param]


def test_results_are_detached(net, images, target):
    for name, tensor in tensors(explain(net, images.requires_grad_(), target)).items():
        assert tensor.grad_fn is None, name
        assert not tensor.requires_grad, name
        assert tensor.is_leaf, name


def test_results_share_memory_with_nothing(net, images, target):
    e = explain(net, images, target)
    storages = [t.untyped_storage().data_ptr() for t in tensors(e).values()]
    assert len(set(storages)) == len(storages)
    foreign = {t.untyped_storage().data_ptr() for t in [images, *net.parameters(), *net.buffers()]}
    assert not foreign & set(storages)
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in tensors(e).values())


def test_results_do_not_change_afterwards(net, images, target):
    e = explain(net, images, target)
    kept = {name: t.clone() for name, t in tensors(e).items()}
    explain(net, 2 * images, target)
    images.zero_()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    for name, tensor in tensors(e).items():
        assert torch.equal(tensor, kept[name]), name


def test_a_given_target_tensor_is_copied(net, images):
    target = torch.tensor([0, 1, 2])
    e = explain(net, images, target)
    target.zero_()
    assert e.target.tolist() == [0, 1, 2]


def test_input_and_parameters_keep_their_gradients(net, images, target):
    images.requires_grad_().grad = torch.ones_like(images)
    parameters = list(net.parameters())
    parameters[0].grad = torch.ones_like(parameters[0])
    value, flags = images.detach().clone(), [p.requires_grad for p in parameters]
    explain(net, images, target)
    assert torch.equal(images, value)
    assert (images.grad == 1).all()
    assert (parameters[0].grad == 1).all()
    assert all(p.grad is None for p in parameters[1:])
    assert [p.requires_grad for p in parameters] == flags


def test_frozen_parameters_do_not_matter(net, images):
    expected = explain(net, images)
    frozen = explain(net.requires_grad_(False), images)
    torch.testing.assert_close(frozen.weight, expected.weight)
    for name, share in expected.bias_terms.items():
        torch.testing.assert_close(frozen.bias_terms[name], share)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_need_not_be_enabled(net, images, context):
    expected = explain(net, images)
    with context():
        e = explain(net, images * 1)  # under inference_mode: an inference tensor
    torch.testing.assert_close(e.weight, expected.weight)
    torch.testing.assert_close(e.bias, expected.bias)
    for name, tensor in tensors(e).items():
        assert not tensor.is_inference(), name
        assert not tensor.requires_grad, name


def test_a_network_can_train_after_an_explanation(net, images):
    explain(net, images)
    net(images).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("refused", [False, True])
def test_intermediate_tensors_die_with_the_call(net, images, refused):
    """Without the help of the garbage collector, while the result is still alive."""
    alive = []
    for module in net.modules():
        module.register_forward_hook(lambda _m, _a, output: alive.append(weakref.ref(output)))
    gc.collect()
    gc.disable()
    try:
        if refused:
            with pytest.raises(ValueError, match="target must be in"):
                explain(net, images, 99)
        else:
            kept = explain(net, images)
            assert kept.weight.shape == images.shape
        left = [r for r in alive if r() is not None]
    finally:
        gc.enable()
    assert len(alive) > 3
    assert not left


def test_number_of_living_tensors_does_not_grow(net, images):
    def living():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    explain(net, images)
    before = living()
    for _ in range(3):
        explain(net, images, [[0, 1]] * 3)
    assert living() == before
