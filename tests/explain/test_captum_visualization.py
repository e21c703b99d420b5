"""Captum draws what our explainers return."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from captum.attr import visualization
from matplotlib import pyplot as plt

from bcos_core import AddInverse
from bcos_explain import get_explainer


@pytest.fixture(autouse=True)
def no_window():
    with mpl.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


@pytest.mark.parametrize("name", ["bcos", "gradcam", "integrated_gradients"])
@pytest.mark.parametrize("method", ["heat_map", "blended_heat_map", "masked_image", "alpha_scaling"])
def test_captum_draws_our_attributions(colour_net, name, method):
    image = torch.rand(1, 3, 12, 16)
    attribution = get_explainer(name)(colour_net, AddInverse()(image), 2)
    rows_first = attribution[0].movedim(0, -1) if attribution.ndim == 4 else attribution[0, ..., None]
    sign = "positive" if method in ("masked_image", "alpha_scaling") else "all"
    figure, axes = visualization.visualize_image_attr(
        rows_first.numpy(),
        image[0].movedim(0, -1).numpy(),
        method=method,
        sign=sign,
        use_pyplot=False,
        show_colorbar=True,
    )
    figure.canvas.draw()
    drawn = axes.images[-1].get_array()
    assert drawn.shape[:2] == (12, 16)
    if method == "heat_map":
        summed = rows_first.numpy().sum(2)
        correlation = np.corrcoef(np.asarray(drawn).ravel(), np.clip(summed, *np.percentile(summed, [1, 99])).ravel())
        assert correlation[0, 1] > 0.9


def test_captum_draws_several_panels(colour_net):
    image = torch.rand(1, 3, 12, 16)
    attribution = get_explainer("bcos")(colour_net, AddInverse()(image), 2)[0].movedim(0, -1).numpy()
    figure, axes = visualization.visualize_image_attr_multiple(
        attribution, image[0].movedim(0, -1).numpy(), ["original_image", "heat_map"], ["all", "all"], use_pyplot=False
    )
    figure.canvas.draw()
    assert len(axes) == 2
