import pytest
import torch
from torch import nn

from bcos_core import norms


def batches(n=3):
    return [torch.randn(4, 3, 2, 5).double() * (i + 1) + i for i in range(n)]


def as_torch_sees_it(name, x):
    """All norm is torch's batch norm over one channel that holds everything."""
    return x.flatten(1).unsqueeze(1) if name == "all" else x


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("name", ["batch", "all"])
def test_centred_norm_is_torchs_batch_norm(name, track, momentum):
    options = {"momentum": momentum, "track_running_stats": track, "eps": 1e-3}
    if name == "batch":
        ours, theirs = norms.BatchNorm2d(3, bias=True, **options), nn.BatchNorm2d(3, **options)
    else:
        ours, theirs = norms.AllNorm2d(3, bias=True, **options), nn.BatchNorm1d(1, **options)
    ours.double(), theirs.double()
    for x in batches():
        expected = theirs(as_torch_sees_it(name, x)).reshape(x.shape)
        torch.testing.assert_close(ours(x), expected)
    assert {k: v.tolist() for k, v in ours.state_dict().items()} == {
        k: v.tolist() for k, v in theirs.state_dict().items()
    }
    ours.eval(), theirs.eval()
    x = batches()[1]
    torch.testing.assert_close(ours(x), theirs(as_torch_sees_it(name, x)).reshape(x.shape))


@pytest.mark.parametrize("momentum", [0.1, 0.7])
@pytest.mark.parametrize(
    ("layer", "dims"), [(norms.BatchNormUncentered2d, (0, 2, 3)), (norms.AllNormUncentered2d, (0, 1, 2, 3))]
)
def test_uncentred_norm_runs_over_the_biased_variance(layer, dims, momentum):
    norm = layer(3, momentum=momentum).double().train()
    expected = torch.ones(norm.running_var.shape).double()
    for x in batches():
        norm(x)
        expected = (1 - momentum) * expected + momentum * x.var(dims, correction=0)
    torch.testing.assert_close(norm.running_var, expected)
    assert norm.running_mean is None
    assert norm.num_batches_tracked == 3


@pytest.mark.parametrize("layer", [norms.BatchNormUncentered2d, norms.AllNormUncentered2d])
def test_momentum_none_keeps_the_plain_average(layer):
    norm = layer(3, momentum=None).double().train()
    data = batches(4)
    for x in data:
        norm(x)
    dims = (0, 2, 3) if layer is norms.BatchNormUncentered2d else (0, 1, 2, 3)
    expected = torch.stack([x.var(dims, correction=0) for x in data]).mean(0)
    torch.testing.assert_close(norm.running_var, expected.reshape(norm.running_var.shape))


LAYERS = [
    norms.BatchNorm2d,
    norms.BatchNormUncentered2d,
    norms.AllNorm2d,
    norms.AllNormUncentered2d,
]


@pytest.mark.parametrize("layer", LAYERS)
def test_eval_mode_changes_no_statistics(layer):
    norm = layer(3).double().eval()
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    norm(batches()[2])
    assert all(torch.equal(before[k], v) for k, v in norm.state_dict().items())


@pytest.mark.parametrize("layer", LAYERS)
def test_without_running_statistics_eval_is_train(layer):
    norm = layer(3, track_running_stats=False).double()
    x = batches()[1]
    trained = norm.train()(x)
    assert torch.equal(norm.eval()(x), trained)
    assert list(norm.state_dict()) == ["weight"]


@pytest.mark.parametrize("layer", LAYERS)
def test_running_statistics_are_outside_the_graph(layer):
    norm = layer(3).double().train()
    x = batches()[0].requires_grad_()
    norm(x).sum().backward()
    assert not any(b.requires_grad for b in norm.buffers())


@pytest.mark.parametrize("layer", [*LAYERS, nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm])
def test_batch_statistics_are_used_in_train_mode_or_without_running_ones(layer):
    assert norms.uses_batch_statistics(layer(3).train())
    assert not norms.uses_batch_statistics(layer(3).eval())
    assert norms.uses_batch_statistics(layer(3, track_running_stats=False).eval())


@pytest.mark.parametrize("layer", [norms.GroupNorm2d, nn.GroupNorm])
def test_group_norm_uses_no_batch_statistics(layer):
    assert not norms.uses_batch_statistics(layer(1, 4).train())


def test_repr_shows_sizes_and_kind():
    assert repr(norms.BatchNormUncentered2d(3)) == "BatchNormUncentered2d(3, momentum=0.1, eps=1e-05, linear)"
    assert repr(norms.AllNorm2d(3, bias=True)) == "AllNorm2d(3, momentum=0.1, eps=1e-05, affine)"
