import numpy as np
import pytest
import torch
from PIL import Image

from bcos_cli.data import image_decoder, input_image
from bcos_cli.data.image_decoder import UnreadableImageError
from bcos_cli.data.input_image import read_image
from bcos_models import InputSpec, transforms

SPEC = InputSpec(size=4, resize=None)
QUADRANTS = np.array([[0, 80], [160, 240]], np.uint8).repeat(2, 0).repeat(2, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_turned_upright(orientation, tmp_path):
    upright = Image.fromarray(QUADRANTS).convert("RGB")
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", SPEC).pixels[0].numpy(), QUADRANTS)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(mode, tmp_path):
    image = Image.fromarray(QUADRANTS).convert(mode)
    alpha = Image.fromarray(np.where(QUADRANTS == 80, 0, 255).astype(np.uint8))
    image.putalpha(alpha)
    image.save(tmp_path / "x.png")
    expected = np.where(QUADRANTS == 80, 255, QUADRANTS)
    for channels in (1, 3):
        x = read_image(tmp_path / "x.png", InputSpec(size=4, resize=None, channels=channels)).pixels
        assert x.shape == (channels, 4, 4)
        assert x.dtype == torch.uint8
        np.testing.assert_array_equal(x[-1].numpy(), expected)


def test_transparent_colour_of_a_palette_is_white(tmp_path):
    image = Image.fromarray(QUADRANTS).convert("P")
    pixel = image.getpixel((3, 0))
    image.save(tmp_path / "x.gif", transparency=pixel)
    x = read_image(tmp_path / "x.gif", SPEC).pixels
    assert (x[:, :2, 2:] == 255).all()
    assert (x[:, :2, :2] < 10).all()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b"not an image", "this is no image, or of another format; JPEG, .* are read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(9), "cannot be read: a damaged PNG"),
    ],
)
def test_damaged_file_says_why(content, why, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=why):
        read_image(tmp_path / "x.png", SPEC)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tiff", "bmp"])
def test_truncated_file_is_an_error_of_ours_whatever_the_decoder_raises(share, suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    Image.effect_noise((40, 40), 90).convert("RGB").save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnreadableImageError):
        read_image(path, SPEC)


def test_file_that_may_not_be_read_is_named_as_such(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "x.png").touch()
    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(UnreadableImageError, match="may not be read: permission denied"):
        read_image(tmp_path / "x.png", SPEC)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda image: image.convert("CMYK"), "converted from CMYK to RGB"),
        (lambda image: image, None),
    ],
    ids=["cmyk", "rgb"],
)
def test_what_is_done_to_an_image_is_noted(change, note, tmp_path):
    change(Image.fromarray(QUADRANTS).convert("RGB")).save(tmp_path / "x.jpg", quality=100)
    loaded = read_image(tmp_path / "x.jpg", SPEC)
    assert loaded.notes == (() if note is None else (note,))
    assert loaded.size == (4, 4)
    np.testing.assert_allclose(loaded.pixels[0].numpy().astype(int), QUADRANTS, atol=6)


def test_transparency_and_orientation_are_noted(tmp_path):
    image = Image.fromarray(QUADRANTS).convert("RGB").resize((8, 6))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.putalpha(100)
    image.save(tmp_path / "x.png", exif=exif)
    loaded = read_image(tmp_path / "x.png", SPEC)
    assert loaded.size == (6, 8)
    assert loaded.notes == (
        "turned upright, as its EXIF orientation says",
        "transparent parts laid on white, as in training",
        "squeezed to a square",
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_image_gives_what_the_network_sees(mode, tmp_path):
    deep = Image.fromarray(QUADRANTS.astype(np.uint16) * 257)
    image = deep if mode == "I;16" else Image.fromarray(QUADRANTS).convert("RGB").convert(mode)
    path = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    image.save(path)
    for channels in (1, 3):
        x = read_image(path, InputSpec(size=4, resize=None, channels=channels)).pixels
        assert x.shape == (channels, 4, 4)
        if mode not in ("1", "P"):
            np.testing.assert_allclose(x[0].numpy().astype(int), QUADRANTS, atol=3)


def test_image_of_one_pixel_and_long_strips_are_seen(tmp_path):
    spec = InputSpec(size=8, resize=9)
    Image.new("RGB", (1, 1), (9, 90, 200)).save(tmp_path / "one.png")
    one = read_image(tmp_path / "one.png", spec)
    assert one.pixels.flatten(1).float().mean(1).tolist() == [9, 90, 200]
    assert one.notes == ()
    Image.new("RGB", (100_000, 1), (9, 90, 200)).save(tmp_path / "strip.png")
    strip = read_image(tmp_path / "strip.png", spec)
    assert strip.pixels.shape == (3, 8, 8)
    assert strip.size == (100_000, 1)
    assert strip.notes == ("only its middle 1×1 is seen, 0.001 % of it",)


def test_middle_of_a_strip_is_what_the_crop_would_have_shown(tmp_path, monkeypatch):
    spec = InputSpec(size=8, resize=8)
    Image.effect_noise((400, 10), 90).save(tmp_path / "x.png")
    seen = read_image(tmp_path / "x.png", spec).pixels
    monkeypatch.setattr(transforms, "LONGEST", 1000)
    np.testing.assert_allclose(seen.float(), read_image(tmp_path / "x.png", spec).pixels.float(), atol=1)


def test_image_beyond_the_limit_is_refused_and_below_it_pillows_own_limit_does_not_matter(tmp_path, monkeypatch):
    Image.new("L", (50, 40)).save(tmp_path / "x.png")
    monkeypatch.setattr(image_decoder, "LARGEST", 1999)
    with pytest.raises(UnreadableImageError, match="too large: 50×40 pixels, at most 0 megapixels are decoded"):
        read_image(tmp_path / "x.png", SPEC)
    monkeypatch.setattr(image_decoder, "LARGEST", 2000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1001)  # would be a warning, which is an error here
    assert read_image(tmp_path / "x.png", SPEC).pixels.shape == (3, 4, 4)
    assert Image.MAX_IMAGE_PIXELS == 1001


def test_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path, monkeypatch):
    gradient = Image.linear_gradient("L").resize((900, 700)).convert("RGB")
    gradient.save(tmp_path / "x.jpg", quality=95)
    spec = InputSpec(size=20, resize=24)
    whole = read_image(tmp_path / "x.jpg", spec).pixels
    monkeypatch.setattr(input_image, "_DRAFT_FROM", 1000)
    sizes = []
    decode = input_image.as_channels
    monkeypatch.setattr(input_image, "as_channels", lambda image, c: sizes.append(image.size) or decode(image, c))
    loaded = read_image(tmp_path / "x.jpg", spec)
    assert sizes == [(225, 175)]
    np.testing.assert_allclose(loaded.pixels.float(), whole.float(), atol=3)


def test_image_of_16_bits_is_not_cut_off(tmp_path):
    Image.fromarray(QUADRANTS.astype(np.uint16) * 257).save(tmp_path / "x.png")
    np.testing.assert_allclose(read_image(tmp_path / "x.png", SPEC).pixels[0].numpy().astype(int), QUADRANTS, atol=1)


@pytest.mark.parametrize(
    ("size", "resize", "note"),
    [
        ((640, 480), 256, "only its middle 420×420 is seen, 57 % of it"),
        ((256, 256), 256, "only its middle 224×224 is seen, 77 % of it"),
        ((3000, 1000), 224, "only its middle 1,000×1,000 is seen, 33 % of it"),
        ((224, 224), 224, None),
        ((300, 200), None, "squeezed to a square"),
        ((300, 300), None, None),
    ],
)
def test_what_a_crop_leaves_out_is_noted(size, resize, note, tmp_path):
    Image.new("L", size).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", InputSpec(size=224, resize=resize)).notes == ((note,) if note else ())


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png", "x.tiff"])
def test_first_frame_or_page_is_noted(name, tmp_path):
    first, *others = [Image.new("L", (4, 4), value) for value in (10, 200)]
    first.save(tmp_path / name, save_all=True, append_images=others)
    assert read_image(tmp_path / name, SPEC).notes == ("the first of several frames or pages",)
