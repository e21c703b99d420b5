"""Loader processes, which end with what needs them, whatever still refers to them then."""

import multiprocessing

import pytest

from bcos_cli.data.index import load_index
from bcos_cli.data.reading import Reading
from bcos_cli.evaluate.evaluation import EvaluationOptions, evaluate_shards
from bcos_cli.evaluate.predictions import Predictor
from bcos_cli.explain.neurons import NeuronOptions, neuron_rows
from bcos_cli.explain.shard_maps import MapOptions, explain_shards
from bcos_cli.train.model import build
from bcos_cli.train.train_step import TrainStep
from bcos_cli.train.trainer import train, trained

WORKS = {
    "scores": lambda network, data, out: evaluate_shards(
        network, data, EvaluationOptions(metrics=("top1",), batch_size=2, workers=1)
    ),
    "predictions": lambda network, data, out: Predictor(network, print, batch_size=2).predict_shards(
        data, load_index(data), "test", Reading(), workers=1
    ),
    "neurons": lambda network, data, out: neuron_rows(network, data, "test", NeuronOptions(), batch_size=2, workers=1),
    "maps": lambda network, data, out: explain_shards(network, data, out, MapOptions(), batch_size=2, workers=1),
}


@pytest.mark.parametrize("work", WORKS)
def test_work_that_fails_between_two_batches_leaves_no_process(work, recipe, shards, tmp_path):
    network = build(recipe(), ["rows", "columns", "corner"])
    seen = []

    def fail(*_):
        if found := multiprocessing.active_children():  # neurons look for their layer first
            seen.append(found)
            raise ZeroDivisionError

    network.model.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError) as error:
        WORKS[work](network, shards, tmp_path / "out")
    assert multiprocessing.active_children() == []
    assert len(seen[0]) == 1
    assert error.tb is not None  # the traceback refers to the loop that was left


def test_the_loaders_of_a_training_end_before_its_network_is_scored(recipe, tmp_path):
    with trained(recipe(train={"epochs": 1}, data={"workers": 1}), tmp_path / "run"):
        assert multiprocessing.active_children() == []


def test_a_training_that_fails_leaves_no_process(recipe, tmp_path, monkeypatch):
    seen = []

    def fail(*_):
        seen.append(multiprocessing.active_children())
        raise ZeroDivisionError

    monkeypatch.setattr(TrainStep, "run", fail)
    with pytest.raises(ZeroDivisionError) as error:
        train(recipe(data={"workers": 1}), tmp_path / "run")
    assert multiprocessing.active_children() == []
    assert len(seen[0]) == 1
    assert error.tb is not None
