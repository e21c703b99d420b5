"""How much of W(x) is a grid at the frequency of the strides.

``python benchmarks/stride_spectrum.py SHARDS NAME=RUN [NAME=RUN ...]`` explains evenly spaced images of a split for
the class predicted and takes the spectrum of each channel of W(x), without its mean, under a Hann window. A pattern
that repeats every s pixels has its energy at multiples of 1/s in both directions, which natural images do not know.
For each period the table gives the energy there, in units of what lies eight frequencies around: 1 says that there
is no grid.
"""

import argparse
import json
from typing import Any

import torch
from torch import Tensor

from bcos_cli.data.index import load_index
from bcos_cli.data.loader import sampled_images
from bcos_core import explain
from bcos_models import load_trained

PERIODS = (2, 4, 8, 16, 32)


def spectrum(weight: Tensor) -> Tensor:
    """Energy (H, W) of W (N, C, H, W) at each frequency, each image in units of its whole energy, then averaged."""
    w = weight.double()
    w = w - w.mean((-2, -1), keepdim=True)
    window = torch.hann_window(w.shape[-2], periodic=True, dtype=w.dtype)[:, None]
    window = window * torch.hann_window(w.shape[-1], periodic=True, dtype=w.dtype)
    energy = torch.fft.fft2(w * window).abs().square().sum(1)
    return (energy / energy.sum((-2, -1), keepdim=True)).mean(0)


def above_surroundings(energy: Tensor, period: int) -> float:
    """Energy (H, W) at the multiples of 1/period that no shorter period has, in units of that around them.

    Multiples of 1/period in one direction and 0 in the other count too; the frequency 0 does not. A Hann window
    spreads a line by one frequency to either side, so that those around are two and three away.
    """
    steps = [size // period for size in energy.shape]
    at, around = 0.0, 0.0
    for j in range(period):
        for k in range(period):
            if j % 2 == 0 and k % 2 == 0:  # frequency 0, or of half the period
                continue
            row, column = j * steps[0], k * steps[1]
            at += float(_mean_of(energy, row, column, 0, 1))
            around += float(_mean_of(energy, row, column, 2, 3))
    return at / around


def _mean_of(energy: Tensor, row: int, column: int, nearest: int, farthest: int) -> Tensor:
    """Mean energy at the frequencies of a square ring around one."""
    found = [
        energy[(row + i) % energy.shape[0], (column + j) % energy.shape[1]]
        for i in range(-farthest, farthest + 1)
        for j in range(-farthest, farthest + 1)
        if nearest <= max(abs(i), abs(j))
    ]
    return torch.stack(found).mean()


def measure(run: str, shards: str, split: str, count: int) -> dict[int, float]:
    """Explain images of a split, and compare the energy at each period with that around it."""
    trained = load_trained(run)
    index = load_index(shards)
    images, _ = sampled_images(shards, index, split, trained.input, count)
    x = trained.encode(images)
    weights = torch.cat([explain(trained.model.eval(), part).weight for part in x.split(16)])
    energy = spectrum(weights)
    return {period: above_surroundings(energy, period) for period in PERIODS if energy.shape[-1] >= 8 * period}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("networks", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    named: dict[str, Any] = dict(text.split("=", 1) for text in arguments.networks)
    found = {name: measure(run, arguments.data, arguments.split, arguments.count) for name, run in named.items()}
    if arguments.json:
        print(json.dumps(found))
        return
    print("| network | " + " | ".join(f"every {period} pixels" for period in PERIODS) + " |")
    print("|---" * (len(PERIODS) + 1) + "|")
    for name, values in found.items():
        cells = [f"{values[period]:.1f}" if period in values else "" for period in PERIODS]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
