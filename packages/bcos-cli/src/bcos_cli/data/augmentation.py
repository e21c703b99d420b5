"""The augmentations of a recipe, and the transform that a loader applies to encoded images."""

import random
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from bcos_cli.config import Augment
from bcos_cli.data.image_decoder import decode, quick_decode
from bcos_cli.data.input_image import transformable
from bcos_cli.data.pixels import Pixels
from bcos_core.errors import BcosError
from bcos_models import InputSpec


def training_transform(spec: InputSpec, augment: Augment, size: int | None = None) -> v2.Compose:
    """Return the recipe's augmentations, in the order of :class:`bcos_cli.config.Augment`, to images of side `size`."""
    size = size or spec.size
    if spec.channels not in (1, 3) and (augment.rand_augment is not None or augment.trivial_augment):
        raise BcosError(
            "data.augment.rand_augment and trivial_augment change colours, and images of "
            f"{spec.channels} channels have none; leave them out"
        )
    steps: list[nn.Module]
    if augment.random_resized_crop is not None:
        steps = [_RandomResizedCrop(size, scale=augment.random_resized_crop, antialias=True)]
    else:
        steps = [v2.PILToTensor(), v2.Resize((size, size), antialias=True)]
    if augment.pad_crop:
        steps.append(v2.RandomCrop(size, padding=augment.pad_crop))
    if augment.affine_degrees or augment.affine_translate:
        translate = (augment.affine_translate,) * 2 if augment.affine_translate else None
        steps.append(v2.RandomAffine(augment.affine_degrees, translate, interpolation=v2.InterpolationMode.BILINEAR))
    if augment.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(augment.horizontal_flip))
    if augment.rand_augment is not None:
        steps.append(v2.RandAugment(augment.rand_augment.num_ops, augment.rand_augment.magnitude))
    if augment.trivial_augment:
        steps.append(v2.TrivialAugmentWide())
    if augment.random_erasing:
        steps.append(v2.RandomErasing(augment.random_erasing))
    return v2.Compose(steps)


class _RandomResizedCrop(v2.RandomResizedCrop):  # type: ignore[misc] # reason: torchvision is untyped
    """Also turns Pillow's images into tensors: the crop alone, since of a photograph that is half of the copying."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop and resize; the pixels are those of a crop of the whole tensor."""
        if not isinstance(inpt, Image.Image):
            return super().transform(inpt, params)
        left, top = params["left"], params["top"]
        crop = F.pil_to_tensor(inpt.crop((left, top, left + params["width"], top + params["height"])))
        return F.resize(crop, self.size, interpolation=self.interpolation, antialias=self.antialias)


@dataclass(frozen=True)
class BytesTransform:
    """Decode, then transform with a generator seeded for this sample alone; the process's own ones stay as they are."""

    pixels: Pixels
    steps: nn.Module
    is_random: bool
    decoder: Literal["pillow", "torchvision"] = "pillow"

    def __call__(self, data: bytes, rng: random.Random) -> Tensor:
        """Turn encoded bytes into 8-bit (C, H, W)."""
        image = transformable((quick_decode if self.decoder == "torchvision" else decode)(data, self.pixels))
        with torch.random.fork_rng(devices=[], enabled=self.is_random):
            if self.is_random:
                torch.default_generator.manual_seed(rng.getrandbits(63))  # torch.manual_seed would reach GPUs too
            result: Tensor = self.steps(image)
        return result
