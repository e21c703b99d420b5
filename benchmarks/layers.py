"""Training step and explanation of a network: ours, the reference's and the plain one, in one run, as ratios.

``uv run python benchmarks/layers.py``; CPU by default, ``--device cuda`` on a GPU.
"""

import argparse
import time
from collections.abc import Callable

import torch
from bcos.models import resnet as reference
from bcos.modules import norms
from torch import Tensor, nn

from bcos_core import explain
from bcos_models import create_model

REPEATS = 7


def best_time(run: Callable[[], object], device: str) -> float:
    """Shortest of several times, in seconds: what the machine can do when nothing disturbs it."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def training_step(model: nn.Module, x: Tensor) -> Callable[[], object]:
    model.train()
    target = torch.zeros(len(x), 10, device=x.device)
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(x), target).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    device, n = arguments.device, arguments.batch
    x = torch.rand(n, 6, 32, 32, device=device)
    ours = create_model("cifar10_resnet20").to(device)
    plain = create_model("standard_cifar10_resnet20").to(device)
    theirs = reference.cifar10_resnet20(norm_layer=norms.NoBias(norms.BatchNormUncentered2d), num_classes=10).to(device)

    print(f"ResNet-20, batch {n} of 32×32, {device}, torch {torch.__version__}, best of {REPEATS}")
    steps = {
        "plain": best_time(training_step(plain, x[:, :3]), device),
        "reference": best_time(training_step(theirs, x), device),
        "ours": best_time(training_step(ours, x), device),
    }
    for name, seconds in steps.items():
        print(f"training step  {name:10} {seconds * 1e3:8.1f} ms   {seconds / steps['plain']:.2f} × plain")

    ours.eval()
    theirs.eval()
    batched = best_time(lambda: explain(ours, x), device)
    one_by_one = best_time(lambda: [theirs.explain(image[None].requires_grad_()) for image in x.clone()], device)
    print(f"explanations   reference  {one_by_one / n * 1e3:8.2f} ms an image")
    print(f"explanations   ours       {batched / n * 1e3:8.2f} ms an image   {one_by_one / batched:.1f} × as fast")


if __name__ == "__main__":
    main()
