import numpy as np
import pytest

from bcos_core import BcosError
from bcos_explain.render import contribution_overlay, contribution_rgb, explanation_overlay, greyed, laid_on, on_ground


@pytest.fixture
def rgb():
    return np.random.default_rng(0).random((4, 5, 3))


def literal_grey(pixel):
    return 0.45 * (0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]) + 0.55


def test_grey_is_pale_luminance(rgb):
    for i, j in np.ndindex(4, 5):
        np.testing.assert_allclose(greyed(rgb)[i, j], literal_grey(rgb[i, j]))


def test_contributions_are_painted_as_strongly_as_they_are(rgb):
    m = np.random.default_rng(1).normal(size=(4, 5))
    picture = contribution_overlay(rgb, m, limit=1.5)
    for i, j in np.ndindex(4, 5):
        alpha = min(1, abs(m[i, j]) / 1.5)
        end = np.array([1, 0, 0]) if m[i, j] > 0 else np.array([0, 0, 1])
        np.testing.assert_allclose(picture[i, j], alpha * end + (1 - alpha) * literal_grey(rgb[i, j]), atol=1e-9)


def test_explanation_lies_over_the_input(rgb):
    rgba = np.random.default_rng(1).random((4, 5, 4))
    picture = explanation_overlay(rgb, rgba)
    for i, j in np.ndindex(4, 5):
        alpha = rgba[i, j, 3]
        np.testing.assert_allclose(picture[i, j], alpha * rgba[i, j, :3] + (1 - alpha) * literal_grey(rgb[i, j]))


def test_shapes_that_differ_are_refused(rgb):
    with pytest.raises(BcosError, match=r"must be \(H, W, 3\) like the map \(5, 4\), got \(4, 5, 3\)"):
        contribution_overlay(rgb, np.ones((5, 4)))
    with pytest.raises(BcosError, match=r"must be \(H, W, 4\) like the input \(4, 5, 3\), got \(4, 5, 3\)"):
        explanation_overlay(rgb, rgb)
    with pytest.raises(BcosError, match=r"greyed needs \(H, W, 3\)"):
        greyed(rgb[..., 0])


def test_maps_without_a_sign_are_painted_in_their_own_colours(rgb):
    m = 3 + np.random.default_rng(1).random((4, 5))
    picture = contribution_overlay(rgb, m, limit=3.8, low=3.2)
    colours = contribution_rgb(m, limit=3.8, low=3.2)
    for i, j in np.ndindex(4, 5):
        alpha = min(max((m[i, j] - 3.2) / 0.6, 0), 1)
        np.testing.assert_allclose(picture[i, j], alpha * colours[i, j] + (1 - alpha) * literal_grey(rgb[i, j]))


@pytest.fixture
def white_and_black():
    """W of a greyscale network: opaque white and black, and nothing."""
    rgba = np.zeros((2, 3, 4))
    rgba[:, 0], rgba[:, 1] = 1, (0, 0, 0, 1)
    return rgba


def test_white_and_black_of_a_greyscale_network_both_show(white_and_black):
    np.testing.assert_array_equal(on_ground(white_and_black)[0], [[1, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5]])
    assert laid_on(on_ground(white_and_black), "white")[0, :, 0].tolist() == [255, 0, 128]
    for value in (0.0, 1.0):  # an image that is all black, or all white
        over = explanation_overlay(np.full((2, 3, 3), value), white_and_black)
        assert over[0, :, 0].tolist() == pytest.approx([1, 0, 0.275 + 0.45 * value])


def test_pictures_with_colours_stay_transparent(rgb):
    rgba = np.random.default_rng(1).random((4, 5, 4))
    assert on_ground(rgba) is rgba
