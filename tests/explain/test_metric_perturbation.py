import math
from itertools import pairwise

import pytest
import torch
from explained_networks import calibrated
from linear_network import Linear, contributions
from torch import nn

from bcos_core import AddInverse, BcosError
from bcos_explain import get_explainer
from bcos_explain.metrics import pixel_deletion, pixel_insertion
from bcos_explain.metrics.pixel_removal import blurred


@pytest.fixture
def net():
    net, _ = calibrated("bcos_rgb")
    return net.double()


@pytest.fixture
def images():
    return torch.rand(3, 3, 8, 10, dtype=torch.float64)


def literal_order(attribution, first):
    """Pixels row by row, sorted by attribution; among equals the first one comes first."""
    sign = -1 if first == "most" else 1
    values = attribution.flatten().tolist()
    return sorted(range(len(values)), key=lambda p: (sign * values[p], p))


def literal_blur(image):
    """Weighted mean of all pixels up to three deviations away, mirrored at the border without repeating it."""
    _, height, width = image.shape
    sigma = min(height, width) / 16
    radius = math.ceil(3 * sigma)
    weights = {d: math.exp(-(d**2) / (2 * sigma**2)) for d in range(-radius, radius + 1)}
    total = sum(weights.values()) ** 2

    def inside(i, size):
        i = abs(i)
        return i if i < size else 2 * (size - 1) - i

    result = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            for di, wi in weights.items():
                for dj, wj in weights.items():
                    result[:, i, j] += wi * wj / total * image[:, inside(i + di, height), inside(j + dj, width)]
    return result


def literal_area(net, image, order, other, steps, until, insert, output):
    """One pixel after the other, then the trapezoidal rule over the values at every step."""
    pixels = image.shape[1] * image.shape[2]
    target = int(net(image[None]).argmax())

    def value(x):
        logits = net(x[None])[0]
        if output == "logit":
            return float(logits[target].detach())
        return float((logits.softmax(0) if output == "softmax" else logits.sigmoid())[target].detach())

    curve = []
    for step in range(steps + 1):
        x = (other if insert else image).clone()
        for p in order[: round(step * until / steps * pixels)]:
            i, j = divmod(p, image.shape[2])
            x[:, i, j] = (image if insert else other)[:, i, j]
        curve.append(value(x))
    return sum((a + b) / 2 for a, b in pairwise(curve)) / steps, curve


def others(baseline, image):
    encoded = AddInverse()(image[None])[0]
    if baseline == "zero":
        return torch.zeros_like(encoded)
    plain = image.mean((1, 2), keepdim=True).expand_as(image) if baseline == "mean" else literal_blur(image)
    return AddInverse()(plain[None])[0]


@pytest.mark.parametrize(
    ("baseline", "output", "until", "first"),
    [("zero", "softmax", 1.0, "most"), ("mean", "sigmoid", 0.25, "least"), ("blur", "softmax", 0.5, "least")],
)
def test_deletion_is_its_definition(net, images, baseline, output, until, first):
    result = pixel_deletion(
        net, get_explainer("bcos"), images, encode=AddInverse(), batch_size=2,
        steps=7, until=until, first=first, baseline=baseline, output=output,
    )  # fmt: skip
    x = AddInverse()(images)
    maps = get_explainer("bcos")(net, x).sum(1)
    for i in range(3):
        order = literal_order(maps[i], first)
        area, curve = literal_area(net, x[i], order, others(baseline, images[i]), 7, until, False, output)
        assert result.scores[i].item() == pytest.approx(area)
        torch.testing.assert_close(result.curves[i], torch.tensor(curve).double())
    torch.testing.assert_close(result.curve_x, torch.linspace(0, until, 8).double())
    assert result.higher_is_better is (first == "least")


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur"])
def test_insertion_is_its_definition(net, images, baseline):
    result = pixel_insertion(net, get_explainer("bcos"), images, encode=AddInverse(), steps=5, baseline=baseline)
    x = AddInverse()(images)
    maps = get_explainer("bcos")(net, x).sum(1)
    for i in range(3):
        order = literal_order(maps[i], "most")
        area, _ = literal_area(net, x[i], order, others(baseline, images[i]), 5, 1.0, True, "softmax")
        assert result.scores[i].item() == pytest.approx(area)
    assert result.higher_is_better is True


def test_blur_is_its_definition(images):
    torch.testing.assert_close(blurred(images), torch.stack([literal_blur(image) for image in images]))


def test_curves_go_from_the_whole_image_to_none_and_back(net, images):
    given = {"encode": AddInverse(), "steps": 4}
    removed = pixel_deletion(net, get_explainer("bcos"), images, baseline="blur", **given).curves
    added = pixel_insertion(net, get_explainer("bcos"), images, baseline="blur", **given).curves
    whole = net(AddInverse()(images)).double().softmax(1).amax(1).detach()
    torch.testing.assert_close(removed[:, 0], whole)
    torch.testing.assert_close(added[:, -1], whole)
    torch.testing.assert_close(removed[:, -1], added[:, 0])


def test_the_exact_order_of_a_linear_network_cannot_be_beaten():
    net, x = Linear(), torch.rand(4, 3, 8, 8, dtype=torch.float64)
    given = {"baseline": "zero", "output": "logit"}

    def blind(model, x, target):
        return torch.randn(len(x), 8, 8)

    for metric in (pixel_deletion, pixel_insertion):
        exact, other = (metric(net, explainer, x, **given) for explainer in (contributions, blind))
        better = exact.scores > other.scores if exact.higher_is_better else exact.scores < other.scores
        defined = ~exact.scores.isnan()
        assert defined.any()
        assert better[defined].all()


def test_areas_of_probabilities_lie_between_0_and_1_for_unlikely_classes_too(net, images):
    target = net(AddInverse()(images)).argmin(1)
    for metric in (pixel_deletion, pixel_insertion):
        scores = metric(net, get_explainer("bcos"), images, target=target, encode=AddInverse()).scores
        assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.filterwarnings("ignore:the map holds values that are not finite")
def test_a_map_that_is_not_finite_has_no_order():
    def broken(model, x, target):
        maps = torch.rand(len(x), 8, 8)
        maps[0, 2, 3] = torch.nan
        return maps

    net, x = Linear(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    for metric in (pixel_deletion, pixel_insertion):
        assert metric(net, broken, x).scores.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"until": 1.5}, r"until must be inside \(0, 1\], the share of pixels to go through, got 1.5"),
        ({"first": "random"}, "first must be 'most' or 'least', got 'random'"),
        ({"baseline": "grey"}, "baseline must be 'zero', 'mean' or 'blur', got 'grey'"),
        ({"output": "loss"}, "output must be 'softmax', 'sigmoid' or 'logit', got 'loss'"),
        ({"encode": nn.Upsample(scale_factor=2)}, r"images of \(8, 10\), but the encoding makes them \(16, 20\)"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    net, _ = calibrated("plain")
    with pytest.raises(BcosError, match=message):
        pixel_deletion(net, get_explainer("gradient"), torch.rand(2, 3, 8, 10), **options)
