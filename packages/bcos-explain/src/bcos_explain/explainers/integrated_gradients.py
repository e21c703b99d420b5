"""Integrated gradients."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import captum.attr
import torch
from torch import Tensor, nn

from bcos_explain.explainers.contract import Target, as_columns, check_count, class_indices, differentiable, like_target
from bcos_explain.explainers.gradient import target_gradients
from bcos_explain.explainers.memory import fit_in_memory
from bcos_explain.explainers.remarks import remark_on_gap


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients:
    """``x · ∫₀¹ ∂f_k(αx)/∂x dα``, by Gauss-Legendre quadrature.

    The baseline is the all-zero tensor. With inverse channels (``[r, g, b, 1-r, 1-g, 1-b]``) it is not an image
    (even black has ones) but the absence of one: nothing speaks for any colour, and a network of B-cos layers
    outputs its bias there. For a standardised input it is the mean image.

    The attributions sum to ``f_k(x) - f_k(0)``, up to the error of the quadrature; where it is above 1 %, a
    remark says how large it is. With inverse channels they are a decomposition over the encoded input, as those
    of :class:`~bcos_explain.explainers.InputXGradient`. On a network of B-cos
    layers alone they are almost those of :class:`~bcos_explain.explainers.InputXGradient`: such a network is
    homogeneous, ``f(αx) = α f(x)``, so the gradient is the same along the whole line.

    Args:
        n_steps: points of the quadrature.
        internal_batch_size: images that are passed through the network at once, at least the batch itself;
            it bounds the memory, and is halved where that runs out.

    Returns (N, [T,] C, H, W), in units of the logit.

    Raises:
        BcosError: a number below 1.

    Source: Sundararajan et al., *Axiomatic Attribution for Deep Networks*, ICML 2017.
    """

    several_targets: ClassVar[bool] = True
    n_steps: int = 50
    internal_batch_size: int = 16

    def __post_init__(self) -> None:
        check_count("n_steps", self.n_steps)
        check_count("internal_batch_size", self.internal_batch_size)

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf:
            images = leaf.detach()
            with torch.no_grad():
                logits = model(images)
                indices = class_indices(model, logits, target)
                columns = as_columns(indices)
                difference = (logits - model(torch.zeros_like(images[:1]))).gather(1, columns)

            def gradients(forward_fn: Callable[[Tensor], Tensor], inputs: tuple[Tensor], **_: Any) -> tuple[Tensor]:
                (points,) = inputs  # steps × images
                gradient = target_gradients(forward_fn(points), columns.repeat(len(points) // len(images), 1), points)
                assert gradient is not None  # a network whose outputs do not depend on the input has no logits
                return (gradient,)  # (steps·N, T, C, H, W) where Captum expects (steps·N, C, H, W)

            method = captum.attr.IntegratedGradients(model, multiply_by_inputs=False)
            method.gradient_func = gradients
            average: Tensor = fit_in_memory(
                lambda at_once: method.attribute(
                    images, baselines=0, n_steps=self.n_steps, internal_batch_size=at_once
                ),
                self.internal_batch_size,
                least=len(images),
            )  # (N, T, C, H, W), float64 as Captum integrates
            attribution = images.unsqueeze(1) * average
            remark_on_gap(attribution, difference, "raise n_steps")
            return like_target(attribution.to(x.dtype), indices)
