import matplotlib.cbook
import numpy as np
import pytest
import torch

from bcos_explain.metrics import MetricResult
from bcos_explain.report import MetricScores, ReportData
from bcos_explain.report.boxes import boxes
from bcos_explain.report.sections import metric_sections


def metric(scores, *, limits=None, **options):
    """A metric of the scores of each explainer."""
    results = {name: MetricResult(scores=torch.as_tensor(values), **options) for name, values in scores.items()}
    return MetricScores(title="m", results=results, limits=limits)


def drawn(metric):
    """The boxes of a metric in the units of its scores."""
    shown = boxes(metric)
    low, high = shown.ticks[0][1], shown.ticks[-1][1]
    return shown, lambda percent: low + (high - low) * np.asarray(percent) / 100


@pytest.mark.parametrize("limits", [None, (0.0, 1.0)])
def test_boxes_are_those_of_matplotlib(limits):
    rng = np.random.default_rng(0)
    scores = {"many": rng.beta(2, 9, 200), "few": rng.random(5), "one": [0.4], "equal": [0.25] * 4}
    shown, value = drawn(metric(scores, limits=limits))
    for row, (name, values) in zip(shown.rows, scores.items(), strict=True):
        (stats,) = matplotlib.cbook.boxplot_stats(values)
        assert row.name == name
        strip = row.strip
        np.testing.assert_allclose(
            value([strip.low, strip.first, strip.median, strip.third, strip.high, strip.value]),
            [stats[key] for key in ("whislo", "q1", "med", "q3", "whishi", "mean")],
        )
        np.testing.assert_allclose(value(strip.outliers), np.unique(stats["fliers"]))
        assert row.std == (pytest.approx(np.std(values, ddof=1)) if len(values) > 1 else None)
        assert row.count == len(values)


def test_axis_holds_all_scores_and_chance():
    shown = boxes(metric({"a": [3.0, 17.0], "b": [-4.0]}, chance=21.0))
    assert shown.ticks[0][0] == 0
    assert shown.ticks[-1][0] == 100
    assert 0 <= shown.chance <= 100
    for row in shown.rows:
        assert 0 <= row.strip.low <= row.strip.high <= 100


def test_axis_of_a_single_score_has_a_length():
    (row,) = boxes(metric({"a": [2.0]})).rows
    assert 0 < row.strip.value < 100


def test_explainers_without_scores_have_no_row():
    assert not boxes(metric({"a": []})).rows


@pytest.mark.parametrize(("better", "names"), [(True, ["b"]), (False, ["a"]), (None, [])])
def test_the_best_mean_is_marked(better, names):
    shown = boxes(metric({"a": [1.0], "b": [2.0]}, higher_is_better=better))
    assert [row.name for row in shown.rows if row.best] == names


def clustered(groups, size):
    """Scores that differ more between groups than inside of them."""
    generator = torch.Generator().manual_seed(3)
    levels = torch.rand(groups, 1, generator=generator).double()
    return (levels + 0.1 * torch.rand(groups, size, generator=generator)).flatten()


def test_the_report_shows_the_interval_that_the_terminal_shows():
    scores = clustered(40, 4)
    scores[17] = float("nan")
    result = MetricResult(scores=scores, cluster=4)
    (row,) = boxes(metric({"a": scores}, cluster=4)).rows
    assert row.interval == result.bootstrap_interval()
    assert (row.value, row.std, row.count) == (result.mean, result.std, 159)
    low, high = result.bootstrap_interval()
    without = MetricResult(scores=scores[~scores.isnan()]).bootstrap_interval()
    assert high - low > 1.5 * (without[1] - without[0])  # whole groups are in doubt, not single scores


def test_an_undefined_score_leaves_the_grid_pointing_game_its_grids():
    scores = clustered(40, 4)
    scores[17] = float("nan")
    (section,) = metric_sections(ReportData(title="t", gridpg={"a": MetricResult(scores=scores, cluster=4)}))
    (row,) = section["boxes"].rows
    assert row.interval == MetricResult(scores=scores, cluster=4).bootstrap_interval()


def test_explainers_whose_scores_are_all_undefined_have_no_row():
    assert not boxes(metric({"a": [float("nan")] * 2})).rows


def test_a_single_score_has_a_row_without_interval_and_deviation():
    (row,) = boxes(metric({"a": [0.3]})).rows
    assert (row.value, row.interval, row.std, row.strip.interval) == (pytest.approx(0.3), None, None, None)


def test_scores_that_only_differ_inside_of_groups_leave_no_doubt():
    (row,) = boxes(metric({"a": [0.0, 1.0] * 10}, cluster=2)).rows
    assert row.interval == (0.5, 0.5)
    (row,) = boxes(metric({"a": [0.0, 1.0] * 10})).rows
    assert row.interval[0] < 0.5 < row.interval[1]


def test_a_metric_of_medians_shows_them():
    result = MetricResult(scores=torch.tensor([0.1, 0.2, 0.9]), statistic="median")
    shown = MetricScores(title="t", results={"a": result})
    (row,) = boxes(shown).rows
    assert (shown.statistic, row.value) == ("median", result.median)
    assert row.strip.value == row.strip.median
