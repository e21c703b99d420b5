import copy
import zlib

import pytest
import torch
from explained_networks import calibrated
from torch import nn

from bcos_core import AddInverse, BcosError
from bcos_explain import get_explainer
from bcos_explain.metrics import model_randomisation, shift_stability, similarity
from bcos_explain.metrics.randomisation import shuffle_parameters
from bcos_explain.metrics.stability import overlap, shifted


@pytest.fixture
def net():
    net, _ = calibrated("bcos_rgb")
    return net.double()


@pytest.fixture
def images():
    return torch.rand(3, 3, 12, 10, dtype=torch.float64)


def literal_shift(image, dy, dx):
    """Each pixel from where it was; beyond the border the nearest one."""
    _, height, width = image.shape
    moved = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            moved[:, i, j] = image[:, min(max(i - dy, 0), height - 1), min(max(j - dx, 0), width - 1)]
    return moved


def literal_overlaps(still, moved, dy, dx):
    """Values of the pixels that are in both maps, in the same order."""
    height, width = still.shape
    pairs = [
        (still[i, j], moved[i + dy, j + dx])
        for i in range(height)
        for j in range(width)
        if 0 <= i + dy < height and 0 <= j + dx < width
    ]
    return (torch.stack(side) for side in zip(*pairs, strict=True))


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (2, 0), (-1, 0), (0, 3), (0, -2), (1, -2)])
def test_images_are_shifted_and_their_borders_repeated(images, dy, dx):
    expected = torch.stack([literal_shift(image, dy, dx) for image in images])
    assert torch.equal(shifted(images, dy, dx), expected)
    maps = images[:, 0]
    moved = shifted(images, dy, dx)[:, 0]
    assert torch.equal(overlap(maps, -dy, -dx), overlap(moved, dy, dx))


def test_shift_stability_is_its_definition(net, images):
    result = shift_stability(net, get_explainer("bcos"), images, encode=AddInverse(), batch_size=2)
    target = net(AddInverse()(images)).argmax(1)
    for i in range(3):
        still = get_explainer("bcos")(net, AddInverse()(images[i : i + 1]), target[i : i + 1]).sum(1)[0]
        curve = []
        for length in (1, 2):
            values = []
            for dy, dx in [(length, 0), (-length, 0), (0, length), (0, -length)]:
                x = AddInverse()(literal_shift(images[i], dy, dx)[None])
                moved = get_explainer("bcos")(net, x, target[i : i + 1]).sum(1)[0]
                values.append(torch.corrcoef(torch.stack(list(literal_overlaps(still, moved, dy, dx))))[0, 1])
            curve.append(sum(values) / 4)
        torch.testing.assert_close(result.curves[i], torch.stack(curve), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(result.scores[i], torch.stack(curve).mean(), atol=1e-6, rtol=1e-5)
    assert result.curve_x.tolist() == [1, 2]


@pytest.mark.parametrize("kind", ["pearson", "spearman", "ssim"])
def test_a_map_that_moves_with_the_image_is_perfectly_stable(net, images, kind):
    def of_pixels(model, x, target):
        return x[:, 0].square()

    result = shift_stability(net, of_pixels, images, encode=AddInverse(), pixels=3, kind=kind)
    torch.testing.assert_close(result.scores, torch.ones(3).double())


def test_a_map_that_stays_is_not_stable(net, images):
    pattern = torch.randn(1, 12, 10)
    result = shift_stability(net, lambda m, x, t: pattern.expand(len(x), -1, -1), images, encode=AddInverse())
    assert (result.scores.abs() < 0.3).all()


def test_shifts_of_the_whole_image_are_refused(net, images):
    with pytest.raises(BcosError, match=r"images of \(12, 10\) cannot be shifted by 10 pixels"):
        shift_stability(net, get_explainer("bcos"), images, pixels=10)


def literal_cascade(net, stages, seed):
    """Copies of the network with more and more modules shuffled, from the last one."""
    names = [n for n, m in net.named_modules() if any(True for _ in m.parameters(recurse=False))][::-1]
    for stage in range(1, stages + 1):
        copied = copy.deepcopy(net)
        for name in names[: round(stage * len(names) / stages)]:
            for leaf, parameter in copied.get_submodule(name).named_parameters(recurse=False):
                generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}/{leaf}".encode()))
                values = parameter.detach().flatten().tolist()
                order = torch.randperm(len(values), generator=generator).tolist()
                parameter.data = torch.tensor([values[i] for i in order]).to(parameter).view_as(parameter)
        yield copied


def test_model_randomisation_is_its_definition(net, images):
    result = model_randomisation(
        net, get_explainer("bcos"), images, encode=AddInverse(), stages=2, seed=4, kind="spearman", batch_size=2
    )
    x = AddInverse()(images)
    target = net(x).argmax(1)
    intact = get_explainer("bcos")(net, x, target).sum(1)
    maps = [get_explainer("bcos")(copied, x, target).sum(1) for copied in literal_cascade(net, 2, 4)]
    expected = torch.stack([similarity(intact, other, "spearman") for other in maps], 1)
    torch.testing.assert_close(result.curves, expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(result.scores, result.curves[:, -1])
    assert result.curve_x[-1] == 1


def test_the_network_itself_is_not_touched(net, images):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model_randomisation(net, get_explainer("bcos"), images, encode=AddInverse())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_an_explanation_that_ignores_the_network_fails_the_check(net, images):
    result = model_randomisation(net, lambda m, x, t: x[:, 0], images, encode=AddInverse())
    torch.testing.assert_close(result.curves, torch.ones_like(result.curves))


def test_shuffling_keeps_values_and_depends_on_the_key():
    weights = []
    for key in ("0/a", "0/a", "1/a"):
        torch.manual_seed(0)
        layer = nn.Linear(20, 20)
        before = layer.weight.detach().clone()
        shuffle_parameters(layer, key)
        assert torch.equal(layer.weight.flatten().sort().values, before.flatten().sort().values)
        weights.append(layer.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_small_networks_have_fewer_stages(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    result = model_randomisation(net, get_explainer("gradient"), images, stages=9)
    assert result.curves.shape == (3, 1)


def test_networks_without_parameters_are_refused(images):
    with pytest.raises(BcosError, match="no parameters that could be shuffled"):
        model_randomisation(nn.Flatten(), get_explainer("gradient"), images)
