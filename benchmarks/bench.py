"""One network of one side, in a process of its own, and what is run there: times in turns with others, and memory."""

import multiprocessing
import os
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bcos_cli.processes.memory import keep_freed_memory
from benchmarks.networks import NETWORKS, OURS, PLAIN, REFERENCE

STEP, INFERENCE, EXPLAINING = "training step", "inference", "explaining"
EAGER, COMPILED, FOLDED = "eager", "compiled", "folded"
_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Conditions:
    """How networks are run."""

    device: str = "cpu"
    batch: int | None = None
    """Images of a training step and of inference; None for the network's own number."""
    explained: tuple[int, ...] = (1, 8, 32)
    memory_batch: int = 16
    backend: str = "inductor"
    threads: int = 2
    bf16: bool = False
    """bf16 autocast and channels last, for training and inference; explanations are computed in float32."""


@dataclass(frozen=True)
class Time:
    """Seconds of one run."""

    wall: float
    user: float
    """Of all threads of the process, in Python and PyTorch, without the kernel."""


def timed(run: Callable[[], object]) -> Time:
    """Run something once."""
    begun, start = resource.getrusage(resource.RUSAGE_SELF).ru_utime, time.perf_counter()
    run()
    wall = time.perf_counter() - start
    return Time(wall, resource.getrusage(resource.RUSAGE_SELF).ru_utime - begun)


class Bench:
    """A network of one side; its runs have the names of the columns of the tables."""

    def __init__(self, name: str, side: str, conditions: Conditions) -> None:
        import timm  # noqa: F401 - reason: before memory is counted, on all sides alike; torchvision comes with it
        import torch

        import bcos_models  # noqa: F401

        self.torch, self.name, self.side, self.conditions = torch, name, side, conditions
        torch.set_num_threads(conditions.threads)
        torch.manual_seed(0)
        network = NETWORKS[name]
        self.size, self.channels = network.size, 3 if side == PLAIN else 6
        self.classes, self.batch = network.classes, conditions.batch or network.batch
        self.empty = self._peak()
        self.model = network.build[side]().to(conditions.device)
        if conditions.bf16:
            self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)
        self.forward: dict[tuple[str, str], Any] = {(what, EAGER): self.model for what in (STEP, INFERENCE, EXPLAINING)}

    def fold(self) -> None:
        """Make the copy that is used for inference."""
        from bcos_core import folded

        copy = folded(self.model.eval(), self.images(1)).requires_grad_(False)
        self.forward |= {(what, FOLDED): copy for what in (INFERENCE, EXPLAINING)}

    def compile(self) -> float:
        """Compile for training and inference, the latter of the folded copy if there is one; returns the seconds."""
        start = time.perf_counter()
        used = {STEP: self.model, INFERENCE: self.forward.get((INFERENCE, FOLDED), self.model)}
        for what, model in used.items():
            self.forward[what, COMPILED] = self.torch.compile(model, dynamic=False, backend=self.conditions.backend)
            self.run(what, COMPILED, self.batch)
        return time.perf_counter() - start

    def images(self, count: int) -> Any:
        x = self.torch.rand(count, self.channels, self.size, self.size, device=self.conditions.device)
        return x.contiguous(memory_format=self.torch.channels_last) if self.conditions.bf16 else x

    def _autocast(self) -> Any:
        return self.torch.autocast(self.conditions.device, self.torch.bfloat16, enabled=self.conditions.bf16)

    def training_step(self, kind: str, count: int) -> None:
        x, target = self.images(count), self.torch.zeros(count, self.classes, device=self.conditions.device)
        self.optimizer.zero_grad()
        with self._autocast():
            logits = self.forward[STEP, kind](x)
        self.torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), target).backward()
        self.optimizer.step()

    def infer(self, kind: str, count: int) -> None:
        with self.torch.inference_mode(), self._autocast():
            self.forward[INFERENCE, kind](self.images(count))

    def explain(self, kind: str, count: int) -> None:
        """Explain a batch in float32; of the plain network the forward pass and the gradient of its images."""
        from bcos_core import explain

        x = self.images(count)
        if self.side == OURS:
            explain(self.forward[EXPLAINING, kind], x)
        elif self.side == REFERENCE:
            for image in x:
                self.model.explain(image[None].requires_grad_())
        else:
            leaf = x.requires_grad_()
            self.torch.autograd.grad(self.model(leaf).amax(1).sum(), leaf)

    def run(self, what: str, kind: str, count: int) -> Time:
        """Run once, after what is in the pipeline has ended."""
        self.model.train(what == STEP)
        self.model.requires_grad_(what == STEP)
        run = {STEP: self.training_step, INFERENCE: self.infer, EXPLAINING: self.explain}[what]

        def whole() -> None:
            run(kind, count)
            if self.conditions.device == "cuda":
                self.torch.cuda.synchronize()

        return timed(whole)

    def memory(self, what: str, kind: str, count: int) -> float:
        """Return the most MiB that a run needs, with the network, its gradients and its optimizer.

        On a GPU what PyTorch has allocated; on a CPU what the process holds beyond what it held before the network.
        """
        if self.conditions.device == "cuda":
            self.torch.cuda.reset_peak_memory_stats()
            self.run(what, kind, count)
            return float(self.torch.cuda.max_memory_allocated() / _MEBIBYTE)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        self.run(what, kind, count)
        return self._peak() - self.empty

    def exactness(self) -> dict[str, Any]:
        """By type: residual of ``Σ contributions + constants = logit``, and what the probe found, as shares."""
        from bcos_core import BcosError, explain

        found: dict[str, Any] = {}
        for name in ("float64", "float32", "bfloat16", "float16"):
            dtype = getattr(self.torch, name)
            try:
                model = NETWORKS[self.name].build[OURS]().to(self.conditions.device, dtype).eval()
                e = explain(model, self.images(2).to(dtype), probe=True)
                assert e.probe is not None
                found[name] = {"residual": float(e.balance.missing.max()), "probe": float(e.probe.max())}
            except BcosError as error:
                found[name] = str(error)
        return found

    @staticmethod
    def _peak() -> float:
        """MiB that the process has held at most."""
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _serve(connection: Connection, name: str, side: str, conditions: Conditions, is_timed: bool) -> None:
    """Do what the other end asks for; errors are answers."""
    if is_timed and conditions.device == "cpu":
        keep_freed_memory()
    bench: Bench | None = None
    while True:
        what, *arguments = connection.recv()
        if what == "end":
            return
        try:
            if bench is None:
                bench = Bench(name, side, conditions)
            connection.send((getattr(bench, what)(*arguments), None))
        except Exception:
            connection.send((None, traceback.format_exc()))


class Worker:
    """The process of a :class:`Bench`, to be asked for one run after another.

    Args:
        is_timed: on a CPU it keeps freed memory, as commands of ``bcos`` do; without, its peak is what a run needs.
    """

    def __init__(self, name: str, side: str, conditions: Conditions, *, is_timed: bool = True) -> None:
        self.name, self.side = name, side
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        os.environ |= {"OMP_NUM_THREADS": str(conditions.threads), "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
        self._process = context.Process(target=_serve, args=(other, name, side, conditions, is_timed), daemon=True)
        self._process.start()
        other.close()

    def start(self, what: str, *arguments: Any) -> None:
        """Ask for something, without waiting."""
        self._connection.send((what, *arguments))

    def result(self) -> Any:
        """Wait for what was asked for.

        Raises:
            RuntimeError: it failed there, with the text of the error; or the process has died.
        """
        try:
            found, error = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self.name}, {self.side}, has died") from None
        if error is not None:
            raise RuntimeError(error)
        return found

    def ask(self, what: str, *arguments: Any) -> Any:
        self.start(what, *arguments)
        return self.result()

    def end(self) -> None:
        if self._process.is_alive():
            self.start("end")
            self._process.join(timeout=20)
        self._process.kill()


def in_turns(runs: dict[Any, Callable[[], Time]], rounds: int, seconds: float = 0.0) -> dict[Any, list[Time]]:
    """Run each in turns: in as many rounds, and in more until so many seconds have passed."""
    taken: dict[Any, list[Time]] = {name: [] for name in runs}
    begun = time.perf_counter()
    while min(map(len, taken.values()), default=rounds) < rounds or (runs and time.perf_counter() - begun < seconds):
        for name, run in runs.items():
            taken[name].append(run())
    return taken


class Measurement:
    """One network on all its sides: the processes, and what was found."""

    def __init__(self, name: str, conditions: Conditions, *, compiled: bool) -> None:
        self.name, self.conditions = name, conditions
        self.sides = list(NETWORKS[name].build)
        self.batch = conditions.batch or NETWORKS[name].batch
        self.found: dict[str, Any] = {"network": name, "batch": self.batch}
        self.found |= {"times": [], "memory": [], "compiling": {}, "errors": []}
        self.workers = {side: Worker(name, side, conditions) for side in self.sides}
        self.asked = {OURS: ["fold"]} | ({} if not compiled else {PLAIN: ["compile"], OURS: ["fold", "compile"]})
        for side, steps in self.asked.items():  # they compile side by side
            for step in steps:
                self.workers[side].start(step)

    def said(self, side: str, what: str, error: RuntimeError) -> None:
        self.found["errors"].append({"side": side, "what": what, "error": str(error).strip()[-2000:]})

    def run(self, rounds: int, seconds: float) -> dict[str, Any]:
        """Time everything in turns, then measure memory."""
        for side, steps in self.asked.items():
            for step in steps:
                try:
                    took = self.workers[side].result()
                    self.found["compiling"] |= {side: took} if step == "compile" else {}
                except RuntimeError as error:
                    self.said(side, step, error)
        kinds = {side: [EAGER] + [COMPILED] * (side in self.found["compiling"]) for side in self.sides}
        networks = [(side, kind) for side in self.sides for kind in kinds[side]]
        self._time(STEP, self.batch, networks, rounds, seconds)
        self._time(INFERENCE, self.batch, [*networks, (OURS, FOLDED)], rounds, seconds)
        for count in self.conditions.explained:
            self._time(EXPLAINING, count, [*((side, EAGER) for side in self.sides), (OURS, FOLDED)], rounds, seconds)
        if self.conditions.device == "cuda":
            self.found["exactness"] = self.workers[OURS].ask("exactness")
        for worker in self.workers.values():
            worker.end()
        for side in self.sides:
            self._memory(side)
        return self.found

    def _time(self, what: str, count: int, networks: list[tuple[str, str]], rounds: int, seconds: float) -> None:
        runs: dict[tuple[str, str], Callable[[], Time]] = {}
        for side, kind in networks:
            run = partial(self.workers[side].ask, "run", what, kind, count)
            try:
                run()  # once before it counts
                runs[side, kind] = run
            except RuntimeError as error:
                self.said(side, f"{what}, {kind}", error)
        for (side, kind), times in in_turns(runs, rounds, seconds).items():
            row = {"what": what, "side": side, "kind": kind, "images": count}
            self.found["times"].append(row | {"wall": [t.wall for t in times], "user": [t.user for t in times]})

    def _memory(self, side: str) -> None:
        count = self.conditions.memory_batch
        # In a process of its own: what others left in one would be counted.
        alone = Worker(self.name, side, self.conditions, is_timed=False)
        try:
            row = {"what": STEP, "side": side, "kind": EAGER, "images": count}
            self.found["memory"].append(row | {"MiB": alone.ask("memory", STEP, EAGER, count)})
        except RuntimeError as error:
            self.said(side, "memory", error)
        alone.end()


def measure(
    names: list[str], conditions: Conditions, rounds: int, seconds: float, *, compiled: bool
) -> Iterator[dict[str, Any]]:
    """Measure networks, one after the other. On a GPU, which leaves the cores idle, all are compiled beforehand."""
    ahead = {n: Measurement(n, conditions, compiled=compiled) for n in names if conditions.device == "cuda"}
    for name in names:
        yield (ahead.get(name) or Measurement(name, conditions, compiled=compiled)).run(rounds, seconds)
