"""Images as a person sees them, 8 bits deep. Imports no torch."""

import numpy as np
from numpy.typing import NDArray
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
_BITS_PER_SAMPLE = 258
"""Tag of a TIFF."""
_ABOUT_ORIENTATION = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Where Pillow finds EXIF and what stands for it."""


Range = tuple[float, float]
"""The values that are black and white, for images of more than 8 bits."""
_DARK = 1 / 16
"""Share of its usual range up to which an image is taken for one of another range: 12 bits in 16, 8 in 12."""
_GIVE = "give them: --range BLACK:WHITE, or data.range"


def as_seen(image: Image.Image, channels: int, range: Range | None = None) -> Image.Image:
    """Return an image as a person sees it: upright as EXIF says, on white where it is transparent, 8 bits deep.

    Args:
        channels: 1 for greyscale, 3 for RGB.
        range: the values that are black and white where there are more than 8 bits; None for those of the format, if
            it has any; see :func:`eight_bits`.

    Raises:
        BcosError: another number of channels, or values of which none is known to be black or white.
    """
    if channels not in (1, 3):
        raise BcosError(f"images have 1 (greyscale) or 3 (RGB) channels, the model wants {channels}")
    is_deep_colour = image.mode not in ("I", "F") and any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    turn = orientation(image)
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(eight_bits(np.asarray(image), range, usual=_usual_range(image)))
    elif is_deep_colour:
        _check_upper_bits(image, range)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    for key in _ABOUT_ORIENTATION:  # it is upright now
        image.info.pop(key, None)
    return image


def eight_bits(
    values: NDArray[np.generic], range: Range | None = None, usual: Range | None = None
) -> NDArray[np.uint8]:
    """Return values in 8 bits, round(255 (v - black) / (white - black)); what is beyond black or white is cut.

    Args:
        values: numbers of any shape; those of 8 bits are returned as they are.
        range: black and white. None for `usual`, and then nothing is cut.

    Raises:
        BcosError: not finite numbers; or no range is given and the values leave the usual one, or are nearly black in
            it. A range is never taken from the values of one image: another one would have another.
    """
    if values.dtype == np.uint8:
        return values  # type: ignore[return-value] # reason: mypy does not see what the comparison says
    if values.dtype.kind not in "buif":
        raise BcosError(f"its values are not numbers but of type {values.dtype}")
    least, most = float(values.min()), float(values.max())
    if not np.isfinite([least, most]).all():
        raise BcosError("it has values that are infinite or not a number; replace them")
    if range is None:
        black, white = usual or (0.0, 0.0)
        if usual is None or least < black or most > white:
            unlike = "" if usual is None else f", not from {black:g} to {white:g}"
            raise BcosError(
                f"its values go from {least:g} to {most:g}{unlike}, and nothing says which are black and white; {_GIVE}"
            )
        if black < most <= white * _DARK:
            raise BcosError(
                f"its values end at {most:g}, nearly black where {white:g} is white; if other values are black and "
                f"white, {_GIVE}; if not, give {black:g}:{white:g}"
            )
    else:
        black, white = range
    wide = values.astype(np.result_type(values.dtype, np.float32))
    return ((wide - black) * (255 / (white - black)) + 0.5).clip(0, 255).astype(np.uint8)


def usual_range(dtype: np.dtype[np.generic]) -> Range | None:
    """Return black and white as the field has them in a type: the ends of 8 and 16 unsigned bits, 0 and 1 of floats."""
    if dtype.kind in "fb":
        return 0.0, 1.0
    return (0.0, 2.0 ** (8 * dtype.itemsize) - 1) if dtype.kind == "u" and dtype.itemsize <= 2 else None


def _usual_range(image: Image.Image) -> Range | None:
    """Return black and white of an image whose mode is I;16, I or F."""
    if image.mode == "I":  # 16 bits of PNG and PGM, 32 of others
        return (0.0, 65535.0) if image.format in ("PNG", "PPM") else None
    if image.mode == "F":
        return 0.0, 1.0
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    return 0.0, 2.0 ** bits[0] - 1


def _check_upper_bits(image: Image.Image, range: Range | None) -> None:
    """Refuse 16 bits a colour, of which Pillow gives the upper 8, where those would not do."""
    if range not in (None, (0, 65535)):
        raise BcosError(
            "it has 16 bits a colour, of which the upper 8 are read, so that 65535 is white; write it with 8 bits, or "
            "as an array (H, W, 3) with numpy.save"
        )
    most = max(high for _, high in image.getextrema()[:3])  # type: ignore[misc] # reason: one pair a band
    if range is None and most <= 255 * _DARK:
        raise BcosError(
            f"its values end below {256 * (most + 1)}, nearly black where 65535 is white; if that is right, give "
            "--range 0:65535, or data.range"
        )


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
