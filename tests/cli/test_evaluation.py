"""Metrics of explanations over shards: in parts, on several processes, going on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from stripes import SIDE

import bcos_cli.evaluate.explanations
from bcos_cli.data.index import load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.data.pack import pack
from bcos_cli.data.sources import ArraySource, ImageItem, encode_png
from bcos_cli.data.stream import Labelling
from bcos_cli.evaluate.evaluation import evaluate_shards
from bcos_cli.evaluate.options import EvaluationOptions
from bcos_cli.evaluate.requirements import Condition
from bcos_cli.evaluate.result import print_evaluation
from bcos_cli.evaluate.resumable import PartialResults
from bcos_cli.train import trainer
from bcos_cli.train.model import build
from bcos_core import BcosError
from bcos_explain import get_explainer, metrics
from bcos_explain.metrics import ConfidentImages, grid_pointing_game
from bcos_explain.spec import MetricSpec
from bcos_models import InputSpec

CLASSES = ["rows", "columns", "corner"]
OPTIONS = EvaluationOptions(
    split="train",
    metrics=("top1", "gridpg", "completeness"),
    explainers=("bcos", "gradcam"),
    workers=0,
    images=10,
    explain_batch=3,
)


@pytest.fixture
def trained(recipe, shards):
    """A network that is sure of the stripes."""
    made = build(recipe(), CLASSES)
    model = made.model
    images, labels, _ = next(iter(every(made, shards)))
    with torch.no_grad():
        model.train()(made.encode(images))
        model.eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        logits = model(made.encode(images))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.eye(3)[labels])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert made.confidences(model(made.encode(images))).gather(1, labels[:, None]).min() > 0.5
    return made


def every(trained, shards):
    return make_batches(shards, load_index(shards), "train", trained.input, batch_size=100).epoch(0)


def two_by_one(monkeypatch):
    """Grids of 2×2 need four classes; these data have three."""
    monkeypatch.setattr(
        bcos_cli.evaluate.explanations,
        "sample_grids",
        lambda labels, *_: torch.randint(len(labels), (7, 4), generator=torch.Generator()),
    )


def test_parts_make_up_what_the_metric_gives_at_once(trained, shards, monkeypatch):
    two_by_one(monkeypatch)
    evaluation = evaluate_shards(trained, shards, OPTIONS)
    assert evaluation.skipped == {}
    images, labels, positions = next(iter(every(trained, shards)))
    logits = trained.model(trained.encode(images)).detach()
    confidence, predicted = trained.confidences(logits).max(1)
    best = ConfidentImages(100, min_confidence=0.5)
    best.update(images, labels, confidence, predicted, positions)
    kept = best.collected()
    grids = bcos_cli.evaluate.explanations.sample_grids(kept[1])
    for name in ("bcos", "gradcam"):
        explainer = get_explainer(name)
        whole = grid_pointing_game(trained.model, explainer, *kept, grids=grids, encode=trained.encode)
        found = evaluation.gridpg[name]
        torch.testing.assert_close(found.scores, whole.scores, atol=1e-5, rtol=1e-4)
        assert (found.cluster, found.chance) == (4, 0.25)
        assert evaluation.metrics[f"gridpg/{name}"] == found.mean
    chosen = [i * 24 // 10 for i in range(10)]
    assert evaluation.samples == {"completeness": chosen}
    x = torch.stack([images[positions.tolist().index(p)] for p in chosen])
    expected = metrics.completeness(trained.model, x, encode=trained.encode).scores
    torch.testing.assert_close(evaluation.explanations["completeness"][""].scores, expected, atol=1e-7, rtol=0)


def test_what_was_measured_before_a_kill_is_not_measured_again(trained, shards, monkeypatch, tmp_path):
    two_by_one(monkeypatch)
    whole = evaluate_shards(trained, shards, OPTIONS)
    original, calls = bcos_cli.evaluate.explanations._as_part, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(bcos_cli.evaluate.explanations, "_as_part", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate_shards(trained, shards, OPTIONS, partial=tmp_path / "partial")
    calls.clear()
    monkeypatch.setattr(bcos_cli.evaluate.explanations, "_as_part", lambda *a: calls.append(1) or original(*a))
    resumed = evaluate_shards(trained, shards, OPTIONS, partial=tmp_path / "partial")
    assert len(calls) == 4 + 3 + 3 - 5
    assert not (tmp_path / "partial").exists()
    for metric, by_explainer in whole.explanations.items():
        for explainer, result in by_explainer.items():
            assert torch.equal(resumed.explanations[metric][explainer].scores, result.scores)


def test_parts_of_another_network_are_not_taken_up(trained, shards, monkeypatch, tmp_path):
    two_by_one(monkeypatch)
    monkeypatch.setattr(PartialResults, "clear", lambda self: None)
    evaluate_shards(trained, shards, OPTIONS, partial=tmp_path / "partial")
    with torch.no_grad():
        next(trained.model.parameters()).add_(0.1)
    fresh = evaluate_shards(trained, shards, OPTIONS)
    again = evaluate_shards(trained, shards, OPTIONS, partial=tmp_path / "partial")
    assert torch.equal(again.gridpg["bcos"].scores, fresh.gridpg["bcos"].scores)


def test_a_metric_that_fails_is_named_with_the_reason_and_the_rest_measured(trained, shards):
    evaluation = evaluate_shards(trained, shards, OPTIONS)
    assert set(evaluation.skipped) == {"gridpg/bcos", "gridpg/gradcam"}
    assert "need images of at least 4 classes, got 3" in evaluation.skipped["gridpg/bcos"]
    assert "completeness" in evaluation.metrics


class OnlyAMean:
    mean = 0.25


@pytest.fixture
def strange(stranger, hooks):
    """Install metrics of a stranger's package: functions by the names that their descriptions have."""

    def install(specs, functions):
        stranger(code=functions, bcos_explain=hooks("bcos_explain", bcos_explain_metrics=specs))

    return install


def test_metrics_of_plugins_get_what_they_need(trained, shards, strange):
    seen = {}

    def plain(model, images, labels, *, encode):
        seen["plain"] = (model, len(images), len(labels), encode)
        return OnlyAMean()

    def chunked(model, explainer, images, keys, *, encode, batch_size, strength=1):
        seen.setdefault("chunked", []).append((len(images), keys, batch_size, strength))
        return metrics.MetricResult(scores=torch.tensor(keys).double())

    specs = [
        MetricSpec("plain", "stranger_code:plain", needs=("model", "images", "labels")),
        MetricSpec("chunked", "stranger_code:chunked", needs=("model", "explainer", "images", "keys"), unit="image"),
    ]
    strange(specs, {"plain": plain, "chunked": chunked})
    options = EvaluationOptions(
        split="train",
        metrics=("plain", "chunked"),
        explainers=("bcos",),
        workers=0,
        images=8,
        explain_batch=3,
        options={"chunked": {"strength": 5}},
    )
    evaluation = evaluate_shards(trained, shards, options)
    assert evaluation.metrics["plain"] == 0.25
    assert seen["plain"][1:3] == (8, 8)
    assert [(n, b, s) for n, _, b, s in seen["chunked"]] == [(3, 3, 5), (3, 3, 5), (2, 3, 5)]
    assert evaluation.explanations["chunked"]["bcos"].scores.tolist() == [i * 24 // 8 for i in range(8)]
    assert evaluation.classification is None


def scored(metric, trained, shards, strange, unit="image", **described):
    """The evaluation of a stranger's metric."""
    spec = MetricSpec("strange", "stranger_code:strange", needs=("model", "images"), unit=unit, **described)
    strange([spec], {"strange": metric})
    return evaluate_shards(trained, shards, replace(OPTIONS, metrics=("strange",), images=8))


def of_each(images, value=0.5, **options):
    return metrics.MetricResult(scores=torch.full((len(images),), value), **options)


@pytest.mark.parametrize(
    ("metric", "described", "reason"),
    [
        (lambda m, images, **_: of_each(images[1:]), {}, "gave scores of 2 images for 3; use NaN where"),
        (lambda m, images, **_: OnlyAMean(), {}, "gave OnlyAMean; with unit='image' it has to be a MetricResult"),
        (lambda m, images, **_: 0.5, {"unit": "whole"}, "gave float; with unit='whole'"),
        (lambda m, images, **_: of_each(images, cluster=len(images)), {}, "has unit='image', but scores that belong"),
        (
            lambda m, images, **_: of_each(images, higher_is_better=True),
            {"higher_is_better": False},
            "says that higher_is_better=False, its result says the opposite",
        ),
        (lambda m, images, **_: of_each(images, float("inf")), {}, "scores must be finite, or NaN where the metric is"),
        (lambda m, images, **_: 1 / 0, {}, "failed: ZeroDivisionError: division by zero"),
    ],
)
def test_metrics_that_break_their_promise_are_named(metric, described, reason, trained, shards, strange):
    evaluation = scored(metric, trained, shards, strange, **described)
    assert reason in evaluation.skipped["strange"]
    if "finite" not in reason:
        assert evaluation.skipped["strange"].startswith("the metric 'strange' of the plugin stranger:zoo ")
    assert not evaluation.explanations


def test_metrics_that_keep_their_promise_are_measured(trained, shards, strange):
    def metric(model, images, *, encode):
        return of_each(images, float("nan"), higher_is_better=False)

    evaluation = scored(metric, trained, shards, strange, higher_is_better=False)
    assert (evaluation.skipped, len(evaluation.explanations["strange"][""].scores)) == ({}, 8)


def test_what_explainers_say_is_under_the_table_and_in_the_files(trained, shards, capsys):
    options = replace(OPTIONS, metrics=("sparseness",), explainers=("guided_backprop", "bcos"))
    evaluation = evaluate_shards(trained, shards, options)
    said = "this is the plain gradient: no ReLU was seen in this network"
    by_explainer = evaluation.to_dict()["explanations"]["sparseness"]
    assert {name: result["remarks"] for name, result in by_explainer.items()} == {"guided_backprop": [said], "bcos": []}
    print_evaluation(evaluation)
    assert f"sparseness/guided_backprop: {said}" in " ".join(capsys.readouterr().out.split())


def test_remarks_survive_a_kill(trained, shards, tmp_path, monkeypatch):
    options = replace(OPTIONS, metrics=("sparseness",), explainers=("guided_backprop",), grids=0)
    monkeypatch.setattr(PartialResults, "clear", lambda self: None)
    once, again = (evaluate_shards(trained, shards, options, partial=tmp_path / "partial") for _ in range(2))
    remarks = [e.explanations["sparseness"]["guided_backprop"].remarks for e in (once, again)]
    assert remarks[0] == remarks[1]
    assert len(remarks[0]) == 1


def test_unknown_options_are_refused(trained, shards):
    options = EvaluationOptions(split="train", metrics=("gridpg",), workers=0, options={"bcos": {"steps": 3}})
    with pytest.raises(BcosError, match="the explainer 'bcos' has no option 'steps'"):
        evaluate_shards(trained, shards, options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"rise": {"n_masks": 3}}}, "rise has options, but is not measured"),
        ({"options": {"gridpg": {"stepz": 3}}}, "the metric 'gridpg' has no option 'stepz'"),
        (
            {"options": {"gridpg": {"confidence": 3}}},
            "'gridpg' has no option 'confidence'; choose from smooth, batch_size",
        ),
        ({"options": {"gridpg": {"images": 3}}}, "the metric 'gridpg' has no option 'images'"),
        ({"metrics": ("epg",)}, "epg needs boxes, which shards do not have; see --boxes"),
        ({"smooth": 2}, "smooth must be odd and at least 1, got 2"),
        ({"explainers": ("gradcma",)}, "there is no explainer 'gradcma'; did you mean 'gradcam'"),
        ({"require": (Condition("gridpg", ">", 0.5),)}, "there will be no score 'gridpg'; did you mean 'gridpg/bcos'"),
        ({"require": (Condition("gridpg/rise", ">", 0.5),)}, "there will be no score 'gridpg/rise'"),
    ],
)
def test_what_would_fail_in_the_end_is_refused_at_once(changes, message, trained, shards, monkeypatch):
    monkeypatch.setattr("bcos_cli.evaluate.evaluation.classify", None)
    with pytest.raises(BcosError, match=message):
        evaluate_shards(trained, shards, replace(OPTIONS, **changes))


def test_metrics_of_conditions_are_measured_too(trained, shards):
    evaluation = evaluate_shards(
        trained, shards, replace(OPTIONS, metrics=("top1",), require=(Condition("sparseness/bcos", ">", 0.1),))
    )
    assert evaluation.metrics.keys() == {"top1", "sparseness/bcos", "sparseness/gradcam"}


class Biased(torch.nn.Module):
    """A network that adds a constant to each logit."""

    def __init__(self, network, bias):
        super().__init__()
        self.network, self.bias = network, torch.nn.Parameter(torch.full((3,), bias))

    def forward(self, x):
        return self.network(x) + self.bias


def test_image_share_is_required_and_a_low_one_is_warned_of(trained, shards, capsys):
    required = (Condition.parse("image_share>=0.5"),)
    options = replace(OPTIONS, metrics=("completeness", "cancellation"), require=required)
    evaluation = evaluate_shards(trained, shards, options)
    assert evaluation.metrics["image_share"] > 0.99
    assert 0 < evaluation.metrics["cancellation"] <= 1
    assert (evaluation.failures(required), evaluation.notes) == ([], [])
    trained.model = Biased(trained.model, 1000.0)
    evaluation = evaluate_shards(trained, shards, options)
    shares = evaluation.explanations["image_share"][""]
    assert evaluation.metrics["image_share"] == shares.median < 0.5
    assert evaluation.failures(required) == [f"image_share is {shares.median:.4g}, needed >= 0.5"]
    assert evaluation.metrics["completeness"] < 1e-6
    (note,) = evaluation.notes
    assert note.startswith(f"the median image share is {shares.median:.2%}: most of the logits is bias")
    print_evaluation(evaluation)
    printed = capsys.readouterr()
    assert "image_share (median)" in printed.out + printed.err
    assert "most of the logits is bias" in " ".join(printed.out.split())


def test_accuracy_has_its_interval_in_table_and_file(trained, shards, capsys):
    evaluation = evaluate_shards(trained, shards, replace(OPTIONS, grids=0, metrics=("top1", "loss")))
    low, high = evaluation.scores.intervals["top1"]
    assert 0 < low < evaluation.metrics["top1"] <= high <= 1
    assert evaluation.to_dict()["intervals_95"]["top1"] == [low, high]
    print_evaluation(evaluation)
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0][:3] == ["metric", "value", "95 % interval"]
    assert rows[1][:4] == ["top1", f"{evaluation.metrics['top1']:.2%}", f"{low:.2%} to {high:.2%}", "24"]
    assert rows[2][2:4] == ["", ""]


def test_fewer_grids_than_asked_for_are_noted(trained, shards, monkeypatch):
    two_by_one(monkeypatch)
    assert evaluate_shards(trained, shards, OPTIONS).notes == [
        "7 grids instead of 100: no more images were classified with confidence"
    ]
    assert evaluate_shards(trained, shards, replace(OPTIONS, grids=7)).notes == []


def renumbered(shards, tmp_path, keep):
    """The shards of some classes alone, which their index and labels number as they stand in `keep`."""
    items, pngs = [], {}
    for image, label, position in every_sample(shards):
        if CLASSES[label] in keep:
            path = f"{position}.png"
            items.append(ImageItem(path, "train", keep.index(CLASSES[label])))
            pngs[path] = encode_png(image.permute(1, 2, 0).numpy()[..., 0])
    folder = tmp_path / "-".join(keep)
    pack(ArraySource(list(keep), items, pngs), "some", folder, workers=1)
    return str(folder)


def every_sample(shards):
    spec = InputSpec(size=SIDE, channels=1, resize=None)
    for images, labels, positions in make_batches(shards, load_index(shards), "train", spec, batch_size=5).epoch(0):
        yield from zip(images, labels.tolist(), positions.tolist(), strict=True)


def test_classes_in_another_order_are_aligned_by_name(trained, shards, tmp_path):
    permuted = renumbered(shards, tmp_path, ["corner", "rows", "columns"])
    own, other = (evaluate_shards(trained, data, replace(OPTIONS, grids=0)) for data in (shards, permuted))
    assert own.metrics["top1"] > 0.9
    assert other.metrics["top1"] == own.metrics["top1"]
    assert other.scores.confusion == own.scores.confusion
    assert other.classes == CLASSES
    assert other.notes == []


def test_shards_that_lack_a_class_are_scored_on_the_others(trained, shards, tmp_path):
    some = renumbered(shards, tmp_path, ["corner", "columns"])
    found = evaluate_shards(trained, some, replace(OPTIONS, grids=0))
    whole = evaluate_shards(trained, shards, replace(OPTIONS, grids=0)).scores.confusion
    assert found.scores.confusion == [[0, 0, 0], whole[1], whole[2]]
    assert found.metrics["top1"] > 0.9
    assert found.notes == ["the shards have 2 of the 3 classes that the network knows"]


def test_classes_without_images_need_not_be_known_and_are_told(trained, shards, tmp_path):
    more = renumbered(shards, tmp_path, ["corner", "empty class", "rows", "columns"])
    own, other = (evaluate_shards(trained, data, replace(OPTIONS, grids=0)) for data in (shards, more))
    assert other.scores.confusion == own.scores.confusion
    assert other.classes == CLASSES
    said = "left aside 1: classes without images here that the network does not know: 'empty class'"
    assert other.notes == [*own.notes, said]
    index = load_index(more)
    label = Labelling.of(index.aligned(trained, more, "train"))
    assert [label.read(str(k).encode()) for k in (0, 2, 3)] == [2, 0, 1]
    with pytest.raises(BcosError, match="of which the index counts no image"):
        label.read(b"1")
    counted = index.shards
    index.shards = [shard.model_copy(update={"class_counts": None}) for shard in counted]
    with pytest.raises(BcosError, match=r"does not know 'empty class'; .* \(bcos shards pack --exclude leaves out"):
        index.aligned(trained, more, "train")


def test_shards_of_a_class_that_the_network_lacks_are_refused_by_its_name(trained, shards, monkeypatch):
    monkeypatch.setattr("bcos_cli.evaluate.evaluation.classify", None)
    trained.config = replace(trained.config, classes=["columns", "dots", "corner"])
    said = r"have 3 classes, of which the network does not know 'rows'; it knows 'columns', 'dots', 'corner'"
    with pytest.raises(BcosError, match=said):
        evaluate_shards(trained, shards, OPTIONS)


def test_network_without_names_takes_those_of_the_shards_and_says_so(trained, shards):
    trained.config = replace(trained.config, classes=["0", "1", "2"])
    found = evaluate_shards(trained, shards, replace(OPTIONS, grids=0))
    assert found.metrics["top1"] > 0.9
    assert found.classes == CLASSES
    assert found.notes == ["classes are matched by number: the network, or the shards, do not name them"]


def test_networks_of_the_same_weights_are_told_apart(trained, recipe):
    other = build(recipe(model={"options": {"depths": [1], "width": 8, "b": 1.5}}), CLASSES)
    other.model.load_state_dict(trained.model.state_dict())
    assert other.fingerprint() != trained.fingerprint()


@pytest.mark.slow
def test_a_gate_that_fails_leaves_everything_written_by_all_processes(recipe, tmp_path):
    wanted = recipe(train={"epochs": 1}, evaluation={"explainers": ["bcos"], "gridpg_grids": 2, "gallery_per_class": 1})
    trainer.train(wanted, tmp_path / "run")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "bcos_cli", "eval", "run", "--num-processes", "2", "--require", "top1>1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("needed > 1") == 1
    assert {"evaluation.json", "report.html", "scores"} <= {p.name for p in (tmp_path / "run").iterdir()}


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "bcos_cli", "eval", "model.safetensors", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)


def scores(folder):
    return json.loads((folder / "scores.json").read_text())


@pytest.mark.slow
def test_processes_agree_and_a_killed_evaluation_goes_on(trained, shards, tmp_path):
    trained.save(tmp_path / "model.safetensors")
    common = [
        "--data",
        shards,
        "--split",
        "train",
        "--workers",
        0,
        "--metric",
        "completeness",
        "--metric",
        "complexity",
    ]
    common += ["--explainer", "rise", "--option", "rise.n_masks=1000", "--images", 16, "--explain-batch", 1]
    one = start(*common, "--out", "one")
    _, err = one.communicate(timeout=300)
    assert one.returncode == 0, err
    killed = start(*common, "--out", "two")
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("two/.partial/*/complexity*"))) == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "two/scores.json").exists()
    before = sum(len(p.read_text().splitlines()) for p in tmp_path.glob("two/.partial/*/*"))
    assert before > 16  # all of completeness, and some of complexity
    two = start(*common, "--out", "two", "--num-processes", 2)
    _, err = two.communicate(timeout=300)
    assert two.returncode == 0, err
    assert not (tmp_path / "two/.partial").exists()
    for name, result in scores(tmp_path / "one").items():
        assert scores(tmp_path / "two")[name]["scores"] == pytest.approx(result["scores"], rel=1e-4, abs=1e-6)
