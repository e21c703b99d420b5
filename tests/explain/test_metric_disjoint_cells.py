import pytest
import torch
from explained_networks import calibrated
from torch import nn

from bcos_core import AddInverse, BcosError
from bcos_explain import get_explainer
from bcos_explain.metrics import DisjointCells, cell_scores, difull, dipart, grid_pointing_game, sample_grids, tile
from bcos_explain.metrics import untile as cut


class Split(nn.Module):
    """A network whose backbone and classifier are written apart: averaged features, then a linear layer."""

    def __init__(self, channels_last=False):
        super().__init__()
        self.channels_last = channels_last
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.backbone = nn.Conv2d(8, 12, 3, padding=1)
        self.last = nn.LayerNorm(12) if channels_last else nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 5)

    def get_classifier(self):
        return self.fc

    def forward_features(self, x):
        maps = self.backbone(self.first(x))
        return self.last(maps.movedim(1, -1)) if self.channels_last else self.last(maps)

    def forward_head(self, features):
        return self.fc(features.mean((1, 2) if self.channels_last else (2, 3)))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@pytest.fixture
def cells():
    return torch.rand(8, 3, 8, 8, dtype=torch.float64)


@pytest.fixture(params=[False, True], ids=["channels_first", "channels_last"])
def split(request):
    return Split(request.param).double().eval()


def test_difull_logits_are_those_of_each_image_alone(split, cells):
    grids = torch.stack([tile(cells[:4], 2), tile(cells[4:], 2)])
    disjoint = DisjointCells(split, 2, "full", cells[:1])
    torch.testing.assert_close(disjoint(grids).view(8, 5), split(cells))


def test_dipart_logits_are_those_of_each_part_of_the_grids_features(split, cells):
    grids = torch.stack([tile(cells[:4], 2), tile(cells[4:], 2)])
    logits = DisjointCells(split, 2, "part", cells[:1])(grids).view(2, 4, 5)
    features = split.forward_features(grids)
    for cell in range(4):
        i, j = divmod(cell, 2)
        rows, columns = slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4)
        part = features[:, rows, columns] if split.channels_last else features[:, :, rows, columns]
        torch.testing.assert_close(logits[:, cell], split.forward_head(part))


@pytest.mark.parametrize("part", ["full", "part"])
def test_a_grid_of_one_cell_is_the_network(split, cells, part):
    torch.testing.assert_close(DisjointCells(split, 1, part, cells[:1])(cells), split(cells))


def test_the_network_is_not_changed_and_its_parameters_are_shared(split, cells):
    disjoint = DisjointCells(split, 2, "part", cells[:1])
    assert {id(p) for p in disjoint.parameters()} == {id(p) for p in split.parameters()}
    assert not any(module._forward_hooks for module in split.modules())
    assert not disjoint.training


@pytest.mark.parametrize("name", ["gradient", "bcos", "integrated_gradients", "layercam"])
def test_nothing_outside_of_a_cell_matters_in_difull(cells, name):
    net, _ = calibrated("plain")
    disjoint = DisjointCells(net.double(), 2, "full", cells[:1])
    maps = get_explainer(name)(disjoint, tile(cells[:4], 2)[None], torch.tensor([5 * 2 + 3]))  # class 3, cell 2
    maps = maps.sum(1) if maps.ndim == 4 else maps
    outside = cut(maps[:, None].abs(), 2)[0, [0, 1, 3], 0]
    if name == "layercam":  # upsampling blurs the border between cells
        outside = torch.stack([outside[0][:2], outside[1][:2], outside[2][:, 2:].t()[:2]])
    assert outside.max() == 0
    assert maps.abs().max() > 0


@pytest.fixture
def game():
    labels = torch.arange(12) % 5
    return torch.rand(12, 3, 8, 8, dtype=torch.float64), labels, torch.rand(12)


@pytest.mark.parametrize("n", [1, 2])
def test_difull_is_its_definition(game, n):
    net, _ = calibrated("bcos_rgb")
    net.double()
    images, labels, confidences = game
    result = difull(
        net, get_explainer("bcos"), *game, n=n, num_grids=2, smooth=3, batch_size=1, encode=AddInverse(),
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    grids = sample_grids(labels, confidences, n, 2, torch.Generator().manual_seed(1))
    assert torch.equal(result.grids, grids)
    expected = []
    for grid in grids:
        for cell, i in enumerate(grid.tolist()):
            alone = get_explainer("bcos")(net, AddInverse()(images[i : i + 1]), int(labels[i])).sum(1)
            whole = torch.zeros(1, n * n, 1, 8, 8, dtype=torch.float64)
            whole[:, cell, 0] = alone
            expected.append(cell_scores(tile(whole, n)[:, 0], n, 3)[0, cell])
    torch.testing.assert_close(result.scores, torch.stack(expected))
    assert (result.chance, result.cluster) == (1 / n**2, n * n)


def test_dipart_of_a_network_that_averages_logits_is_the_literal_part(game):
    net, _ = calibrated("plain")
    net.double()
    images, labels, confidences = game
    grids = sample_grids(labels, confidences, 2, 2)
    result = dipart(net, get_explainer("input_x_gradient"), *game, grids=grids)
    expected = []
    for grid in grids:
        x = tile(images[grid], 2)[None].requires_grad_()
        votes = net.head(net.act(net.features(x)))[0]  # (K, 8, 8)
        for cell, i in enumerate(grid.tolist()):
            row, column = divmod(cell, 2)
            part = votes[int(labels[i]), 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            gradient = torch.autograd.grad(part.mean(), x, retain_graph=True)[0]
            expected.append(cell_scores((x * gradient).detach().sum(1), 2)[0, cell])
    torch.testing.assert_close(result.scores, torch.stack(expected))


@pytest.mark.parametrize("metric", [difull, dipart])
def test_scores_do_not_depend_on_other_grids(game, metric):
    net, _ = calibrated("plain")
    net.double()
    grids = sample_grids(*game[1:], 2, 3)
    whole = metric(net, get_explainer("gradcam"), *game, grids=grids)
    parts = [metric(net, get_explainer("gradcam"), *game, grids=g) for g in grids.split(1)]
    torch.testing.assert_close(torch.cat([p.scores for p in parts]), whole.scores)


def test_exact_contributions_keep_to_their_cell_where_the_grid_does_not(game):
    net, _ = calibrated("plain")
    net.double()
    played = {
        f.__name__: f(net, get_explainer("bcos"), *game, num_grids=2) for f in (grid_pointing_game, dipart, difull)
    }
    assert played["difull"].scores.tolist() == [1.0] * len(played["difull"].scores)
    assert played["grid_pointing_game"].mean < played["dipart"].mean < 1


def test_dipart_of_tokens_is_refused_but_difull_is_played(token_net, game):
    net = token_net("token").double()
    images, labels, confidences = game
    with pytest.raises(
        BcosError, match=r"DiPart needs a network whose last features .* of TokenNet are not; use DiFull"
    ):
        dipart(net, get_explainer("bcos"), images, labels, confidences, num_grids=1)
    result = difull(net, get_explainer("bcos"), images, labels, confidences, num_grids=1)
    assert result.scores.tolist() == [1.0] * 4


def test_features_that_cannot_be_cut_are_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()  # 14×14, 28 + 2 of a grid
    disjoint = DisjointCells(net, 3, "part", torch.rand(1, 3, 8, 8))
    with pytest.raises(BcosError, match=r"a map of \(22, 22\) positions, which cannot be cut into cells"):
        disjoint(torch.rand(1, 3, 24, 24))


def test_grad_cam_on_tokens_is_refused_in_words():
    from explained_networks import TokenNet

    net = TokenNet("token").eval()
    images, labels = torch.rand(4, 3, 16, 12), torch.arange(4)
    with pytest.raises(BcosError, match="Grad-CAM needs one output of layer"):
        difull(net, get_explainer("gradcam"), images, labels, torch.ones(4), n=2, grids=torch.tensor([[0, 1, 2, 3]]))
