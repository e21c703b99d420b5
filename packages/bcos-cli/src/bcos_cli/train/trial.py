"""Trial of what plugins give a run, before its first epoch: what is wrong with it would else show after the last."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bcos_cli.config import Recipe, Train
from bcos_cli.evaluate.evaluation import check_of_shards
from bcos_cli.evaluate.explanations import ExplanationMetrics
from bcos_cli.evaluate.metrics import check_metrics, explanation_metrics
from bcos_cli.evaluate.options import EvaluationOptions
from bcos_cli.evaluate.resumable import partial_results
from bcos_cli.train.losses import described_loss
from bcos_core.errors import BcosError
from bcos_core.plugin_guard import PluginError, plugin_errors
from bcos_core.plugins import checked, is_ours
from bcos_explain import MetricSpec, get_explainer
from bcos_explain import plugins as of_explain
from bcos_explain.explainers import attribute
from bcos_models import TrainedModel, get_spec
from bcos_models import plugins as of_models

if TYPE_CHECKING:
    from accelerate import Accelerator

_FEW = 8
"""Images for what explains or measures them one by one; what needs all gets as many as in the end."""
_WRONG = 0.25
"""Share of a layer's output that no rounding explains."""


def try_plugins(recipe: Recipe, trained: TrainedModel, loss: nn.Module, *, multi_label: bool) -> None:
    """Run the network, loss, explainers and metrics of plugins on a few random images; nothing of the run changes.

    Raises:
        PluginError: one of them failed, or gave something else than it promises; it is named.
        BcosError: the recipe names an explainer or a metric that is not there, or needs what shards do not have.
    """
    metrics = check_metrics(recipe.evaluation.metrics) if recipe.evaluation.metrics else []
    named = [spec for spec in explanation_metrics() if spec.name in metrics]
    for spec in named:
        check_of_shards(spec)
    specs = [spec for spec in named if not is_ours(of_explain.metrics().owner(spec.name))]
    for name in recipe.evaluation.explainers:
        get_explainer(name)
    explainers = [name for name in recipe.evaluation.explainers if not is_ours(of_explain.explainers().owner(name))]
    with _as_scored(trained.model):
        if not is_ours(get_spec(trained.name).builder):
            _try_network(trained)
        _try_loss(recipe.train, loss, trained, multi_label)
        for name in explainers:
            with _refusals():
                attribute(get_explainer(name), trained.model, trained.encode(_images(trained, 2)))
        for spec in specs if recipe.evaluation.explainers else ():
            with _refusals():
                _try_metric(spec, recipe, trained)


def check_precision(trained: TrainedModel, accelerator: "Accelerator") -> None:
    """Refuse mixed precision in which a layer gives something else than in float32, for its own input in the network.

    Rounding makes a difference of a hundredth. On some processors a library computes a convolution wrongly: of patches
    of 16×16 with six channels, for example, oneDNN for AMX in bfloat16 (PyTorch 2.15).

    Raises:
        BcosError: naming the layer.
    """
    if accelerator.mixed_precision == "no":
        return
    worst: list[tuple[float, str]] = []

    def compare(name: str, module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        if not isinstance(output, Tensor) or not bool(output.any()):
            return
        with accelerator.autocast():
            lower = module.forward(*inputs)  # without this hook
        difference = float((lower.float() - output.float()).norm() / output.float().norm())
        worst.append((difference if math.isfinite(difference) else math.inf, name))

    layers = [(n, m) for n, m in trained.model.named_modules() if getattr(getattr(m, "weight", None), "ndim", 0) > 1]
    handles = [m.register_forward_hook(partial(compare, n)) for n, m in layers if not list(m.children())]
    try:
        with _as_scored(trained.model), torch.no_grad():
            trained.model(trained.encode(_images(trained, 2)))
    finally:
        for handle in handles:
            handle.remove()
    difference, name = max(worst, default=(0.0, ""))
    if difference > _WRONG:
        raise BcosError(
            f"in {accelerator.mixed_precision} this machine computes the layer {name!r} wrongly: it differs by "
            f"{difference:.0%} of its size from float32; use -o train.precision=no, or, on a CPU with AMX, set "
            "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 in the environment"
        )


@contextmanager
def _as_scored(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    devices = range(torch.accelerator.device_count()) if torch.accelerator.is_available() else ()
    with torch.random.fork_rng(devices):
        network.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training


@contextmanager
def _refusals() -> Iterator[None]:
    """Leave to the end what may say with good reason that it cannot explain or measure this."""
    try:
        yield
    except PluginError:
        raise
    except BcosError:
        pass


def _images(trained: TrainedModel, count: int) -> Tensor:
    """8-bit images of noise, where the network is."""
    device = next(trained.model.parameters(), torch.empty(0)).device
    shape = (count, trained.input.channels, trained.input.size, trained.input.size)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return noise.to(device)


def _try_network(trained: TrainedModel) -> None:
    name, registry, needed = trained.name, of_models.registry(), (2, len(trained.classes))
    what = registry.described(name) if name in registry.names() else f"the model {name!r} ({get_spec(name).builder})"
    with plugin_errors(what, ours=False), torch.no_grad():
        outputs = checked(trained.model(trained.encode(_images(trained, 2))), Tensor, what)
    if outputs.shape != needed:
        raise PluginError(f"{what} gave outputs of shape {tuple(outputs.shape)} for 2 images, needed {needed}")


def _try_loss(train: Train, loss: nn.Module, trained: TrainedModel, multi_label: bool) -> None:
    what, ours = described_loss(train.loss)
    if ours or ":" in train.loss:  # a function of the user's may count its calls
        return
    classes = len(trained.classes)
    dtype = torch.float64 if train.precision == "float64" else torch.float32
    logits = torch.zeros(2, classes, dtype=dtype, device=_images(trained, 1).device, requires_grad=True)
    targets = torch.zeros_like(logits) if multi_label else torch.zeros(2, dtype=torch.long, device=logits.device)
    with plugin_errors(what, ours=False):
        value = checked(copy.deepcopy(loss)(logits, targets), Tensor, what)
    if value.shape != () or not value.requires_grad:
        raise PluginError(f"{what} gave a tensor of shape {tuple(value.shape)}, needed one number that has a gradient")


def _try_metric(spec: MetricSpec, recipe: Recipe, trained: TrainedModel) -> None:
    config = recipe.evaluation
    options = EvaluationOptions(grids=2, grid_size=config.gridpg_size, explainers=tuple(config.explainers))
    count = options.images if spec.unit == "whole" else max(_FEW, 2 * config.gridpg_size**2)
    values: dict[str, Any] = {
        "images": _images(trained, count).cpu(),
        "labels": torch.arange(count) % len(trained.classes),
        "confidences": torch.ones(count),
        "keys": list(range(count)),
    }
    explainer = config.explainers[0] if "explainer" in spec.needs else ""
    ExplanationMetrics(trained, lambda _: values, options, partial_results(None)).try_out(spec, explainer)
