"""Photographs, and what several networks see in them: a sheet for the documents.

``python benchmarks/side_by_side.py SHARDS SHEET.jpg NAME=RUN [NAME=RUN ...]`` draws evenly spaced photographs of a
split, none chosen. For each network follow W(x) as a colour image, where it takes images with inverse channels, and
the contributions to the class that it predicts, smoothed, on a scale of their own, with their share of the logit.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bcos_cli.data.index import load_index
from bcos_cli.data.loader import sampled_images
from bcos_core import explain
from bcos_core.image_share import percent
from bcos_explain.render import contribution_rgb, explanation_image
from bcos_explain.render.files import draw
from bcos_explain.render.grid import Tile, grid
from bcos_models import TrainedModel, load_trained


def rows_of(name: str, trained: TrainedModel, images: Tensor, truth: list[str], smooth: int) -> list[list[Tile | None]]:
    """The rows of one network."""
    size = trained.input.size
    images = (
        F.interpolate(images, (size, size), mode="bilinear", antialias=True) if images.shape[-1] != size else images
    )
    x = trained.encode(images)
    e = explain(trained.model.eval(), x)
    sure = trained.confidences(e.logits.detach()).amax(1)
    maps = F.avg_pool2d(e.map.float()[:, None], smooth, 1, smooth // 2, count_include_pad=False)[:, 0]
    first: list[Tile | None] = []
    second: list[Tile | None] = []
    for i, true in enumerate(truth):
        predicted = trained.classes[int(e.target[i])]
        told = (
            f"{predicted} {percent(float(sure[i]))}"
            if predicted == true
            else f"✗ {predicted} {percent(float(sure[i]))}"
        )
        if x.shape[1] == 2 * images.shape[1]:
            first.append(Tile(explanation_image(x[i], e.weight[i], smooth=smooth), subtitle=f"{name}: W(x)"))
        share = percent(float(e.image_share[i]))
        second.append(Tile(contribution_rgb(maps[i]), title=told, subtitle=f"{name}, share {share}"))
    return [row for row in (first, second) if row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("sheet", type=Path)
    parser.add_argument("networks", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--smooth", type=int, default=5)
    arguments = parser.parse_args()
    named: dict[str, Any] = dict(text.split("=", 1) for text in arguments.networks)
    networks = {name: load_trained(run) for name, run in named.items()}
    largest = max((trained.input for trained in networks.values()), key=lambda spec: spec.size)
    index = load_index(arguments.data)
    images, labels = sampled_images(arguments.data, index, arguments.split, largest, arguments.count)
    truth = [index.classes[k] for k in labels.tolist()]
    rows: list[list[Tile | None]] = [
        [Tile(image.permute(1, 2, 0).numpy(), title=name) for image, name in zip(images, truth, strict=True)]
    ]
    with torch.no_grad():
        for name, trained in networks.items():
            rows += rows_of(name, trained, images, truth, arguments.smooth)
    draw(grid(rows, side=arguments.side)).convert("RGB").save(arguments.sheet, quality=88)
    print(f"{len(images)} photographs, {', '.join(named)}: {arguments.sheet}")


if __name__ == "__main__":
    main()
