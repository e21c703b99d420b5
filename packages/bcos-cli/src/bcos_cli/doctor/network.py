"""The network: built, trained for two steps, and explained."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bcos_cli.config import Recipe
from bcos_cli.console import rate
from bcos_cli.doctor.finding import Findings, PlannedRun, gigabytes, note, ok, problem
from bcos_cli.processes.group import has_no_accelerator
from bcos_cli.train.accelerator import make_accelerator
from bcos_cli.train.batch_size import AUTO, plan_batches
from bcos_cli.train.forward_pass import as_written
from bcos_cli.train.model import train_mode
from bcos_cli.train.run_folder import RunFolder
from bcos_cli.train.trainer import Trainer
from bcos_core import BcosLinear
from bcos_core.additive_terms import LOGIT_BIAS, UNNAMED
from bcos_core.conv import BcosConv
from bcos_core.errors import BcosError
from bcos_core.norms.batch import RunningNorm
from bcos_core.receipt import NOTHING
from bcos_core.text import listed
from bcos_explain import explain_batch

FEW = 8
"""Batch size below which the statistics of a batch are unreliable."""
CPU_BATCH = 8
"""Largest batch on a CPU."""
_STEPS = 2
_NOTABLE = 0.05
"""Relative difference of logits in a lower precision above which it is noted."""


@dataclass
class NetworkCheck:
    """Builds the network of a run, trains it for two steps and explains it."""

    run: PlannedRun
    checkpoint_bytes: int | None = None
    """Size of weights, optimizer and average; known after the check."""
    _images: list[Tensor] = field(default_factory=list)

    def check(self) -> Findings:
        """Check the network; a mistake ends the check."""
        recipe = _small(self.run)
        accelerator = make_accelerator(recipe.train, self.run.out)
        trainer = Trainer(recipe, self.run.index, RunFolder(self.run.out), accelerator)
        network = trainer.learner.network
        is_bcos = any(isinstance(module, BcosLinear | BcosConv) for module in network.modules())
        yield from _composition(network, is_bcos)
        few = plan_batches(self.run.recipe.train, self.run.processes).per_process
        if (
            self.run.recipe.train.max_batch != AUTO
            and few < FEW
            and any(isinstance(module, _BatchNorm | RunningNorm) for module in network.modules())
        ):
            yield note(f"batch norms see only {few} images at once; raise train.max_batch or use fewer processes")
        yield from self._two_steps(trainer)
        yield from self._sizes(trainer)
        network.eval()
        with as_written(network):
            images = torch.cat(self._images)[:CPU_BATCH].to(accelerator.device)
            x = trainer.trained.encode(images.to(trainer.learner.step.dtype) / 255)
            yield from _explanation(network, x, is_bcos)
            yield from _in_lower_precision(network, x, accelerator)

    def _two_steps(self, trainer: Trainer) -> Findings:
        """Train on the first batches; every parameter must get a finite, non-zero gradient."""
        gradients = _Gradients(trainer.learner.network, is_scaled=trainer.accelerator.scaler is not None)
        trainer.learner.model.train()
        train_mode(trainer.learner.network, self.run.recipe.model, self.run.recipe.train.norm_statistics)
        losses, seconds = [], 0.0
        for images, labels, _ in islice(trainer.batches.epoch(0), _STEPS):
            self._images.append(images)
            start = time.perf_counter()
            losses.append(float(trainer.learner.step.run(images, labels)))
            seconds = (time.perf_counter() - start) / len(images)  # those of the last step: the first one warms up
        gradients.stop()
        if not all(map(math.isfinite, losses)):
            yield problem(f"the loss is not finite: {losses}; lower optimizer.lr, or use train.precision=no")
            return
        yield from gradients.findings()
        total = self.run.recipe.train.epochs * self.run.splits.trained_on(self.run.index)
        hours = total * seconds / self.run.processes / 3600
        yield ok(
            f"loss {losses[-1]:.4f} after {len(losses)} steps of {len(self._images[-1])} images on "
            f"{trainer.accelerator.device.type}; at {rate(1 / seconds)} images/s a process, the training takes about "
            f"{hours:,.1f} hours, loading and evaluation aside"
        )

    def _sizes(self, trainer: Trainer) -> Findings:
        states = trainer.learner.optimizer.state.values()
        optimizer = _bytes(t for values in states for t in values.values() if isinstance(t, Tensor))
        weights = _bytes(trainer.learner.network.state_dict().values())
        average = weights if trainer.learner.ema is not None else 0
        self.checkpoint_bytes = weights + optimizer + average
        yield ok(
            f"{gigabytes(weights)} of weights, {gigabytes(optimizer)} of optimizer"
            + (f", {gigabytes(average)} of their average" if average else "")
        )
        if trainer.accelerator.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(trainer.accelerator.device)
            yield ok(f"{gigabytes(peak)} of GPU memory at the peak, with {len(self._images[-1])} images")


def _small(run: PlannedRun) -> Recipe:
    """Return the recipe for one process, without warm-up and trackers, with few images on a CPU."""
    recipe = run.recipe
    images = plan_batches(recipe.train, run.processes).per_process
    if has_no_accelerator() or recipe.train.max_batch == AUTO:
        images = min(images, CPU_BATCH)
    images = max(images // recipe.data.repeats, 1) * recipe.data.repeats
    train: dict[str, Any] = {
        "batch_size": images,
        "max_batch": None,
        "accumulate": None,
        "trackers": [],
        "explained_images": 0,
        "on_not_finite": "stop",
        "compile": "no" if recipe.train.compile == AUTO else recipe.train.compile,
    }
    return recipe.model_copy(
        update={
            "train": recipe.train.model_copy(update=train),
            "data": recipe.data.model_copy(update={"workers": 0, "shuffle_buffer": 2 * images}),
            "schedule": recipe.schedule.model_copy(update={"warmup_epochs": 0.0, "warmup_steps": 0}),
        }
    )


class _Gradients:
    """Watches which gradients parameters get, over several steps."""

    def __init__(self, network: nn.Module, is_scaled: bool) -> None:
        self.is_scaled = is_scaled  # for fp16, by a factor that is still being searched: infinite ones are fine
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.alive: set[str] = set()
        self.infinite: set[str] = set()
        self._hooks = [
            p.register_post_accumulate_grad_hook(partial(self._record, name)) for name, p in self.parameters.items()
        ]

    def _record(self, name: str, parameter: Tensor) -> None:
        if parameter.grad is None:
            return
        if not self.is_scaled and not bool(torch.isfinite(parameter.grad).all()):
            self.infinite.add(name)
        elif bool(parameter.grad.any()):
            self.alive.add(name)

    def stop(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def findings(self) -> Findings:
        if self.infinite:
            yield problem(
                f"gradients that are not finite: {listed(sorted(self.infinite))}; lower optimizer.lr, set "
                "clipping.norm or use train.precision=no"
            )
        dead = [name for name in self.parameters if name not in self.alive | self.infinite]
        if dead:
            yield problem(
                f"{len(dead)} parameters get no gradient, and will not be learned: {listed(dead)}; freeze them with "
                "model.freeze if that is meant"
            )
        if not self.infinite and not dead:
            yield ok(f"all {len(self.parameters)} parameter tensors that are trained get a finite gradient")


def _composition(network: nn.Module, is_bcos: bool) -> Findings:
    sizes = [p.numel() for p in network.parameters()]
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    kind = "B-cos network" if is_bcos else "network without B-cos layers"
    yield ok(f"a {kind} of {sum(sizes):,} parameters" + (f", {frozen:,} of them frozen" if frozen else ""))
    named = list(network.named_modules())
    if is_bcos:
        own = tuple(f"{name}." for name, module in named if isinstance(module, BcosLinear | BcosConv))
        plain = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        linear = [name for name, module in named if type(module) in plain and not name.startswith(own)]
        if linear:
            yield note(f"{len(linear)} layers are linear, not B-cos: {listed(linear)}")
    in_place = [name for name, module in named if getattr(module, "inplace", False)]
    if in_place:
        yield note(f"{len(in_place)} modules change their input in place: {listed(in_place)}")


def _explanation(network: nn.Module, x: Tensor, is_bcos: bool) -> Findings:
    """Check that contributions add up, and that a B-cos network adds only the logit bias to them."""
    try:
        images = explain_batch(network, x, probe=True, keep_weight=False)
    except BcosError as reason:
        yield problem(f"the network cannot be explained: {reason}")
        return
    explanations = [image.explanations[0] for image in images]
    rows = [e.receipt for e in explanations if e.receipt is not None]
    worst = max(rows, key=lambda row: abs(row.residual) / row.allowed)
    yield ok(
        f"contributions and bias add up to the logit, to {abs(worst.residual):.1e} ({worst.allowed:.1e} of it may be "
        "rounding)"
    )
    for said in dict.fromkeys(line for row in rows for line in row.warnings if NOTHING in line):
        yield problem(said)
    if not is_bcos:
        return
    shares = [
        {origin: abs(value) / (abs(value) + abs(row.contributions)) for origin, value in row.terms.items() if value}
        for row in rows
    ]
    found = {origin: max(share.get(origin, 0) for share in shares) for share in shares for origin in share}
    left = [
        f"{origin} ({found[origin]:.1%})" for origin in sorted(found, key=lambda o: -found[o]) if origin != LOGIT_BIAS
    ]
    if left:
        names = sorted(name for name in explanations[0].bias_terms if name != UNNAMED)
        yield note(
            f"besides contributions, logits hold {listed(left)}, which no picture shows"
            + (f": {listed(names)}" if names else "")
        )


def _in_lower_precision(network: nn.Module, x: Tensor, accelerator: Accelerator) -> Findings:
    precision = accelerator.mixed_precision
    odd = sorted({str(p.dtype) for p in network.parameters()} - {str(x.dtype)})
    if odd:
        yield note(f"parameters of {', '.join(odd)}, images of {x.dtype}")
    if precision == "no":
        return
    with torch.no_grad():
        exact = network(x)
        with accelerator.autocast():
            lower = network(x).to(exact.dtype)
    if not bool(torch.isfinite(lower).all()):
        yield problem(f"logits are not finite in {precision}: values exceed its range; use train.precision=bf16 or no")
        return
    difference = float((lower - exact).norm() / exact.norm())
    text = f"logits in {precision} differ by {difference:.1%} from those in {exact.dtype}"
    yield note(text) if difference > _NOTABLE else ok(text)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
