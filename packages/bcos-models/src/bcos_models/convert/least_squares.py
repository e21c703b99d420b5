"""Kernels of a converted network that make up, as far as they can, for the biases and means that are gone."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from bcos_core import AddInverse
from bcos_core.conv import BcosConv
from bcos_core.conv_transpose import BcosConvTranspose
from bcos_core.errors import BcosError
from bcos_core.linear import BcosLinear
from bcos_core.norms import BatchNormUncentered2d
from bcos_models.convert.layers import without_blur
from bcos_models.convert.network import BcosifiedNetwork, PositionClassifier
from bcos_models.convert.rules import CONVERTED

_RIDGE, _CLASSIFIER_RIDGE = 1e-3, 1e-2
"""Pull towards the kernels that are there, in units of the mean square of a layer's inputs."""
_BATCH = 128
_LEAST_IMAGES = 32


@dataclass(frozen=True)
class _Unit:
    """A layer of the original network, and what of it the layer of the converted network is to give."""

    name: str
    norm: str | None
    """Batch norm that takes the layer's output, and nothing else does."""
    block: str | None
    """Module around it that adds a shortcut to its output; `shortcut` is its child, None for the block's own input."""
    shortcut: str | None = None
    positions: int = 1
    """Of its output, in one image."""


def fit_kernels(
    network: BcosifiedNetwork,
    original: nn.Module,
    images: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    positions: int = 20_000,
) -> int:
    """Let each layer of a converted network give, with B = 1, what the original's gives with its bias and mean.

    Layer after layer, as the images come through those before: ``min_w Σ |w·x - t|² + ridge · |w - w₀|²``, where x are
    the patches that the layer sees, t what the original gives (with its batch norm, where one follows at once; less
    what a shortcut past the layer has lost), and w₀ the original kernel. Biases become part of kernels as far as other
    inputs tell them; nothing is added that does not depend on the image. Kernels keep their lengths where a norm
    follows, which takes the scale; the classifier is fitted to the logits.

    Args:
        network: in eval mode; converted from `original` without biases, its batch norms uncentred. Changed in place.
        original: in eval mode.
        images: (N, C, H, W) in [0, 1], a few hundred or more, as the network will see them.
        mean: that the original's images were standardised with; so is `std`.
        positions: patches of each layer that are used, the first ones of as many images as they take.

    Returns:
        Number of layers that were fitted.

    Raises:
        BcosError: images of another shape, or fewer than two.
    """
    if images.ndim != 4 or images.shape[1] != len(mean) or len(images) < 2:
        raise BcosError(
            f"kernels are fitted to at least two images (N, {len(mean)}, H, W) in [0, 1], got {tuple(images.shape)}"
        )
    like = next(p for p in network.parameters() if p.is_floating_point())
    images = images.to(like)
    m, s = (images.new_tensor(values).reshape(-1, 1, 1) for values in (mean, std))
    plain = (images - m) / s
    ours = AddInverse(dim=-3)(images) if network.conversion.options.input == "6ch" else plain
    fit = _Fit(network, original, ours, plain, positions)
    exponents = {layer: layer.b for layer in network.modules() if isinstance(layer, CONVERTED)}
    for layer in exponents:
        layer.b = 1.0
    try:
        with torch.no_grad():
            return fit.run()
    finally:
        for layer, b in exponents.items():
            layer.b = b


class _Stop(Exception):  # noqa: N818 - reason: no error
    """Ends a forward pass where its rest is not needed."""


@dataclass
class _Fit:
    network: BcosifiedNetwork
    original: nn.Module
    ours: Tensor
    """Images as the converted network takes them."""
    plain: Tensor
    """Images as the original takes them."""
    positions: int

    def run(self) -> int:
        """Fit all layers, and return their number."""
        classifier = self.network.decisions.classifier
        units = [unit for unit in self._units() if unit.name != classifier]
        for unit in _shortcuts_first(units):
            self._fit_layer(unit)
        return len(units) + (classifier is not None and self._fit_classifier(classifier))

    def _units(self) -> Iterator[_Unit]:
        """Find the layers that can be fitted, in the order in which they run, and their norms and shortcuts."""
        names = {module: name for name, module in self.original.named_modules()}
        gates = set(self.network.decisions.gates) | set(self.network.decisions.idle)
        outputs: dict[str, tuple[Tensor, Tensor]] = {}  # of layers that run once: input and output
        norms: dict[str, str] = {}
        seen: dict[str, tuple[Tensor, Tensor]] = {}  # of all modules
        order: list[str] = []

        def record(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            name = names[module]
            x = given[0] if given and isinstance(given[0], Tensor) else None
            if x is None or not isinstance(result, Tensor):
                return
            if isinstance(module, _BatchNorm):
                norms.update({layer: name for layer, (_, y) in outputs.items() if y is x})
            seen[name] = (x, result.clone())  # an activation that follows may work in place
            if _is_layer(module):
                order.append(name)
                outputs[name] = (x, result)

        handles = [m.register_forward_hook(record) for m in self.original.modules()]
        with _removed_after(handles):
            self.original(self.plain[:2])
        for name in order:
            if order.count(name) > 1 or name in gates or not self._is_fitted(name):
                continue  # a layer that runs twice has two targets; gates keep their biases
            norm = norms.get(name)
            if norm is not None and not isinstance(self._ours(norm), BatchNormUncentered2d):
                continue  # a norm that stays centred takes a bias away again
            block, shortcut = self._shortcut(name, norm, seen)
            y = outputs[name][1]
            yield _Unit(name, norm, block, shortcut, y[0, 0].numel() if y.ndim == 4 else y[0].numel() // y.shape[-1])

    def _is_fitted(self, name: str) -> bool:
        ours = self._ours(name)
        if not isinstance(ours, (BcosConv, BcosLinear, nn.Conv2d, nn.Linear)) or isinstance(ours, BcosConvTranspose):
            return False
        if isinstance(ours, BcosConv | BcosLinear) and (ours.max_out != 1 or ours.normalize_weight):
            return False
        return getattr(ours, "bias", None) is None and type(ours).__name__ != "StandardizedBcosConv2d"

    def _ours(self, name: str) -> Any:
        try:
            return without_blur(self.network.network.get_submodule(name))
        except AttributeError:
            return None

    def _shortcut(
        self, name: str, norm: str | None, seen: dict[str, tuple[Tensor, Tensor]]
    ) -> tuple[str | None, str | None]:
        """Find the block that adds a shortcut to what a layer (with its norm) gives, and the child it comes from."""
        y = seen[norm or name][1]
        block = name.rpartition(".")[0]
        if block not in seen or seen[block][1].shape != y.shape:
            return None, None
        x, out = seen[block]
        children = {
            child: seen[f"{block}.{child}"][1]
            for child, _ in self.original.get_submodule(block).named_children()
            if f"{block}.{child}" in seen
        }
        for child, term in [(None, x), *children.items()]:
            if term.shape == y.shape and term is not y:
                total = term + y
                if torch.allclose(out, total, atol=1e-5) or torch.allclose(out, total.relu(), atol=1e-5):
                    return block, child
        return None, None

    def _fit_layer(self, unit: _Unit) -> None:
        layer: Any = self._ours(unit.name)
        old: Any = self.original.get_submodule(unit.name)
        count = min(len(self.plain), max(_LEAST_IMAGES, math.ceil(self.positions / unit.positions)))
        beside = unit.block if unit.shortcut is None else f"{unit.block}.{unit.shortcut}"
        other = [] if unit.block is None else [beside]
        wanted = self._seen(self.original, self.plain[:count], old, other, of_input=unit.shortcut is None)
        given = self._seen(self.network, self.ours[:count], layer, other, of_input=unit.shortcut is None)
        target = wanted.output
        start = layer.weight.double()
        if unit.norm is not None:
            norm: Any = self.original.get_submodule(unit.norm)
            target = F.batch_norm(target, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
            scale = (norm.running_var + norm.eps).rsqrt()
            scale = scale if norm.weight is None else scale * norm.weight
            start = start * scale.double().reshape(-1, *[1] * (start.ndim - 1))
        if unit.block is not None:
            target = target + wanted.beside - given.beside
        x, t = _rows(layer, given.input, target, self.positions)
        w = _solved(x, t, start.reshape(len(x), -1, x.shape[2]), _RIDGE)
        if unit.norm is None:
            layer.weight.copy_(w.reshape(layer.weight.shape))
            return
        ours: Any = self._ours(unit.norm)
        if ours.weight is None:
            return
        var = (x @ w.transpose(1, 2)).var(1, correction=0).flatten().clamp_min(1e-8)
        lengths = layer.weight.double().flatten(1).norm(dim=1)
        rows = lengths / w.flatten(0, 1).norm(dim=1).clamp_min(1e-12)
        rows = torch.where(lengths < 1e-3 * lengths.mean(), 1.0, rows)  # a kernel of zeros, whose norm's bias it was
        layer.weight.copy_((w.flatten(0, 1) * rows[:, None]).reshape(layer.weight.shape))
        ours.running_var.copy_(var * rows.square())
        ours.weight.copy_((ours.running_var + ours.eps).sqrt() / rows)

    def _fit_classifier(self, name: str) -> bool:
        """Fit the classifier to the logits, but for their mean; returns whether it can be."""
        found: Any = self._ours(name)
        layer = found.conv if isinstance(found, PositionClassifier) else found
        if not isinstance(layer, (BcosConv, BcosLinear)) or layer.bias is not None or layer.normalize_weight:
            return False
        given = self._seen(self.network, self.ours, layer, [])
        x = given.input.mean((2, 3)) if given.input.ndim == 4 else given.input
        logits = torch.cat([self.original(part) for part in self.plain.split(_BATCH)]).double()
        start = layer.weight.double().flatten(1)
        w = _solved(x[None].double(), (logits - logits.mean())[None], start[None], _CLASSIFIER_RIDGE)
        layer.weight.copy_(w.reshape(layer.weight.shape))
        return True

    def _seen(
        self, network: nn.Module, images: Tensor, layer: nn.Module, beside: Sequence[str | None], of_input: bool = True
    ) -> "_Seen":
        """Return a layer's input and output for all images, and the input or output of another module."""
        inner = self.network.network if network is self.network else self.original
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        others: list[Tensor] = []

        def stop(_module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
            inputs.append(given[0].clone())
            outputs.append(result.clone())
            if not beside or len(others) == len(outputs):
                raise _Stop

        def note(_module: nn.Module, _given: tuple[Tensor, ...], result: Tensor) -> None:
            others.append(result.clone())
            if len(others) == len(outputs):
                raise _Stop

        def note_input(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
            others.append(given[0].clone())

        handles = [layer.register_forward_hook(stop)]
        for name in beside:
            module = inner.get_submodule(str(name))
            handles.append(
                module.register_forward_pre_hook(note_input) if of_input else module.register_forward_hook(note)
            )
        with _removed_after(handles):
            for part in images.split(_BATCH):
                try:
                    network(part)
                except _Stop:
                    continue
        empty = torch.zeros(())
        return _Seen(torch.cat(inputs), torch.cat(outputs), torch.cat(others) if others else empty)


def _shortcuts_first(units: Sequence[_Unit]) -> list[_Unit]:
    """Order layers as they run, those of a shortcut before the layer that makes up for what it has lost."""
    found: list[_Unit] = []
    for unit in units:
        held = (
            [] if unit.shortcut is None else [u for u in units if _is_within(u.name, f"{unit.block}.{unit.shortcut}")]
        )
        found += [u for u in [*held, unit] if u not in found]
    return found


@dataclass(frozen=True)
class _Seen:
    input: Tensor
    output: Tensor
    beside: Tensor


@contextmanager
def _removed_after(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear)


def _is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _rows(layer: Any, given: Tensor, target: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return inputs (G, P, D) and targets (G, P, O) of a layer's G groups, of P positions."""
    if given.ndim != 4 or not hasattr(layer, "kernel_size"):
        x, t = given.flatten(0, -2)[None], target.flatten(0, -2)[None]
    else:
        x = _patches(layer, given)
        t = target.flatten(2).transpose(1, 2).unflatten(2, (x.shape[1], -1)).movedim(2, 1)
        x, t = (v.movedim(1, 0).flatten(1, 2) for v in (x, t))
    if x.shape[1] > most:
        chosen = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))[:most].to(x.device)
        x, t = x[:, chosen], t[:, chosen]
    return x.double(), t.double()


def _patches(conv: Any, x: Tensor) -> Tensor:
    """Return what each kernel of a convolution sees: (N, groups, positions, inputs)."""
    kernel, stride, dilation = tuple(conv.kernel_size), tuple(conv.stride), tuple(conv.dilation)
    if "Same" in type(conv).__name__:
        from timm.layers import pad_same  # type: ignore[attr-defined] # reason: timm exports implicitly

        x = pad_same(x, list(kernel), list(stride), list(dilation))
    elif conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
        rows, columns = conv.padding
        x = F.pad(x, (columns, columns, rows, rows))
    else:
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    unfolded: Tensor = F.unfold(x, kernel, dilation=dilation, stride=stride)
    patches: Tensor = unfolded.unflatten(1, (conv.groups, -1)).transpose(2, 3)
    return patches


def _solved(x: Tensor, t: Tensor, start: Tensor, ridge: float) -> Tensor:
    """Return ``argmin_w mean |x·w - t|² + ridge · mean(x²) · |w - start|²``; x (G, P, D), t (G, P, O), w (G, O, D)."""
    dims = x.shape[2]
    moments = x.transpose(1, 2) @ x / x.shape[1]
    size = moments.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(1e-12)
    moments = moments + ridge * size * torch.eye(dims, dtype=x.dtype, device=x.device)
    error = x.transpose(1, 2) @ (t - x @ start.transpose(1, 2)) / x.shape[1]
    change: Tensor = torch.linalg.solve(moments, error)
    return start + change.transpose(1, 2)
