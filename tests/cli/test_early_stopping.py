"""When a run that no longer improves is to stop."""

import pytest

from bcos_cli.config import EarlyStopping
from bcos_cli.train.best_epoch import should_stop


def lines(accuracies):
    return [{"epoch": n, "step": 10 * n, "test_top1": accuracy} for n, accuracy in enumerate(accuracies, start=1)]


@pytest.mark.parametrize(
    ("accuracies", "options", "over"),
    [
        ([0.1, 0.2, 0.3], {"patience": 1}, False),
        ([0.3, 0.3], {"patience": 1}, True),
        ([0.3, 0.2, 0.1], {"patience": 3}, False),
        ([0.3, 0.2, 0.1, 0.29], {"patience": 3}, True),
        ([0.3, 0.2, 0.31, 0.3], {"patience": 2}, False),
        ([0.3, 0.32, 0.34, 0.36], {"patience": 2, "min_delta": 0.05}, False),
        ([0.3, 0.32, 0.34, 0.34], {"patience": 3, "min_delta": 0.05}, True),
        ([0.3], None, False),
    ],
)
def test_patience_ends(accuracies, options, over):
    stopping = EarlyStopping(**options) if options else None
    assert should_stop(lines(accuracies), stopping) is over


def test_patience_begins_when_epochs_can_be_compared_with_the_last():
    made = lines([0.9, 0.5, 0.4, 0.3, 0.2, 0.35, 0.3, 0.3])
    for epoch in range(1, 9):
        assert should_stop(made[:epoch], EarlyStopping(patience=2), lambda step: step > 40) is (epoch == 8)
