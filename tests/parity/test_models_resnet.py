"""Networks against the reference package: its state dicts load, logits and W(x) are equal."""

import pytest
import torch

from bcos_core import explain
from bcos_models import create_model
from bcos_models.weights import load_state

reference = pytest.importorskip("bcos.models.resnet")
norms = pytest.importorskip("bcos.modules.norms")

UNCENTRED = norms.NoBias(norms.BatchNormUncentered2d)
CENTRED = norms.NoBias(norms.BatchNorm2d)
NETS = {
    "cifar10_resnet20": (
        lambda norm: reference.cifar10_resnet20(pretrained=False, norm_layer=norm, num_classes=10),
        12,
    ),
    "resnet18": (lambda norm: reference.resnet18(pretrained=False, norm_layer=norm, num_classes=1000), 40),
}
BOTH = pytest.mark.parametrize(
    ("norm", "theirs_norm"),
    [("batch_uncentered", UNCENTRED), ("batch", CENTRED)],
    ids=["uncentred", "centred"],
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def inputs(side, n):
    x = torch.rand(n, 3, side, side, dtype=torch.float64)
    return torch.cat([x, 1 - x], 1)


def calibrated(name, theirs_norm):
    build, side = NETS[name]
    theirs = build(theirs_norm).double().train()
    with torch.no_grad():
        for _ in range(2):
            theirs(inputs(side, 4))
    return theirs.eval()


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))


@BOTH
@pytest.mark.parametrize("name", NETS)
def test_reference_weights_load_and_give_the_same_logits_and_explanation(name, norm, theirs_norm):
    theirs = calibrated(name, theirs_norm)
    ours = create_model(name, norm=norm).double().eval()
    load_state(ours, theirs.state_dict(), name=name, source="the reference")
    x = inputs(NETS[name][1], 2)
    with torch.no_grad():
        close(ours(x), theirs(x))
    e = explain(ours, x, [[3, 7], [0, 9]])
    leaf = x.clone().requires_grad_()
    with theirs.explanation_mode():
        logits = theirs(leaf)
        for t in range(2):
            chosen = logits.gather(1, e.target[:, t : t + 1]).sum()
            close(e.weight[:, t], torch.autograd.grad(chosen, leaf, retain_graph=True)[0])


@BOTH
def test_untrained_reference_weights_load_too(norm, theirs_norm):
    """Their running means are all zero, whether they are used or not."""
    theirs = NETS["cifar10_resnet20"][0](theirs_norm).eval()
    ours = create_model("cifar10_resnet20", norm=norm).eval()
    load_state(ours, theirs.state_dict(), name="cifar10_resnet20", source="the reference")
    x = inputs(16, 2).float()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
