"""The transform of an image into a network's input."""

from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from bcos_core import AddInverse
from bcos_core.errors import BcosError
from bcos_models.images import Range, as_seen
from bcos_models.spec import InputSpec

LONGEST = 16
"""Longer side, in shorter ones, of an image of which all is resized."""
OVERSHOOT = 0.1
"""How far floats may leave [0, 1], as bicubic resizing makes them."""


@dataclass(frozen=True)
class InferenceTransform:
    """Image → a network's input, as in its evaluation.

    Upright, on white where it is transparent; resizing of the shorter side, centre crop, then inverse
    channels or standardization.

    Args:
        input: of the network, such as ``get_spec(name).input``.

    >>> from bcos_models import get_spec
    >>> transform = InferenceTransform(get_spec("resnet50").input)
    >>> transform(Image.new("RGB", (640, 480))).shape
    torch.Size([6, 224, 224])
    """

    input: InputSpec

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """Transform a PIL image, or a tensor (C, H, W) of 8-bit integers or of floats in [0, 1].

        Returns:
            (encoded channels, size, size), float32.
        """
        result: Tensor = self._steps(image)
        return result

    @cached_property
    def _steps(self) -> nn.Module:
        composed: nn.Module = v2.Compose(
            [
                AsChannels(self.input.channels, self.input.range),
                resize_and_crop(self.input),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                input_encoder(self.input),
            ]
        )
        return composed


def resize_and_crop(spec: InputSpec) -> nn.Module:
    """Bring a PIL image or a tensor (C, H, W) to the size that the network was evaluated at.

    Of an image that is more than :data:`LONGEST` times as long as it is wide only the middle is resized, which
    holds all that the crop would leave: of 1×60,000 pixels 256×15,360,000 would be made.
    """
    mode = v2.InterpolationMode(spec.interpolation)
    if spec.resize is None:
        resized: nn.Module = v2.Resize((spec.size, spec.size), mode, antialias=True)
        return resized
    composed: nn.Module = v2.Compose(
        [MiddleOfStrip(), v2.Resize(spec.resize, mode, antialias=True), v2.CenterCrop(spec.size)]
    )
    return composed


class MiddleOfStrip(nn.Module):
    """Take the middle, :data:`LONGEST` times as long as wide, of longer images; PIL images or tensors (..., H, W)."""

    def forward(self, image: Image.Image | Tensor) -> Image.Image | Tensor:
        """Crop one image, or leave it as it is."""
        width, height = image.shape[:-3:-1] if isinstance(image, Tensor) else image.size
        if not is_strip(width, height):
            return image
        side = LONGEST * min(width, height)
        middle: Image.Image | Tensor = v2.functional.center_crop(image, [min(height, side), min(width, side)])
        return middle


def is_strip(width: int, height: int) -> bool:
    """Whether only the middle of an image of this size is seen where its shorter side is resized."""
    return max(width, height) > LONGEST * min(width, height)


def input_encoder(spec: InputSpec) -> nn.Module:
    """Images in [0, 1] → the network's input: inverse channels, or mean and standard deviation."""
    if spec.encoding == "add_inverse":
        return AddInverse(dim=-3)  # images of any number of channels, alone or in a batch
    if spec.encoding == "none":
        return nn.Identity()
    mean, std = (list(values)[: spec.channels] for values in (spec.mean, spec.std))
    normalize: nn.Module = v2.Normalize(mean, std)
    return normalize


class AsChannels(nn.Module):
    """Turn PIL images grey or RGB, whichever the network takes, as a person sees them; tensors must have as many.

    Args:
        channels: that the network takes.
        range: black and white of images of more than 8 bits; see :func:`bcos_models.images.as_seen`.
    """

    def __init__(self, channels: int, range: Range | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.range = range

    def forward(self, image: Image.Image | Tensor) -> Image.Image | Tensor:
        """Convert one image."""
        if not isinstance(image, Tensor):
            return as_seen(image, self.channels, self.range)
        if image.ndim < 3 or image.shape[-3] != self.channels:
            raise BcosError(f"images must have shape ({self.channels}, H, W), got {tuple(image.shape)}")
        if image.dtype != torch.uint8:
            least, most = float(image.min()), float(image.max())
            if not (image.is_floating_point() and least >= -OVERSHOOT and most <= 1 + OVERSHOOT):
                raise BcosError(
                    "images must be tensors of 8-bit integers, or of floats in [0, 1], got "
                    f"{image.dtype} from {least:g} to {most:g}"
                )
        return image
