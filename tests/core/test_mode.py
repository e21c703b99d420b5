import threading
from operator import attrgetter
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from bcos_core import BcosConv2d, BcosError, BcosLinear, explain, explanation_mode, freeze, is_explaining, norms

PREFIX = "cannot explain: module "
SUFFIX = "; call model.eval() first (and keep running statistics in its norms)"
RANDOM = "drops activations at random"
BATCH = "normalises with the statistics of the batch"


def test_values_do_not_change(net, images):
    expected = net(images)
    with explanation_mode(net):
        torch.testing.assert_close(net(images), expected, rtol=1e-12, atol=1e-12)


def test_gradients_change_inside_and_only_inside(net, images, gradient):
    before = gradient(net, images)
    inside = gradient(net, images, explaining=True)
    assert not torch.allclose(before, inside)
    assert torch.equal(gradient(net, images), before)


def test_mode_is_re_entrant(net, images, gradient):
    expected = gradient(net, images, explaining=True)
    with explanation_mode(net):
        with explanation_mode(net):
            assert is_explaining()
            torch.testing.assert_close(gradient(net, images), expected)
        assert is_explaining()
        torch.testing.assert_close(gradient(net, images), expected)
    assert not is_explaining()


@pytest.mark.parametrize("depth", [1, 2])
def test_mode_is_left_on_error(net, images, gradient, depth):
    before = gradient(net, images)

    def fail(depth):
        with explanation_mode(net):
            if depth > 1:
                fail(depth - 1)
            net(images[:, :1, 0])

    with pytest.raises((RuntimeError, ValueError)):
        fail(depth)
    assert not is_explaining()
    assert torch.equal(gradient(net, images), before)


def test_mode_is_not_entered_when_refused(images, gradient):
    net = nn.Sequential(BcosConv2d(3, 4, 3), norms.BatchNormUncentered2d(4), nn.LayerNorm(4)).double()
    with pytest.raises(BcosError, match="cannot explain"), explanation_mode(net):
        pytest.fail("the block must not run")
    assert not is_explaining()
    x = torch.randn(2, 4).double()
    assert not torch.allclose(gradient(net[2], x), gradient(net[2], x, explaining=True))


def test_nothing_is_stored_on_modules(net, images):
    def snapshot():
        return [(name, key, id(value)) for name, m in net.named_modules() for key, value in vars(m).items()]

    before = snapshot()
    with explanation_mode(net):
        net(images)
        assert snapshot() == before
    assert snapshot() == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_head_swapped_after_an_explanation_is_frozen_too(gradient):
    x = torch.randn(2, 6).double()
    net = nn.Sequential(BcosLinear(6, 5), BcosLinear(5, 3)).double()
    gradient(net, x, explaining=True)
    net[1] = BcosLinear(5, 3, b=2.5).double()
    fresh = nn.Sequential(*net)
    assert torch.equal(gradient(net, x, explaining=True), gradient(fresh, x, explaining=True))
    assert not torch.allclose(gradient(net[1], x[:, :5], explaining=True), gradient(net[1], x[:, :5]))


def test_modules_added_inside_the_block_are_frozen(gradient):
    x, late = torch.randn(2, 6).double(), BcosLinear(6, 3).double()
    expected = gradient(late, x, explaining=True)
    with explanation_mode(nn.Identity()):
        torch.testing.assert_close(gradient(late, x), expected)


def test_other_threads_train_meanwhile(net, images, gradient):
    expected = gradient(net, images)
    inside, trained = threading.Event(), threading.Event()
    seen = {}

    def train():
        inside.wait(20)
        seen["explaining"] = is_explaining()
        seen["gradient"] = gradient(net, images)
        trained.set()

    worker = threading.Thread(target=train)
    worker.start()
    with explanation_mode(net):
        inside.set()
        assert trained.wait(20)
        assert is_explaining()
    worker.join()
    assert seen["explaining"] is False
    assert torch.equal(seen["gradient"], expected)


def test_another_threads_mode_does_not_reach_this_one(net, images, gradient):
    expected = gradient(net, images)
    inside, done = threading.Event(), threading.Event()

    def explain():
        with explanation_mode(net):
            inside.set()
            done.wait(20)

    worker = threading.Thread(target=explain)
    worker.start()
    assert inside.wait(20)
    try:
        assert not is_explaining()
        assert torch.equal(gradient(net, images), expected)
    finally:
        done.set()
        worker.join()


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (norms.BatchNorm2d(4), BATCH),
        (norms.BatchNormUncentered2d(4), BATCH),
        (norms.AllNorm2d(4), BATCH),
        (norms.AllNormUncentered2d(4), BATCH),
        (nn.BatchNorm1d(4), BATCH),
        (nn.BatchNorm2d(4), BATCH),
        (nn.SyncBatchNorm(4), BATCH),
        (nn.Dropout(0.1), RANDOM),
        (nn.Dropout2d(0.1), RANDOM),
        (nn.AlphaDropout(0.1), RANDOM),
    ],
    ids=lambda v: type(v).__name__,
)
def test_train_mode_that_would_mix_or_drop_is_refused_by_name(layer, what):
    net = nn.Sequential(nn.Identity(), nn.Sequential(layer)).train()
    message = f"{PREFIX}'1.0' ({type(layer).__name__}) {what}{SUFFIX}"
    with pytest.raises(BcosError) as error, explanation_mode(net):
        pass
    assert str(error.value) == message
    with explanation_mode(net.eval()):
        assert is_explaining()


def test_a_lone_module_is_named_by_its_type():
    with pytest.raises(BcosError) as error, explanation_mode(nn.Dropout(0.1)):
        pass
    assert str(error.value) == f"{PREFIX}'Dropout' (Dropout) {RANDOM}{SUFFIX}"


@pytest.mark.parametrize("layer", [nn.BatchNorm2d, norms.BatchNorm2d, norms.AllNormUncentered2d])
def test_norms_without_running_statistics_are_refused_in_eval_mode_too(layer):
    net = layer(4, track_running_stats=False).eval()
    with pytest.raises(BcosError, match="normalises with the statistics of the batch"), explanation_mode(net):
        pass


@pytest.mark.parametrize(
    "layer",
    [
        norms.GroupNorm2d(2, 4),
        norms.LayerNormUncentered2d(4),
        norms.LayerNorm(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.InstanceNorm2d(4),
        nn.Dropout(0.0),
        BcosLinear(4, 4),
    ],
    ids=lambda v: type(v).__name__,
)
def test_layers_that_see_one_sample_may_stay_in_train_mode(layer):
    with explanation_mode(layer.train()):
        assert is_explaining()


def test_freeze_detaches_inside_only():
    factor = torch.ones(2, requires_grad=True) * 2
    assert freeze(factor) is factor
    with explanation_mode(nn.Identity()):
        assert not freeze(factor).requires_grad
        assert torch.equal(freeze(factor), factor)


def test_freeze_explains_a_layer_of_ones_own(gradient):
    class Gate(nn.Module):
        def forward(self, x):
            return freeze(x.exp()) * x

    x = torch.randn(2, 3)
    cotangent = torch.linspace(-1, 2, 6).reshape(2, 3)
    torch.testing.assert_close(gradient(Gate(), x, explaining=True), x.exp() * cotangent)


OPERATIONS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")


def float32_of_operations() -> dict[str, str]:
    """How each operation of a library computes float32, as a user may have set it."""
    if not hasattr(torch.backends.cudnn, "conv"):
        allowed = torch.backends.cudnn.allow_tf32
        return {"conv": "tf32" if allowed else "ieee", "matmul": torch.get_float32_matmul_precision()}
    return {name: attrgetter(name)(torch.backends).fp32_precision for name in OPERATIONS}


class AsksForPrecision(torch.autograd.Function):
    """The identity, which notes how float32 is computed in both passes."""

    noted: ClassVar[list[dict[str, str]]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        AsksForPrecision.noted.append(float32_of_operations())
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        AsksForPrecision.noted.append(float32_of_operations())
        return gradients[0]


class Asking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = AsksForPrecision.apply(x)
        return y.flatten(1)


@pytest.mark.parametrize("matmul", ["highest", "high", "medium"])
def test_explanations_are_computed_in_float32_that_is_not_rounded_to_tf32(matmul: str) -> None:
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(matmul)
    AsksForPrecision.noted.clear()
    try:
        before = float32_of_operations()
        assert "tf32" in before.values()  # PyTorch's default for convolutions
        explain(Asking(), torch.rand(2, 1, 2, 2))
        assert float32_of_operations() == before
        assert torch.get_float32_matmul_precision() == matmul
    finally:
        torch.set_float32_matmul_precision(usual)
    assert len(AsksForPrecision.noted) >= 2
    for noted in AsksForPrecision.noted:
        assert set(noted.values()) <= {"ieee", "highest"}


def test_explanation_mode_alone_computes_in_full_float32_too() -> None:
    before = float32_of_operations()
    with explanation_mode(nn.Identity()), explanation_mode(nn.Identity()):
        assert set(float32_of_operations().values()) <= {"ieee", "highest"}
    assert float32_of_operations() == before
