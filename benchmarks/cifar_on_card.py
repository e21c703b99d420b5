"""Trains recipes for CIFAR-10 with all images on the card: their network, loss, augmentation, optimizer and schedule.

``python benchmarks/cifar_on_card.py cifar10.tgz --out FOLDER NETWORK ...``; a NETWORK is ``plain``, ``bcos-B`` for an
exponent B, or ``maxout-B``. Each writes ``NAME.safetensors``, which ``bcos eval`` and ``bcos explain`` read, and a line
of ``scores.jsonl``: accuracy as it trains, GridPG 3×3. Steps are a CUDA graph where there is a GPU, so that a step
costs what its kernels cost; ``bcos train`` does the same from shards, and waits for each kernel to be launched.
"""

import argparse
import io
import json
import math
import tarfile
import time
from collections.abc import Callable
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bcos_cli.config import Recipe, load_recipe
from bcos_cli.train.losses import LossOptions, make_loss
from bcos_cli.train.model import build
from bcos_explain import get_explainer
from bcos_explain.metrics import grid_pointing_game, sample_grids

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SWAP = 4
"""Pixels around an image before it is cropped."""


def decode(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def load(archive: Path, limit: int | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Images (N, 3, 32, 32), 8-bit, and labels (N,) of each split."""
    kept = archive.with_suffix(f".{limit or 'all'}.pt")
    if not kept.exists():
        found: dict[str, list[tuple[bytes, int]]] = {"train": [], "test": []}
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = member.name.split("/")
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None and (limit is None or int(Path(parts[-1]).stem) < limit):
                    found[parts[-3]].append((file.read(), CLASSES.index(parts[-2])))
        splits = {}
        with Pool() as pool:
            for split, samples in found.items():
                images = pool.map(decode, [data for data, _ in samples], chunksize=500)
                pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
                splits[split] = (pixels, torch.tensor([label for _, label in samples]))
        aside = kept.with_suffix(f".{time.time_ns()}")
        torch.save(splits, aside)
        aside.rename(kept)
    loaded: dict[str, tuple[Tensor, Tensor]] = torch.load(kept, weights_only=True)
    return loaded


def recipe_of(network: str, epochs: int | None, batch: int | None, lr: float | None) -> Recipe:
    kind, _, b = network.partition("-")
    name = "standard_cifar10_resnet20" if kind == "plain" else "cifar10_resnet20"
    overrides = [f"model.options.b={b}"] if b else []
    overrides += ["model.options.max_out=2"] if kind == "maxout" else []
    overrides += [f"train.epochs={epochs}"] if epochs else []
    overrides += [f"train.batch_size={batch}"] if batch else []
    overrides += [f"optimizer.lr={lr}"] if lr else []
    return load_recipe(name, overrides)


def augmented(images: Tensor, flip: float) -> Tensor:
    """All images, padded with zeros, cropped and flipped at random, as floats in [0, 1]."""
    n, _, h, w = images.shape
    padded = nn.functional.pad(images, (SWAP,) * 4)
    top, left = torch.randint(0, 2 * SWAP + 1, (2, n, 1, 1), device=images.device)
    rows = top + torch.arange(h, device=images.device)[None, :, None]
    columns = left + torch.arange(w, device=images.device)[None, None, :]
    columns = torch.where(torch.rand(n, 1, 1, device=images.device) < flip, columns.flip(2), columns)
    numbers = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[numbers, rows, columns].permute(0, 3, 1, 2)


class Training:
    """One network in training; its step is captured once and replayed."""

    def __init__(self, network: str, recipe: Recipe, device: str, compile: bool, graph: bool) -> None:
        torch.manual_seed(recipe.train.seed)
        self.name, self.recipe, self.device, self.graph = network, recipe, device, graph
        self.trained = build(recipe, CLASSES)
        self.model = self.trained.model.to(device).train()
        self.called: Any = torch.compile(self.model, dynamic=False) if compile else self.model
        options = recipe.optimizer
        assert (options.name, recipe.schedule.name, options.weight_decay) == ("adam", "cosine", 0), "not written here"
        self.lr = torch.tensor(options.lr, device=device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.lr, capturable=device == "cuda")
        self.loss = make_loss(recipe.train.loss, LossOptions()).to(device)
        batch = recipe.train.batch_size
        self.x = torch.zeros(batch, self.trained.input.encoded_channels, 32, 32, device=device)
        self.y = torch.zeros(batch, dtype=torch.long, device=device)
        self.total = torch.zeros((), device=device)
        self.run: Callable[[], object] | None = None
        self.epochs = recipe.train.epochs

    def step(self) -> None:
        loss = self.loss(self.called(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach()

    def captured(self) -> Callable[[], object]:
        """The step as a CUDA graph, if there is a GPU; the weights are as they were before."""
        before = {k: v.clone() for k, v in self.model.state_dict().items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(4):
                self.optimizer.zero_grad(set_to_none=True)
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.restore(before)
        self.kept = graph
        return graph.replay

    def seconds_of_epoch(self, images: Tensor, labels: Tensor) -> float:
        """Prepare the step; return how long an epoch of steps takes, without moving a weight."""
        self.x.copy_(self.trained.encode(images[: len(self.x)]))
        self.y.copy_(labels[: len(self.y)])
        self.run = self.captured() if self.graph else self.plain_step
        if not self.graph:
            return 0.0
        before = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.lr.fill_(0)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(200):
            self.run()
        torch.cuda.synchronize()
        taken = (time.perf_counter() - start) / 200
        self.restore(before)
        return taken * (len(images) // len(self.y))

    @torch.no_grad()
    def restore(self, weights: dict[str, Tensor]) -> None:
        """Set weights as they were, and the optimizer to its start."""
        for key, value in self.model.state_dict().items():
            value.copy_(weights[key])
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()
        self.total.zero_()

    def plain_step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.step()

    def epoch(self, number: int, images: Tensor, labels: Tensor) -> float:
        """Train for one epoch; return its mean loss."""
        assert self.run is not None
        self.model.train()
        self.total.zero_()
        batch, epochs, flip = len(self.y), self.epochs, self.recipe.data.augment.horizontal_flip
        order = torch.randperm(len(images), device=self.device)
        steps = len(images) // batch
        pixels = augmented(images, flip)
        for i in range(steps):
            chosen = order[i * batch : (i + 1) * batch]
            self.x.copy_(self.trained.encode(pixels[chosen]))
            self.y.copy_(labels[chosen])
            done = (number * steps + i) / (epochs * steps)
            self.lr.fill_(self.recipe.optimizer.lr * 0.5 * (1 + math.cos(math.pi * done)))
            self.run()
        return float(self.total) / steps

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Top-1, and the probability of each image's own class where it is the prediction, else 0."""
        self.model.eval()
        parts = [self.trained.confidences(self.model(self.trained.encode(x))) for x in images.split(2000)]
        probabilities = torch.cat(parts)
        right = probabilities.argmax(1) == labels
        own = probabilities.gather(1, labels[:, None])[:, 0]
        return right.double().mean().item(), own * right

    def pointing(self, images: Tensor, labels: Tensor, confidences: Tensor, explainers: list[str], grids: int) -> Any:
        found = {}
        model = self.model.eval().requires_grad_(False)
        drawn = sample_grids(labels.cpu(), confidences.cpu(), n=3, num_grids=grids)
        for name in explainers:
            result = grid_pointing_game(
                model, get_explainer(name), images, labels, confidences, n=3, grids=drawn, batch_size=50,
                encode=self.trained.encode,
            )  # fmt: skip
            scores = result.scores.double()
            q = [torch.quantile(scores, p).item() for p in (0.25, 0.5, 0.75)]
            interval = [float(v) for v in result.bootstrap_interval()]
            found[name] = {"mean": result.mean, "interval": interval, "quartiles": q, "grids": len(drawn)}
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--grids", type=int, default=500)
    parser.add_argument("--limit", type=int, help="images of each class and split, for trying it")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no further network, or epoch, after these")
    parser.add_argument("--fit", type=float, help="as many epochs as fit into these seconds, if the recipe has more")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    begun = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    splits = {k: tuple(t.to(options.device) for t in v) for k, v in load(options.archive, options.limit).items()}
    (images, labels), (test, targets) = splits["train"], splits["test"]
    for network in options.networks:
        if time.perf_counter() - begun > options.seconds:
            print(f"{network}: not started, the time is over")
            continue
        try:
            recipe = recipe_of(network, options.epochs, options.batch, options.lr)
            start, cuda = time.perf_counter(), options.device == "cuda"
            training = Training(network, recipe, options.device, compile=not options.eager, graph=cuda)
            an_epoch = training.seconds_of_epoch(images, labels)
            prepared = time.perf_counter() - start
            if options.fit and an_epoch:
                training.epochs = max(1, min(recipe.train.epochs, int(options.fit / (1.15 * an_epoch))))
            print(
                f"{network}: {prepared:.0f} s to compile, {an_epoch:.2f} s an epoch, {training.epochs} epochs",
                flush=True,
            )
            losses, accuracies, seconds = [], [], []
            for number in range(training.epochs):
                losses.append(training.epoch(number, images, labels))
                seconds.append(time.perf_counter() - start)
                if number % 5 == 4 or number == recipe.train.epochs - 1:
                    accuracies.append((number + 1, training.accuracy(test, targets)[0]))
                    print(
                        f"{network} epoch {number + 1} loss {losses[-1]:.4f} test {accuracies[-1][1]:.2%}", flush=True
                    )
                if time.perf_counter() - begun > options.seconds or not math.isfinite(losses[-1]):
                    break
            accuracy, confidences = training.accuracy(test, targets)
            explainers = ["input_x_gradient", "gradcam"] if network == "plain" else ["bcos", "gradcam"]
            training.trained.save(options.out / f"{network}.safetensors")
            described: dict[str, Any] = {
                "network": network, "epochs": len(losses), "planned": training.epochs, "accuracy": accuracy,
                "batch": recipe.train.batch_size, "lr": recipe.optimizer.lr, "seconds": seconds[-1],
                "compiling": prepared, "s an epoch": an_epoch, "losses": losses, "test": accuracies,
                "seed": recipe.train.seed,
                "card": torch.cuda.get_device_name() if cuda else "CPU", "torch": torch.__version__,
            }  # fmt: skip
            described["gridpg 3x3"] = training.pointing(test, targets, confidences, explainers, options.grids)
        except Exception as error:
            described = {"network": network, "error": f"{type(error).__name__}: {error}"[:2000]}
        with (options.out / "scores.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(described) + "\n")
        print({k: v for k, v in described.items() if k not in ("losses", "test")}, flush=True)


if __name__ == "__main__":
    main()
