import math

import pytest
import torch

from bcos_core import AddInverse, BcosError, explain
from bcos_explain import get_metric, metric_specs
from bcos_explain.metrics import MetricResult, cancellation, completeness, image_share
from bcos_models import bcosify


@pytest.mark.parametrize(("metric", "name"), [(image_share, "image_share"), (cancellation, "cancellation")])
def test_scores_are_those_of_the_explanations_in_batches_and_for_targets(metric, name, colour_net):
    images = torch.randint(0, 256, (5, 3, 6, 6), dtype=torch.uint8)
    target = torch.tensor([0, 1, 2, 3, 4])
    result = metric(colour_net, images, target=target, encode=AddInverse(), batch_size=2)
    e = explain(colour_net, AddInverse()(images.float() / 255), target)
    torch.testing.assert_close(result.scores, getattr(e, name))
    assert result.statistic == "median"
    assert result.value == result.median == sorted(result.scores.tolist())[2]
    assert get_metric(name) is metric
    (spec,) = [spec for spec in metric_specs() if spec.name == name]
    assert (spec.share, spec.higher_is_better, spec.unit) == (True, True, "image")
    with pytest.raises(BcosError, match="metrics need images"):
        metric(colour_net, images[:0])


def test_what_is_kept_of_a_plain_network_has_a_low_share_though_all_adds_up():
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    )
    with torch.no_grad():
        plain[1].bias.fill_(3.0)
    x = torch.rand(6, 3, 16, 16)
    options = {"image_size": 16, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    kept = bcosify(plain.eval(), keep_bias=True, keep_norms=True, **options)
    gone = bcosify(plain, **options)
    of_kept, of_gone = (image_share(network, AddInverse()(x)) for network in (kept, gone))
    assert of_kept.value < 0.5
    assert of_gone.scores.tolist() == [1.0] * 6
    assert completeness(kept, AddInverse()(x)).scores.max() < 1e-6  # it says nothing of that
    assert kept.conversion.image_share < 0.5
    assert gone.conversion.image_share == 1.0
    assert 0 < gone.conversion.cancellation <= 1


def result(scores, **options):
    return MetricResult(scores=torch.tensor(scores, dtype=torch.float64), **options)


def test_value_is_the_mean_or_the_median():
    scores = [0.1, 0.2, 0.9, math.nan]
    assert result(scores).value == pytest.approx(0.4)
    r = result(scores, statistic="median")
    assert r.value == r.median == 0.2
    assert r.quantile(0.1) == pytest.approx(0.12)
    assert {k: r.to_dict()[k] for k in ("statistic", "median", "lowest_tenth")} == {
        "statistic": "median",
        "median": 0.2,
        "lowest_tenth": pytest.approx(0.12),
    }
    assert math.isnan(result([math.nan], statistic="median").value)
    assert result([math.nan], statistic="median").to_dict()["median"] is None


def test_interval_of_a_median_holds_it_and_not_the_mean():
    scores = [0.1] * 40 + [0.2] * 40 + [1000.0] * 8
    low, high = result(scores, statistic="median").bootstrap_interval()
    assert 0.1 <= low <= 0.2 <= high < 1
    assert result(scores).bootstrap_interval()[0] > 1


def test_parts_with_other_statistics_are_not_joined():
    with pytest.raises(BcosError, match=r"parts that differ in \{'statistic'"):
        MetricResult.concatenate([result([0.1]), result([0.1], statistic="median")])
    joined = MetricResult.concatenate([result([0.1], statistic="median"), result([0.3, 0.9], statistic="median")])
    assert joined.value == 0.3
