"""The table of metrics, and the intervals that are shown of them."""

import re
from dataclasses import fields

import pytest
import torch

from bcos_cli.evaluate.classification import Scores
from bcos_cli.evaluate.evaluation import evaluate_shards
from bcos_cli.evaluate.metrics import CLASSIFICATION, DEFAULT, all_metrics, describe, format_value
from bcos_cli.evaluate.result import print_evaluation
from bcos_cli.runs.evaluation import recipe_options
from bcos_cli.runs.report import report_data
from bcos_cli.train.model import build
from bcos_explain.metrics import MetricResult
from bcos_explain.report.sections import metric_sections


def test_every_metric_has_a_summary_and_a_direction():
    for name, metric in all_metrics().items():
        assert metric.name == name
        assert metric.summary
        assert metric.higher_is_better is not None


def test_classification_metrics_are_scores():
    assert set(CLASSIFICATION) <= {field.name for field in fields(Scores)}
    assert set(DEFAULT) <= set(all_metrics())


@pytest.mark.parametrize(
    ("name", "text"),
    [("top1", "51.23%"), ("loss", "0.5123"), ("gridpg", "51.23%"), ("epg_masks", "51.23%"), ("deletion", "0.5123")],
)
def test_shares_are_percentages(name, text):
    assert format_value(name, 0.51234) == text


def test_metric_of_a_plugin_that_is_gone_keeps_its_name():
    assert (describe("gone").summary, describe("gone").higher_is_better) == ("gone", None)


def test_terminal_and_report_show_the_same_interval_where_a_clustered_score_is_undefined(recipe, shards, capsys):
    chosen = recipe(evaluation={"gallery_per_class": 0, "neurons": 0})
    trained = build(chosen, ["rows", "columns", "corner"])
    trained.model.eval()
    evaluation = evaluate_shards(trained, shards, recipe_options(chosen, metrics=("top1",)))
    scores = torch.rand(160, generator=torch.Generator().manual_seed(3), dtype=torch.float64).reshape(40, 4)
    scores = (scores.mean(1, keepdim=True) ** 4 * 8 + scores / 9).flatten()  # clusters differ, so clustering matters
    scores[77] = torch.nan
    result = MetricResult(scores=scores, cluster=4, chance=0.25, higher_is_better=True)
    evaluation.explanations = {"gridpg": {"bcos": result}, "difull": {"bcos": result}}
    evaluation.metrics = {"gridpg/bcos": result.mean, "difull/bcos": result.mean}
    low, high = result.bootstrap_interval()
    assert result.bootstrap_interval() != MetricResult(scores=scores).bootstrap_interval()

    print_evaluation(evaluation)
    shown = re.findall(r"([\d.]+)% to ([\d.]+)%", capsys.readouterr().out)
    assert [tuple(map(float, ends)) for ends in shown] == [pytest.approx((100 * low, 100 * high), abs=0.006)] * 2
    sections = metric_sections(report_data(chosen, trained, evaluation, []))
    assert [section["boxes"].rows[0].interval for section in sections] == [(low, high)] * 2
    assert result.to_dict()["interval_95"] == [low, high]
