"""Neurons: which images activate a channel of a layer most, and what each of them contributes to it."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bcos_core import BcosError, Explanation, explain
from bcos_core.layers import find_layer, layer_outputs
from bcos_explain.explainers.feature_map import as_feature_map


@dataclass(frozen=True, order=True)
class Activation:
    """The strongest activation of a channel in one image."""

    score: float
    key: int
    """Number of the image; among equal scores the smaller one comes first."""
    position: tuple[int, ...]
    """(row, column) in the layer's map, () for a layer without positions."""


def as_channels(output: Tensor, size: tuple[int, int], layer: nn.Module | None = None) -> Tensor:
    """Return a layer's output as (N, C, h, w); (N, C) becomes (N, C, 1, 1).

    Args:
        output: (N, C), (N, C, h, w), (N, h, w, C), or tokens (N, T, C), whose class tokens are left out.
        size: (H, W) of the image.
        layer: whose output it is. Of layers that give (N, C, L), three dimensions are no tokens.

    Raises:
        BcosError: another shape.
    """
    if output.ndim == 2:
        return output[:, :, None, None]
    maps = as_feature_map(output, *size, layer)
    if maps is None and output.ndim != 4:
        raise BcosError(
            f"neurons need a layer with outputs (N, C), (N, C, h, w) or tokens (N, T, C), got {tuple(output.shape)}"
        )
    return output if maps is None else maps


class LayerOutputs:
    """Runs a network and returns the output of one of its layers.

    Args:
        model: in eval mode.
        layer: name of a submodule.

    Raises:
        BcosError: no such layer.
    """

    def __init__(self, model: nn.Module, layer: str) -> None:
        self._model, self._layer = model, find_layer(model, layer)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, h, w) for inputs (N, C', H, W)."""
        outputs, _ = layer_outputs(self._model, self._layer, x)
        return as_channels(outputs[-1], (int(x.shape[-2]), int(x.shape[-1])), self._layer)


class TopActivations:
    """For each channel, the images that activate it most, anywhere in the image.

    Memory is bounded by channels × `count`, whatever the number of images, and the result depends neither on
    their order nor on their batches.

    Args:
        channels: channels of the layer; None for all.
        count: images per channel.

    Raises:
        BcosError: a count below 1.
    """

    def __init__(self, channels: Sequence[int] | None = None, count: int = 9) -> None:
        if count < 1:
            raise BcosError(f"count must be at least 1 image a channel, got {count}")
        self.channels = None if channels is None else list(dict.fromkeys(channels))
        self.count = count
        self._best: dict[int, list[Activation]] = {}

    def update(self, activations: Tensor, keys: Sequence[int] | Tensor) -> None:
        """Add the activations of a batch.

        Args:
            activations: (N, C, h, w), as :class:`LayerOutputs` gives them.
            keys: N numbers, one for each image of the data set.

        Raises:
            BcosError: a channel that the layer does not have, or activations that are not finite.
        """
        available = activations.shape[1]
        chosen = range(available) if self.channels is None else self.channels
        if wrong := [c for c in chosen if not 0 <= c < available]:
            raise BcosError(f"the layer has {available} channels, from 0 to {available - 1}; got {wrong[0]}")
        names = keys.tolist() if isinstance(keys, Tensor) else list(keys)
        if not bool(torch.isfinite(activations).all()):
            raise BcosError("the layer gives values that are not finite (NaN or infinity), which have no order")
        scores, where = activations.flatten(2).max(2)  # (N, C)
        width = activations.shape[3]
        positions = activations.shape[2] * width
        for c in chosen:
            column, places = scores[:, c].tolist(), where[:, c].tolist()
            found = [
                Activation(score, key, divmod(place, width) if positions > 1 else ())
                for score, key, place in zip(column, names, places, strict=True)
            ]
            self._best[c] = _best(self._best.get(c, []) + found, self.count)

    def merge(self, other: "TopActivations") -> None:
        """Add what another process found."""
        for c, found in other._best.items():
            self._best[c] = _best(self._best.get(c, []) + found, self.count)

    def collected(self) -> dict[int, list[Activation]]:
        """Return activations by channel, the strongest first."""
        return {c: list(self._best[c]) for c in sorted(self._best)}

    def strongest(self, count: int) -> list[int]:
        """Return the channels that are activated most by any image, the strongest first."""
        return heapq.nsmallest(count, self._best, key=lambda c: (-self._best[c][0].score, c))


def _best(activations: list[Activation], count: int) -> list[Activation]:
    return heapq.nsmallest(count, activations, key=lambda a: (-a.score, a.key))


def explain_neuron(
    model: nn.Module, x: Tensor, layer: str, channel: int, positions: Sequence[tuple[int, ...]] | None = None
) -> Explanation:
    """Explain a channel of a layer, at one position of each image, exactly.

    Args:
        model: in eval mode.
        x: (N, C, H, W), encoded.
        layer: name of a submodule.
        channel: channel of its output.
        positions: (row, column) in the layer's map for each image, as :class:`Activation` has them; None for
            where the channel is activated most.

    Returns:
        An explanation whose ``score`` is the activation: ``Σ weight·x + bias`` equals it.

    Raises:
        BcosError: no such layer, channel or position, or as :func:`bcos_core.explain`.

    Source: Böhle et al., CVPR 2022, section 5.2.
    """
    size, module = (int(x.shape[-2]), int(x.shape[-1])), find_layer(model, layer)
    if positions is not None and len(positions) != len(x):
        raise BcosError(f"there are {len(positions)} positions for {len(x)} images; give one for each")

    def activation(output: Tensor) -> Tensor:
        maps = as_channels(output, size, module)
        if not 0 <= channel < maps.shape[1]:
            raise BcosError(f"the layer {layer!r} has channels from 0 to {maps.shape[1] - 1}, got {channel}")
        flat = maps[:, channel].flatten(1)  # (N, h·w)
        if positions is None:
            chosen = flat.detach().argmax(1)
        else:
            height, width = maps.shape[2:]
            places = [position or (0, 0) for position in positions]
            for row, column in places:
                if not (0 <= row < height and 0 <= column < width):
                    last = (height - 1, width - 1)
                    raise BcosError(f"the layer {layer!r} has positions up to {last}, got {(row, column)}")
            chosen = torch.tensor([row * width + column for row, column in places], device=flat.device)
        return flat.gather(1, chosen[:, None])[:, 0]

    return explain(model, x, activation, layer=layer)
