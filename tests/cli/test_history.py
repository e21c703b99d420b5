"""Which epoch is the best, and what is kept of each."""

import pytest

from bcos_cli.train.best_epoch import accuracy_of, measure_of
from bcos_cli.train.history import History
from bcos_cli.train.run_folder import RunFolder


def history(tmp_path, accuracies, **more):
    tmp_path.mkdir(exist_ok=True)
    made = History(RunFolder(tmp_path))
    for epoch, accuracy in enumerate(accuracies, start=1):
        best = {"best": True} if made.is_best(accuracy) else {}
        made.add({"epoch": epoch, "test_top1": accuracy, **best, **more})
    return made


@pytest.mark.parametrize(
    ("line", "measure", "accuracy"),
    [
        ({"test_top1": 0.5}, "top1", 0.5),
        ({"test_top1": 0.5, "ema_top1": 0.4}, "top1", 0.4),
        ({"test_top1": 0.5, "test_map": 0.7}, "map", 0.7),
        ({"test_top1": 0.5, "test_map": 0.7, "ema_top1": 0.9, "ema_map": 0.2}, "map", 0.2),
        ({"test_cosine": 0.25}, "cosine", 0.25),
        ({"val_loss": 1.0, "val_top1": 0.5}, "top1", 0.5),
        ({"val_loss": 1.0, "val_top1": 0.5, "ema_top1": 0.4}, "top1", 0.4),
        ({"val_loss": 1.0, "val_map": 0.7, "val_top1": 0.5}, "map", 0.7),
    ],
)
def test_measure_of_an_epoch(line, measure, accuracy):
    assert (measure_of(line), accuracy_of(line)) == (measure, accuracy)


def test_first_of_equals_is_the_best(tmp_path):
    made = history(tmp_path, [0.2, 0.5, 0.5, 0.4, 0.6])
    assert [line["epoch"] for line in made.lines if line.get("best")] == [1, 2, 5]


def test_lines_of_later_epochs_are_forgotten_and_written_again(tmp_path):
    made = history(tmp_path, [0.1, 0.2, 0.3])
    made.keep(2)
    assert [line["epoch"] for line in made.lines] == [1, 2]
    assert made.has(2)
    assert not made.has(3)
    assert len(RunFolder(tmp_path).read_metrics()) == 2
    again = History(RunFolder(tmp_path))
    again.keep(2)
    assert again.lines == made.lines
