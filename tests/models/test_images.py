"""Images as a person sees them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from bcos_core import BcosError
from bcos_models.images import as_seen, eight_bits, orientation, usual_range

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


def test_jpeg_with_a_resolution_as_text_is_turned():
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", exif=exif(SIX, (0x011A, 2, 4, b"72\0\0")))
    assert as_seen(Image.open(buffer), 1).size == (2, 3)


def stored(values, form="TIFF", **options):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, form, **options)
    return Image.open(buffer)


RAMP = np.linspace(0, 1, 12).reshape(3, 4)
IN_EIGHT_BITS = np.floor(255 * RAMP + 0.5)


@pytest.mark.parametrize(
    ("image", "range"),
    [
        (stored(RAMP.astype(np.float32)), None),
        (stored((255 * RAMP).astype(np.float32)), (0, 255)),
        (stored((4095 * RAMP).astype(np.uint16)), (0, 4095)),
        (stored((4095 * RAMP).astype(np.uint16), "PNG"), (0, 4095)),
        (stored((65535 * RAMP).astype(np.uint16), "PNG"), None),
        (stored((65535 * RAMP).astype(np.uint16), "PPM"), None),
        (stored((65535 * RAMP).astype(np.uint16)), None),
        (stored(np.rint(255 * RAMP).astype(np.int32)), (0, 255)),
        (stored(np.rint(3000 * RAMP - 1000).astype(np.int32)), (-1000, 2000)),
        (stored(np.rint(65535 * (1 - RAMP)).astype(np.uint16)), (65535, 0)),
        (stored(np.rint(255 * RAMP).astype(np.uint8)), (0, 4095)),  # 8 bits are as they are
    ],
)
def test_black_and_white_become_the_ends_of_8_bits(image, range):
    for channels in (1, 3):
        seen = np.asarray(as_seen(image, channels, range)).reshape(3, 4, channels)
        np.testing.assert_allclose(seen, np.repeat(IN_EIGHT_BITS[..., None], channels, -1), atol=1)
        assert (seen.min(), seen.max()) == (0, 255)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            stored((255 * RAMP).astype(np.float32)),
            "from 0 to 255, not from 0 to 1, and nothing says .* --range BLACK:WHITE",
        ),
        (stored(np.rint(255 * RAMP).astype(np.int32)), "its values go from 0 to 255, and nothing says which are black"),
        (
            Image.fromarray((4095 * RAMP).astype(np.uint16)),
            "end at 4095, nearly black where 65535 is white; .* 0:65535",
        ),
        (stored((4095 * RAMP).astype(np.uint16), "PNG"), "nearly black where 65535 is white"),
        (stored((0.05 * RAMP).astype(np.float32)), "nearly black where 1 is white"),
        (stored((0.1 - RAMP).astype(np.float32)), "not from 0 to 1"),
        (stored(np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32)), "infinite or not a number"),
        (stored(np.where(RAMP > 0.5, np.inf, RAMP).astype(np.float32)), "infinite or not a number"),
    ],
)
def test_values_of_which_none_is_known_to_be_white_are_refused_never_black(image, message):
    with pytest.raises(BcosError, match=message):
        as_seen(image, 1)


def test_range_that_is_given_is_taken_even_if_the_image_is_dark_and_black_stays_black():
    dark = (4095 * RAMP).astype(np.uint16)
    assert np.asarray(as_seen(Image.fromarray(dark), 1, (0, 65535))).max() == 16
    for black in (np.zeros((3, 4), np.uint16), np.zeros((3, 4), np.float32)):
        assert np.asarray(as_seen(Image.fromarray(black), 1)).max() == 0


def test_twelve_bits_of_a_tiff_that_says_so_need_no_range():
    image = stored((4095 * RAMP).astype(np.uint16))
    image.tag_v2._tags_v2[258] = (12,)
    np.testing.assert_allclose(np.asarray(as_seen(image, 1)), IN_EIGHT_BITS, atol=1)


def deep_colour(values):
    """A PNG of 16 bits a colour, which Pillow does not write."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return Image.open(
        io.BytesIO(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    )


def test_sixteen_bits_a_colour_are_read_where_65535_is_white_and_refused_elsewhere():
    colours = np.stack([RAMP, RAMP / 2, 1 - RAMP], -1)
    bright, dark = (deep_colour(np.rint(most * colours)) for most in (65535, 4095))
    np.testing.assert_allclose(np.asarray(as_seen(bright, 3)), 255 * colours, atol=1)
    with pytest.raises(BcosError, match=r"nearly black where 65535 is white; .* --range 0:65535"):
        as_seen(dark, 3)
    dark = deep_colour(np.rint(4095 * colours))
    with pytest.raises(BcosError, match=r"upper 8 are read, .*numpy.save"):
        as_seen(dark, 3, (0, 4095))
    dark = deep_colour(np.rint(4095 * colours))
    assert np.asarray(as_seen(dark, 3, (0, 65535))).max() == 15


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, bool, np.int32, np.int8])
def test_eight_bits_are_those_of_the_formula(dtype):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 100, (5, 4, 3)).astype(dtype)
    black, white = (0.0, 255.0) if dtype is np.uint8 else (2.0, 61.0)
    expected = [
        min(max(int(np.floor(255 * (float(v) - black) / (white - black) + 0.5)), 0), 255)
        for v in values.ravel().tolist()
    ]
    np.testing.assert_array_equal(eight_bits(values, (black, white)).ravel(), expected)


def test_usual_range_is_that_of_the_type():
    assert usual_range(np.dtype("u2")) == usual_range(np.dtype(">u2")) == (0, 65535)
    assert usual_range(np.dtype("f8")) == usual_range(np.dtype("?")) == (0, 1)
    assert usual_range(np.dtype("i2")) is usual_range(np.dtype("u4")) is None
