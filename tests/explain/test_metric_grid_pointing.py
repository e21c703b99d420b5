import pytest
import torch
from torch import nn

from bcos_core import AddInverse, BcosError
from bcos_explain import get_explainer, get_metric
from bcos_explain.metrics import cell_scores, grid_pointing_game, sample_grids, tile, untile


def literal_cell_scores(attribution, n, k=1):
    """The definition, pixel by pixel, in float64."""
    scores = []
    for a in attribution.double().tolist():
        height, width = len(a), len(a[0])
        r = k // 2
        positive = [[0.0] * width for _ in range(height)]
        for i in range(height):
            for j in range(width):
                total = 0.0
                for di in range(-r, r + 1):
                    for dj in range(-r, r + 1):
                        if 0 <= i + di < height and 0 <= j + dj < width:
                            total += a[i + di][j + dj]
                positive[i][j] = max(0.0, total / k**2)
        whole = sum(map(sum, positive))
        cells = [0.0] * n**2
        for i in range(height):
            for j in range(width):
                cells[(i * n // height) * n + j * n // width] += positive[i][j]
        scores.append([c / whole if whole else 0.0 for c in cells])
    return torch.tensor(scores, dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_cell_scores_are_their_definition(n, k):
    a = torch.randn(3, 4 * n, 5 * n)
    torch.testing.assert_close(cell_scores(a, n, k), literal_cell_scores(a, n, k))


def test_smoothing_is_the_mean_filter_of_the_reference():
    a = torch.randn(2, 12, 12)
    reference = nn.functional.avg_pool2d(a, 5, stride=1, padding=2).clamp(min=0)
    cells = torch.stack([part.sum((1, 2)) for row in reference.chunk(2, 1) for part in row.chunk(2, 2)], 1)
    expected = cells / reference.sum((1, 2))[:, None]
    torch.testing.assert_close(cell_scores(a, 2, 5).float(), expected)


@pytest.mark.parametrize("n", [2, 3])
def test_uniform_attribution_scores_chance(n):
    scores = cell_scores(torch.full((1, 6 * n, 6 * n), 0.3), n)
    torch.testing.assert_close(scores, torch.full((1, n * n), 1 / n**2, dtype=torch.float64))


def test_all_attribution_in_one_cell_scores_one_there():
    a = torch.zeros(1, 8, 8)
    a[0, :4, 4:] = torch.rand(4, 4) + 0.1
    assert cell_scores(a, 2).tolist() == [[0, 1, 0, 0]]


def test_negative_attribution_is_ignored():
    a = torch.rand(2, 6, 6) - 0.5
    torch.testing.assert_close(cell_scores(a, 2), cell_scores(torch.where(a < 0, a * 100, a), 2))


def test_maps_without_positive_attribution_score_zero():
    assert cell_scores(torch.stack([torch.zeros(4, 4), -torch.ones(4, 4)]), 2).tolist() == [[0] * 4] * 2


def test_scores_do_not_depend_on_the_size_of_the_attribution():
    a = torch.randn(2, 6, 6).double()
    torch.testing.assert_close(cell_scores(a * 1e-30, 2), cell_scores(a, 2))


@pytest.mark.parametrize(
    ("a", "n", "smooth", "message"),
    [
        (torch.rand(1, 5, 4), 2, 1, r"multiples of n=2, got shape \(1, 5, 4\)"),
        (torch.rand(4, 4), 2, 1, r"must be \(N, H, W\)"),
        (torch.rand(1, 4, 4), 2, 2, "smooth must be odd and at least 1, got 2"),
        (torch.full((1, 4, 4), torch.nan), 2, 1, "non-finite"),
    ],
)
def test_attributions_that_have_no_cells_are_refused(a, n, smooth, message):
    with pytest.raises(BcosError, match=message):
        cell_scores(a, n, smooth)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_tiles_lie_row_by_row(n):
    images = torch.rand(2, n * n, 3, 4, 5)
    grid = tile(images, n)
    assert grid.shape == (2, 3, 4 * n, 5 * n)
    for c in range(n * n):
        i, j = divmod(c, n)
        assert torch.equal(grid[..., 4 * i : 4 * i + 4, 5 * j : 5 * j + 5], images[:, c])
    assert torch.equal(tile(images[0], n), grid[0])


def test_tiling_commutes_with_the_encoding():
    images = torch.rand(4, 3, 4, 4)
    assert torch.equal(tile(AddInverse()(images), 2), AddInverse()(tile(images, 2)))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_cutting_undoes_tiling(n):
    images = torch.rand(2, n * n, 3, 4, 5)
    assert torch.equal(untile(tile(images, n), n), images)


def test_grids_that_cannot_be_cut_are_refused():
    with pytest.raises(BcosError, match=r"multiples of 3, got shape \(1, 3, 6, 8\)"):
        untile(torch.rand(1, 3, 6, 8), 3)


def test_wrong_number_of_tiles_is_refused():
    with pytest.raises(BcosError, match=r"a grid of 2×2 needs \(\.\.\., 4, C, H, W\) images"):
        tile(torch.rand(3, 3, 4, 4), 2)


@pytest.fixture
def pool():
    """Labels and confidences of 120 images of 7 classes of different sizes."""
    labels = torch.randint(0, 7, (120,)).square() % 7 + torch.randint(0, 4, (120,))
    return labels, torch.rand(120)


@pytest.mark.parametrize("n", [1, 2])
def test_grids_hold_distinct_classes_and_no_image_twice(pool, n):
    labels, confidences = pool
    grids = sample_grids(labels, confidences, n, 20, torch.Generator().manual_seed(1))
    assert grids.shape[1] == n * n
    assert all(len(set(labels[g].tolist())) == n * n for g in grids)
    assert grids.unique().numel() == grids.numel()


def test_each_class_is_taken_from_its_most_confident_image_down(pool):
    labels, confidences = pool
    grids = sample_grids(labels, confidences, 2, 8)
    for label in labels.unique().tolist():
        taken = [int(i) for i in grids.flatten() if labels[i] == label]
        best = sorted((labels == label).nonzero()[:, 0].tolist(), key=lambda i: -confidences[i])
        assert taken == best[: len(taken)]


def test_equal_confidences_go_by_index():
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 2, 3, 2, 3])
    grids = sample_grids(labels, torch.ones(10), 2, 2)
    assert sorted(grids[0].tolist()) == [0, 1, 6, 7]
    assert sorted(grids[1].tolist()) == [2, 3, 8, 9]


def test_grids_are_a_function_of_the_generator(pool):
    def sample(seed):
        return sample_grids(*pool, 2, 10, torch.Generator().manual_seed(seed)).tolist()

    assert sample(3) == sample(3)
    assert sample(3) != sample(4)
    torch.manual_seed(1)
    first = sample_grids(*pool, 2, 10).tolist()
    torch.manual_seed(2)
    assert sample_grids(*pool, 2, 10).tolist() == first  # no global state


def test_positions_of_classes_vary():
    labels = torch.arange(4).repeat(30)
    grids = sample_grids(labels, torch.rand(120), 2, 30)
    assert len({tuple(labels[g].tolist()) for g in grids}) > 10


def test_sampling_stops_when_too_few_classes_have_images():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 3])
    grids = sample_grids(labels, torch.rand(9), 2, 50)
    assert len(grids) == 1


@pytest.mark.parametrize(
    ("labels", "confidences", "n", "grids", "message"),
    [
        ([0, 1, 2], [0.1, 0.2, 0.3], 2, 5, "grids of 2×2 need images of at least 4 classes, got 3"),
        ([0, 1, 2, 3], [0.1, 0.2, 0.3], 2, 5, r"got \(4,\) and \(3,\)"),
        ([0, 1, 2, 3], [0.1, 0.2, 0.3, torch.nan], 2, 5, "1 confidences are NaN"),
        ([0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4], 2, 0, "num_grids must be at least 1, got 2 and 0"),
    ],
)
def test_impossible_grids_are_refused(labels, confidences, n, grids, message):
    with pytest.raises(BcosError, match=message):
        sample_grids(labels, confidences, n, grids)


@pytest.fixture
def game():
    """Thirty 8-bit images of six classes."""
    labels = torch.arange(30) % 6 % 5
    return torch.randint(0, 256, (30, 3, 4, 4), dtype=torch.uint8), labels, torch.rand(30)


def test_the_game_is_its_definition(colour_net, game):
    images, labels, confidences = game
    generator = torch.Generator().manual_seed(5)
    result = grid_pointing_game(
        colour_net, get_explainer("bcos"), images, labels, confidences,
        num_grids=4, smooth=3, batch_size=3, encode=AddInverse(), generator=generator,
    )  # fmt: skip
    grids = sample_grids(labels, confidences, 2, 4, torch.Generator().manual_seed(5))
    assert torch.equal(result.grids, grids)
    expected = []
    for g in grids:
        x = torch.zeros(1, 3, 8, 8)
        for c, i in enumerate(g.tolist()):
            x[0, :, c // 2 * 4 : c // 2 * 4 + 4, c % 2 * 4 : c % 2 * 4 + 4] = images[i] / 255
        for c, i in enumerate(g.tolist()):
            a = get_explainer("bcos")(colour_net, AddInverse()(x), int(labels[i])).sum(1)
            expected.append(literal_cell_scores(a, 2, 3)[0, c])
    torch.testing.assert_close(result.scores, torch.stack(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("n", [2, 3])
def test_an_oracle_scores_one_and_a_blind_explainer_chance(n):
    images = torch.arange(9.0)[:, None, None, None].expand(9, 1, 4, 4)  # the pixel's value is the class

    def oracle(_model, x, target):
        return (x[:, 0] == target[:, None, None]).float()

    def blind(_model, x, target):
        return torch.ones_like(x)

    args = (torch.arange(9), torch.rand(9))
    played = grid_pointing_game(nn.Identity(), oracle, images, *args, n=n, num_grids=3)
    assert played.scores.tolist() == [1.0] * played.grids.numel()
    assert grid_pointing_game(nn.Identity(), blind, images, *args, n=n, num_grids=3).mean == pytest.approx(
        played.chance
    )


def test_batches_and_encoding_beforehand_make_no_difference(colour_net, game):
    images, labels, confidences = game
    explainer = get_explainer("bcos")

    def play(images, **options):
        return grid_pointing_game(colour_net, explainer, images, labels, confidences, num_grids=5, **options)

    one = play(images, batch_size=1, encode=AddInverse())
    torch.testing.assert_close(play(images, batch_size=5, encode=AddInverse()).scores, one.scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(play(AddInverse()(images / 255)).scores, one.scores, atol=1e-6, rtol=1e-5)


def test_progress_is_told(colour_net, game):
    told = []
    grid_pointing_game(
        colour_net, get_explainer("bcos"), *game, num_grids=5, batch_size=2, encode=AddInverse(),
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_maps_of_another_size_are_refused(colour_net, game):
    def small(_model, x, target):
        return x[:, 0, ::2, ::2]

    with pytest.raises(BcosError, match=r"maps of shape \(1, 4, 4\) for inputs of shape \(1, 6, 8, 8\)"):
        grid_pointing_game(colour_net, small, *game, num_grids=1, encode=AddInverse())


def test_given_grids_are_played_as_they_are(colour_net, game):
    _, labels, confidences = game
    grids = torch.tensor([[0, 1, 2, 3], [9, 7, 3, 1], [0, 1, 2, 3]])
    given = {"encode": AddInverse(), "smooth": 3, "batch_size": 2}
    result = grid_pointing_game(colour_net, get_explainer("bcos"), *game, grids=grids, **given)
    assert torch.equal(result.grids, grids)
    assert (result.requested, len(result.scores), result.cluster) == (3, 12, 4)
    drawn = sample_grids(labels, confidences, 2, 5)
    expected = grid_pointing_game(colour_net, get_explainer("bcos"), *game, num_grids=5, **given)
    parts = [grid_pointing_game(colour_net, get_explainer("bcos"), *game, grids=g, **given) for g in drawn.split(2)]
    torch.testing.assert_close(torch.cat([p.scores for p in parts]), expected.scores, atol=1e-6, rtol=1e-5)


def test_all_classes_of_a_grid_are_explained_in_one_call(colour_net, game):
    targets = []

    class Counting:
        several_targets = True

        def __call__(self, model, x, target=None):
            targets.append(tuple(target.shape))
            return get_explainer("bcos")(model, x, target)

    grid_pointing_game(colour_net, Counting(), *game, num_grids=3, batch_size=2, encode=AddInverse())
    assert targets == [(2, 4), (1, 4)]


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.long), r"grids of 2×2 must be \(G, 4\).*got shape \(2, 3\)"),
        (torch.zeros(0, 4, dtype=torch.long), "at least one grid"),
        (torch.tensor([[0, 1, 2, 30]]), "indices of 30 images, got values from 0 to 30"),
    ],
)
def test_grids_of_other_images_are_refused(colour_net, game, grids, message):
    with pytest.raises(BcosError, match=message):
        grid_pointing_game(colour_net, get_explainer("bcos"), *game, grids=grids, encode=AddInverse())


def test_the_metric_is_found_by_name():
    assert get_metric("gridpg") is grid_pointing_game
