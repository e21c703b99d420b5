"""Training step and explanation of networks: ours, the reference's and the plain one, in one run, as ratios.

``uv run python benchmarks/networks.py [NAME ...]``; CPU by default, ``--device cuda`` on a GPU.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import torch
import torchvision
from bcos.models import pretrained, resnet
from bcos.modules import norms
from torch import Tensor, nn

from bcos_core import explain
from bcos_models import create_model, get_spec

REPEATS = 5

PLAIN: dict[str, Callable[[], nn.Module]] = {
    "cifar10_resnet20": lambda: create_model("standard_cifar10_resnet20"),
    "resnet50": torchvision.models.resnet50,
    "densenet121": torchvision.models.densenet121,
    "vgg11_bnu": torchvision.models.vgg11_bn,
    "convnext_tiny": torchvision.models.convnext_tiny,
    "simple_vit_s_patch16_224": lambda: create_model("standard_simple_vit_s_patch16_224"),
    "vitc_s_patch1_14": lambda: create_model("standard_vitc_s_patch1_14"),
}


def reference(name: str) -> nn.Module:
    if name == "cifar10_resnet20":
        made: nn.Module = resnet.cifar10_resnet20(norm_layer=norms.NoBias(norms.BatchNormUncentered2d), num_classes=10)
        return made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(pretrained, name)(pretrained=False)


def best_times(runs: dict[str, Callable[[], object]], device: str) -> dict[str, float]:
    """Shortest of several times of each, in seconds, taken in turns: what the machine can do undisturbed."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: min(taken) for name, taken in times.items()}


def training_step(model: nn.Module, x: Tensor, classes: int) -> Callable[[], object]:
    model.train()
    target = torch.zeros(len(x), classes, device=x.device)
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(x), target).backward()
        optimizer.step()

    return step


def measure(name: str, batch: int, device: str) -> None:
    spec = get_spec(name)
    x = torch.rand(batch, 6, spec.input.size, spec.input.size, device=device)
    nets = {"plain": PLAIN[name](), "reference": reference(name), "ours": create_model(name)}
    nets = {kind: net.to(device) for kind, net in nets.items()}
    steps = {k: training_step(net, x[:, :3] if k == "plain" else x, spec.num_classes) for k, net in nets.items()}
    times = best_times(steps, device)
    ours, theirs = nets["ours"].eval(), nets["reference"].eval()
    explained = best_times(
        {
            "reference": lambda: [theirs.explain(image[None].requires_grad_()) for image in x.clone()],
            "ours": lambda: explain(ours, x),
        },
        device,
    )
    row = [f"{times['ours'] / times['plain']:.2f}", f"{times['reference'] / times['plain']:.2f}"]
    row += [f"{explained[k] / batch * 1e3:.1f}" for k in ("ours", "reference")]
    row += [f"{explained['reference'] / explained['ours']:.1f}"]
    print("| " + " | ".join([f"`{name}`", str(batch), f"{times['plain'] * 1e3:.0f}", *row]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(PLAIN), help=", ".join(PLAIN))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, help="images; 64 for small ones, else 8")
    arguments = parser.parse_args()
    print(f"{arguments.device}, torch {torch.__version__}, {torch.get_num_threads()} threads, best of {REPEATS}\n")
    print(
        "| network | batch | plain step, ms | step, ours | step, reference | explaining, ours, ms | reference, ms | × |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.names:
        small = get_spec(name).input.size < 64
        measure(name, arguments.batch or (64 if small else 8), arguments.device)


if __name__ == "__main__":
    main()
