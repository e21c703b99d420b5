import numpy as np
import pytest
from PIL import Image

from bcos_core import BcosError
from bcos_explain.render import animation


def frames(count, mode="RGB", size=(20, 12)):
    """Few, clear colours: a bar that moves over a field that changes."""
    made = []
    for i in range(count):
        image = Image.new(mode, size, (40 * i % 256, 90, 200, 255)[: len(mode)])
        image.paste((255, 0, 0, 255)[: len(mode)], (i, 0, i + 3, size[1]))
        made.append(image)
    return made


def read(path):
    with Image.open(path) as image:
        shown = []
        for i in range(image.n_frames):
            image.seek(i)
            image.load()
            shown.append((image.convert("RGBA"), image.info["duration"]))
        return shown, image.info.get("loop")


def write(path, format, images, times):
    with animation(path, format) as writer:
        for image, time in zip(images, times, strict=True):
            writer.add(image, time)


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_frames_and_times_are_kept(format, tmp_path):
    images, times = frames(5), [100, 40, 250, 100, 70]
    write(tmp_path / f"new/x.{format}", format, images, times)
    shown, loop = read(tmp_path / f"new/x.{format}")
    assert loop == 0  # for ever
    assert [t for _, t in shown] == times
    for (image, _), expected in zip(shown, images, strict=True):
        difference = np.abs(np.asarray(image)[..., :3].astype(int) - np.asarray(expected).astype(int))
        assert difference.max() <= (0 if format == "webp" else 8)
    assert [p.name for p in (tmp_path / "new").iterdir()] == [f"x.{format}"]


def test_page_of_a_gif_has_its_exact_colour(tmp_path):
    image = Image.new("RGB", (60, 60), (255, 255, 255))
    image.paste(Image.effect_noise((40, 40), 90).convert("RGB"), (10, 10))
    write(tmp_path / "x.gif", "gif", [image], [100])
    with Image.open(tmp_path / "x.gif") as read_again:
        assert read_again.convert("RGB").getpixel((3, 50)) == (255, 255, 255)


def test_times_that_a_gif_cannot_tell_add_up(tmp_path):
    write(tmp_path / "x.gif", "gif", frames(24), [1000 / 24] * 24)
    shown, _ = read(tmp_path / "x.gif")
    assert {t for _, t in shown} == {40, 50}
    assert sum(t for _, t in shown) == 1000


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_transparent_frames_do_not_show_earlier_ones(format, tmp_path):
    images = [Image.new("RGBA", (8, 8), (0, 0, 0, 0)) for _ in range(2)]
    images[0].paste((255, 0, 0, 255), (0, 0, 4, 8))
    images[1].paste((0, 0, 255, 255), (4, 0, 8, 8))
    write(tmp_path / f"x.{format}", format, images, [100, 100])
    shown, _ = read(tmp_path / f"x.{format}")
    second = np.asarray(shown[1][0])
    assert (second[:, :4, 3] == 0).all()
    np.testing.assert_allclose(second[:, 4:], np.broadcast_to([0, 0, 255, 255], (8, 4, 4)), atol=8)


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_one_frame_is_an_animation_too(format, tmp_path):
    write(tmp_path / f"x.{format}", format, frames(1), [100])
    with Image.open(tmp_path / f"x.{format}") as image:
        image.load()
        assert image.size == (20, 12)


def test_odd_sizes_are_padded_as_the_container_wants(tmp_path):
    """Chunks of an odd length are followed by a byte that does not count."""
    images = [Image.effect_noise((7 + 0 * i, 5), 90).convert("RGB") for i in range(6)]
    write(tmp_path / "x.webp", "webp", images, [50] * 6)
    shown, _ = read(tmp_path / "x.webp")
    for (image, _), expected in zip(shown, images, strict=True):
        np.testing.assert_array_equal(np.asarray(image)[..., :3], np.asarray(expected))
    data = (tmp_path / "x.webp").read_bytes()
    assert int.from_bytes(data[4:8], "little") == len(data) - 8


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_an_error_leaves_the_old_file(format, tmp_path):
    path = tmp_path / f"x.{format}"
    path.write_bytes(b"old")
    with pytest.raises(BcosError, match=r"as large as the first, \(20, 12\), got \(4, 4\)"):
        write(path, format, [*frames(1), Image.new("RGB", (4, 4))], [100, 100])
    with pytest.raises(BcosError, match="at least one frame"):
        write(path, format, [], [])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(BcosError, match="animations can be gif, webp, got 'mp4'"):
        write(tmp_path / "x.mp4", "mp4", frames(1), [100])
