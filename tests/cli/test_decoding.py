"""Images are opened in one place: which decoders run, what they may take, and the quick one against Pillow."""

import io
import struct
import subprocess
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from torchvision.transforms import v2

from bcos_cli.config import Augment
from bcos_cli.data import image_decoder
from bcos_cli.data.augmentation import training_transform
from bcos_cli.data.image_decoder import FORMATS, UnreadableImageError, decode, opened, quick_decode
from bcos_cli.data.input_image import inference_transform
from bcos_cli.data.pixels import Pixels
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


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
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
    quick, usual = pixels(quick_decode(data, Pixels(channels))), pixels(decode(data, Pixels(channels)))
    assert quick.shape == usual.shape
    assert np.abs(quick - usual).mean() < 1.5
    assert np.abs(quick - usual).max() < 12


def test_orientation_is_applied(picture):
    assert pixels(quick_decode(oriented(picture), Pixels(3))).shape == (60, 40, 3)


@pytest.mark.parametrize("decoder", [decode, quick_decode])
@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"junk", lambda d: b"", lambda d: d[:40]])
def test_damaged_images_are_errors_not_grey_areas(decoder, damage, picture):
    with pytest.raises(UnreadableImageError):
        decoder(damage(encoded(picture, quality=95)), Pixels(3))


@pytest.mark.parametrize("channels", [1, 3])
def test_transforms_take_both(channels, picture):
    data = encoded(picture, quality=95)
    spec = InputSpec(size=16, channels=channels, resize=20)
    augment = Augment(random_resized_crop=(0.5, 1.0), horizontal_flip=0.5, random_erasing=0.5, trivial_augment=True)
    for steps in (inference_transform(spec), training_transform(spec, augment, None)):
        for decoder in (decode, quick_decode):
            torch.manual_seed(0)
            made = steps(decoder(data, Pixels(channels)))
            assert made.shape == (channels, 16, 16)
            assert made.dtype == torch.uint8
    plain = inference_transform(spec)
    difference = plain(decode(data, Pixels(channels))).int() - plain(quick_decode(data, Pixels(channels))).int()
    assert difference.abs().float().mean() < 2


CASES = Path(__file__).parents[3] / "shared" / "cases"
DECODERS = pytest.mark.parametrize("decoder", [decode, quick_decode])
ENDLESS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{ } loop\n"


def png_header(width, height):
    """A PNG that says how large it is and holds next to nothing."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg_header(data, width, height):
    """The same JPEG, whose header says that it has another size."""
    start = data.index(b"\xff\xc0")
    return data[: start + 5] + struct.pack(">HH", height, width) + data[start + 9 :]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_the_list_is_read(name, picture):
    if name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    data = npy(np.asarray(picture)) if name == "NPY" else encoded(picture, name)
    for decoder in (decode, quick_decode):
        assert pixels(decoder(data, Pixels(3))).shape == (40, 60, 3)
        assert pixels(decoder(data, Pixels(1))).shape == (40, 60, 1)


@DECODERS
@pytest.mark.filterwarnings("ignore:.*image format is deprecated:DeprecationWarning")  # of newer Pillows
@pytest.mark.parametrize("name", ["EPS", "ICO", "TGA", "PCX", "SGI", "DDS", "IM", "JPEG2000", "PDF"])
def test_no_other_decoder_ever_runs_whatever_pillow_knows(name, decoder, picture, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    data = ENDLESS if name == "EPS" else encoded(picture, name)
    with pytest.raises(UnreadableImageError, match=r"this is no image, or of another format; JPEG, PNG, .* are read"):
        decoder(data, Pixels(3))


@DECODERS
@pytest.mark.parametrize(
    "raised",
    [
        RuntimeError("Invalid grid"),
        MemoryError(),
        subprocess.CalledProcessError(1, "gs"),
        RecursionError(),
        KeyError(1),
    ],
    ids=lambda raised: type(raised).__name__,
)
def test_whatever_a_decoder_raises_is_an_unreadable_image(raised, decoder, picture, monkeypatch):
    def fail(_):
        raise raised

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(UnreadableImageError, match=r"^cannot be read: (?!$)"):
        decoder(encoded(picture, "PNG"), Pixels(3))


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")
@pytest.mark.parametrize("name", ["broken-plane.avif", "eps-endless-loop.jpg"])
def test_cases_are_unreadable_images(name):
    for decoder in (decode, quick_decode):
        with pytest.raises(UnreadableImageError, match=r"^cannot be read: "):
            decoder((CASES / name).read_bytes(), Pixels(3))


@DECODERS
def test_size_is_bounded_before_anything_is_decoded(decoder, picture, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    monkeypatch.setattr("torchvision.io.decode_image", lambda *_, **__: pytest.fail("decoded"))
    for data in (png_header(16_385, 16_384), jpeg_header(encoded(picture), 65_000, 65_000)):
        with pytest.raises(
            UnreadableImageError, match=r"too large: \d+×\d+ pixels, at most 268 megapixels are decoded"
        ):
            decoder(data, Pixels(3))


def test_file_is_bounded_before_it_is_read(tmp_path, monkeypatch):
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    monkeypatch.setattr(image_decoder, "MOST_BYTES", 10)
    with pytest.raises(UnreadableImageError, match="too large: a file of"), opened(tmp_path / "x.png"):
        pass


def test_pillows_own_limit_is_neither_asked_nor_changed(picture, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # would be an error, and a warning below twice of it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encoded(picture, "PNG"), Pixels(3)).size == (60, 40)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_image_without_pixels_is_unreadable():
    for size in ((0, 5), (5, 0), (0, 0)):
        with pytest.raises(UnreadableImageError, match="cannot be read"):
            decode(png_header(*size), Pixels(3))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_long_strip_is_cut_before_its_shorter_side_is_resized(as_tensor, turned, monkeypatch):
    """Of 1×60,000 pixels, 256×15,360,000 would be made."""
    sizes = []
    resize = v2.Resize.forward
    monkeypatch.setattr(v2.Resize, "forward", lambda s, i: sizes.append(v2.functional.get_size(i)) or resize(s, i))
    steps = inference_transform(InputSpec(size=224, resize=256))
    image = Image.new("RGB", (60_000, 1) if turned else (1, 60_000), (9, 90, 200))
    made = steps(v2.functional.pil_to_tensor(image)) if as_tensor else steps(image)
    assert made.shape == (3, 224, 224)
    assert made.flatten(1).float().mean(1).tolist() == [9, 90, 200]
    assert sizes == [[1, 16] if turned else [16, 1]]


def text_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@DECODERS
@pytest.mark.parametrize("place", [33, -12], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize(
    "chunks",
    [
        text_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))),
        text_chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 2**21)),
        80 * text_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6))),
    ],
    ids=["one", "international", "many"],
)
def test_texts_of_a_png_do_not_matter(chunks, place, decoder, picture):
    data = encoded(picture, "PNG")
    place = place % len(data)
    np.testing.assert_array_equal(pixels(decoder(data[:place] + chunks + data[place:], Pixels())), pixels(picture))


def test_text_of_a_png_that_turns_it_is_read(picture):
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="6"/>'.ljust(5000)
    data = encoded(picture, "PNG")
    assert decode(data[:33] + text_chunk(b"iTXt", xmp) + data[33:], Pixels()).size == (40, 60)


@DECODERS
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_that_was_cut_off_is_read_where_that_is_allowed(progressive, decoder, monkeypatch):
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    data = encoded(image, quality=90, progressive=progressive)
    half = data[: len(data) // 2]
    with pytest.raises(UnreadableImageError, match=r"cut off: .*; --allow-truncated, or data.truncated=allow"):
        decoder(half, Pixels())
    read, whole = (pixels(decoder(d, Pixels(truncated=True))) for d in (half, data))
    assert read.shape == whole.shape == (64, 64, 3)
    if not progressive:
        np.testing.assert_array_equal(read[:8], whole[:8])
        assert read[-8:].max() == 0
    with pytest.raises(UnreadableImageError):
        decoder(data[:40], Pixels(truncated=True))
    with pytest.raises(UnreadableImageError):  # and no other format
        decoder(encoded(image, "PNG")[:2000], Pixels(truncated=True))


@pytest.mark.parametrize(
    "damaged",
    [
        npy(np.zeros((4, 4), np.uint8))[:-1],
        npy(np.zeros((4, 4), np.uint8)).replace(b"(4, 4)", b"(4,1e9)"),
        npy(np.zeros((4, 4), np.uint8)).replace(b"(4, 4)", b"(4, 9)"),
        npy(np.array([[None, {}]], dtype=object)),
        npy(np.zeros((4, 4), "U3")),
        npy(np.zeros(4, np.uint8)),
        npy(np.zeros((0, 4), np.uint8)),
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x09junk",
    ],
)
def test_damaged_or_other_array_is_unreadable(damaged):
    with pytest.raises(UnreadableImageError):
        decode(damaged, Pixels())


def test_array_is_bounded_in_size(monkeypatch):
    monkeypatch.setattr(image_decoder, "LARGEST", 15)
    with pytest.raises(UnreadableImageError, match="too large: 4×4 pixels"):
        decode(npy(np.zeros((4, 4, 5), np.uint8)), Pixels(5))
