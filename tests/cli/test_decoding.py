"""The quick decoder against Pillow."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_cli.config import Augment
from bcos_cli.data.decoding import UNREADABLE, decode, quick_decode
from bcos_cli.data.transforms import inference_transform, training_transform
from bcos_models import InputSpec

ROTATED = 6
"""EXIF: to be turned by 90 degrees clockwise."""


@pytest.fixture(scope="module")
def picture():
    y, x = np.mgrid[:40, :60]
    return Image.fromarray(np.stack([4 * x, 6 * y, 2 * (x + y)], -1).astype(np.uint8))


def encoded(image, form="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(image):
    array = image.permute(1, 2, 0).numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    return array.reshape(*array.shape[:2], -1).astype(int)


def oriented(image):
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    return encoded(image, quality=95, exif=exif)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda image: encoded(image, quality=95),
        lambda image: encoded(image, quality=95, progressive=True),
        lambda image: encoded(image, quality=95, subsampling=0),
        lambda image: encoded(image.convert("L"), quality=95),
        oriented,
        lambda image: encoded(image.convert("CMYK"), quality=95),
        lambda image: encoded(image, "PNG"),
        lambda image: encoded(image.convert("RGBA"), "PNG"),
        lambda image: encoded(image.convert("P"), "GIF"),
    ],
    ids=["baseline", "progressive", "full colour", "greyscale", "EXIF", "CMYK", "PNG", "RGBA", "GIF"],
)
def test_quick_decoder_gives_what_pillow_gives_up_to_rounding(make, channels, picture):
    data = make(picture)
    quick, usual = pixels(quick_decode(data, channels)), pixels(decode(data, channels))
    assert quick.shape == usual.shape
    assert np.abs(quick - usual).mean() < 1.5
    assert np.abs(quick - usual).max() < 12


def test_orientation_is_applied(picture):
    assert pixels(quick_decode(oriented(picture), 3)).shape == (60, 40, 3)


@pytest.mark.parametrize("decoder", [decode, quick_decode])
@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"junk", lambda d: b"", lambda d: d[:40]])
def test_damaged_images_are_errors_not_grey_areas(decoder, damage, picture):
    with pytest.raises(UNREADABLE):
        decoder(damage(encoded(picture, quality=95)), 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_transforms_take_both(channels, picture):
    data = encoded(picture, quality=95)
    spec = InputSpec(size=16, channels=channels, resize=20)
    augment = Augment(random_resized_crop=(0.5, 1.0), horizontal_flip=0.5, random_erasing=0.5, trivial_augment=True)
    for steps in (inference_transform(spec), training_transform(spec, augment, None)):
        for decoder in (decode, quick_decode):
            torch.manual_seed(0)
            made = steps(decoder(data, channels))
            assert made.shape == (channels, 16, 16)
            assert made.dtype == torch.uint8
    plain = inference_transform(spec)
    difference = plain(decode(data, channels)).int() - plain(quick_decode(data, channels)).int()
    assert difference.abs().float().mean() < 2
