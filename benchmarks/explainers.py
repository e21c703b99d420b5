"""Every explainer on photographs: how it points (GridPG), and its time beside a forward pass, in one run.

``uv run python benchmarks/explainers.py MODEL FOLDER [--explainer NAME ...]``; MODEL as ``bcos explain`` takes it,
FOLDER of images whose names end in the number of their class (``imagenet_01_243.jpg``). Images that are classified
correctly are tiled; with few of them, grids share images.
"""

import argparse
import re
import time
from pathlib import Path

import torch

from bcos_cli.data.image_decoder import decode
from bcos_cli.data.input_image import inference_transform
from bcos_cli.data.pixels import Pixels
from bcos_core import BcosError
from bcos_explain import get_explainer, list_explainers
from bcos_explain.explainers import attribute, collect_remarks, remark_lines
from bcos_explain.metrics import grid_pointing_game
from bcos_models import TrainedModel, load_trained


def labelled(trained: TrainedModel, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    transform = inference_transform(trained.input)
    found = [(p, m) for p in sorted(folder.iterdir()) if (m := re.search(r"(\d+)\.(jpe?g|png)$", p.name))]
    images = [transform(decode(path.read_bytes(), Pixels(trained.input.channels))) for path, _ in found]
    return torch.stack(images), torch.tensor([int(match[1]) for _, match in found])


def drawn_grids(labels: torch.Tensor, n: int, count: int, seed: int) -> torch.Tensor:
    """Grids of images of distinct classes, drawn with every image in as many grids as another, or one fewer."""
    generator = torch.Generator().manual_seed(seed)
    used = torch.zeros(len(labels))
    grids = []
    for _ in range(count):
        order = torch.argsort(used + torch.rand(len(labels), generator=generator))
        grid: list[int] = []
        for i in order.tolist():
            if len(grid) < n * n and labels[i] not in labels[grid]:
                grid.append(i)
        used[grid] += 1
        grids.append(grid)
    return torch.tensor(grids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--explainer", action="append", choices=list_explainers())
    parser.add_argument("--grids", type=int, default=20)
    parser.add_argument("--size", type=int, default=2, help="images along a side of a grid")
    parser.add_argument("--smooth", type=int, default=15)
    arguments = parser.parse_args()
    trained = load_trained(arguments.model)
    model = trained.model.eval().requires_grad_(False)
    images, labels = labelled(trained, arguments.folder)
    with torch.inference_mode():
        x = trained.encode(images)
        right = model(x).argmax(1) == labels
        model(x[:1])
        start = time.perf_counter()
        for i in range(3):
            model(x[i : i + 1])
        forward = (time.perf_counter() - start) / 3
    images, labels, x = images[right], labels[right], x[right].clone()
    print(
        f"{arguments.model}: {int(right.sum())} of {len(right)} images classified correctly; a forward pass of one "
        f"takes {forward * 1e3:.0f} ms; {arguments.grids} grids of {arguments.size}×{arguments.size}\n"
    )
    grids = drawn_grids(labels, arguments.size, arguments.grids, seed=0)
    print("| explainer | GridPG | 95 % interval | s an image | forward passes |\n|---|---|---|---|---|")
    said: list[str] = []
    for name in arguments.explainer or list_explainers():
        explainer = get_explainer(name)
        try:
            start = time.perf_counter()
            with collect_remarks():
                attribute(explainer, model, x[:2], labels[:2], batch_size=1)
            seconds = (time.perf_counter() - start) / 2
            with collect_remarks() as remarks:
                result = grid_pointing_game(
                    model, explainer, images, labels, torch.ones(len(labels)),
                    n=arguments.size, grids=grids, smooth=arguments.smooth, batch_size=1, encode=trained.encode,
                )  # fmt: skip
        except BcosError as reason:
            print(f"| `{name}` | {str(reason).partition(';')[0]} | | | |", flush=True)
            continue
        interval = result.interval_text("{:.1%}".format)
        print(f"| `{name}` | {result.mean:.1%} | {interval} | {seconds:.2f} | {seconds / forward:.0f} |", flush=True)
        said += [f"`{name}`: {line}" for line in remark_lines(remarks)]
    print("\n" + "\n".join(said))


if __name__ == "__main__":
    main()
