"""How the cost of an explanation grows: with the side of the image, the number of targets, the size of the batch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bcos_core import explain
from bcos_models import create_model
from benchmarks.bench import Time, in_turns, timed

NETWORK = "resnet18"
SIDES, TARGETS, BATCHES = (64, 128, 192, 256, 320, 384), (1, 2, 4, 8, 16), (1, 2, 4, 8, 16)
_SIDE, _BATCH = 128, 4
"""Of what does not vary."""


def scaling(rounds: int, *, most: int | None = None) -> dict[str, Any]:
    """Seconds of explanations of a network with random weights.

    Args:
        most: values of each kind; None for all.
    """
    torch.manual_seed(0)
    model = create_model(NETWORK).eval().requires_grad_(False)

    def run(count: int, side: int, targets: int) -> Time:
        x = torch.rand(count, 6, side, side)
        return timed(partial(explain, model, x, torch.arange(targets).expand(count, -1)))

    varied: dict[str, dict[int, Callable[[], Time]]] = {
        "side": {side: partial(run, _BATCH, side, 1) for side in SIDES[:most]},
        "targets": {count: partial(run, _BATCH, _SIDE, count) for count in TARGETS[:most]},
        "batch": {count: partial(run, count, _SIDE, 1) for count in BATCHES[:most]},
    }
    found: dict[str, Any] = {"network": NETWORK, "batch": _BATCH, "side": _SIDE}
    for what, runs in varied.items():
        for once in runs.values():
            once()
        found[f"by {what}"] = {value: [t.wall for t in times] for value, times in in_turns(runs, rounds).items()}
    return found


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw the times over what varies, beside a straight line through the first and the last of them."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9.6, 2.9))
    names = {"side": "pixels of the image", "targets": "targets of each image", "batch": "images of the batch"}
    for axis, (what, label) in zip(axes, names.items(), strict=True):
        times = {int(value): min(taken) for value, taken in found[f"by {what}"].items()}
        x = [value**2 if what == "side" else value for value in times]
        y = list(times.values())
        axis.plot(x, y, "o", color="tab:red")
        axis.plot([x[0], x[-1]], [y[0], y[-1]], color="0.7", zorder=0)
        axis.set_xlabel(label)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
