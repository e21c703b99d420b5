"""Gradient clipping: by the norm over all parameters, and adaptively for each unit."""

from accelerate import Accelerator
from timm.utils import adaptive_clip_grad  # type: ignore[attr-defined] # reason: timm exports implicitly
from torch import Tensor, nn

from bcos_cli.config import GradientClipping


def clip_gradients(
    accelerator: Accelerator, model: nn.Module, options: GradientClipping, *, measure: bool = False
) -> Tensor | None:
    """Clip the gradients of `model` as the recipe says.

    Returns:
        Their norm before, where it is clipped or `measure` asks for it.
    """
    norm: Tensor | None = None
    if options.norm is not None or measure:
        norm = accelerator.clip_grad_norm_(model.parameters(), options.norm or float("inf"))
    if options.adaptive is not None:
        if options.norm is None:  # clip_grad_norm_ unscales them too, and a scaler allows that once a step
            accelerator.unscale_gradients()
        trained = [p for p in model.parameters() if p.requires_grad]
        adaptive_clip_grad(trained, options.adaptive, options.adaptive_eps)  # type: ignore[no-untyped-call] # reason: timm's
    return norm
