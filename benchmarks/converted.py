"""timm networks as they are and converted, in one run, as ratios: training step; explaining beside a gradient.

``uv run python benchmarks/converted.py [NAME ...]``; CPU by default, ``--device cuda`` on a GPU.
"""

import argparse
from collections.abc import Callable

import timm
import torch
from networks import REPEATS, best_times, training_step
from torch import Tensor, nn

from bcos_core import explain
from bcos_models import bcosify

NAMES = (
    "resnet18",
    "resnet50",
    "mobilenetv3_small_100",
    "tf_efficientnet_lite0",
    "convnext_atto",
    "deit_tiny_patch16_224",
)
CLASSES = 1000


def gradient(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """A plain gradient of the predicted class: what any attribution costs at the least."""
    leaf = x.clone().requires_grad_()
    return lambda: torch.autograd.grad(model(leaf).amax(1).sum(), leaf)


def measure(name: str, batch: int, device: str) -> None:
    plain = timm.create_model(name).to(device)
    converted = bcosify(plain).to(device)
    images = torch.rand(batch, 6, 224, 224, device=device)
    x = {"plain": images[:, :3], "converted": images}
    nets = {"plain": plain, "converted": converted}
    steps = best_times({kind: training_step(net, x[kind], CLASSES) for kind, net in nets.items()}, device)
    for net in nets.values():
        net.eval().requires_grad_(False)
    runs: dict[str, Callable[[], object]] = {
        "gradient": gradient(plain, x["plain"]),
        "as is": lambda: explain(plain, x["plain"]),
        "converted": lambda: explain(converted, x["converted"]),
    }
    explained = best_times(runs, device)
    row = [f"{steps['plain'] * 1e3:.0f}", f"{steps['converted'] / steps['plain']:.2f}"]
    row += [f"{explained['gradient'] * 1e3:.0f}"]
    row += [f"{explained[kind] / explained['gradient']:.2f}" for kind in ("as is", "converted")]
    print("| " + " | ".join([f"`{name}`", str(batch), *row]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NAMES), help=", ".join(NAMES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    print(f"{arguments.device}, torch {torch.__version__}, {torch.get_num_threads()} threads, best of {REPEATS}\n")
    print(
        "| network | batch | plain step, ms | converted step | plain gradient, ms | explain as is | explain converted |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in arguments.names:
        measure(name, arguments.batch, arguments.device)


if __name__ == "__main__":
    main()
