"""Losses by name, with weights and smoothing, against their formulas."""

import sys

import pytest
import torch
import torch.nn.functional as F

from bcos_cli.config import Train
from bcos_cli.data.index import ShardIndex, ShardRecord
from bcos_cli.train.losses import LossOptions, balanced_weights, class_weights, make_loss, probabilities_of
from bcos_core import BcosError

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
LABELS = torch.tensor([2, 1])
ONE_HOT = F.one_hot(LABELS, 3).float()
WEIGHTS = torch.tensor([1.0, 2.0, 5.0])


def index(counts):
    record = ShardRecord(name="a.tar", split="train", samples=6, bytes=6, sha256="0" * 64, class_counts=counts)
    return ShardIndex(source="s", fingerprint="f", classes=["a", "b", "c"], shards=[record])


def binary(targets, weights=1.0):
    log_p, log_q = F.logsigmoid(LOGITS), F.logsigmoid(-LOGITS)
    return -(weights * targets * log_p + (1 - targets) * log_q).mean()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("bce", {}, binary(ONE_HOT)),
        ("bce", {"label_smoothing": 0.3}, binary(ONE_HOT * 0.7 + 0.1)),
        ("bce", {"class_weights": WEIGHTS}, binary(ONE_HOT, WEIGHTS)),
        ("bce", {"evaluation": True}, binary(ONE_HOT)),
        ("uniform_off_label_bce", {}, binary(ONE_HOT.clamp(min=1 / 3))),
        ("uniform_off_label_bce", {"class_weights": WEIGHTS}, binary(ONE_HOT.clamp(min=1 / 3), WEIGHTS)),
        ("uniform_off_label_bce", {"evaluation": True}, binary(ONE_HOT)),
        ("cross_entropy", {}, F.cross_entropy(LOGITS, LABELS)),
        (
            "cross_entropy",
            {"class_weights": WEIGHTS},
            F.cross_entropy(LOGITS, LABELS, WEIGHTS, reduction="none").mean(),
        ),
        ("cross_entropy", {"label_smoothing": 0.3}, F.cross_entropy(LOGITS, LABELS, label_smoothing=0.3)),
    ],
)
def test_loss_is_its_formula_for_labels_and_for_probabilities(name, options, expected):
    loss = make_loss(name, LossOptions(**options))
    torch.testing.assert_close(loss(LOGITS, LABELS), expected)
    torch.testing.assert_close(loss(LOGITS, ONE_HOT), expected)
    halves = [loss(LOGITS[k : k + 1], LABELS[k : k + 1]) for k in range(2)]  # of another process, or accumulated
    torch.testing.assert_close(torch.stack(halves).mean(), expected)


def test_smoothing_twice_is_refused():
    with pytest.raises(BcosError, match="uniform_off_label_bce smooths labels already"):
        make_loss("uniform_off_label_bce", LossOptions(label_smoothing=0.1))


def test_probabilities_follow_the_loss():
    assert [probabilities_of(n) for n in ("bce", "uniform_off_label_bce", "cross_entropy")] == [
        "sigmoid",
        "sigmoid",
        "softmax",
    ]
    assert probabilities_of("losses_of_the_test:infinite") == "sigmoid"


def test_function_of_the_users(tmp_path, monkeypatch):
    (tmp_path / "mine_of_test_losses.py").write_text(
        "import torch\n\n"
        "def half(options):\n    return torch.nn.MSELoss() if options.evaluation else torch.nn.L1Loss()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert isinstance(make_loss("mine_of_test_losses:half"), torch.nn.L1Loss)
    assert isinstance(make_loss("mine_of_test_losses:half", LossOptions(evaluation=True)), torch.nn.MSELoss)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_at_all:f", "cannot load 'nowhere_at_all:f': No module named"),
        ("losses_of_the_test:nothing", "cannot load 'losses_of_the_test:nothing'"),
        ("builtins:id", "the loss 'builtins:id' gave int, needed Module"),
        ("bcee", "there is no loss 'bcee'; did you mean 'bce'"),
    ],
)
def test_what_is_no_loss_is_refused(name, message):
    with pytest.raises(BcosError, match=message):
        make_loss(name)


def test_balanced_weights_make_classes_count_equally():
    counts = [30, 10, 20]
    weights = balanced_weights(counts)
    shares = weights * torch.tensor(counts)
    torch.testing.assert_close(shares, torch.full((3,), 20.0))
    with pytest.raises(BcosError, match="class 1 has none; give the weights as a list"):
        balanced_weights([3, 0])


def test_weights_that_a_recipe_asks_for():
    def asked(value):
        return class_weights(Train(epochs=1, class_weights=value), index({0: 3, 1: 2, 2: 1}), "train")

    assert asked("none") is None
    torch.testing.assert_close(asked("balanced"), balanced_weights([3, 2, 1]))
    torch.testing.assert_close(asked([1.0, 2.0, 5.0]), WEIGHTS)
    with pytest.raises(BcosError, match=r"train.class_weights has 2 weights, the data have 3 classes"):
        asked([1.0, 2.0])
    with pytest.raises(BcosError, match="does not say how many images of each class"):
        class_weights(Train(epochs=1, class_weights="balanced"), index(None), "train")
