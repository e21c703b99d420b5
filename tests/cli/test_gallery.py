"""The explained images of a report, and what else it shows, for a tiny untrained network."""

import numpy as np
import pytest
import torch

from bcos_cli.evaluate import gallery as module
from bcos_cli.evaluate.evaluation import evaluate_shards
from bcos_cli.evaluate.gallery import gallery
from bcos_cli.runs.evaluation import recipe_options
from bcos_cli.runs.report import report_data
from bcos_cli.train.model import build
from bcos_core import BcosError, explain
from bcos_explain import get_explainer
from bcos_explain.explainers import Remark
from bcos_explain.metrics import MetricResult

CLASSES = ["rows", "columns", "corner"]


@pytest.fixture
def chosen(recipe):
    return recipe(evaluation={"explainers": ["bcos", "input_x_gradient", "gradcam"], "gallery_per_class": 2})


@pytest.fixture
def trained(chosen):
    """An untrained network with statistics of images."""
    trained = build(chosen, CLASSES)
    trained.model.train()
    trained.model(torch.rand(8, 2, 8, 8))
    trained.model.eval()
    return trained


@pytest.fixture
def evaluation(chosen, trained, shards):
    return evaluate_shards(trained, shards, recipe_options(chosen))


def encoded(item, trained):
    """The network's input from the picture that is shown."""
    return trained.encode(torch.tensor(item.input[..., :1].transpose(2, 0, 1))[None])


def test_first_images_of_each_class_are_explained(trained, evaluation, chosen):
    items = list(gallery(trained, evaluation, chosen))
    assert [item.true_class for item in items] == ["rows", "rows", "columns", "columns", "corner", "corner"]
    assert len({item.name for item in items}) == 6
    assert all(item.name.startswith("test #") for item in items)
    for item in items:
        e = explain(trained.model, encoded(item, trained))
        k = int(e.target[0])
        assert item.predicted_class == CLASSES[k]
        assert item.receipt.score == pytest.approx(float(e.score[0]), abs=1e-5)
        assert item.confidence == pytest.approx(float(e.logits[0, k].sigmoid()), abs=1e-5)
        np.testing.assert_allclose(item.map, e.map[0].numpy(), atol=1e-5)
        assert item.receipt.passed
        assert sum(item.receipt.terms.values()) == pytest.approx(item.receipt.bias, abs=1e-5)
        assert item.receipt.probe < 1e-5


def test_baselines_are_the_other_explainers_for_the_predicted_class(trained, evaluation, chosen):
    for item in gallery(trained, evaluation, chosen):
        assert list(item.baselines) == ["input_x_gradient", "gradcam"]
        x, k = encoded(item, trained), CLASSES.index(item.predicted_class)
        products = get_explainer("input_x_gradient")(trained.model, x, k).sum(1)
        np.testing.assert_allclose(item.baselines["input_x_gradient"], products[0].numpy(), atol=1e-5)
        cam = get_explainer("gradcam")(trained.model, x, k)
        np.testing.assert_allclose(item.baselines["gradcam"], cam[0].numpy(), atol=1e-5)


def test_images_do_not_depend_on_how_many_are_explained_at_a_time(trained, evaluation, chosen, monkeypatch):
    together = list(gallery(trained, evaluation, chosen))
    monkeypatch.setattr(module, "BATCH", 1)
    for one, other in zip(together, gallery(trained, evaluation, chosen), strict=True):
        np.testing.assert_allclose(one.map, other.map, atol=1e-5)
        np.testing.assert_allclose(one.baselines["gradcam"], other.baselines["gradcam"], atol=1e-5)


def test_no_images_are_explained_if_none_are_asked_for(trained, evaluation, recipe):
    assert list(gallery(trained, evaluation, recipe(evaluation={"gallery_per_class": 0}))) == []


def test_an_explainer_that_cannot_explain_the_network_is_left_out_and_named(trained, evaluation, chosen, monkeypatch):
    def refuse(model, x, target):
        raise BcosError("it has no layers")

    monkeypatch.setattr(
        "bcos_explain.batch.get_explainer", lambda name: refuse if name == "gradcam" else get_explainer(name)
    )
    monkeypatch.setattr(module, "BATCH", 2)
    data = report_data(chosen, trained, evaluation, [])
    assert all(list(item.baselines) == ["input_x_gradient"] for item in data.gallery)
    told = [note for note in data.notes if "gradcam is not" in note]
    assert told == ["gradcam is not among the explanations: it has no layers"]


def test_report_says_what_was_measured(trained, evaluation, chosen):
    data = report_data(chosen, trained, evaluation, [])
    assert data.headline["top-1 accuracy"] == f"{100 * evaluation.scores.top1:.1f} %"
    assert "relative residual of explanations" in data.headline
    (table,) = data.tables
    assert [row[0] for row in table.rows] == [m for m, results in evaluation.explanations.items() if "" in results]
    assert ("completeness", evaluation.metrics["completeness"]) in [row[:2] for row in table.rows]
    assert any("gridpg/bcos was not measured" in note for note in data.notes)  # the network is sure of nothing


def test_metrics_of_explainers_keep_their_undefined_scores_and_say_what_explainers_said(trained, evaluation, chosen):
    nan = float("nan")
    evaluation.explanations = {
        "gridpg": {"bcos": MetricResult(scores=torch.tensor([0.5, nan, 0.75, 1.0]), cluster=4, chance=0.25)},
        "deletion": {
            "bcos": MetricResult(scores=torch.tensor([0.25, 0.5]), higher_is_better=False),
            "gradcam": MetricResult(
                scores=torch.tensor([nan, 0.5]), higher_is_better=False, remarks=(Remark("it lost {share}", 0.25),)
            ),
        },
        "game": {"bcos": MetricResult(scores=torch.ones(8), cluster=4, higher_is_better=True, chance=0.125)},
    }
    data = report_data(chosen, trained, evaluation, [])
    deletion, game = data.metrics
    assert data.gridpg == evaluation.explanations["gridpg"]
    assert deletion.results == evaluation.explanations["deletion"]
    assert deletion.higher_is_better is False
    assert deletion.remarks == {"gradcam": ["it lost 25 %"]}
    assert "lower is better" in deletion.description
    assert (game.chance, game.higher_is_better) == (0.125, True)
    assert data.headline["GridPG of bcos (chance 25 %)"] == "75.0 %"
    assert data.tables == []
