import json
import math

import pytest
import torch

from bcos_core import BcosError
from bcos_explain.metrics import GridPointingResult, MetricResult

NAN = math.nan


def result(scores, **options):
    return MetricResult(scores=torch.tensor(scores, dtype=torch.float64), **options)


def test_summary_ignores_undefined_scores_and_counts_them():
    r = result([0.2, NAN, 0.4, 0.9])
    assert r.mean == pytest.approx(0.5)
    assert r.std == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 2))
    assert (r.count, r.undefined) == (3, 1)


def test_scores_are_kept_in_double_precision_on_the_cpu():
    r = MetricResult(scores=torch.rand(3, requires_grad=True), curves=torch.rand(3, 2), curve_x=torch.arange(2))
    assert {t.dtype for t in (r.scores, r.curves, r.curve_x)} == {torch.float64}
    assert not r.scores.requires_grad


def test_nothing_defined_has_no_mean_and_no_interval():
    r = result([NAN, NAN])
    assert math.isnan(r.mean)
    assert math.isnan(r.std)
    assert all(map(math.isnan, r.bootstrap_interval()))
    summary = r.to_dict()
    assert summary["mean"] is summary["std"] is None
    assert summary["interval_95"] == [None, None]


@pytest.mark.parametrize("scores", [[0.3], [NAN, 0.3, NAN]])
def test_a_single_score_has_neither_deviation_nor_interval(scores):
    r = result(scores)
    assert r.mean == pytest.approx(0.3)
    assert math.isnan(r.std)
    assert all(map(math.isnan, r.bootstrap_interval()))
    assert r.interval_text(str) == ""
    assert r.to_dict()["std"] is None
    assert "<td>undefined</td>" in r._repr_html_()


def test_a_single_cluster_has_no_interval():
    assert all(map(math.isnan, result([0.2, 0.4, 0.6, 0.8], cluster=4).bootstrap_interval()))
    assert result([0.2, 0.4]).interval_text("{:.1f}".format) == "0.2 to 0.4"


def literal_bootstrap(scores, cluster, level, resamples, generator):
    """Resample clusters, average all scores that are defined, take percentiles by linear interpolation."""
    clusters = [scores[i : i + cluster] for i in range(0, len(scores), cluster)]
    clusters = [c for c in clusters if not all(map(math.isnan, c))]
    means = []
    for _ in range(resamples):
        drawn = torch.randint(len(clusters), (len(clusters),), generator=generator).tolist()
        values = [v for i in drawn for v in clusters[i] if not math.isnan(v)]
        means.append(sum(values) / len(values))
    means.sort()

    def percentile(q):
        position = q * (len(means) - 1)
        below = math.floor(position)
        above = min(below + 1, len(means) - 1)
        return means[below] + (position - below) * (means[above] - means[below])

    return percentile((1 - level) / 2), percentile((1 + level) / 2)


@pytest.mark.parametrize("cluster", [1, 3])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_interval_is_the_percentile_bootstrap_of_clusters(cluster, level):
    scores = torch.randn(12, dtype=torch.float64)
    scores[[1, 6, 7, 8]] = NAN
    low_high = MetricResult(scores=scores, cluster=cluster).bootstrap_interval(
        level, resamples=200, generator=torch.Generator().manual_seed(4)
    )
    expected = literal_bootstrap(scores.tolist(), cluster, level, 200, torch.Generator().manual_seed(4))
    assert low_high == pytest.approx(expected)


def test_cells_of_equal_grids_leave_no_doubt():
    r = result([0.2, 0.4, 0.6, 0.8, 0.5, 0.5, 0.5, 0.5], cluster=4)
    assert r.bootstrap_interval() == pytest.approx((0.5, 0.5))


def test_interval_covers_the_mean_and_narrows_with_more_clusters():
    scores = torch.rand(4000).double()
    small = MetricResult(scores=scores[:40], cluster=4).bootstrap_interval()
    large = MetricResult(scores=scores, cluster=4).bootstrap_interval()
    assert large[0] < scores.mean() < large[1]
    assert large[1] - large[0] < (small[1] - small[0]) / 3


def test_interval_does_not_depend_on_the_global_seed():
    r = result(torch.rand(20).tolist())
    torch.manual_seed(1)
    first = r.bootstrap_interval()
    torch.manual_seed(2)
    assert r.bootstrap_interval() == first


def test_dictionary_is_strict_json():
    r = result([0.5, NAN], chance=0.25, higher_is_better=True, curves=torch.tensor([[1.0, 0], [3, NAN]]),
               curve_x=torch.tensor([0.0, 1]))  # fmt: skip
    summary = json.loads(json.dumps(r.to_dict(), allow_nan=False))
    assert summary["scores"] == [0.5, None]
    assert summary["curve"] == {"x": [0, 1], "mean": [2, 0]}
    assert summary["chance"] == 0.25
    assert summary["higher_is_better"] is True
    assert (summary["count"], summary["undefined"]) == (1, 1)


def test_parts_are_joined_in_order():
    xs = torch.tensor([0.0, 1])
    parts = [
        result([0.1, 0.2], chance=0.5, cluster=2, curves=torch.zeros(2, 2), curve_x=xs),
        result([0.3, NAN], chance=0.5, cluster=2, curves=torch.ones(2, 2), curve_x=xs),
    ]
    whole = MetricResult.concatenate(parts)
    assert whole.scores[:3].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert whole.curves.tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert (whole.chance, whole.cluster) == (0.5, 2)
    assert torch.equal(whole.curve_x, xs)


def test_parts_of_different_measurements_are_refused():
    with pytest.raises(BcosError, match="no results to concatenate"):
        MetricResult.concatenate([])
    with pytest.raises(BcosError, match=r"parts that differ in \{'chance': \(0.25, None\)\}"):
        MetricResult.concatenate([result([0.1], chance=0.25), result([0.1])])
    curves = {"curves": torch.zeros(1, 1), "curve_x": torch.ones(1)}
    with pytest.raises(BcosError, match="curves at different positions"):
        MetricResult.concatenate([result([0.1], **curves), result([0.1])])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": torch.rand(2, 2)}, r"scores must be \(M,\) .* got shape \(2, 2\)"),
        ({"scores": torch.rand(3), "cluster": 2}, "a multiple of cluster=2"),
        ({"scores": torch.rand(3), "curves": torch.rand(3, 2)}, r"got \(3, 2\) and None"),
        ({"scores": torch.rand(3), "curves": torch.rand(2, 2), "curve_x": torch.rand(2)}, r"got \(2, 2\) and \(2,\)"),
    ],
)
def test_results_that_do_not_fit_are_refused(options, message):
    with pytest.raises(BcosError, match=message):
        MetricResult(**options)


def test_impossible_intervals_are_refused():
    with pytest.raises(BcosError, match=r"level must be inside \(0, 1\) and resamples at least 1, got 1 and 0"):
        result([0.1]).bootstrap_interval(1, resamples=0)


def test_grids_describe_themselves():
    r = GridPointingResult(
        scores=torch.rand(8), cluster=4, grids=torch.arange(8).view(2, 4), n=2, smooth=3, requested=10
    )
    summary = r.to_dict()
    assert {"n": 2, "smooth": 3, "grids": 2, "requested": 10}.items() <= summary.items()
    assert summary["scores"] == r.scores.tolist()
    joined = MetricResult.concatenate([r, r])
    assert (len(joined.scores), joined.cluster) == (16, 4)


def test_notebooks_show_a_table():
    scores = torch.tensor([0.25, 0.75, float("nan")])
    html = MetricResult(scores=scores, higher_is_better=True, chance=0.125)._repr_html_()
    assert "MetricResult, higher is better" in html
    for text in ("mean</th><td>0.5<", "scores</th><td>2<", "undefined</th><td>1<", "by chance</th><td>0.125<"):
        assert text in html
    assert "undefined" not in MetricResult(scores=scores[:2])._repr_html_()
