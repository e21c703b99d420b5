import math

import pytest
import torch

from bcos_core import BcosError
from bcos_explain.metrics import similarity
from bcos_explain.metrics.similarity import pearson, ranks


def literal_pearson(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return covariance / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


def literal_ranks(values):
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def literal_ssim(a, b, size=7):
    """Mean over all windows inside of the map, statistics of whole windows, values of range 2."""
    a, b = (t / t.abs().max() for t in (a, b))
    values = []
    for i in range(a.shape[0] - size + 1):
        for j in range(a.shape[1] - size + 1):
            p, q = (t[i : i + size, j : j + size] for t in (a, b))
            covariance = ((p - p.mean()) * (q - q.mean())).mean()
            variances = p.var(correction=0) + q.var(correction=0)
            c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
            values.append(
                (2 * p.mean() * q.mean() + c1) * (2 * covariance + c2)
                / ((p.mean() ** 2 + q.mean() ** 2 + c1) * (variances + c2))
            )  # fmt: skip
    return float(sum(values) / len(values))


@pytest.fixture
def maps():
    """Two maps with ties and zeros."""
    a, b = torch.randn(2, 4, 9, 10, dtype=torch.float64)
    return a.round(decimals=1).clamp_min(-0.5), (b + a).round(decimals=1)


def test_correlations_are_their_definitions(maps):
    a, b = maps
    for i in range(4):
        p, q = a[i].flatten().tolist(), b[i].flatten().tolist()
        assert similarity(a, b, "pearson")[i].item() == pytest.approx(literal_pearson(p, q))
        expected = literal_pearson(literal_ranks(p), literal_ranks(q))
        assert similarity(a, b, "spearman")[i].item() == pytest.approx(expected)


def test_equal_values_share_their_rank():
    assert ranks(torch.tensor([[3.0, 1, 3, 0]])).tolist() == [[3.5, 2, 3.5, 1]]


def test_ssim_is_its_definition(maps):
    a, b = maps
    for i in range(4):
        assert similarity(a, b, "ssim")[i].item() == pytest.approx(literal_ssim(a[i], b[i]))


def test_ssim_is_that_of_scikit_image(maps):
    metrics = pytest.importorskip("skimage.metrics")
    a, b = (t / t.abs().amax((1, 2), keepdim=True) for t in maps)
    expected = [
        metrics.structural_similarity(p, q, win_size=7, data_range=2, use_sample_covariance=False)
        for p, q in zip(a.numpy(), b.numpy(), strict=True)
    ]
    torch.testing.assert_close(similarity(*maps, "ssim"), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["pearson", "spearman", "ssim"])
def test_a_map_is_like_itself_at_any_scale(maps, kind):
    a, _ = maps
    torch.testing.assert_close(similarity(a, a * 1e-20, kind), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["pearson", "spearman", "ssim"])
def test_blank_maps_are_like_nothing(maps, kind):
    a, _ = maps
    assert similarity(a, torch.zeros_like(a), kind).isnan().all()


def test_constant_rows_have_no_correlation():
    assert pearson(torch.full((1, 7), 0.1), torch.rand(1, 7)).isnan().all()


def test_mistakes_are_refused(maps):
    a, b = maps
    with pytest.raises(BcosError, match=r"of one shape are needed, got \(4, 9, 10\) and \(4, 9, 9\)"):
        similarity(a, b[..., :9], "pearson")
    with pytest.raises(BcosError, match="must be 'pearson', 'spearman' or 'ssim', got 'cosine'"):
        similarity(a, b, "cosine")
    with pytest.raises(BcosError, match=r"at least 7×7 pixels, got \(6, 10\)"):
        similarity(a[:, :6], b[:, :6], "ssim")
