import numpy as np
import pytest

from bcos_core import BcosError
from bcos_explain.render import contribution_overlay, explanation_overlay, greyed


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
