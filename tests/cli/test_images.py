import numpy as np
import pytest
import torch
from PIL import Image

from bcos_cli.images import find_images, load_image
from bcos_core import BcosError
from bcos_models import InputSpec

SPEC = InputSpec(size=4, resize=None)
QUADRANTS = np.array([[0, 80], [160, 240]], np.uint8).repeat(2, 0).repeat(2, 1)


def test_folders_are_searched_and_files_taken_as_they_are(make_tree, tmp_path):
    root = make_tree({"b.png": None, "a/x.JPG.png": None, "a/notes.txt": b"x", "c.dat": b"x"})
    found = find_images([root / "c.dat", root])
    assert [f.path.relative_to(root).as_posix() for f in found] == ["c.dat", "a/x.JPG.png", "b.png"]


def test_file_named_twice_is_taken_once(make_tree):
    root = make_tree(["a/x.png", "a/y.png"])
    assert len(find_images([root / "a" / "x.png", root / "a", root])) == 2


@pytest.mark.parametrize(
    "paths",
    [
        ["a/x.png", "b/x.png", "c/x.png"],
        ["x.png", "x.jpg"],
        ["a/x.png", "b/x.png", "c/x-2.png"],
        ["a/x-2.png", "b/x.png", "c/x.png"],
    ],
    ids=str,
)
def test_names_are_unique(paths, make_tree):
    root = make_tree(paths)
    names = [f.name for f in find_images([root / p for p in paths])]
    assert len(set(names)) == len(paths)
    assert names[0] == (root / paths[0]).stem


def test_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BcosError, match=r"there is no image or folder 'nope.png'; give files or folders of images"):
        find_images([tmp_path.relative_to(tmp_path) / "nope.png"])


def test_folder_without_images_is_named(make_tree):
    with pytest.raises(BcosError, match=r"no images in .*tree; images end in \.jpg, "):
        find_images([make_tree({"a.txt": b"x"})])


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
    np.testing.assert_array_equal(load_image(tmp_path / "x.png", SPEC)[0].numpy(), QUADRANTS)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(mode, tmp_path):
    image = Image.fromarray(QUADRANTS).convert(mode)
    alpha = Image.fromarray(np.where(QUADRANTS == 80, 0, 255).astype(np.uint8))
    image.putalpha(alpha)
    image.save(tmp_path / "x.png")
    expected = np.where(QUADRANTS == 80, 255, QUADRANTS)
    for channels in (1, 3):
        x = load_image(tmp_path / "x.png", InputSpec(size=4, resize=None, channels=channels))
        assert x.shape == (channels, 4, 4)
        assert x.dtype == torch.uint8
        np.testing.assert_array_equal(x[-1].numpy(), expected)


def test_transparent_colour_of_a_palette_is_white(tmp_path):
    image = Image.fromarray(QUADRANTS).convert("P")
    pixel = image.getpixel((3, 0))
    image.save(tmp_path / "x.gif", transparency=pixel)
    x = load_image(tmp_path / "x.gif", SPEC)
    assert (x[:, :2, 2:] == 255).all()
    assert (x[:, :2, :2] < 10).all()


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(9)])
def test_damaged_file_is_an_os_error(content, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises((OSError, SyntaxError)):
        load_image(tmp_path / "x.png", SPEC)


def test_image_of_16_bits_is_not_cut_off(tmp_path):
    Image.fromarray(QUADRANTS.astype(np.uint16) * 257).save(tmp_path / "x.png")
    np.testing.assert_allclose(load_image(tmp_path / "x.png", SPEC)[0].numpy().astype(int), QUADRANTS, atol=1)
