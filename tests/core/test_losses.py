import math

import pytest
import torch

from bcos_core import BcosError
from bcos_core.losses import BinaryCrossEntropyLoss, UniformOffLabelsBCELoss, dense_targets

K = 5
INDICES = torch.tensor([3, 0, 3])
ONE_HOT = [[0, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 1, 0]]
MULTI_HOT = [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0.25, 0, 1, 0, 0.5]]
TARGETS = {
    "indices": (INDICES, ONE_HOT),
    "int32 indices": (INDICES.int(), ONE_HOT),
    "one-hot": (torch.tensor(ONE_HOT), ONE_HOT),
    "multi-hot": (torch.tensor(MULTI_HOT), MULTI_HOT),
}


def literal(logits, targets, reduction):
    """-t ln sigma(z) - (1-t) ln(1 - sigma(z)), one element after the other."""
    rows = []
    for zs, ts in zip(logits.tolist(), targets, strict=True):
        sigmas = [1 / (1 + math.exp(-z)) for z in zs]
        rows.append([-t * math.log(s) - (1 - t) * math.log(1 - s) for s, t in zip(sigmas, ts, strict=True)])
    losses = torch.tensor(rows, dtype=torch.float64)
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / losses.numel()}[reduction]


@pytest.fixture
def logits():
    return torch.randn(3, K).double()


every = [
    pytest.mark.parametrize("reduction", ["mean", "sum", "none"]),
    pytest.mark.parametrize("target", TARGETS),
]


@every[0]
@every[1]
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_its_definition(smoothing, target, reduction, logits):
    given, dense = TARGETS[target]
    dense = [[t * (1 - smoothing) + smoothing / K for t in row] for row in dense]
    loss = BinaryCrossEntropyLoss(smoothing, reduction)(logits, given)
    torch.testing.assert_close(loss, literal(logits, dense, reduction))


@every[0]
@every[1]
@pytest.mark.parametrize("off_label", [None, 0.0, 0.02, 0.5])
def test_uniform_off_labels_are_its_definition(off_label, target, reduction, logits):
    given, dense = TARGETS[target]
    lowest = 1 / K if off_label is None else off_label
    dense = [[max(t, lowest) for t in row] for row in dense]
    loss = UniformOffLabelsBCELoss(off_label, reduction)(logits, given)
    torch.testing.assert_close(loss, literal(logits, dense, reduction))


def test_gradient_is_the_distance_of_probability_and_target(logits):
    logits.requires_grad_()
    UniformOffLabelsBCELoss(reduction="sum")(logits, INDICES).backward()
    expected = logits.detach().sigmoid() - torch.tensor(ONE_HOT).double().clamp(min=1 / K)
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("loss", [BinaryCrossEntropyLoss(), UniformOffLabelsBCELoss()])
def test_extreme_logits_give_a_finite_loss(loss):
    z = torch.tensor([[1e4, -1e4, 0.0]])
    assert torch.isfinite(loss(z, torch.tensor([1])))


def test_dense_targets_have_the_type_of_the_logits():
    assert dense_targets(torch.zeros(3, K).bfloat16(), INDICES).dtype == torch.bfloat16
    assert dense_targets(torch.zeros(3, K), torch.tensor(ONE_HOT)).dtype == torch.float32


@pytest.mark.parametrize("loss", [BinaryCrossEntropyLoss(), UniformOffLabelsBCELoss()])
@pytest.mark.parametrize(
    "target",
    [torch.zeros(2).long(), torch.zeros(3), torch.zeros(3, K - 1), torch.zeros(3, 1).long(), torch.tensor(0)],
)
def test_targets_of_other_shapes_are_refused(loss, target, logits):
    message = rf"target must hold 3 class indices or have the shape \(3, 5\), got {target.dtype} of shape"
    with pytest.raises(BcosError, match=message):
        loss(logits, target)


@pytest.mark.parametrize("index", [-1, K])
def test_indices_that_are_no_class_are_refused(index, logits):
    with pytest.raises(BcosError, match="target"):
        dense_targets(logits, torch.tensor([0, index, 1]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BinaryCrossEntropyLoss(1.0), r"smoothing must be in \[0, 1\), got 1\.0"),
        (lambda: BinaryCrossEntropyLoss(-0.1), r"smoothing must be in \[0, 1\), got -0\.1"),
        (lambda: UniformOffLabelsBCELoss(1.5), r"off_label must be in \[0, 1\], got 1\.5; use None for 1/K"),
        (lambda: UniformOffLabelsBCELoss(-1), r"off_label must be in \[0, 1\], got -1"),
    ],
)
def test_impossible_settings_are_refused(build, message):
    with pytest.raises(BcosError, match=message):
        build()
