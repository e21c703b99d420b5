"""Animated images and videos: every frame explained, for one class, on one scale."""

import builtins
import json
import struct
import zlib
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_cli.data import image_decoder
from bcos_cli.data.image_decoder import UnreadableImageError
from bcos_cli.explain import sheets
from bcos_cli.explain.files import explain_files
from bcos_cli.explain.frames import frames, is_clip
from bcos_cli.explain.image_files import find_images
from bcos_cli.explain.options import ClipOptions, PictureOptions
from bcos_cli.train.model import build
from bcos_core import BcosError, explain
from bcos_explain.render import symmetric_limit
from bcos_models import load_trained

CLASSES = ["rows", "columns", "corner"]
TIMES = [100, 40, 250, 100, 70]


@pytest.fixture
def run(recipe, tmp_path):
    trained = build(recipe(), CLASSES)
    trained.model(torch.rand(8, 2, 8, 8))
    trained.model.eval()
    trained.save(tmp_path / "run.safetensors")
    return "run.safetensors"


def stills(count=5, size=(8, 8), mode="L"):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, size[::-1]).astype(np.uint8)).convert(mode) for _ in range(count)]


@pytest.fixture
def clip(tmp_path):
    """Write an animation; lossless but for the colours of a GIF."""

    def write(name, images=None, times=TIMES):
        images = stills() if images is None else images
        options = {"lossless": True} if name.endswith("webp") else {}
        images[0].save(
            tmp_path / name, save_all=True, append_images=images[1:], duration=times[: len(images)], **options
        )
        return tmp_path / name

    return write


@pytest.fixture
def video(tmp_path):
    av = pytest.importorskip("av")

    def write(name="x.mp4", count=10, rate=10, codec="libx264"):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=rate)
            stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
            for i in range(count):
                frame = av.VideoFrame.from_image(Image.new("RGB", (32, 16), (20 * i, 90, 40)))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png"])
def test_frames_come_with_their_times(name, clip):
    path = clip(name)
    assert is_clip(path)
    found = list(frames(path))
    assert [f.milliseconds for f in found] == TIMES
    for frame, expected in zip(found, stills(), strict=True):
        np.testing.assert_array_equal(np.asarray(frame.image.convert("L")), np.asarray(expected))


@pytest.mark.parametrize("every", [1, 2, 3, 9])
def test_frames_that_are_left_out_lend_their_time(every, clip):
    found = list(frames(clip("x.gif"), every))
    assert [f.milliseconds for f in found] == [sum(TIMES[i : i + every]) for i in range(0, 5, every)]


def test_still_images_are_no_clips(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "x.gif")
    Image.new("L", (4, 4)).save(tmp_path / "x.tiff", save_all=True, append_images=[Image.new("L", (4, 4))])
    (tmp_path / "x.png").write_bytes(b"")
    assert not any(is_clip(tmp_path / name) for name in ("x.gif", "x.tiff", "x.png"))


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi", "x.mov"])
def test_videos_are_read(name, video):
    codec = "mpeg4" if name == "x.avi" else "libx264"
    path = video(name, codec=codec)
    assert is_clip(path)
    found = list(frames(path))
    assert len(found) == 10
    assert [f.milliseconds for f in found] == pytest.approx([100.0] * 10, abs=2)
    assert found[3].image.size == (32, 16)
    np.testing.assert_allclose(found[3].image.getpixel((5, 5)), (60, 90, 40), atol=12)


def test_video_without_pyav_is_one_clear_line(tmp_path, run, bcos, monkeypatch, clip):
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name == "av":
            raise ImportError(name)
        return real(name, *arguments, **more)

    (tmp_path / "x.mp4").write_bytes(b"anything")
    clip("y.gif")
    monkeypatch.setattr(builtins, "__import__", without)
    status, out, err = bcos("explain", run, "x.mp4", "y.gif", "--out", "out")
    assert status == 1
    assert "bcos: x.mp4: a video needs PyAV; install it with: pip install 'bcos-cli[video]'\n" in err
    assert "y.gif" in out


@pytest.mark.parametrize("content", [b"", b"no video at all", None])
def test_damaged_video_is_named(content, video, tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(video().read_bytes()[:900] if content is None else content)
    with pytest.raises(UnreadableImageError, match=r"cannot be read: (?!\[Errno)"):
        list(frames(path))


def test_damaged_clip_leaves_nothing_and_the_rest_goes_on(clip, run, tmp_path):
    path = clip("broken.gif", stills(5, (64, 64)))
    path.write_bytes(path.read_bytes()[:-5000])
    good = clip("good.gif")
    written = explain_files(run, find_images([path, good])[0], tmp_path / "out")
    assert [f.file for f in written.failures] == [str(path)]
    assert [e.file for e in written.explanations] == [str(good)]
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"good.gif", written.explanations[0].map, "explanations.json"}


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("format", ["gif", "webp"])
def test_every_frame_is_explained_for_the_class_of_the_whole_clip(batch_size, format, clip, run, tmp_path):
    path = clip("x.webp")
    out = tmp_path / "out"
    written = explain_files(run, find_images([path])[0], out, clips=ClipOptions(format=format), batch_size=batch_size)
    (explained,) = written.explanations
    trained = load_trained(run)
    images = torch.stack([torch.as_tensor(np.array(s))[None] for s in stills()])
    x = trained.encode(images)
    logits = trained.model(x).detach()
    k = int(logits.mean(0).argmax())
    assert explained.target_index == k
    e = explain(trained.model, x, k)
    maps = np.load(out / explained.map)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, e.map.numpy(), atol=1e-5)
    assert explained.scale["limit"] == pytest.approx(symmetric_limit(e.map), rel=1e-4)
    assert explained.logit == pytest.approx(float(logits[:, k].mean()), rel=1e-4)
    assert [f["duration_ms"] for f in explained.frames] == TIMES
    assert [f["start_ms"] for f in explained.frames] == [0, 100, 140, 390, 490]
    assert [f["logit"] for f in explained.frames] == pytest.approx(logits[:, k].tolist(), rel=1e-4)
    assert all(f["receipt"]["passed"] for f in explained.frames)
    with Image.open(out / explained.pictures["overview"]) as animation:
        assert animation.format == format.upper()
        assert animation.n_frames == 5
        shown = []
        for i in range(5):
            animation.seek(i)
            animation.load()
            shown.append(animation.info["duration"])
    assert shown == TIMES
    assert {p.name for p in out.iterdir()} == {explained.pictures["overview"], explained.map, "explanations.json"}


def test_several_classes_methods_and_layouts_of_a_clip(clip, run, tmp_path):
    options = PictureOptions(layouts=("side-by-side", "overlay", "separate"))
    given = {"top_k": 2, "contrasts": ["rows:columns"], "methods": ["bcos", "gradcam"], "pictures": options}
    written = explain_files(run, find_images([clip("x.gif", stills(3))])[0], tmp_path / "out", **given)
    first = written.explanations[0]
    assert first.pictures == {"overview": "x.gif", "overlay": "x.overlay.gif"}
    for explained in written.explanations:
        assert np.load(tmp_path / "out" / explained.map).shape == (3, 8, 8)
        assert (explained.receipt is not None) == (explained.method == "bcos")


def test_long_clips_are_cut_and_that_is_said(clip, run, tmp_path):
    path = clip("x.gif")
    whole = explain_files(run, find_images([path])[0], tmp_path / "a", clips=ClipOptions(max_frames=5)).explanations[0]
    cut = explain_files(
        run, find_images([path])[0], tmp_path / "b", clips=ClipOptions(max_frames=2, every=2)
    ).explanations[0]
    means = "numbers are means over frames; predicted is the class of the largest mean logit"
    assert (len(whole.frames), whole.notes) == (5, [means])
    assert len(cut.frames) == 2
    assert cut.notes == ["only the first 2 frames of the clip: --max-frames", means]
    assert whole.confidence == whole.probability


def test_frames_with_more_lines_below_them_than_others_make_an_animation(clip, run, tmp_path, monkeypatch):
    """As where bias is most of some frames' scores, which a line then says."""
    real, count = sheets._receipt_lines, iter(range(100))
    monkeypatch.setattr(
        sheets, "_receipt_lines", lambda explanations: [*real(explanations), *["more"] * (next(count) % 3)]
    )
    written = explain_files(run, find_images([clip("x.gif")])[0], tmp_path / "out")
    assert not written.failures
    with Image.open(tmp_path / "out" / written.explanations[0].pictures["overview"]) as animation:
        assert animation.n_frames == 5


def test_stills_and_clips_come_in_order(clip, run, tmp_path):
    names = ["a.png", "b.gif", "c.png", "d.gif"]
    for name in names:
        stills(1)[0].save(tmp_path / name) if name.endswith("png") else clip(name, stills(2))
    written = explain_files(run, find_images([tmp_path / name for name in names])[0], tmp_path / "out", batch_size=3)
    assert [e.file[-5:] for e in written.explanations] == names
    document = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert [e["frames"] is None for e in document["explanations"]] == [True, False, True, False]


def test_video_is_explained_from_the_command_line(video, run, bcos, tmp_path):
    video()
    status, _, err = bcos("explain", run, "x.mp4", "--out", "out", "--every", 4, "--animation", "webp", "--size", 32)
    assert status == 0, err
    with Image.open(tmp_path / "out" / "x.webp") as animation:
        assert animation.n_frames == 3


def test_options_of_clips_are_checked():
    with pytest.raises(BcosError, match="animation must be one of gif, webp, got 'mp4'"):
        ClipOptions(format="mp4")
    with pytest.raises(BcosError, match="max_frames and every must be at least 1, got 0 and 1"):
        ClipOptions(max_frames=0)


def test_frames_of_a_gif_are_not_counted_before_they_are_read(clip, monkeypatch):
    """A small file may hold millions of them."""
    path = clip("x.gif")
    monkeypatch.setattr(
        "PIL.GifImagePlugin.GifImageFile.n_frames", property(lambda _: pytest.fail("all frames were counted"))
    )
    assert is_clip(path)
    assert len(list(islice(frames(path), 2))) == 2
    assert len(list(frames(path))) == 5


def test_frames_that_are_promised_but_missing_are_an_error(clip):
    path = clip("x.png")
    data = path.read_bytes()
    start = data.index(b"acTL") + 4
    promised = data[:start] + struct.pack(">I", 9) + data[start + 4 :]
    path.write_bytes(
        promised[: start + 8] + struct.pack(">I", zlib.crc32(promised[start - 4 : start + 8])) + data[start + 12 :]
    )
    with pytest.raises(UnreadableImageError, match="cannot be read"):
        list(frames(path))


def test_size_of_frames_is_bounded(clip, video, monkeypatch):
    monkeypatch.setattr(image_decoder, "LARGEST", 32 * 16 - 1)
    for path in (clip("x.gif", stills(2, (32, 16))), video()):
        with pytest.raises(UnreadableImageError, match="too large: 32×16 pixels"):
            list(frames(path))


@pytest.mark.parametrize("kind", ["concat", "hls"])
def test_video_that_names_other_files_does_not_open_them(kind, video, tmp_path):
    """FFmpeg chooses by content what reads a file; lists of files are no videos of ours."""
    pytest.importorskip("av")
    other = video("other.mp4") if kind == "concat" else video("other.ts", codec="mpeg4")
    content = {
        "concat": f"ffconcat version 1.0\nfile {other.name}\n",
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other.name}\n#EXT-X-ENDLIST\n",
    }
    (tmp_path / "list.mp4").write_text(content[kind])
    with pytest.raises(UnreadableImageError, match="cannot be read"):
        list(frames(tmp_path / "list.mp4"))


def test_video_whose_name_looks_like_an_address_is_a_file(video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video().rename("concat:x.mp4")
    assert len(list(frames(Path("concat:x.mp4")))) == 10
