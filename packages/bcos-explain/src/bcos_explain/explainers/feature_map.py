"""Feature maps inside a network: which outputs of layers are maps over the image, and the last of them."""

import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_core.targets import channels_first

_MAX_STRETCH = 2.0
"""How far a map's aspect ratio may be from the image's: convolutions without padding and odd sizes change it."""
_MAX_PREFIX_TOKENS = 8
"""Class and register tokens that are accepted in front of the patches."""


def as_feature_map(output: object, height: int, width: int, layer: nn.Module | None = None) -> Tensor | None:
    """A layer's output as (N, C, h, w) with more than one position, or None if it is not a map over the image.

    Args:
        output: (N, C, h, w); channels last (N, h, w, C); or tokens (N, T, C), those of a class or of
            registers first.
        height: of the image; so is `width`.
        layer: whose output it is. Of layers that give (N, C, L), three dimensions are no tokens.
    """
    if not isinstance(output, Tensor):
        return None
    if output.ndim == 4:
        fitting = [
            (stretch, candidate)
            for candidate in (output, output.permute(0, 3, 1, 2))
            if candidate.shape[-2:].numel() > 1 and (stretch := _stretch(candidate, height, width)) <= _MAX_STRETCH
        ]
        if fitting:
            return min(fitting, key=lambda found: found[0])[1]  # of equals the first: channels in front
    if output.ndim == 3 and not channels_first(layer):
        grid = token_grid(output.shape[1], height, width)
        if grid is not None:
            prefix = output.shape[1] - grid[0] * grid[1]
            maps: Tensor = output[:, prefix:].transpose(1, 2).unflatten(2, grid)
            return maps
    return None


def _stretch(maps: Tensor, height: int, width: int) -> float:
    """How far the aspect ratio of maps (N, C, h, w) is from the image's, at least 1."""
    ratio: float = (maps.shape[-2] * width) / (maps.shape[-1] * height)
    return max(ratio, 1 / ratio)


def last_feature_layer(model: nn.Module, x: Tensor) -> nn.Module:
    """The submodule that finishes last with a feature map as output, before the classifier starts.

    The classifier is ``model.get_classifier()`` where the model has that method; where it has not, nothing is
    left out. Among tokens those without influence are passed over: after the last attention of a transformer
    that classifies by a class token, the patches have none. Found by passing the first image.

    Raises:
        BcosError: no submodule has such an output.
    """
    image = x[:1].detach()
    with torch.no_grad():
        outputs, _ = feature_outputs(model, image)
    if not outputs:
        raise BcosError(
            "the model has no layer whose output is a map (N, C, h, w) or tokens of an image "
            "before its classifier; name one with layer='...'"
        )
    last, tokens = outputs[-1]
    if tokens.ndim != 3:
        return last
    return _last_with_influence(model, image, tokens.shape) or last


def feature_outputs(model: nn.Module, x: Tensor) -> tuple[list[tuple[nn.Module, Tensor]], Tensor]:
    """Submodules with their feature maps, in order of execution up to the classifier; and the model's output."""
    get_classifier = getattr(model, "get_classifier", None)
    classifier = get_classifier() if callable(get_classifier) else None
    found: list[tuple[nn.Module, Tensor]] = []
    started = False

    def stop(_module: nn.Module, _args: object) -> None:
        nonlocal started
        started = True

    def record(module: nn.Module, _args: object, output: Tensor) -> None:
        if not started and as_feature_map(output, x.shape[-2], x.shape[-1], module) is not None:
            found.append((module, output))

    handles = [module.register_forward_hook(record) for module in model.modules() if module is not model]
    if isinstance(classifier, nn.Module):
        handles.append(classifier.register_forward_pre_hook(stop))
    try:
        return found, model(x)
    finally:
        for handle in handles:
            handle.remove()


def _last_with_influence(model: nn.Module, image: Tensor, shape: torch.Size) -> nn.Module | None:
    """The last submodule with tokens of this shape of which those of patches influence the predicted class."""
    with torch.enable_grad():
        image = image.clone().requires_grad_()
        found, logits = feature_outputs(model, image)
        outputs = [(m, o) for m, o in found if o.shape == shape]
        gradients = torch.autograd.grad(logits.max(), [o for _, o in outputs], allow_unused=True)
    for (module, _), gradient in reversed(list(zip(outputs, gradients, strict=True))):
        maps = as_feature_map(gradient, image.shape[-2], image.shape[-1])
        if maps is not None and bool(maps.any()):
            return module
    return None


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of square patches, with as few tokens in front of them as possible."""
    grids = [(height // side, width // side) for side in range(1, min(height, width) + 1)]
    fitting = [(h, w) for h, w in grids if h * w > 1 and 0 <= tokens - h * w <= _MAX_PREFIX_TOKENS]
    return max(fitting, key=lambda grid: grid[0] * grid[1], default=None)
