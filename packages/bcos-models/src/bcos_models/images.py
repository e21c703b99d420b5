"""Images as a person sees them. Imports no torch."""

from PIL import Image

from bcos_core.errors import BcosError

_ORIENTATION = 0x0112
"""Entry of EXIF that says how the camera was held."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ABOUT_ORIENTATION = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Where Pillow finds EXIF and what stands for it."""


def as_seen(image: Image.Image, channels: int) -> Image.Image:
    """Return an image as a person sees it: upright as EXIF says, on white where it is transparent, 8 bits deep."""
    if channels not in (1, 3):
        raise BcosError(f"images have 1 (greyscale) or 3 (RGB) channels, the model wants {channels}")
    turn = orientation(image)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I"):  # 16 bits of greyscale, which Pillow would cut off at 255
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    for key in _ABOUT_ORIENTATION:  # it is upright now
        image.info.pop(key, None)
    return image


def orientation(image: Image.Image) -> Image.Transpose | None:
    """Return how EXIF says that an image must be turned to be upright; None for not at all, or if EXIF is damaged.

    Of EXIF only this is read, and nothing is written again as ``ImageOps.exif_transpose`` does, which fails for
    entries of unusual types.
    """
    image.load()  # a PNG may have its EXIF at the end
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF that is damaged raises many types, and the pixels may be fine
        return None
