"""Integrated gradients."""

from dataclasses import dataclass
from typing import ClassVar

import captum.attr
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.contract import Target, class_indices, differentiable


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients:
    """``x · ∫₀¹ ∂f_k(αx)/∂x dα``, by Gauss-Legendre quadrature.

    The baseline is the all-zero tensor. With inverse channels (``[r, g, b, 1-r, 1-g, 1-b]``) it is no image
    (even black has ones) but the absence of one: nothing speaks for any colour, and a network of B-cos layers
    outputs its bias there. For a standardised input it is the mean image.

    The attributions sum to ``f_k(x) - f_k(0)``, up to the error of the quadrature. On a network of B-cos
    layers alone they are almost those of :class:`~bcos_explain.explainers.InputXGradient`: such a network is
    homogeneous, ``f(αx) = α f(x)``, so the gradient is the same along the whole line.

    Args:
        n_steps: points of the quadrature.
        internal_batch_size: images that are passed through the network at once, at least the batch itself;
            it bounds the memory.

    Returns (N, C, H, W), in units of the logit.

    Raises:
        BcosError: a number below 1.

    Source: Sundararajan et al., *Axiomatic Attribution for Deep Networks*, ICML 2017.
    """

    exact: ClassVar[bool] = False
    n_steps: int = 50
    internal_batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("n_steps", "internal_batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise BcosError(f"{name} must be a whole number of at least 1, got {value!r}")

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf:
            images = leaf.detach()
            indices = class_indices(model(images).detach(), target)
            attribution: Tensor = captum.attr.IntegratedGradients(model).attribute(
                images,
                baselines=0,
                target=indices,
                n_steps=self.n_steps,
                internal_batch_size=max(self.internal_batch_size, len(images)),
            )
            # Captum integrates in float64.
            return attribution.detach().to(x.dtype).clone()
