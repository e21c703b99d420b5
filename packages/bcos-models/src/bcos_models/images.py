"""Images as a person sees them. Imports no torch."""

from PIL import Image, ImageOps

from bcos_core.errors import BcosError


def as_seen(image: Image.Image, channels: int) -> Image.Image:
    """Return an image as a person sees it: upright as EXIF says, on white where it is transparent, 8 bits deep."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of greyscale, which Pillow would cut off at 255
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert(image_mode(channels))


def image_mode(channels: int) -> str:
    """Return Pillow's mode for images of `channels` channels.

    Raises:
        BcosError: neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise BcosError(f"images have 1 (greyscale) or 3 (RGB) channels, the model wants {channels}")
    return "L" if channels == 1 else "RGB"
