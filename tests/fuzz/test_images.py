"""Images of every format that is read, damaged."""

import io

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from mutations import damaged
from PIL import Image, features

from bcos_cli.data import image_decoder
from bcos_cli.data.image_decoder import FORMATS, decode, quick_decode
from bcos_cli.data.input_image import read_image
from bcos_cli.data.pixels import Pixels
from bcos_models import InputSpec

KINDS = {
    "JPEG": [("RGB", {}), ("L", {"progressive": True}), ("CMYK", {}), ("RGB", {"dpi": (72, 72)})],
    "PNG": [("RGB", {}), ("P", {"transparency": 0}), ("RGBA", {}), ("I;16", {}), ("1", {}), ("LA", {})],
    "WebP": [("RGB", {}), ("RGBA", {"lossless": True})],
    "BMP": [("RGB", {}), ("P", {}), ("1", {})],
    "GIF": [("P", {"transparency": 0}), ("L", {})],
    "TIFF": [
        *(("RGB", {}), ("I;16", {}), ("F", {}), ("RGB", {"compression": "tiff_lzw"})),
        *(
            ("CMYK", {"compression": "jpeg"}),
            ("1", {"compression": "group4"}),
            ("RGBA", {"compression": "tiff_deflate"}),
        ),
    ],
    "PPM": [("RGB", {}), ("L", {}), ("1", {})],
    "AVIF": [("RGB", {}), ("RGBA", {})],
    "NPY": [("RGB", {}), ("L", {}), ("F", {})],
}
SPECS = [InputSpec(size=8, resize=10), InputSpec(size=8), InputSpec(size=8, channels=1)]


def encoded(format):
    """A few small images of a format."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    files = []
    for mode, options in KINDS[format]:
        image = Image.radial_gradient("L").resize((12, 9))
        if mode in ("I;16", "F"):
            image = image.convert("I" if mode == "I;16" else "F").point(
                lambda v, full=mode == "I;16": v * (257 if full else 1 / 255)
            )
        image = image.convert(mode)
        stream = io.BytesIO()
        if format == "NPY":
            np.save(stream, np.asarray(image))
            files.append(stream.getvalue())
            continue
        extra = {"exif": exif} if format in ("JPEG", "PNG", "WebP", "AVIF") else {}
        image.save(stream, format, **options, **extra)
        files.append(stream.getvalue())
    return files


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A bound on pixels at which one image takes little time."""
    monkeypatch.setattr(image_decoder, "LARGEST", 2**22)


@pytest.mark.parametrize("format", FORMATS)
def test_an_image_is_decoded_or_refused_in_one_line(fuzz, folder, format):
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    valid = encoded(format)

    def read(choice):
        content, way = choice
        if way < len(SPECS):
            path = folder / "image.png"  # its name says nothing
            path.write_bytes(content)
            assert read_image(path, SPECS[way]).pixels.dtype == torch.uint8
        else:
            (decode if way % 2 else quick_decode)(content, Pixels(1 if way < 5 else 3, truncated=way > 3))

    for content in valid:
        read((content, 0))
    fuzz(read, st.tuples(damaged(valid), st.integers(0, 6)), examples=60)
