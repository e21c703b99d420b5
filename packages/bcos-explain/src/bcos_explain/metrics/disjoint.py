"""DiFull and DiPart: the pointing game where other cells of the grid cannot matter.

In the grid pointing game a network may look at other cells, so that a low score can be the network's doing.
Here the cells are disconnected: the logits of a cell are computed from that cell alone, so that every
attribution outside of it is wrong.

Source: Rao, Böhle, Schiele, *Towards Better Understanding Attribution Methods*, CVPR 2022, section 3.1.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_core.structure import shared_copy
from bcos_explain.explainers.attribute import attribute
from bcos_explain.explainers.contract import Explainer
from bcos_explain.explainers.feature_map import as_feature_map, last_feature_layer
from bcos_explain.metrics.batches import Encode, Progress, as_input
from bcos_explain.metrics.grids import GridGame, GridPointingResult, sample_grids, tile, untile

Part = Literal["full", "part"]


class DisjointCells(nn.Module):
    """A network on the cells of a grid, each classified for itself: (N, C, n·H, n·W) → (N, n²·K).

    The logit of class k in cell c, counted row by row, is output ``c · K + k``. With part ``"full"`` each cell
    passes the whole network alone. With ``"part"`` the whole grid passes it up to the last feature map, each
    cell's part of which is classified alone. The features of all cells exist as one map (N, F, n·h, n·w), the
    output of ``cells``, for explainers that read feature maps. Parameters are those of the network itself.

    Args:
        model: a network with logits (N, K); not changed.
        n: cells in a row and in a column.
        part: what each cell passes alone.
        cell: (1, C, H, W), one cell as input, to find the last feature map with.

    Raises:
        BcosError: part ``"part"`` of a network whose last features are no map (N, F, h, w).
    """

    def __init__(self, model: nn.Module, n: int, part: Part, cell: Tensor) -> None:
        super().__init__()
        layer = _last_map(model, cell)
        if part == "part" and layer is None:
            raise BcosError(
                f"DiPart needs a network that ends with feature maps (N, F, h, w) before its classifier; "
                f"{type(model).__name__} has none that can be cut into cells; use DiFull"
            )
        self.model = shared_copy(model)
        self.n = n
        self.part = part
        self.cells = nn.Identity()
        self.separate = nn.Identity()
        self.train(model.training)
        if layer is not None:
            self.model.get_submodule(layer).register_forward_hook(self._cut)

    def forward(self, grids: Tensor) -> Tensor:
        """Logits of all classes for all cells."""
        logits: Tensor = self.model(untile(grids, self.n).flatten(0, 1) if self.part == "full" else grids)
        return logits.unflatten(0, (len(grids), -1)).flatten(1)

    def get_classifier(self) -> nn.Module:
        """Where features of the grid end."""
        return self.separate

    def _cut(self, _module: nn.Module, _args: object, features: Tensor) -> Tensor:
        """Replace the last feature map by those of the cells (N·n², ...), after it was that of the grid."""
        last = _channels_last(features)
        maps = features.movedim(-1, 1) if last else features
        if self.part == "full":
            maps = tile(maps.unflatten(0, (-1, self.n**2)), self.n)
        if maps.shape[-2] % self.n or maps.shape[-1] % self.n:
            raise BcosError(
                f"the last feature map of a grid of {self.n}×{self.n} images has {tuple(maps.shape[-2:])} positions, "
                f"which are not multiples of {self.n}; use images of another size"
            )
        cells: Tensor = self.separate(untile(self.cells(maps), self.n).flatten(0, 1))
        return cells.movedim(1, -1) if last else cells
