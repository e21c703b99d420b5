"""Images as a person sees them."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from bcos_models.images import as_seen, orientation

TURN = Image.Transpose.ROTATE_270
PIXELS = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40


def with_exif(exif):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", exif=exif)
    return Image.open(buffer)


def exif(*entries, first=8):
    """EXIF of (tag, type, count, four bytes) alone."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", first, len(entries)) + body + bytes(4)


SIX = (0x0112, 3, 1, b"\6\0\0\0")


def test_entries_of_unusual_types_do_not_matter():
    image = with_exif(exif(SIX, (0x011A, 2, 4, b"72\0\0")))  # XResolution as text
    assert orientation(image) == TURN
    np.testing.assert_array_equal(np.asarray(as_seen(image, 1)), np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    "damaged",
    [b"Exif\0\0junk junk", b"Exif\0\0", exif(SIX, first=4000), exif((0x0112, 2, 4, b"six\0")), exif(SIX)[:20]],
)
def test_damaged_exif_says_nothing_and_the_pixels_are_seen(damaged, recwarn):
    image = with_exif(damaged)
    with np.errstate():
        np.testing.assert_array_equal(np.asarray(as_seen(image, 1)), PIXELS)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_image_that_was_turned_is_not_turned_again(form):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, form, exif=exif(SIX))
    once = as_seen(Image.open(buffer), 1)
    assert once.size == (2, 3)
    assert as_seen(once, 1).tobytes() == once.tobytes()


def test_image_that_is_given_stays_as_it_is():
    image = with_exif(exif(SIX))
    as_seen(image, 3)
    assert (image.size, image.mode) == ((3, 2), "L")
    assert orientation(image) == TURN
