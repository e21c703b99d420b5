import numpy as np
import pytest
import torch

from bcos_core import BcosError
from bcos_explain import explanation_image
from bcos_explain.render import common_alpha_scale, percentile_of_many, smoothing, symmetric_limit


@pytest.mark.parametrize("percentile", [0, 37.5, 90, 99.5, 100])
@pytest.mark.parametrize("sizes", [[1], [7, 7, 7], [50, 1, 200], [0, 3]], ids=str)
def test_percentile_is_that_of_all_values_together(percentile, sizes):
    rng = np.random.default_rng(len(sizes))
    arrays = [np.abs(rng.normal(size=n)) for n in sizes]
    expected = np.percentile(np.concatenate(arrays), percentile)
    assert percentile_of_many(iter(arrays), sum(sizes), percentile) == pytest.approx(expected, rel=1e-12)


def test_one_map_has_the_limit_that_it_has_alone():
    m = np.random.default_rng(0).normal(size=(30, 20))
    assert percentile_of_many([np.abs(m)], m.size) == pytest.approx(symmetric_limit(m), rel=1e-12)


def test_maximum_stands_in_for_a_percentile_of_zero():
    values = np.zeros(1000)
    values[3] = 2.0
    assert percentile_of_many([values], 1000, 90) == 2.0
    assert percentile_of_many([np.zeros(4)], 4) == 0.0


def test_only_what_lies_above_the_percentile_is_held():
    held = []

    def arrays():
        for i in range(100):
            yield np.full(1000, float(i))
            held.append(i)

    assert percentile_of_many(arrays(), 100_000, 99.0) == pytest.approx(
        np.percentile(np.repeat(np.arange(100.0), 1000), 99.0)
    )
    assert len(held) == 100


@pytest.mark.parametrize(
    ("count", "percentile", "message"),
    [(3, 101, "percentile must be in"), (3, 50, "the arrays hold 4 values, not 3"), (0, 50, "hold 4 values, not 0")],
)
def test_count_and_percentile_are_checked(count, percentile, message):
    with pytest.raises(BcosError, match=message):
        percentile_of_many([np.ones(4)], count, percentile)


def test_smoothing_is_in_proportion_and_odd():
    assert [smoothing(n) for n in (224, 112, 32, 8, 448)] == [15, 7, 3, 1, 29]


def test_opacity_is_smoothed_in_proportion_to_the_image_where_asked():
    x = torch.rand(6, 32, 32, generator=torch.Generator().manual_seed(0))
    w = torch.randn(6, 32, 32, generator=torch.Generator().manual_seed(1))
    in_proportion = explanation_image(x, w, smooth=None)
    np.testing.assert_array_equal(in_proportion, explanation_image(x, w, smooth=3))
    assert not np.array_equal(in_proportion, explanation_image(x, w))
    assert common_alpha_scale(x[None], w[None], smooth=None) == common_alpha_scale(x[None], w[None], smooth=3)
