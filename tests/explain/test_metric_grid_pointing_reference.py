"""The grid pointing game beside the protocol of the reference, written down literally.

The package ``bcos`` holds no code for it as installed; this is what its repository publishes.
"""

import numpy as np
import pytest
import torch
from explained_networks import calibrated
from torch import nn

from bcos_core import AddInverse
from bcos_explain import get_explainer
from bcos_explain.metrics import grid_pointing_game


def reference_indices(confident, n_imgs, generator):
    """The reference's order of images: blocks of distinct classes, each class from its most confident image down.

    As published in B-cos-v2, ``interpretability/analyses/localisation.py``, where `confident` maps classes to
    [(index, logit), ...] of images that are classified correctly, sorted by logit, and images with a sigmoid of
    at most 0.5 do not count. It draws from NumPy's seed 42, as long as more than n_imgs classes are left.
    """
    used = dict.fromkeys(confident, 0)

    def has_image(c):
        return used[c] < len(confident[c]) and torch.tensor(confident[c][used[c]][1]).sigmoid() > 0.5

    indices = []
    while sum(map(has_image, confident)) > n_imgs:
        for c in generator.choice([c for c in confident if has_image(c)], size=n_imgs, replace=False):
            indices.append(confident[c][used[c]][0])
            used[c] += 1
    return indices


def reference_grids(indices, labels, n_imgs, count):
    """The reference's grids: it goes on one image after the last one of a grid, and skips a class it has already."""
    grids, offset = [], 0
    for _ in range(count):
        chosen, position = [], offset
        while len(chosen) < n_imgs:
            if labels[indices[position]] not in [labels[i] for i in chosen]:
                chosen.append(indices[position])
            position += 1
        grids.append(chosen)
        offset = position + 1
    return grids


def reference_scores(model, images, labels, n, smooth):
    """The reference's score of one grid, the first image left, the next one below it, in the model's precision."""
    side = images.shape[-1]
    grid = images.view(1, n, n, *images.shape[1:]).permute(0, 3, 2, 4, 1, 5).reshape(1, -1, n * side, n * side)
    scores = []
    for cell, label in enumerate(labels):
        attribution = get_explainer("bcos")(model, grid, label).sum(1, keepdim=True)
        positive = nn.functional.avg_pool2d(attribution, smooth, stride=1, padding=(smooth - 1) // 2).clamp(min=0)
        cells = nn.functional.avg_pool2d(positive, side, stride=side).permute(0, 1, 3, 2).flatten()
        scores.append(float(torch.where(cells.sum() * cells > 0, cells / cells.sum(), 0)[cell]))
    return scores


@pytest.mark.parametrize(("n", "smooth"), [(2, 1), (2, 5), (3, 3)])
def test_scores_are_those_of_the_references_protocol(n, smooth):
    net, _ = calibrated("bcos_rgb")
    net.double()
    kinds = n * n + 2
    kind = (torch.arange(20 * kinds) % kinds).tolist()  # stands for the class: the network has five
    labels = torch.tensor(kind) % 5
    images, logits = torch.rand(len(labels), 3, 6, 6, dtype=torch.float64), torch.randn(len(labels)) + 1
    confident = {
        k: sorted([(i, float(logits[i])) for i in range(len(kind)) if kind[i] == k], key=lambda entry: -entry[1])
        for k in range(kinds)
    }
    indices = reference_indices(confident, n * n, np.random.RandomState(42))
    grids = reference_grids(indices, kind, n * n, 4)
    encoded = AddInverse()(images)
    expected = [reference_scores(net, encoded[g], labels[g].tolist(), n, smooth) for g in grids]
    by_rows = torch.tensor(grids).unflatten(1, (n, n)).transpose(1, 2)  # ours lie row by row
    result = grid_pointing_game(
        net, get_explainer("bcos"), images, labels, logits, n=n, smooth=smooth, encode=AddInverse(),
        grids=by_rows.flatten(1),
    )  # fmt: skip
    played = result.scores.view(-1, n, n).transpose(1, 2).flatten(1)
    torch.testing.assert_close(played, torch.tensor(expected, dtype=torch.float64))
