"""GridPG as the metric plays it, and by the reference's protocol: class by class, a backward pass for each cell."""

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bcos_core import AddInverse, folded
from bcos_explain import get_explainer
from bcos_explain.metrics import grid_pointing_game
from benchmarks.networks import NETWORKS, OURS, REFERENCE

_SIDE, _SMOOTH, _IMAGES = 3, 15, 10


def seconds_a_grid(name: str, device: str, grids: int, reference_grids: int) -> dict[str, Any]:
    """Seconds for a 3×3 grid, of networks with random weights; ours folded, as ``bcos eval`` has it."""
    torch.manual_seed(0)
    network = NETWORKS[name]
    encode = AddInverse()
    images, labels = torch.rand(_IMAGES, 3, network.size, network.size), torch.arange(_IMAGES)
    drawn = torch.stack([torch.randperm(_IMAGES)[: _SIDE**2] for _ in range(grids)])
    ours, theirs = (network.build[side]().to(device).eval() for side in (OURS, REFERENCE))
    ours = folded(ours, encode(images[:1].to(device)))

    def play(some: Tensor) -> None:
        grid_pointing_game(
            ours, get_explainer("bcos"), images, labels, torch.ones(_IMAGES),
            n=_SIDE, grids=some, smooth=_SMOOTH, batch_size=4, encode=encode,
        )  # fmt: skip

    def as_the_reference(some: Tensor) -> None:
        rows = images[some].unflatten(1, (_SIDE, _SIDE)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
        for grid, classes in zip(rows, labels[some], strict=True):
            x = encode(grid[None].to(device)).requires_grad_()
            with theirs.explanation_mode():  # type: ignore[operator] # reason: a method of the reference's
                for k in classes.tolist():
                    (gradient,) = torch.autograd.grad(theirs(x)[0, k], x)
                    F.avg_pool2d((gradient * x).sum(1), _SMOOTH, 1, _SMOOTH // 2).cpu()

    found: dict[str, Any] = {"network": name, "grids": grids, "reference grids": reference_grids}
    for side, run, some in ((OURS, play, drawn), (REFERENCE, as_the_reference, drawn[:reference_grids])):
        run(some[:1])
        start = time.perf_counter()
        run(some)
        found[side] = (time.perf_counter() - start) / len(some)
    return found
