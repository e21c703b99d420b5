"""Explanations for trackers, whose ways of taking pictures differ."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bcos_cli.train.model import build
from bcos_cli.train.run_folder import RunFolder
from bcos_cli.train.sample_explanations import SampleExplanations


class Tracker:
    """With the signature of Accelerate's tracker of this name."""

    def __init__(self, name):
        self.name = name
        self.taken = []


class TensorBoard(Tracker):
    def log_images(self, values, step=None, *, dataformats):
        self.taken.append((values["explanations"], step))
        assert dataformats == "NHWC"


class Wandb(Tracker):
    def log_images(self, values, step=None):
        (image,) = values["explanations"]
        self.taken.append((image[None], step))


class Aim(Tracker):
    def log_images(self, values, step=None, kwargs=None):
        assert kwargs is None
        self.taken.append((values["explanations"][None], step))


class Broken(Tracker):
    def log_images(self, values, step=None):
        raise ConnectionError("no way\nout")


@pytest.fixture
def look(recipe, tmp_path):
    def with_trackers(*trackers):
        trained = build(recipe(), ["a", "b", "c"])
        images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
        samples = SampleExplanations(trained, RunFolder(tmp_path), images)
        accelerator = SimpleNamespace(device=torch.device("cpu"), trackers=trackers)
        assert samples.write(trained.model, 1, 10, accelerator)

    return with_trackers


def test_every_tracker_gets_the_picture_in_its_own_way(look):
    trackers = [TensorBoard("tensorboard"), Wandb("wandb"), Aim("aim"), SimpleNamespace(name="mlflow")]
    look(*trackers)
    for tracker in trackers[:3]:
        ((picture, step),) = tracker.taken
        assert picture.dtype == np.uint8
        assert picture.shape == (1, 3 * 10, 3 * 10, 3)
        assert step == 10


def test_tracker_that_fails_does_not_end_the_run(look, capsys, tmp_path):
    look(Broken("theirs"))
    assert "explanations are not logged to theirs: no way" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "explanations" / "epoch-0001.png").exists()
