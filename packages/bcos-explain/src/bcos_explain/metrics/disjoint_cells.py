"""DiFull and DiPart: the pointing game where other cells of the grid cannot matter.

In the grid pointing game a network may look at other cells, so that a low score can be the network's doing.
Here the cells are disconnected: the logits of a cell are computed from that cell alone, so that every
attribution outside of it is wrong.

Source: Rao, Böhle, Schiele, *Towards Better Understanding Attribution Methods*, CVPR 2022, section 3.1.
"""

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_core.layers import layer_outputs, shared_copy
from bcos_explain.explainers.attribute import attribute
from bcos_explain.explainers.contract import Explainer
from bcos_explain.explainers.feature_map import as_feature_map, last_feature_layer
from bcos_explain.metrics.batches import Encode, Progress, as_input
from bcos_explain.metrics.grid_pointing import GridPointingResult, play_grids, tile, untile

Part = Literal["full", "part"]


class DisjointCells(nn.Module):
    """A network on the cells of a grid, each classified by itself: (N, C, n·H, n·W) → (N, n²·K).

    The logit of class k in cell c, counted row by row, is output ``c · K + k``. With part ``"full"`` each cell
    passes the whole network alone. With ``"part"`` the whole grid passes it up to the last feature map, each
    cell's part of which is classified alone. The features of all cells exist as one map (N, F, n·h, n·w), the
    output of ``grid_features``, for explainers that read feature maps. Parameters are the network's own.

    Args:
        model: a network with logits (N, K); not changed.
        n: cells in a row and in a column.
        part: what each cell passes alone.
        cell: (1, C, H, W), one cell as input, to find the last feature map with.

    Raises:
        BcosError: part ``"part"`` of a network whose last features are not a map (N, F, h, w).
    """

    def __init__(self, model: nn.Module, n: int, part: Part, cell: Tensor) -> None:
        super().__init__()
        self.model = shared_copy(model)
        self.n = n
        self.part = part
        self.grid_features = nn.Identity()
        self.cell_features = nn.Identity()
        self.train(model.training)
        self.num_classes, layer, self._channels_last = _last_map(self.model, cell)
        if layer is not None:
            layer.register_forward_hook(self._cut)
        elif part == "part":
            raise BcosError(
                f"DiPart needs a network whose last features before the classifier are a map (N, F, h, w), which "
                f"those of {type(model).__name__} are not; use DiFull"
            )

    def forward(self, grids: Tensor) -> Tensor:
        """Logits of all classes for all cells."""
        logits: Tensor = self.model(untile(grids, self.n).flatten(0, 1) if self.part == "full" else grids)
        of_grids: Tensor = logits.unflatten(0, (len(grids), -1)).flatten(1)
        return of_grids

    def get_classifier(self) -> nn.Module:
        """Where the features of the grid end, for :func:`bcos_explain.explainers.feature_map.last_feature_layer`."""
        return self.cell_features

    def _cut(self, _module: nn.Module, _args: object, features: Tensor) -> Tensor:
        """Features of the cells (N·n², ...), by way of those of the grid."""
        maps = features.movedim(-1, 1) if self._channels_last else features
        if self.part == "full":
            maps = tile(maps.unflatten(0, (-1, self.n**2)), self.n)
        if maps.shape[-2] % self.n or maps.shape[-1] % self.n:
            raise BcosError(
                f"the last features of a grid of {self.n}×{self.n} images are a map of {tuple(maps.shape[-2:])} "
                f"positions, which cannot be cut into cells; use images of another size"
            )
        cells: Tensor = self.cell_features(untile(self.grid_features(maps), self.n).flatten(0, 1))
        return cells.movedim(1, -1) if self._channels_last else cells


def _last_map(model: nn.Module, cell: Tensor) -> tuple[int, nn.Module | None, bool]:
    """Number of classes; the layer that ends with the last feature map, and whether its channels come last."""
    with torch.no_grad():
        try:
            layer = last_feature_layer(model, cell)
        except BcosError:
            return model(cell).shape[1], None, False
        outputs, logits = layer_outputs(model, layer, cell)
    output = outputs[-1]
    if output.ndim != 4:
        return logits.shape[1], None, False
    return logits.shape[1], layer, as_feature_map(output, *cell.shape[-2:]) is not output


def difull(
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
    """Pointing game where each cell of the grid passes the network alone.

    The paper scores two opposite corners that show images of one class; here all cells are scored, on the
    grids of distinct classes that the grid pointing game is played with.

    Arguments are those of :func:`bcos_explain.metrics.grid_pointing_game`, but the network sees images of their own
    size.

    Args:
        explainer: is given a :class:`DisjointCells` as network.

    Returns:
        Scores of all cells: 1 for an explainer that keeps to what the network can see (less what `smooth`
        carries over the borders of cells), 1 / n² by chance.

    Raises:
        BcosError: as :func:`bcos_explain.metrics.grid_pointing_game`.

    Source: Rao, Böhle, Schiele, CVPR 2022, section 3.1.
    """
    options = (labels, confidences, n, num_grids, grids, smooth, batch_size, generator, encode, progress)
    return _play("full", model, explainer, images, *options)


def dipart(
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
    """Pointing game where each cell of the last feature map is classified alone.

    As in the grid pointing game, features at the border of a cell see some of the next one, as far as
    receptive fields reach.

    Arguments are those of :func:`bcos_explain.metrics.grid_pointing_game`.

    Args:
        explainer: is given a :class:`DisjointCells` as network.

    Returns:
        Scores of all cells, higher is better, 1 / n² by chance.

    Raises:
        BcosError: as :func:`bcos_explain.metrics.grid_pointing_game`, or a network whose last features are no
            map (N, F, h, w), such as the tokens of a transformer.

    Source: Rao, Böhle, Schiele, CVPR 2022, section 3.1.
    """
    options = (labels, confidences, n, num_grids, grids, smooth, batch_size, generator, encode, progress)
    return _play("part", model, explainer, images, *options)


def _play(part: Part, model: nn.Module, explainer: Explainer, images: Tensor, *options: Any) -> GridPointingResult:
    _labels, _confidences, n, *_, encode, _progress = options

    @cache
    def cells() -> DisjointCells:  # made on use: the images are checked before
        return DisjointCells(model, n, part, as_input(images[:1], model, encode))

    def maps(x: Tensor, classes: Tensor) -> Tensor:
        known = cells().num_classes
        if not 0 <= int(classes.min()) <= int(classes.max()) < known:  # else they would be classes of other cells
            found = f"{int(classes.min())} to {int(classes.max())}"
            raise BcosError(f"labels must be in [0, {known}) for a network of {known} classes, got {found}")
        offsets = torch.arange(n**2, device=x.device) * known
        return attribute(explainer, cells(), x, classes + offsets)

    return play_grids(maps, model, images, *options)
