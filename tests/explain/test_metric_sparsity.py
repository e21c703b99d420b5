import math

import pytest
import torch

from bcos_core import AddInverse
from bcos_explain import get_explainer
from bcos_explain.metrics import complexity, effective_pixels, sparseness
from bcos_explain.metrics.sparsity import entropy, gini


def literal_gini(a):
    """Half the mean absolute difference of all pairs over the mean."""
    a = [abs(x) for x in a]
    pairs = sum(abs(x - y) for x in a for y in a)
    return pairs / (2 * len(a) * sum(a))


def literal_entropy(a):
    shares = [abs(x) / sum(map(abs, a)) for x in a]
    return -sum(p * math.log(p) for p in shares if p > 0)


def test_gini_index_and_entropy_are_their_definitions():
    maps = torch.randn(4, 5, 6, dtype=torch.float64)
    maps[0, :2] = 0
    for i, a in enumerate(maps.flatten(1).tolist()):
        assert gini(maps)[i].item() == pytest.approx(literal_gini(a))
        assert entropy(maps)[i].item() == pytest.approx(literal_entropy(a))


def test_even_maps_and_single_pixels_are_the_extremes():
    maps = torch.stack([torch.full((4, 5), -0.3), torch.zeros(4, 5)])
    maps[1, 2, 3] = 7
    torch.testing.assert_close(gini(maps), torch.tensor([0, 0.95], dtype=torch.float64))
    torch.testing.assert_close(entropy(maps), torch.tensor([math.log(20), 0], dtype=torch.float64))
    torch.testing.assert_close(entropy(maps).exp(), torch.tensor([20, 1], dtype=torch.float64))


def test_maps_of_zeros_are_undefined():
    assert gini(torch.zeros(1, 3, 3)).isnan().all()
    assert entropy(torch.zeros(1, 3, 3)).isnan().all()


def test_metrics_measure_the_map_of_the_predicted_class(colour_net):
    images = torch.rand(5, 3, 8, 8)
    x = AddInverse()(images)
    maps = get_explainer("bcos")(colour_net, x).sum(1)
    given = {"encode": AddInverse(), "batch_size": 2}
    for metric, expected in [
        (sparseness, gini(maps)),
        (complexity, entropy(maps)),
        (effective_pixels, entropy(maps).exp()),
    ]:
        result = metric(colour_net, get_explainer("bcos"), images, **given)
        torch.testing.assert_close(result.scores, expected, atol=1e-6, rtol=1e-5)
