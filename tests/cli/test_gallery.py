"""The explained images of a report, and what else it shows, for a tiny untrained network."""

import re
from importlib.metadata import version

import numpy as np
import pytest
import torch

from bcos_cli.evaluate import gallery as module
from bcos_cli.evaluate.evaluation import evaluate_shards
from bcos_cli.evaluate.gallery import TYPICAL, UNCERTAIN, WRONG, Choice, gallery
from bcos_cli.evaluate.predictions import SplitPredictions
from bcos_cli.processes import given_arguments
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


def explained(trained, evaluation, chosen):
    return list(gallery(Choice.of(evaluation, chosen.evaluation), trained, evaluation, chosen))


def literally(evaluation, errors, uncertain, per_class):
    """The definition: (position, reason) of each image, with sorted lists."""
    rows = [tuple(row) for row in evaluation.predictions.rows().tolist()]
    rows.sort(key=lambda row: row[3])
    wrong = [row for row in reversed(rows) if row[1] != row[2]][:errors]
    unsure = [row for row in rows if row not in wrong][:uncertain]
    chosen = [(row, WRONG) for row in wrong] + [(row, UNCERTAIN) for row in unsure]
    for k in range(len(CLASSES)):
        right = [row for row in rows if row[1] == row[2] == k] or [row for row in rows if row[1] == k]
        left = [row for row in right if row not in wrong + unsure]
        while len(left) > per_class:  # the middle
            left.pop()
            if len(left) > per_class:
                left.pop(0)
        chosen += [(row, TYPICAL) for row in left]
    return {int(row[0]): reason for row, reason in chosen}


@pytest.fixture
def predicted(evaluation):
    """30 predictions, of which 6 are wrong; all confidences differ."""
    torch.manual_seed(3)
    labels = torch.arange(30) % 3
    found = torch.where(torch.arange(30) % 5 == 4, (labels + 1) % 3, labels)
    evaluation.predictions = SplitPredictions(CLASSES)
    evaluation.predictions.update(labels, found, torch.rand(30), torch.arange(30))
    return evaluation


def test_errors_the_least_certain_and_typical_images_are_chosen(predicted, chosen):
    config = chosen.evaluation
    choice = Choice.of(predicted, config)
    assert choice.reasons == literally(predicted, config.gallery_errors, config.gallery_uncertain, 2)
    assert list(choice.reasons.values()).count(WRONG) == 6
    assert choice.text.startswith("All 6 wrong predictions are here, with the 8 images that the network is least")
    assert "up to 2 typical ones of all classes" in choice.text
    few = config.model_copy(update={"gallery_errors": 2, "gallery_uncertain": 1, "gallery_classes": 1})
    choice = Choice.of(predicted, few)
    assert list(choice.reasons.values()) == [WRONG, WRONG, UNCERTAIN, TYPICAL, TYPICAL]
    assert choice.text.startswith("The 2 most confident of 6 wrong predictions are here")
    assert "typical ones of the first 1 of 3 classes" in choice.text


def test_no_error_is_said_and_no_prediction_is_no_image(predicted, chosen):
    rows = predicted.predictions.rows()
    labels = rows[:, 1].long()
    predicted.predictions.update(labels, labels, rows[:, 3], rows[:, 0].long())
    assert Choice.of(predicted, chosen.evaluation).text.startswith("No prediction is wrong; explained here")
    predicted.predictions = None
    assert Choice.of(predicted, chosen.evaluation).reasons == {}


def test_chosen_images_are_explained(trained, evaluation, chosen):
    items = explained(trained, evaluation, chosen)
    choice = Choice.of(evaluation, chosen.evaluation)
    assert [item.name for item in items] == [f"test #{position}" for position in choice.reasons]
    assert [item.reason for item in items] == list(choice.reasons.values())
    for item, (_, label, k, confidence) in zip(
        items, (evaluation.predictions.rows()[position].tolist() for position in choice.reasons), strict=True
    ):
        assert (item.true_class, item.predicted_class) == (CLASSES[int(label)], CLASSES[int(k)])
        assert item.confidence == pytest.approx(confidence, abs=1e-5)
        assert item.correct is (item.reason != WRONG)
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
    for item in explained(trained, evaluation, chosen):
        assert list(item.baselines) == ["input_x_gradient", "gradcam"]
        x, k = encoded(item, trained), CLASSES.index(item.predicted_class)
        products = get_explainer("input_x_gradient")(trained.model, x, k).sum(1)
        np.testing.assert_allclose(item.baselines["input_x_gradient"], products[0].numpy(), atol=1e-5)
        cam = get_explainer("gradcam")(trained.model, x, k)
        np.testing.assert_allclose(item.baselines["gradcam"], cam[0].numpy(), atol=1e-5)


def test_images_do_not_depend_on_how_many_are_explained_at_a_time(trained, evaluation, chosen, monkeypatch):
    together = explained(trained, evaluation, chosen)
    monkeypatch.setattr(module, "BATCH", 1)
    for one, other in zip(together, explained(trained, evaluation, chosen), strict=True):
        np.testing.assert_allclose(one.map, other.map, atol=1e-5)
        np.testing.assert_allclose(one.baselines["gradcam"], other.baselines["gradcam"], atol=1e-5)


def test_no_images_are_explained_if_none_are_asked_for(trained, evaluation, recipe):
    assert explained(trained, evaluation, recipe(evaluation={"gallery_per_class": 0})) == []


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
    assert data.headline["top-1 accuracy on test"] == f"{100 * evaluation.scores.top1:.2f} %"
    low, high = evaluation.scores.intervals["top1"]
    assert data.summary["Scores"]["top-1, 95 % interval"] == f"{100 * low:.2f}% to {100 * high:.2f}%"
    assert "relative residual of explanations" in data.headline
    for name, label in (("image_share", "median image share"), ("cancellation", "median cancellation")):
        assert data.headline[label] == f"{100 * evaluation.metrics[name]:.1f} %"
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


def epoch(number, top1, **more):
    return {"epoch": number, "train_loss": 0.1, "test_loss": 0.1, "test_top1": top1, "scored": "test", **more}


def test_report_says_which_weights_were_scored_and_how_the_best_epoch_did(trained, evaluation, chosen, recipe):
    epochs = [epoch(1, 0.5), epoch(2, 0.9972), epoch(3, 0.9944)]
    said = report_data(chosen, trained, evaluation, epochs).summary["Training"]
    assert said["weights scored here"] == "epoch 3, the last"
    assert said["epochs scored on"] == "test, which chooses nothing"
    assert said["last epoch"] == "accuracy 99.44 %"
    assert said["best epoch"] == "accuracy 99.72 %, epoch 2"
    restored = recipe(train={"restore_best": True}, data={"val_share": 0.2})
    lines = [
        {"epoch": n, "val_loss": 0.1, "val_top1": top1, "ema_top1": top1, "scored": "val", "best": n == 1}
        for n, top1 in ((1, 0.9), (2, 0.8))
    ]
    said = report_data(restored, trained, evaluation, lines).summary["Training"]
    assert said["weights scored here"] == "epoch 1, the best on val"
    assert said["last epoch"] == "accuracy 80.00 % (averaged weights)"


def test_report_says_when_and_by_what_it_was_made_and_what_its_words_mean(trained, evaluation, chosen):
    token = given_arguments.set(["eval", "runs/my run", "--grids", "2"])
    try:
        data = report_data(chosen, trained, evaluation, [])
    finally:
        given_arguments.reset(token)
    made = data.summary["Made"]
    assert made["command"] == "bcos eval 'runs/my run' --grids 2"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d \S+", made["date"])
    for name in ("bcos-cli", "torch", "timm"):
        assert f"{name} {version(name)}" in made["versions"]
    assert {"logit", "W(x)", "confidence", "top-1", "relative residual (completeness)", "gradcam"} <= set(data.terms)
    assert "need not add up to 100 %" in data.terms["confidence"]
    assert data.gallery_note == Choice.of(evaluation, chosen.evaluation).text
