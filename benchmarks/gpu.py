"""What B-cos networks cost on a GPU, beside the plain network (eager and compiled) and the reference, in one run.

``python benchmarks/gpu.py --out FOLDER`` writes ``gpu.json`` and prints a table. Networks are compiled side by side,
one process for each, and timed one after the other, twice around. ``--quick``: a small network, on a CPU.
"""

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty
from statistics import median
from threading import BrokenBarrierError
from typing import Any

import torch
import torch.multiprocessing as mp
from networks import PLAIN, reference
from torch import Tensor, nn

from bcos_core import explain
from bcos_explain import get_explainer
from bcos_explain.metrics import grid_pointing_game
from bcos_models import create_model, get_spec

SIDES = ("plain", "ours", "reference")


class Bench:
    """One network of one side: its runs by name, and what they took."""

    def __init__(self, name: str, side: str, options: argparse.Namespace) -> None:
        self.name, self.side, self.options = name, side, options
        make = {"plain": PLAIN[name], "ours": partial(create_model, name), "reference": partial(reference, name)}[side]
        self.size, classes = get_spec(name).input.size, get_spec(name).num_classes
        self.model = make().to(options.device).to(memory_format=torch.channels_last)
        self.channels = 3 if side == "plain" else 6
        self.target = torch.zeros(options.batch, classes, device=options.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, fused=options.device == "cuda")
        self.compiled = torch.compile(self.model, dynamic=False, backend=options.backend)

    def images(self, count: int) -> Tensor:
        x = torch.rand(count, self.channels, self.size, self.size, device=self.options.device)
        return x.contiguous(memory_format=torch.channels_last)

    def step(self, model: Any, x: Tensor) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(self.options.device, torch.bfloat16):
            loss = nn.functional.binary_cross_entropy_with_logits(model(x).float(), self.target)
        loss.backward()
        self.optimizer.step()

    def infer(self, model: Any, x: Tensor) -> None:
        with torch.no_grad(), torch.autocast(self.options.device, torch.bfloat16):
            model(x)

    def explain(self, x: Tensor) -> None:
        """A batch in float32; of the plain network the pass and the gradient of its images."""
        if self.side == "ours":
            explain(self.model, x)
        elif self.side == "reference":
            for image in x.clone():
                self.model.explain(image[None].requires_grad_())
        else:
            x = x.clone().requires_grad_()
            self.model(x).max(1).values.sum().backward()

    def compile(self) -> dict[str, float]:
        """Compile for training and inference; other processes may hold the memory this needs for a while."""
        start = time.perf_counter()
        x = self.images(self.options.batch)
        for train, run in ((True, self.step), (False, self.infer)):
            self.model.train(train)
            for attempt in range(20):
                try:
                    run(self.compiled, x)
                    break
                except torch.OutOfMemoryError:
                    if attempt == 19:
                        raise
                    torch.cuda.empty_cache()
                    time.sleep(3)
        self.free()
        return {"compile s": time.perf_counter() - start}

    def free(self) -> None:
        self.optimizer.zero_grad()
        if self.options.device == "cuda":
            torch.cuda.empty_cache()

    def time(self, run: Callable[[], object]) -> list[float]:
        """Seconds of single runs, as many as fit into ``--seconds``, and at least three."""
        cuda = self.options.device == "cuda"
        run()
        run()
        taken: list[float] = []
        begun = time.perf_counter()
        while len(taken) < 3 or (time.perf_counter() - begun < self.options.seconds and len(taken) < 200):
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            if cuda:
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
        return taken

    def measure(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        x, few = self.images(self.options.batch), self.images(self.options.explained)
        kinds: dict[str, Any] = {"eager": self.model}
        if self.side != "reference":
            kinds["compiled"] = self.compiled
        runs: dict[str, Callable[[], object]] = {}
        for kind, model in kinds.items():
            runs[f"training step, {kind}"] = partial(self.step, model, x)
            runs[f"inference, {kind}"] = partial(self.infer, model, x)
        runs["explaining"] = partial(self.explain, few)
        for what, run in runs.items():
            self.model.train(what.startswith("training"))
            self.free()
            if self.options.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                found[what] = self.time(run)
            except Exception as error:  # the others are measured all the same
                found[f"{what}: error"] = f"{type(error).__name__}: {error}"[:500]
            if self.options.device == "cuda" and what.startswith(("training", "explaining")):
                found[f"{what}: bytes"] = torch.cuda.max_memory_allocated()
        self.free()
        return found

    def grids(self) -> dict[str, float]:
        """Seconds for grids of 3×3: ours as the metric plays them, the reference's class by class."""
        self.model.eval()
        images = torch.rand(10, 3, self.size, self.size)
        labels = torch.arange(10)
        count = self.options.grids if self.side == "ours" else max(1, self.options.grids // 5)
        grids = torch.stack([torch.randperm(10)[:9] for _ in range(count)])
        encode = get_encoder()
        start = time.perf_counter()
        if self.side == "ours":
            grid_pointing_game(
                self.model, get_explainer("bcos"), images, labels, torch.ones(10), n=3, grids=grids, smooth=15,
                batch_size=4, encode=encode,
            )  # fmt: skip
        else:
            rows = images[grids].unflatten(1, (3, 3)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
            for grid, classes in zip(rows, labels[grids], strict=True):
                x = encode(grid[None].to(self.options.device)).requires_grad_()
                with self.model.explanation_mode():
                    for k in classes.tolist():
                        (gradient,) = torch.autograd.grad(self.model(x)[0, k], x)
                        nn.functional.avg_pool2d((gradient * x).sum(1), 15, 1, 7).cpu()
        return {"s a grid": (time.perf_counter() - start) / count}

    def exactness(self) -> dict[str, Any]:
        """By type: residual of ``Σ contributions + constants = logit``, and what the probe found, as shares."""
        found: dict[str, Any] = {}
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            name = str(dtype).removeprefix("torch.")
            try:
                model = create_model(self.name).to(self.options.device, dtype).eval()
                e = explain(model, self.images(2).to(dtype), probe=True)
                assert e.probe is not None
                found[name] = {"residual": float(e.balance.missing.max()), "probe": float(e.probe.max())}
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"[:400]
        return {"exactness": found}


def get_encoder() -> Callable[[Tensor], Tensor]:
    return lambda x: torch.cat([x, 1 - x], 1)


def worker(name: str, side: str, options: argparse.Namespace, barrier: Any, lock: Any, results: Any) -> None:
    """Measure one side of one network; whatever fails, the others are not kept waiting."""
    measured: dict[str, Any] = {"network": name, "side": side, "rounds": []}
    bench = None
    try:
        torch.manual_seed(0)
        bench = Bench(name, side, options)
        if side != "reference":
            measured |= bench.compile()
    except Exception:
        measured["error"] = traceback.format_exc()[-1500:]
    for _ in range(options.rounds):
        with suppress(BrokenBarrierError):  # one took too long, or died: the others go on
            barrier.wait(timeout=options.patience)
        while options.after and not options.after.exists():
            time.sleep(0.5)
        with lock:
            if bench is not None and "error" not in measured:
                try:
                    measured["rounds"].append(bench.measure())
                    if side == "ours" and "exactness" not in measured:
                        measured |= bench.exactness()
                        bench.free()
                    if side != "plain" and name == options.grid_network and "s a grid" not in measured:
                        measured |= bench.grids()
                        bench.free()
                except Exception:
                    measured["error"] = traceback.format_exc()[-1500:]
    results.put(measured)


def best(entries: list[dict[str, Any]], what: str) -> float | None:
    times = [t for found in entries for t in found.get(what, [])]
    return min(times) if times else None


def table(results: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Times as ratios to the plain network of the same kind."""
    by = {(r["network"], r["side"]): r["rounds"] for r in results}
    kinds = ["training step, eager", "training step, compiled", "inference, eager", "inference, compiled", "explaining"]
    lines = ["| network | " + " | ".join(f"{k}: plain, ms | ours × | reference ×" for k in kinds) + " |"]
    lines.append("|" + "---|" * (1 + 3 * len(kinds)))
    for name in options.networks:
        cells = [f"`{name}`"]
        for what in kinds:
            times = {side: best(by.get((name, side), []), what) for side in SIDES}
            plain = times["plain"]
            cells.append(f"{plain * 1e3:.2f}" if plain else "")
            cells += [f"{t / plain:.2f}" if plain and (t := times[s]) else "" for s in ("ours", "reference")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(results: list[dict[str, Any]]) -> str:
    """How far the two rounds' minima lie apart, at the median and at most."""
    apart = []
    for result in results:
        for what in {k for r in result["rounds"] for k, v in r.items() if isinstance(v, list)}:
            minima = [min(r[what]) for r in result["rounds"] if what in r]
            if len(minima) > 1:
                apart.append(max(minima) / min(minima) - 1)
    return f"rounds differ by {median(apart):.1%} (median), {max(apart):.1%} (most)" if apart else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", default=["resnet50", "convnext_tiny", "simple_vit_s_patch16_224"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--explained", type=int, default=32)
    parser.add_argument("--grids", type=int, default=50)
    parser.add_argument("--grid-network", default="resnet50")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each kind of run")
    parser.add_argument("--patience", type=float, default=130, help="seconds to wait for others that compile")
    parser.add_argument("--after", type=Path, help="time nothing before this file is there")
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="one small network on a CPU, not for figures")
    options = parser.parse_args()
    if options.quick:
        options.networks = options.networks if options.networks != parser.get_default("networks") else []
        options.networks = options.networks or ["cifar10_resnet20"]
        options.device, options.backend, options.batch, options.explained, options.grids = "cpu", "eager", 2, 2, 5
        options.grid_network = options.networks[0]
    options.out.mkdir(parents=True, exist_ok=True)
    context = mp.get_context("spawn")
    jobs = [(name, side) for name in options.networks for side in SIDES]
    barrier, lock, queue = context.Barrier(len(jobs)), context.Lock(), context.Queue()
    processes = [context.Process(target=worker, args=(*job, options, barrier, lock, queue)) for job in jobs]
    for process in processes:
        process.start()
    results: list[dict[str, Any]] = []
    card = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "CPU"
    document = {
        "card": card,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "batch": options.batch,
        "explained": options.explained,
        "results": results,
    }
    with suppress(Empty):
        for _ in jobs:
            results.append(queue.get(timeout=300))
            (options.out / "gpu.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    for process in processes:
        process.join(timeout=20)
    print(
        f"{card}, torch {torch.__version__}, batch {options.batch}, bf16 autocast, channels_last; {spread(results)}\n"
    )
    print(table(results, options))
    for result in results:
        for key, value in result.items():
            if key in ("compile s", "s a grid"):
                print(f"{result['network']} {result['side']}: {key} {value:.3f}")
            elif key == "exactness":
                print(f"{result['network']}: exactness {json.dumps(value)}")
            elif key == "error":
                print(f"{result['network']} {result['side']}:\n{value}")
        for found in result["rounds"][:1]:
            with suppress(StopIteration):
                print(f"  {result['side']}", {k: v for k, v in found.items() if "bytes" in k or "error" in k})
    sys.exit(any("error" in result for result in results))


if __name__ == "__main__":
    main()
