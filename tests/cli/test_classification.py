"""Scores against a literal computation."""

import math

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from bcos_cli.data.index import load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.evaluate.classification import classify, wilson_interval
from bcos_cli.train.losses import LossOptions, make_loss
from bcos_models import InputSpec, ModelConfig, TrainedModel

SPEC = InputSpec(size=8, channels=1, resize=None)


@pytest.fixture
def trained():
    def make(probabilities, classes=3):
        model = nn.Sequential(nn.Flatten(), nn.Linear(128, classes), nn.Dropout(0.5))
        nn.init.normal_(model[1].weight, std=0.3)
        return TrainedModel(
            model.train(), ModelConfig("m", classes, {}, SPEC, list("abcdefg"[:classes]), probabilities)
        )

    return make


@pytest.fixture
def batches(shards):
    def make(batch_size=5, split="train", **options):
        return make_batches(shards, load_index(shards), split, SPEC, batch_size=batch_size, **options)

    return make


def literal(trained, batches, sigmoid):
    images, labels, _ = (torch.cat(t) for t in zip(*batches(1).epoch(0), strict=True))
    x = images.float() / 255
    logits = trained.model.eval()(torch.cat([x, 1 - x], 1)).detach()
    confidences = logits.sigmoid() if sigmoid else logits.softmax(1)
    n, k = logits.shape
    top1 = top5 = 0
    confusion = [[0] * k for _ in range(k)]
    bins = [[] for _ in range(15)]
    for i in range(n):
        order = sorted(range(k), key=lambda c: -float(logits[i, c]))
        truth = int(labels[i])
        top1 += order[0] == truth
        top5 += truth in order[:5]
        confusion[truth][order[0]] += 1
        confidence = float(confidences[i, order[0]])
        bins[min(int(confidence * 15), 14)].append((confidence, order[0] == truth))
    error = sum(abs(sum(c for c, _ in b) - sum(r for _, r in b)) for b in bins) / n
    return n, top1 / n, top5 / n, error, confusion, logits, labels


def test_processes_without_images_know_the_scores_too(trained, batches, in_processes):
    """Eight processes for seven images."""
    model = trained("softmax")

    def scores(rank=0, world=1):
        own = batches(split="test", rank=rank, world=world)
        loss = make_loss("cross_entropy", LossOptions(evaluation=True))
        return classify(model, model.model, own, loss, device=torch.device("cpu"), show_progress=False)

    one = scores()
    for other in in_processes(8, scores):
        assert (other.samples, other.confusion) == (7, one.confusion)
        for name in ("top1", "top5", "loss", "calibration_error"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), abs=1e-6)


@pytest.mark.parametrize("classes", [3, 7])
@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
def test_scores_are_those_of_a_literal_computation(loss, classes, trained, batches):
    model = trained("sigmoid" if loss == "bce" else "softmax", classes)
    scores = classify(
        model,
        model.model,
        batches(),
        make_loss(loss, LossOptions(evaluation=True)),
        device=torch.device("cpu"),
        show_progress=False,
    )
    n, top1, top5, error, confusion, logits, labels = literal(model, batches, loss == "bce")
    assert scores.samples == n == 24
    assert scores.top1 == pytest.approx(top1)
    assert scores.top5 == pytest.approx(top5)
    assert scores.calibration_error == pytest.approx(error, abs=1e-6)
    assert scores.confusion == confusion
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if loss == "bce":
            terms = [-math.log(1 / (1 + math.exp(-z if c == label else z))) for c, z in enumerate(row)]
            total += sum(terms) / len(terms)
        else:
            total += math.log(sum(map(math.exp, row))) - row[label]
    assert scores.loss == pytest.approx(total / n, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_scores_do_not_depend_on_the_batches(batch_size, trained, batches):
    model = trained("sigmoid")
    device = torch.device("cpu")
    one, two = (
        classify(model, model.model, b, make_loss("bce"), device=device, show_progress=False)
        for b in (batches(5), batches(batch_size))
    )
    assert (one.confusion, one.samples) == (two.confusion, two.samples)
    assert one.loss == pytest.approx(two.loss, rel=1e-5)


@pytest.mark.parametrize("together", [True, False])
def test_network_in_parts_can_be_trained_after_it_was_scored(together, trained, batches):
    """FSDP keeps tensors that the first pass has made, which inference mode would make useless for training."""
    seen = []

    class Seen:
        def update(self, images, labels, confidences, predictions, keys):
            seen.append(confidences.is_inference())

        state, merge = list, seen.count

    model = trained("sigmoid")
    device = torch.device("cpu")
    classify(model, model.model, batches(), make_loss("bce"), device=device, samplers=[Seen()], together=together)
    assert set(seen) == {not together}


@pytest.mark.parametrize("training", [True, False])
def test_model_is_left_in_the_mode_it_was_in(training, trained, batches):
    model = trained("sigmoid")
    model.model.train(training)
    classify(model, model.model, batches(), make_loss("bce"), device=torch.device("cpu"), show_progress=False)
    assert model.model.training == training


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (7, 10), (10, 10), (900, 10_000), (1, 1)])
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_interval_of_a_share_is_wilsons(hits, count, level):
    expected = binomtest(hits, count).proportion_ci(level, method="wilson")
    assert wilson_interval(hits / count, count, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_share_of_nothing_has_no_interval():
    assert all(map(math.isnan, wilson_interval(math.nan, 0)))


def test_network_that_tells_no_images_apart_is_named(trained, batches):
    made = trained("sigmoid")
    loss = make_loss("bce", LossOptions())
    options = {"device": torch.device("cpu")}
    assert classify(made, made.model, batches(), loss, **options).collapse is None
    with torch.no_grad():
        made.model[1].weight.mul_(1e-8)
        made.model[1].bias.fill_(-2.2)
    scores = classify(made, made.model, batches(), loss, **options)
    assert scores.logit_spread < 1e-6
    assert scores.collapse.startswith("every image gets the same logits, up to ")
