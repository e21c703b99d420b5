import math

import captum.metrics
import pytest
import torch
from explained_networks import calibrated
from linear_network import Linear, contributions
from torch import nn

from bcos_core import AddInverse, BcosError
from bcos_explain import get_explainer
from bcos_explain.metrics import infidelity, max_sensitivity, sensitivity_n
from bcos_explain.metrics.faithfulness import square_masks
from bcos_explain.metrics.pixel_removal import pixel_subsets


@pytest.fixture
def net():
    net, _ = calibrated("bcos_rgb")
    return net.double()


@pytest.fixture
def images():
    return torch.rand(3, 3, 8, 10, dtype=torch.float64)


def explained(net, images):
    x = AddInverse()(images)
    return x, net(x).argmax(1), get_explainer("bcos")(net, x).sum(1)


def cost(net, x, target, mask):
    """What the removal of the pixels costs, one image at a time."""
    without = x.clone()
    without[:, mask] = 0
    return float((net(x[None]) - net(without[None]))[0, target].detach())


def correlation(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return covariance / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


def test_sensitivity_n_is_its_definition(net, images):
    fractions = (0.02, 0.5)
    result = sensitivity_n(
        net, get_explainer("bcos"), images, encode=AddInverse(), fractions=fractions, subsets=9, seed=3, batch_size=2
    )
    x, target, maps = explained(net, images)
    generator = torch.Generator().manual_seed(3)
    subsets = [pixel_subsets(8, 10, size, 9, generator) for size in (2, 40)]
    for i in range(3):
        curve = [
            correlation(
                [float(maps[i][mask].sum()) for mask in masks], [cost(net, x[i], target[i], mask) for mask in masks]
            )
            for masks in subsets
        ]
        torch.testing.assert_close(result.curves[i], torch.tensor(curve).double(), atol=1e-6, rtol=1e-5)
        assert result.scores[i].item() == pytest.approx(sum(curve) / 2, rel=1e-4)
    assert result.curve_x.tolist() == list(fractions)


def test_subsets_have_their_size_and_differ():
    masks = pixel_subsets(5, 6, 7, 20, torch.Generator().manual_seed(0))
    assert masks.shape == (20, 5, 6)
    assert masks.flatten(1).sum(1).tolist() == [7] * 20
    assert len({tuple(m.flatten().tolist()) for m in masks}) == 20


def test_contributions_of_a_linear_network_are_perfectly_faithful():
    net, x = Linear(), torch.rand(4, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(sensitivity_n(net, contributions, x).scores, torch.ones(4).double())
    for normalize in (False, True):
        zero = infidelity(net, contributions, x, normalize=normalize).scores
        torch.testing.assert_close(zero, torch.zeros(4).double(), atol=1e-10, rtol=0)

    def doubled(model, x, target):
        return 2 * contributions(model, x, target)

    assert (infidelity(net, doubled, x, normalize=False).scores > 0.01).all()
    assert (infidelity(net, doubled, x, normalize=True).scores < 1e-10).all()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("squares", [1, 50])
def test_infidelity_is_its_definition(net, images, normalize, squares):
    result = infidelity(
        net, get_explainer("bcos"), images, encode=AddInverse(), squares=squares, side=0.5, normalize=normalize, seed=5
    )
    x, target, maps = explained(net, images)
    masks = square_masks(8, 10, 0.5, squares, torch.Generator().manual_seed(5))
    for i in range(3):
        attributed = [float(maps[i][mask].sum()) for mask in masks]
        costs = [cost(net, x[i], target[i], mask) for mask in masks]
        products = sum(a * c for a, c in zip(attributed, costs, strict=True))
        beta = products / sum(a * a for a in attributed) if normalize else 1
        expected = sum((beta * a - c) ** 2 for a, c in zip(attributed, costs, strict=True)) / squares
        assert result.scores[i].item() == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_squares_lie_inside_and_everywhere():
    masks = square_masks(8, 12, 0.5, 300, torch.Generator().manual_seed(0))
    assert masks.flatten(1).sum(1).tolist() == [16] * 300
    assert masks.any(0).all()


def literal_max_sensitivity(net, images, radius, samples, seed):
    _, target, maps = explained(net, images)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((samples, *images.shape[1:]), generator=generator, dtype=torch.float64)
    scores = []
    for i in range(len(images)):
        changes = []
        for drawn in noise:
            noisy = AddInverse()(images[i : i + 1] + radius * (2 * drawn - 1))
            other = get_explainer("bcos")(net, noisy, target[i : i + 1]).sum(1)[0]
            changes.append(float((other - maps[i]).norm() / maps[i].norm()))
        scores.append(max(changes))
    return torch.tensor(scores).double()


def test_max_sensitivity_is_its_definition(net, images):
    result = max_sensitivity(
        net, get_explainer("bcos"), images, encode=AddInverse(), radius=0.05, samples=4, seed=7, batch_size=2
    )
    torch.testing.assert_close(result.scores, literal_max_sensitivity(net, images, 0.05, 4, 7), atol=1e-6, rtol=1e-5)


def test_max_sensitivity_is_captums_for_one_image_without_encoding(net, images):
    _, target, _ = explained(net, images)
    x = torch.rand(1, 6, *images.shape[2:]).double()  # no image with its inverse
    noise = iter(torch.rand((4, *x.shape[1:]), generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    expected = captum.metrics.sensitivity_max(
        lambda inputs: (
            (get_explainer("bcos")(net, inputs[0], int(target[0])).sum(1),)
            if isinstance(inputs, tuple)
            else get_explainer("bcos")(net, inputs, int(target[0])).sum(1)
        ),
        x[:1],
        lambda inputs: inputs + 0.02 * (2 * next(noise) - 1),
        n_perturb_samples=4,
        max_examples_per_batch=1,
    )
    options = {"target": target[:1], "samples": 4}
    torch.testing.assert_close(max_sensitivity(net, get_explainer("bcos"), x, **options).scores, expected)


def test_images_that_are_encoded_already_stay_images_with_their_inverse(net, images):
    class Seen(nn.Module):
        def forward(self, x):
            assert (x[:, :3] + x[:, 3:] - 1).abs().max() < 1e-6
            return net(x)

    gradient = get_explainer("gradient")
    encoded = max_sensitivity(Seen().eval(), gradient, AddInverse()(images), samples=9).scores
    plain = max_sensitivity(net, gradient, images, encode=AddInverse(), samples=9).scores  # with other noise
    assert (encoded < 2 * plain).all()


def test_an_explanation_that_ignores_the_image_is_perfectly_stable():
    def constant(model, x, target):
        return torch.arange(64.0).view(1, 8, 8).expand(len(x), -1, -1)

    net, x = Linear(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    assert max_sensitivity(net, constant, x).scores.tolist() == [0, 0]


@pytest.mark.filterwarnings("ignore::bcos_explain.explainers.ExplainerRemark")
def test_blank_maps_are_undefined_or_explain_nothing():
    def blank(model, x, target):
        return torch.zeros(len(x), 8, 8)

    net, x = Linear(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    assert sensitivity_n(net, blank, x).undefined == 2
    assert max_sensitivity(net, blank, x).undefined == 2
    assert (infidelity(net, blank, x).scores > 0).all()


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        (sensitivity_n, {"fractions": (0.5, 1.0)}, r"fractions must be shares inside \(0, 1\), .* got \(0.5, 1.0\)"),
        (sensitivity_n, {"fractions": ()}, "at least one"),
        (sensitivity_n, {"subsets": 2}, "subsets must be a whole number of at least 3, got 2"),
        (infidelity, {"squares": 0}, "squares must be a whole number of at least 1, got 0"),
        (infidelity, {"side": 0.0}, r"side must be inside \(0, 1\], a part of the image's side, got 0.0"),
        (max_sensitivity, {"radius": 0.0}, "radius must be above 0, got 0.0"),
        (max_sensitivity, {"samples": 0}, "samples must be a whole number of at least 1, got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(metric, options, message):
    with pytest.raises(BcosError, match=message):
        metric(Linear(), contributions, torch.rand(1, 3, 8, 8), **options)
