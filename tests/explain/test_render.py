import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from bcos_core import AddInverse, BcosError
from bcos_explain.render import (
    common_alpha_scale,
    contribution_rgb,
    explanation_image,
    input_image,
    on_background,
    plot_contribution_map,
    save_png,
    symmetric_limit,
)

bcos_common = pytest.importorskip("bcos.common")


@pytest.fixture
def pair():
    """An encoded image and a weight of the same shape."""
    return AddInverse()(torch.rand(3, 24, 31)), torch.randn(6, 24, 31)


@pytest.mark.parametrize("smooth", [3, 5, 15])
@pytest.mark.parametrize("percentile", [90.0, 99.5, 100.0])
def test_six_channels_give_the_references_picture(pair, smooth, percentile):
    x, w = pair
    ours = explanation_image(x, w, smooth=smooth, percentile=percentile)
    reference = bcos_common.gradient_to_image(x, w, smooth=smooth, alpha_percentile=percentile)
    np.testing.assert_allclose(ours, reference, atol=1e-5)


def test_without_smoothing_too(pair):
    x, w = pair
    reference = bcos_common.gradient_to_image(x, w, smooth=0)
    np.testing.assert_allclose(explanation_image(x, w, smooth=1), reference, atol=1e-5)


def literal_explanation(x, w, k, percentile):
    """The definition, pixel by pixel, for channels followed by their inverses."""
    c, height, width = w.shape
    colours, strength = np.zeros((height, width, c // 2)), np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            pixel = w[:, i, j] / np.abs(w[:, i, j]).max()
            pixel = np.maximum(pixel, 0)
            for channel in range(c // 2):
                both = pixel[channel] + pixel[channel + c // 2]
                colours[i, j, channel] = pixel[channel] / both if both else 0
            if (w[:, i, j] * x[:, i, j]).sum() >= 0:
                strength[i, j] = np.sqrt((w[:, i, j] ** 2).sum())
    padded = np.pad(strength, k // 2)
    smoothed = np.array([[padded[i : i + k, j : j + k].mean() for j in range(width)] for i in range(height)])
    return colours, np.clip(smoothed / np.percentile(smoothed, percentile), 0, 1)


@pytest.mark.parametrize("channels", [2, 6])
def test_picture_is_its_definition(channels):
    x, w = torch.rand(channels, 8, 9), torch.randn(channels, 8, 9)
    picture = explanation_image(x, w, smooth=3, percentile=95)
    colours, alpha = literal_explanation(x.double().numpy(), w.double().numpy(), 3, 95)
    np.testing.assert_allclose(picture[..., :3], np.broadcast_to(colours, (8, 9, 3)), atol=1e-9)
    np.testing.assert_allclose(picture[..., 3], alpha, atol=1e-9)


def test_two_channels_give_grey():
    x = AddInverse()(torch.rand(1, 16, 16))
    picture = explanation_image(x, torch.randn(2, 16, 16))
    assert (picture[..., 0] == picture[..., 1]).all()
    assert (picture[..., 1] == picture[..., 2]).all()
    white, black = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    white[0], black[1] = 1, 1
    ones = torch.ones(2, 4, 4)
    np.testing.assert_allclose(explanation_image(ones, white)[..., :3], 1, atol=1e-6)
    np.testing.assert_allclose(explanation_image(ones, black)[..., :3], 0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 12])
def test_channels_without_inverse_show_signs_around_grey(channels):
    x, w = torch.ones(channels, 4, 4), torch.zeros(channels, 4, 4)
    w[:, :2] = 2.0
    w[:, 2, 0] = -1.0
    rgb = explanation_image(x, w)[..., :3]
    np.testing.assert_allclose(rgb[:2], 1)
    np.testing.assert_allclose(rgb[2, 0], 0)
    np.testing.assert_allclose(rgb[3], 0.5)


def test_three_channels_keep_their_colours():
    w = torch.tensor([1.0, 0.0, -0.5])[:, None, None].expand(3, 4, 4)
    np.testing.assert_allclose(explanation_image(torch.ones(3, 4, 4), w)[0, 0, :3], [1, 0.5, 0.25])


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 6])
def test_a_zero_map_is_transparent(channels):
    picture = explanation_image(torch.rand(channels, 8, 8), torch.zeros(channels, 8, 8))
    assert (picture[..., 3] == 0).all()
    assert np.isfinite(picture).all()


def test_where_everything_speaks_against_it_is_transparent(pair):
    x, w = pair
    assert (explanation_image(x, -w.abs())[..., 3] == 0).all()


def test_a_single_contributing_pixel_is_visible():
    w = torch.zeros(6, 40, 40)
    w[0, 20, 20] = 1e-20
    alpha = explanation_image(torch.ones(6, 40, 40), w, smooth=1)[..., 3]
    assert alpha[20, 20] == 1
    assert alpha.sum() == 1


@pytest.mark.parametrize(("size", "largest"), [((8, 20), 7), ((5, 5), 5), ((1, 9), 1), ((2, 2), 1)])
def test_smoothing_is_clipped_to_the_image(size, largest):
    x, w = torch.rand(6, *size), torch.randn(6, *size)
    np.testing.assert_array_equal(explanation_image(x, w), explanation_image(x, w, smooth=largest))


def test_values_stay_inside_zero_and_one_and_are_ones_own(pair):
    x, w = pair
    picture = explanation_image(x.half(), w.half() * 100)
    assert picture.shape == (24, 31, 4)
    assert picture.min() >= 0
    assert picture.max() <= 1
    picture[:] = 0
    assert w.abs().min() > 0


def test_arrays_and_tensors_that_require_gradients_are_taken(pair):
    x, w = pair
    expected = explanation_image(x, w)
    np.testing.assert_array_equal(explanation_image(x.numpy(), w.numpy()), expected)
    np.testing.assert_array_equal(explanation_image(x, w.clone().requires_grad_()), expected)


def test_a_common_scale_makes_pictures_comparable(pair):
    x, w = pair
    xs, ws = torch.stack([x, x]), torch.stack([w, w / 4])
    scale = common_alpha_scale(xs, ws, smooth=1, percentile=100)
    strong, weak = (explanation_image(x, w, smooth=1, alpha_scale=scale)[..., 3] for w in ws)
    assert strong.max() == 1
    np.testing.assert_allclose(weak, strong / 4, atol=1e-9)
    assert common_alpha_scale(xs, ws * 0) is None
    single = common_alpha_scale(x[None], w[None])
    np.testing.assert_allclose(explanation_image(x, w, alpha_scale=single), explanation_image(x, w))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": 4}, "smooth must be odd and at least 1, got 4"),
        ({"smooth": 0}, "use 1 for no smoothing"),
        ({"percentile": 101}, r"percentile must be in \[0, 100\], got 101"),
        ({"alpha_scale": 0.0}, "alpha_scale must be positive, got 0.0"),
    ],
)
def test_impossible_options_are_refused(pair, options, message):
    with pytest.raises(BcosError, match=message):
        explanation_image(*pair, **options)


def test_impossible_shapes_and_values_are_refused(pair):
    x, w = pair
    with pytest.raises(BcosError, match=r"same shape, got \(3, 24, 31\) and \(6, 24, 31\)"):
        explanation_image(x[:3], w)
    with pytest.raises(BcosError, match=r"x must have shape \(C, H, W\) and not be empty, got \(1, 6, 24, 31\)"):
        explanation_image(x[None], w[None])
    w[0, 0, 0] = torch.nan
    with pytest.raises(BcosError, match="weight holds 1 non-finite values"):
        explanation_image(x, w)


def test_contributions_are_blue_white_and_red():
    rgb = contribution_rgb(torch.tensor([[-2.0, 0.0, 2.0], [-9.0, 0.0, 9.0]]), limit=2.0)
    assert rgb.shape == (2, 3, 3)
    for row in rgb:
        np.testing.assert_allclose(row, [to_rgb("blue"), to_rgb("white"), to_rgb("red")], atol=0.01)


def test_limit_is_the_percentile_of_absolute_contributions():
    m = np.random.default_rng(0).normal(size=(20, 20))
    expected = np.percentile(np.abs(m), 99.5)
    assert symmetric_limit(m) == pytest.approx(expected)
    np.testing.assert_array_equal(contribution_rgb(m), contribution_rgb(m, limit=expected))
    one = np.zeros((40, 40))
    one[0, 0] = -3
    assert symmetric_limit(one) == 3  # the percentile is 0, the largest is not
    assert (contribution_rgb(np.zeros((2, 2))) >= 0.99).all()


def test_plot_shows_what_the_reference_shows():
    m = torch.randn(20, 30)
    ax, image = plot_contribution_map(m)
    figure = plt.figure()
    _, reference = bcos_common.plot_contribution_map(m, ax=figure.add_subplot())
    np.testing.assert_allclose(image.get_array(), reference.get_array(), rtol=1e-6)
    np.testing.assert_allclose(image.get_clim(), reference.get_clim(), rtol=1e-6)
    np.testing.assert_array_equal(image.cmap(0.3), reference.cmap(0.3))
    assert ax.figure is not figure
    plt.close(figure)
    plt.close(ax.figure)


def test_plot_is_what_pyplot_saves_and_has_units():
    ax, image = plot_contribution_map(np.eye(4), colorbar=True, limit=2.0)
    assert plt.gcf() is ax.figure
    assert [a.get_ylabel() for a in ax.figure.axes] == ["", "contribution to the logit"]
    assert image.colorbar.extend == "neither"
    plt.close(ax.figure)
    _, image = plot_contribution_map(3 * np.eye(4), ax=Figure().add_subplot(), colorbar=True, limit=2.0)
    assert image.colorbar.extend == "both"
    before = plt.get_fignums()
    plot_contribution_map(np.eye(4), Figure().add_subplot())
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [({"limit": 0.0}, "limit must be positive, got 0.0"), ({"cmap": "bwr2"}, "no colour map 'bwr2'")],
)
def test_impossible_maps_are_refused(options, message):
    with pytest.raises(BcosError, match=message):
        contribution_rgb(np.eye(3), **options)
    with pytest.raises(BcosError, match="must end above their start, 2, got 1"):
        contribution_rgb(np.eye(3), limit=1.0, low=2.0)
    with pytest.raises(BcosError, match=r"a contribution map must have shape \(H, W\)"):
        contribution_rgb(torch.rand(1, 3, 3))


def test_inputs_are_shown_in_their_colours():
    rgb = torch.rand(3, 4, 5)
    shown = rgb.permute(1, 2, 0).numpy()
    np.testing.assert_allclose(input_image(AddInverse()(rgb)), shown, atol=1e-7)
    np.testing.assert_allclose(input_image(rgb), shown, atol=1e-7)
    grey = torch.rand(1, 4, 5)
    for x in (grey, AddInverse()(grey)):
        np.testing.assert_allclose(input_image(x), grey.expand(3, -1, -1).permute(1, 2, 0), atol=1e-7)


def test_standardised_inputs_are_undone_or_stretched():
    rgb = torch.rand(3, 4, 5).double()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    x = (rgb - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    np.testing.assert_allclose(input_image(x, mean=mean, std=std), rgb.permute(1, 2, 0), atol=1e-6)
    stretched = input_image(x)
    assert stretched.min() == 0
    assert stretched.max() == 1
    with pytest.raises(BcosError, match="mean and std must be given together"):
        input_image(x, mean=mean)
    with pytest.raises(BcosError, match="need 3 values, got 1 and 1"):
        input_image(x, mean=[0.5], std=[0.5])


def test_pictures_are_laid_on_a_background():
    rgba = np.zeros((1, 3, 4))
    rgba[..., 0] = 1
    rgba[0, :, 3] = [0, 0.5, 1]
    np.testing.assert_allclose(on_background(rgba)[0], [[1, 1, 1], [1, 0.5, 0.5], [1, 0, 0]])
    np.testing.assert_allclose(on_background(rgba, (0, 0, 1))[0], [[0, 0, 1], [0.5, 0, 0.5], [1, 0, 0]])
    with pytest.raises(BcosError, match=r"on_background needs \(H, W, 4\), got shape \(2, 2\)"):
        on_background(np.zeros((2, 2)))


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3), (3, 5, 4)])
def test_png_holds_the_picture_enlarged(tmp_path, shape):
    picture = np.random.default_rng(0).random(shape)
    path = tmp_path / "new" / "picture.png"
    save_png(picture, path, scale=4)
    read = np.asarray(Image.open(path))
    assert read.shape == (12, 20, *shape[2:])
    np.testing.assert_allclose(read[::4, ::4] / 255, picture, atol=0.5 / 255 + 1e-9)
    assert (read[:4, :4] == read[0, 0]).all()
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_a_failed_png_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    save_png(np.zeros((2, 2)), path)
    old = path.read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_png(np.ones((2, 2)), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("array", "scale", "message"),
    [
        (np.zeros((2, 2, 2)), 1, r"got shape \(2, 2, 2\)"),
        (np.full((2, 2), 3.0), 1, r"values in \[0, 1\], got 3 to 3; colour contribution maps"),
        (np.full((2, 2), np.nan), 1, "got nan to nan"),
        (np.zeros((2, 2)), 0, "scale must be a whole number of at least 1, got 0"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, array, scale, message):
    with pytest.raises(BcosError, match=message):
        save_png(array, tmp_path / "x.png", scale)


def test_maps_without_a_sign_go_from_pale_to_dark():
    m = np.array([[0.1, 0.25, 0.4, 0.7]])
    rgb = contribution_rgb(m, limit=0.4, low=0.1)
    ramp = plt.get_cmap("YlOrBr")
    for value, expected in zip(rgb[0], (0.0, 0.5, 1.0, 1.0), strict=True):
        np.testing.assert_allclose(value, ramp(expected)[:3], atol=0.02)
    assert (np.diff(rgb[0, :3].sum(1)) < 0).all()
