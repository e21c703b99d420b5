"""The grid pointing game (GridPG): whether an explanation of a class points at its image.

Images of different classes are tiled into one grid; each of these classes is explained on the grid, and the
score is the share of the positive attribution that lies inside the cell of that class.

Source: Böhle et al., *Convolutional Dynamic Alignment Networks for Interpretable Classifications*, CVPR 2021,
section 4.2; as used by Böhle et al., TPAMI 2024; named GridPG by Rao et al., CVPR 2022.
"""

from functools import partial

import torch
from torch import Tensor, nn

from bcos_explain.explainers.attribute import attribute
from bcos_explain.explainers.contract import Explainer
from bcos_explain.metrics.batches import Encode, Progress
from bcos_explain.metrics.grids import GridPointingResult, play_grids


def grid_pointing_game(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    labels: Tensor,
    confidences: Tensor,
    *,
    n: int = 2,
    num_grids: int = 250,
    grids: Tensor | None = None,
    smooth: int = 1,
    batch_size: int = 16,
    generator: torch.Generator | None = None,
    encode: Encode | None = None,
    progress: Progress | None = None,
) -> GridPointingResult:
    """Play the grid pointing game on correctly classified images.

    The paper plays 250 grids of 2×2 or 500 of 3×3, of images that are classified correctly with a probability
    above 0.5, with smooth=1 for CIFAR-10 and 15 for ImageNet.

    Args:
        model: in eval mode; must take images n times as large.
        explainer: see :class:`bcos_explain.explainers.Explainer`; channels are summed. All classes of a grid
            are explained in one call, where it takes several targets.
        images: (M, C, H, W), floats, or 8-bit integers that are divided by 255. They may stay on the CPU:
            each batch of grids is moved to the model's device.
        labels: (M,).
        confidences: (M,), of the labelled class.
        n: images in a row and in a column of a grid.
        num_grids: how many grids to draw.
        grids: (G, n²), indices of the images of each grid, row by row, played as they are; None to draw them
            with :func:`sample_grids`. A grid's scores do not depend on the other grids.
        smooth: size of the mean filter that attributions pass first; odd.
        batch_size: grids explained at once.
        generator: draws the grids; None for one with a fixed seed. With the same seed all explainers play the
            same grids.
        encode: applied to the tiled images, such as :class:`bcos_core.AddInverse`; None for encoded images.
        progress: called with the number of grids done and of all grids, after each batch.

    Returns:
        Scores of all cells, higher is better, 1 / n² by chance.

    Raises:
        BcosError: as :func:`sample_grids`, grids of other images, or an explainer that returns another shape.
    """
    options = (n, num_grids, grids, smooth, batch_size, generator, encode, progress)
    return play_grids(partial(attribute, explainer, model), model, images, labels, confidences, *options)
