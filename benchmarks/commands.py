"""What commands take on images of a folder: their start, evaluating, explaining, and reading images from shards."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.bench import Time, in_turns

NETWORK = "resnet18"
_CLASSES = 10
_LONG, _SHORT = 500, 375
"""Pixels of an image, as most of ImageNet's have."""


def write_images(folder: Path, count: int) -> Path:
    """Write JPEG files of smooth noise, ``FOLDER/CLASS/NUMBER.jpg``, in as many pixels as photographs have."""
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        parts = [
            F.interpolate(torch.rand(1, 3, n, n, generator=generator), (_SHORT, _LONG), mode="bicubic")
            for n in (6, 25, 100)
        ]
        image = sum(w * part for w, part in zip((0.6, 0.25, 0.15), parts, strict=True))
        assert isinstance(image, torch.Tensor)
        pixels = (image[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        path = folder / f"class{i % _CLASSES}" / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
    return folder


def run_bcos(arguments: Iterable[object], threads: int) -> Time:
    """Run a command of the package; its user time is that of all its processes."""
    return _run(arguments, threads)[0]


def _run(arguments: Iterable[object], threads: int) -> tuple[Time, float]:
    """Run a command; returns its times and the most MiB that one of its processes held."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "bcos_cli", *map(str, arguments)]
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        wall, process.returncode = time.perf_counter() - start, status
        if status:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command[2:])}: {said.read().decode(errors='replace').strip()[-1000:]}")
    return Time(wall, usage.ru_utime), usage.ru_maxrss / 1024


DEPTHS = (20, 56, 110)
_TRAINED, _STEP = 512, 128
"""Images of a training, and of a step."""


def training(folder: Path, depths: Sequence[int] = DEPTHS) -> dict[str, Any]:
    """Memory of `bcos train` by depth, with and without gradient checkpointing; images a second by processes."""
    images = write_images(folder / "images", _TRAINED)
    run_bcos(["shards", "pack", images, folder / "shards"], 1)
    numbers = count()

    def train(depth: int, *options: str, processes: int = 1) -> tuple[float, float]:
        """Most MiB of a process, and images a second in the last epoch."""
        run = folder / f"run{next(numbers)}"
        values = [
            f"train.batch_size={_STEP}",
            "data.workers=0",
            "data.test_split=train",
            "evaluation.gridpg_grids=0",
            *options,
        ]
        given = [part for value in values for part in ("-o", value)]
        command = ["train", f"cifar10_resnet{depth}", "--data", folder / "shards", "--out", run, *given]
        _, held = _run([*command, "--num-processes", processes], 1)
        last = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        return held, float(last["images_per_second"])

    memory = {
        name: {d: train(d, "train.epochs=1", f"train.gradient_checkpointing={name}")[0] for d in depths}
        for name in ("false", "true")
    }
    rates = {n: train(DEPTHS[0], "train.epochs=3", processes=n)[1] for n in (1, 2)}
    return {"images": _STEP, "gradient checkpointing": memory, "images/s": rates}


def startup(rounds: int, threads: int) -> dict[str, Any]:
    """Seconds that commands take which compute nothing."""
    commands = {"bcos --help": ["--help"], "bcos models": ["models"], "bcos explain --help": ["explain", "--help"]}
    return described(in_turns({k: lambda v=v: run_bcos(v, threads) for k, v in commands.items()}, rounds))  # type: ignore[misc] # reason: bound by the default


def described(times: dict[Any, list[Time]]) -> dict[str, Any]:
    return {name: {"wall": [t.wall for t in taken], "user": [t.user for t in taken]} for name, taken in times.items()}


def commands(folder: Path, count: int, threads: int) -> dict[str, Any]:
    """Seconds for a network with random weights: evaluate as many images, explain them into shards and into files."""
    from bcos_models import create_model, save_pretrained

    torch.manual_seed(0)
    save_pretrained(create_model(NETWORK, num_classes=_CLASSES), folder / "network")
    images = write_images(folder / "images", count)
    runs: dict[str, Callable[[], Time]] = {
        "shards pack": lambda: run_bcos(["shards", "pack", images, folder / "shards"], threads),
        "eval --metric top1": lambda: run_bcos(
            ["eval", folder / "network", "--data", folder / "shards", "--metric", "top1", "--split", "train"],
            threads,
        ),
        "explain": lambda: run_bcos(["explain", folder / "network", images, "--out", folder / "explained"], threads),
    }
    return {"images": count, "network": NETWORK, **described({name: [run()] for name, run in runs.items()})}


def pipeline(folder: Path, count: int, rounds: int, workers: int, side: int) -> dict[str, Any]:
    """Images a second of training, decoded, cropped at random, flipped, as 8-bit tensors: shards and ImageFolder."""
    from torch.utils.data import DataLoader
    from torchvision import datasets
    from torchvision.transforms import v2

    from bcos_cli.config import Augment
    from bcos_cli.data.index import load_index
    from bcos_cli.data.loader import make_batches
    from bcos_models import InputSpec

    images = write_images(folder / "train", count)
    run_bcos(["shards", "pack", images, folder / "shards"], 1)
    index = load_index(str(folder / "shards"))
    steps = v2.Compose([v2.RandomResizedCrop(side, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    loader: DataLoader[Any] = DataLoader(
        datasets.ImageFolder(str(images), steps), 64, shuffle=True, num_workers=workers, persistent_workers=True
    )
    augment = Augment(random_resized_crop=(0.08, 1.0), horizontal_flip=0.5)
    with make_batches(
        str(folder / "shards"), index, "train", InputSpec(size=side), batch_size=64, workers=workers, augment=augment
    ) as batches:
        epochs = {"shards": lambda: batches.epoch(0), "ImageFolder": lambda: iter(loader)}

        def rate(name: str) -> Time:
            start, seen = time.perf_counter(), 0
            for batch in epochs[name]():
                seen += len(batch[0])
            return Time((time.perf_counter() - start) / seen, 0.0)

        for name in epochs:
            rate(name)  # starts the workers
        taken = in_turns({name: lambda name=name: rate(name) for name in epochs}, rounds)  # type: ignore[misc] # reason: as above
    found = {name: [1 / t.wall for t in times] for name, times in taken.items()}
    return {"images": count, "side": side, "workers": workers, "images/s": found}
