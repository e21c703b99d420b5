"""The norms against the reference package, in train and eval mode, affine, linear and plain."""

import pytest
import torch

from bcos_core import norms

pytest.importorskip("bcos")
reference = pytest.importorskip("bcos.modules.norms")

THEIRS = {
    "all": lambda c: reference.AllNorm2d(c),
    "batch": lambda c: reference.BatchNorm2d(c),
    "group": lambda c: reference.DetachableGroupNorm2d(2, c),
    "instance": lambda c: reference.DetachableGNInstanceNorm2d(c),
    "layer": lambda c: reference.DetachableGNLayerNorm2d(c),
    "position": lambda c: reference.DetachablePositionNorm2d(c),
    "all_uncentered": lambda c: reference.AllNormUncentered2d(c),
    "batch_uncentered": lambda c: reference.BatchNormUncentered2d(c),
    "group_uncentered": lambda c: reference.GroupNormUncentered2d(2, c),
    "instance_uncentered": lambda c: reference.GNInstanceNormUncentered2d(c),
    "layer_uncentered": lambda c: reference.GNLayerNormUncentered2d(c),
    "position_uncentered": lambda c: reference.PositionNormUncentered2d(c),
}
RUNNING = [name for name in THEIRS if name.startswith(("all", "batch"))]


@pytest.fixture
def pair(precision):
    """Our norm and theirs, with the same random parameters and running statistics."""

    def build(name, affine):
        wrap = {"affine": lambda f: f, "linear": reference.NoBias, "plain": reference.Unaffine}[affine]
        ours, theirs = norms.make_norm(name, 4, affine=affine), wrap(THEIRS[name])(4)
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.normal_()
            for buffer_name, buffer in theirs.named_buffers():
                if buffer.is_floating_point():
                    buffer.uniform_(0.5, 1.5)
                    if getattr(ours, buffer_name) is not None:
                        getattr(ours, buffer_name).copy_(buffer)
            for kind, parameter in ours.named_parameters():
                parameter.copy_(getattr(theirs, kind))
        return ours.to(precision[0]), theirs.to(precision[0])

    return build


def test_all_twelve_are_compared():
    assert set(THEIRS) == set(norms.norm_names())


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("affine", ["affine", "linear", "plain"])
@pytest.mark.parametrize("name", THEIRS)
def test_norm_is_the_references(name, affine, train, pair, compare):
    ours, theirs = pair(name, affine)
    ours.train(train), theirs.train(train)
    pairs = [(p, getattr(theirs, kind)) for kind, p in ours.named_parameters()]
    assert len(pairs) == {"affine": 2, "linear": 1, "plain": 0}[affine]
    x = torch.randn(3, 4, 5, 4) * 2 + 1
    compare(ours, theirs, x, pairs=pairs, explain=not (train and name in RUNNING))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", RUNNING)
def test_running_statistics_are_the_references(name, momentum, pair, precision):
    dtype, tolerance = precision
    ours, theirs = pair(name, "linear")
    ours.momentum = theirs.momentum = momentum
    for i in range(3):
        x = torch.randn(4, 4, 3, 3, dtype=dtype) * (i + 1) + i
        ours.train()(x), theirs.train()(x)
    for kind, buffer in ours.named_buffers():
        expected = getattr(theirs, kind)
        torch.testing.assert_close(buffer, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bias", [True, False])
def test_token_layer_norm_is_the_references(bias, compare):
    ours, theirs = norms.LayerNorm(6, bias=bias), reference.DetachableLayerNorm(6)
    theirs.bias = theirs.bias if bias else None
    with torch.no_grad():
        for kind, parameter in ours.named_parameters():
            parameter.copy_(getattr(theirs, kind).normal_())
    pairs = [(p, getattr(theirs, kind)) for kind, p in ours.named_parameters()]
    compare(ours, theirs, torch.randn(2, 3, 6) + 1, pairs=pairs)
