"""The gradient, and input times gradient."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bcos_explain.explainers.contract import Target, as_columns, class_indices, differentiable, like_target

_TOLERANCE = 5e-3
"""How far ``x + (1 - x)`` may be from 1: it may have been encoded in bfloat16, which rounds by up to 0.004."""


@dataclass(frozen=True)
class Gradient:
    """``∂f_k/∂x``, the ordinary gradient, signed.

    Of an image u that is encoded with inverse channels, ``x = [u, 1 - u]``, the two parts of its derivative:
    ``[∂f_k/∂x_c, -∂f_k/∂x_(c+C)]``. Summed over channels they are the derivative by the image, where the sum of
    ``∂f_k/∂x`` would say what changes if both u and 1 - u grew, which they cannot.

    Returns (N, [T,] C, H, W), in units of the logit per unit of the input.

    Source: Simonyan et al., *Deep Inside Convolutional Networks*, 2013, arXiv 1312.6034 (there without sign).
    """

    several_targets: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        gradients, indices = input_gradients(model, x, target)
        return like_target(gradients * image_signs(x.detach()).unsqueeze(1), indices)


@dataclass(frozen=True)
class InputXGradient:
    """``x · ∂f_k/∂x``, with the ordinary gradient.

    With inverse channels, ``x = [u, 1 - u]``, it is what the image and its inverse contribute together,
    ``u·∂f_k/∂x_c + (1 - u)·∂f_k/∂x_(c+C)``: a decomposition over the encoded input, in which nothing has to change
    its sign. So it is for integrated gradients and DeepLIFT.

    For a B-cos network this is not its explanation: the gradient also runs through the dynamic factors, which
    :class:`bcos_explain.explainers.BcosContributions` holds constant.

    Returns (N, [T,] C, H, W), in units of the logit.

    Source: Shrikumar et al., *Not Just a Black Box*, 2016, arXiv 1605.01713.
    """

    several_targets: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        gradients, indices = input_gradients(model, x, target)
        return like_target(x.detach().unsqueeze(1) * gradients, indices)


def input_gradients(model: nn.Module, x: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """``∂f_k/∂x`` by each input channel, (N, T, C, H, W), and the classes (N,) or (N, T)."""
    with differentiable(model, x) as leaf:
        logits = model(leaf)
        indices = class_indices(model, logits, target)
        gradients = target_gradients(logits, as_columns(indices), leaf)
        assert gradients is not None  # a network whose outputs do not depend on the input has no logits
        return gradients, indices


def target_gradients(outputs: Tensor, indices: Tensor, source: Tensor) -> Tensor | None:
    """``∂ outputs[n, indices[n, t]] / ∂ source``, (N, T, ...), one backward pass for each t.

    Row n of the outputs (N, K) depends on row n of the source (N, ...) alone. None if they do not depend on it at all.
    """
    columns = []
    for column in indices.unbind(1):
        scores = outputs.gather(1, column[:, None]).sum()
        gradient: Tensor | None = torch.autograd.grad(scores, source, retain_graph=True, allow_unused=True)[0]
        if gradient is None:
            return None
        columns.append(gradient)
    return torch.stack(columns, 1)


def like_images(noise: Tensor, signs: Tensor) -> Tensor:
    """Noise (C, H, W) for inputs with the `signs` (N, C, 1, 1), so that encoded images stay encoded images.

    (N, C, H, W): the same for every input, but in inverse channels the negative of that in the others.
    """
    encoded = signs.to(noise.device) < 0
    return torch.where(encoded, -noise.roll(noise.shape[0] // 2, 0), noise)


def image_signs(x: Tensor) -> Tensor:
    """``∂x_c / ∂image`` of each input channel c: -1 for the inverse channels of an encoded image, else 1.

    With :class:`bcos_core.AddInverse` a network sees ``[u, 1 - u]`` of an image u, so that by the chain rule
    ``∂f/∂u_c = ∂f/∂x_c - ∂f/∂x_(c+C)``. That an input is encoded this way is seen in its values, not in the
    number of channels: the second half is one minus the first, in every pixel but those that are zero in all
    channels, where an image was taken away. Returns (N, C, 1, 1) for x (N, C, H, W), in its type.
    """
    signs = torch.ones_like(x[:, :, :1, :1])
    half, odd = divmod(x.shape[1], 2)
    if odd:
        return signs
    first, second = x[:, :half], x[:, half:]
    tolerance = max(_TOLERANCE, 4 * torch.finfo(x.dtype).eps)
    inverse = ((first + second - 1).abs() <= tolerance).all(1)  # (N, H, W)
    encoded = (inverse | (x == 0).all(1)).all((1, 2)) & inverse.any((1, 2))
    signs[encoded, half:] = -1
    return signs
