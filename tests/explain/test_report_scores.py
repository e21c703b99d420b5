import matplotlib.cbook
import numpy as np
import pytest

from bcos_explain.report import MetricScores
from bcos_explain.report.boxes import boxes
from bcos_explain.report.scores import RESAMPLES, SEED, bootstrap_interval


def drawn(metric):
    """The boxes of a metric in the units of its scores."""
    shown = boxes(metric)
    low, high = shown.ticks[0][1], shown.ticks[-1][1]
    return shown, lambda percent: low + (high - low) * np.asarray(percent) / 100


@pytest.mark.parametrize("limits", [None, (0.0, 1.0)])
def test_boxes_are_those_of_matplotlib(limits):
    rng = np.random.default_rng(0)
    scores = {"many": rng.beta(2, 9, 200), "few": rng.random(5), "one": [0.4], "equal": [0.25] * 4}
    shown, value = drawn(MetricScores(title="m", scores=scores, limits=limits))
    for row, (name, values) in zip(shown.rows, scores.items(), strict=True):
        (stats,) = matplotlib.cbook.boxplot_stats(values)
        assert row.name == name
        strip = row.strip
        np.testing.assert_allclose(
            value([strip.low, strip.first, strip.median, strip.third, strip.high, strip.mean]),
            [stats[key] for key in ("whislo", "q1", "med", "q3", "whishi", "mean")],
        )
        np.testing.assert_allclose(value(strip.outliers), np.unique(stats["fliers"]))
        np.testing.assert_allclose(row.std, np.std(values, ddof=1) if len(values) > 1 else 0)
        assert row.count == len(values)


def test_axis_holds_all_scores_and_chance():
    shown = boxes(MetricScores(title="m", scores={"a": [3.0, 17.0], "b": [-4.0]}, chance=21.0))
    assert shown.ticks[0][0] == 0
    assert shown.ticks[-1][0] == 100
    assert 0 <= shown.chance <= 100
    for row in shown.rows:
        assert 0 <= row.strip.low <= row.strip.high <= 100


def test_axis_of_a_single_score_has_a_length():
    (row,) = boxes(MetricScores(title="m", scores={"a": [2.0]})).rows
    assert 0 < row.strip.mean < 100


def test_explainers_without_scores_have_no_row():
    assert not boxes(MetricScores(title="m", scores={"a": []})).rows


@pytest.mark.parametrize(("best", "names"), [("high", ["b"]), ("low", ["a"]), (None, [])])
def test_the_best_mean_is_marked(best, names):
    shown = boxes(MetricScores(title="m", scores={"a": [1.0], "b": [2.0]}, best=best))
    assert [row.name for row in shown.rows if row.best] == names


def test_interval_is_the_percentile_bootstrap_of_whole_groups():
    scores = np.random.default_rng(1).random(24)
    groups = [scores[k : k + 4].tolist() for k in range(0, 24, 4)]
    rng = np.random.default_rng(SEED)
    picks = rng.integers(6, size=(RESAMPLES, 6))
    means = sorted(sum(sum(groups[i]) for i in pick) / 24 for pick in picks)
    low, high = bootstrap_interval(scores, group=4)

    def quantile(q):  # linear between the two nearest of the sorted values
        position = q * (len(means) - 1)
        below = int(position)
        return means[below] + (position - below) * (means[below + 1] - means[below])

    assert low == pytest.approx(quantile(0.025))
    assert high == pytest.approx(quantile(0.975))
    assert low < scores.mean() < high


def test_scores_that_only_differ_inside_of_groups_leave_no_doubt():
    low, high = bootstrap_interval(np.tile([0.0, 1.0], 10), group=2)
    assert low == high == 0.5
    low, high = bootstrap_interval(np.tile([0.0, 1.0], 10))
    assert low < 0.5 < high
