"""One rule for pixels: packing, loading, training, explaining and the checks read the same values, or refuse them."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from bcos_cli.config.network import load_network
from bcos_cli.data.augmentation import BytesTransform
from bcos_cli.data.image_decoder import UnreadableImageError, decode, quick_decode
from bcos_cli.data.index import load_index
from bcos_cli.data.input_image import inference_transform, read_image
from bcos_cli.data.loader import images_at
from bcos_cli.data.pack import pack
from bcos_cli.data.pixels import Pixels
from bcos_cli.data.reading import Reading
from bcos_cli.data.verify import verify
from bcos_cli.doctor.checkup import examine
from bcos_cli.evaluate.photos import load_annotated
from bcos_cli.explain.files import explain_files
from bcos_cli.explain.image_files import find_images
from bcos_cli.explain.shard_maps import MapOptions, explain_shards
from bcos_cli.serve.examples import named_examples
from bcos_cli.serve.networks import PageExplainer, load_networks
from bcos_cli.serve.uploads import Limits, read_upload
from bcos_cli.train.model import build, with_pixels
from bcos_cli.train.trainer import train
from bcos_core import BcosError
from bcos_models import InputSpec, load_trained

SIDE = 8
RAMP = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
BANDS = np.stack([RAMP, RAMP.T, 1 - RAMP, RAMP / 2, np.ones_like(RAMP)], -1)


def tiff(values, **options):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", **options)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def pages(bands):
    first, *others = (Image.fromarray(band) for band in np.moveaxis(bands, -1, 0))
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=others)
    return buffer.getvalue()


def banded_tiff(bands, planar=1):
    """A TIFF whose pixels have as many bands as the array, which Pillow does not write."""
    height, width, count = bands.shape
    tags = ImageFileDirectory_v2()
    tags[256], tags[257], tags[259], tags[262] = width, height, 1, 2
    tags[258], tags[277], tags[278], tags[284] = (8 * bands.dtype.itemsize,) * count, count, height, planar
    if count > 3:
        tags[338] = (0,) * (count - 3)
    content = (bands if planar == 1 else np.moveaxis(bands, -1, 0)).tobytes()
    strips = 1 if planar == 1 else count
    tags[279] = (len(content) // strips,) * strips
    tags[273] = tuple(k * len(content) // strips for k in range(strips))
    buffer = io.BytesIO()
    tags.save(buffer)
    return buffer.getvalue() + content


def test_helper_makes_files_that_pillow_reads():
    bands = (255 * BANDS[..., :3]).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(decode(banded_tiff(bands), Pixels())), bands)


ODD = {
    "12 bits": (tiff((4095 * RAMP).astype(np.uint16)), (0, 4095)),
    "floats of 255": (tiff((255 * RAMP).astype(np.float32)), (0, 255)),
    "integers": (tiff((255 * RAMP).astype(np.int32)), (0, 255)),
    "floats": (tiff(RAMP.astype(np.float32)), None),
    "array": (npy((4095 * RAMP).astype(np.uint16)), (0, 4095)),
    "array of floats": (npy(RAMP), None),
}


def every_way(data, spec, tmp_path, trained):
    """What each part makes of an image: 8-bit (C, H, W), or the reason why not."""
    path = tmp_path / "x.png"  # by its content, not by its name
    path.write_bytes(data)
    annotation = {"images": [{"id": 0, "file_name": "x.png", "height": SIDE, "width": SIDE}]}
    annotation["categories"] = [{"id": 0, "name": trained.classes[0]}]
    annotation["annotations"] = [{"image_id": 0, "category_id": 0, "bbox": [0, 0, 4, 4]}]
    (tmp_path / "x.json").write_text(json.dumps(annotation))
    pixels = Pixels(spec.channels, spec.range)
    ways = {
        decoder: lambda decoder=decoder: BytesTransform(pixels, inference_transform(spec), False, decoder)(
            data, random.Random(0)
        )
        for decoder in ("pillow", "torchvision")
    }
    ways["file"] = lambda: read_image(path, spec).pixels
    ways["photo"] = lambda: load_annotated(trained, tmp_path / "x.json", tmp_path, masks=False).images[0]
    if data[:6] != b"\x93NUMPY":
        ways["upload"] = lambda: read_upload(path, spec, Limits()).pixels
    results = {}
    for name, way in ways.items():
        try:
            results[name] = way()
        except BcosError as reason:
            results[name] = str(reason)
    return results


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("channels", [1, 3])
def test_all_parts_read_the_same_or_refuse_for_the_same_reason(name, channels, recipe, tmp_path):
    data, range = ODD[name]
    told = build(recipe(data={"range": range, "image_channels": channels}), ["rows", "columns", "corner"])
    for way, seen in every_way(data, told.input, tmp_path, told).items():
        assert isinstance(seen, torch.Tensor), (way, seen)
        np.testing.assert_allclose(seen.numpy(), np.broadcast_to(255 * RAMP, (channels, SIDE, SIDE)), atol=1)
    if range is not None:
        untold = build(recipe(data={"image_channels": channels}), ["rows", "columns", "corner"])
        for way, seen in every_way(data, untold.input, tmp_path, untold).items():
            assert "--range BLACK:WHITE, or data.range" in seen, way


@pytest.fixture
def packed(make_tree, folder_source, tmp_path):
    """Pack images of two classes, whose values are those of the ramp and of its transpose in this form."""

    def make(encode, suffix="tif", **options):
        images = {"a": BANDS, "b": BANDS.transpose(1, 0, 2)}
        files = {
            f"{split}/{label}/{i}.{suffix}": encode(image)
            for split in ("train", "test")
            for label, image in images.items()
            for i in range(6)
        }
        source = folder_source(make_tree(files, "tree"))
        index = pack(source, "t", tmp_path / "packed", workers=1, pixels=Pixels(**options))
        assert verify(tmp_path / "packed", index) == []
        return str(tmp_path / "packed"), index

    return make


def twelve_bits(image):
    return tiff((4095 * image[..., 0]).astype(np.uint16))


def test_range_travels_from_the_shards_to_the_network_and_to_what_it_explains(packed, recipe, tmp_path, bcos):
    data, index = packed(twelve_bits, range=(0, 4095))
    assert load_index(data).range == (0, 4095)
    made = recipe(
        data={"path": data}, train={"epochs": 1, "batch_size": 4}, model={"options": {"depths": [1], "width": 4}}
    )
    result = train(made, tmp_path / "run")
    assert result.recipe.data.range == result.trained.input.range == (0, 4095)
    trained = load_trained(str(tmp_path / "run"))
    assert trained.input.range == (0, 4095)
    ((image, _),) = images_at(data, index, "train", InputSpec(size=SIDE, resize=None, channels=1), [0]).values()
    assert image.max() == 255
    written = explain_files(
        str(tmp_path / "run"), find_images([tmp_path / "tree" / "test" / "a" / "0.tif"])[0], tmp_path / "out"
    )
    assert written.failures == []
    assert "0 is black and 4095 white" in written.explanations[0].notes[0]
    np.testing.assert_allclose(
        read_image(tmp_path / "tree" / "test" / "a" / "0.tif", trained.input).pixels[0], 255 * RAMP, atol=1
    )
    status, _, err = bcos("eval", "run", "--data", data)
    assert status == 0, err


def test_values_that_nobody_explains_are_refused_by_pack_with_what_to_do(make_tree, bcos):
    make_tree({f"{label}/{i}.tif": twelve_bits(BANDS) for label in "ab" for i in range(2)})
    status, _, err = bcos("shards", "pack", "tree", "s")
    assert status == 2
    assert "4 of 4 images cannot be read" in err
    assert "end at 4095, nearly black where 65535 is white; " in err
    assert "--range BLACK:WHITE" in err
    assert bcos("shards", "pack", "tree", "s", "--range", "0:4095")[0] == 0
    assert load_index("s").range == (0, 4095)
    for wrong in ("4095", "0:x", "5:5", "0:nan", "0:1:2"):
        status, _, err = bcos("shards", "pack", "tree", "other", "--range", wrong)
        assert (status, "--range must be BLACK:WHITE, two numbers such as 0:4095" in err) == (2, True)


def test_range_is_part_of_what_was_packed(packed):
    packed(twelve_bits, range=(0, 4095))
    with pytest.raises(BcosError, match="already holds other shards"):
        packed(twelve_bits, range=(0, 5000))


def test_recipe_of_another_range_or_number_of_channels_than_the_shards_is_refused(packed, recipe):
    data, index = packed(twelve_bits, range=(0, 4095))
    with pytest.raises(BcosError, match=r"data.range=\(0.0, 1.0\) is not that of the shards, \(0.0, 4095.0\)"):
        with_pixels(recipe(data={"path": data, "range": "0:1"}), index)
    index = index.model_copy(update={"channels": 5})
    with pytest.raises(BcosError, match=r"data\.image_channels=1 is not that of the shards, 5"):
        with_pixels(recipe(data={"path": data}), index)
    with pytest.raises(BcosError, match="images of the shards have 5 channels, the network takes 3"):
        index.pixels(InputSpec())


EIGHT_BITS = (255 * BANDS).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("encode", "suffix"),
    [
        (lambda image: npy((255 * image).round().astype(np.uint8)), "npy"),
        (lambda image: npy(image.astype(np.float32)), "npy"),
        (lambda image: npy(np.asfortranarray((65535 * image).astype(np.uint16))), "npy"),
        (lambda image: pages((255 * image).round().astype(np.uint8)), "tif"),
    ],
    ids=["array", "floats", "16 bits", "pages"],
)
def test_images_of_five_channels_are_packed_trained_on_and_explained(encode, suffix, packed, recipe, tmp_path):
    data, index = packed(encode, suffix, channels=5)
    assert load_index(data).channels == 5
    spec = InputSpec(size=SIDE, resize=None, channels=5)
    positions = images_at(data, index, "test", spec, range(12))
    seen = {tuple(labels): image for image, labels in positions.values()}
    np.testing.assert_allclose(seen[(0,)].permute(1, 2, 0).numpy(), EIGHT_BITS, atol=1)
    np.testing.assert_allclose(seen[(1,)].permute(1, 2, 0).numpy(), EIGHT_BITS.transpose(1, 0, 2), atol=1)
    if suffix == "tif":
        return
    augment = {"random_resized_crop": [0.5, 1], "horizontal_flip": 0.5, "random_erasing": 0.5}
    made = recipe(
        data={"path": data, "image_channels": None, "augment": augment},
        train={"epochs": 1, "batch_size": 4},
        model={"options": {"depths": [1], "width": 4}},
    )
    result = train(made, tmp_path / "run")
    assert result.trained.input.channels == 5
    written = explain_files("run", find_images([tmp_path / "tree" / "test" / "a"])[0], tmp_path / "out")
    assert (len(written.explanations), written.failures) == (6, [])
    assert {e.receipt["passed"] for e in written.explanations} == {True}


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("bands", [4, 5, 6])
def test_tiff_of_many_bands_is_never_cut_to_those_that_pillow_reads(bands, planar, channels):
    values = EIGHT_BITS[..., [0, 1, 2, 3, 4, 0][:bands]]
    for decoder in (decode, quick_decode):
        with pytest.raises(UnreadableImageError, match=rf"of {bands} bands|pixel mode|cannot be read") as refused:
            decoder(banded_tiff(values, planar), Pixels(channels))
        assert planar == 2 or "write it as an array (H, W, " in str(refused.value)


def test_tiff_of_16_bits_in_planes_is_refused():
    """Pillow takes their bytes for pixels."""
    with pytest.raises(UnreadableImageError, match="a TIFF of 3 bands"):
        decode(banded_tiff((65535 * BANDS[..., :3]).astype(np.uint16), planar=2), Pixels())


@pytest.mark.parametrize(
    ("data", "channels", "message"),
    [
        (npy(EIGHT_BITS), 3, "it has 5 channels, 3 are needed; for a network of 5, pack with --channels 5"),
        (npy(EIGHT_BITS), 4, "it has 5 channels, 4 are needed"),
        (npy(EIGHT_BITS[..., 0]), 5, "it has 1 channels, 5 are needed"),
        (pages(EIGHT_BITS), 4, "it has 1 channels, 4 are needed"),
    ],
)
def test_image_of_other_channels_is_refused(data, channels, message, tmp_path):
    (tmp_path / "x").write_bytes(data)
    for read in (
        lambda: decode(data, Pixels(channels)),
        lambda: read_image(tmp_path / "x", InputSpec(size=4, resize=None, channels=channels)),
    ):
        with pytest.raises(UnreadableImageError, match=message):
            read()


def test_transparency_is_a_channel_of_networks_of_four():
    image = Image.fromarray(EIGHT_BITS[..., :4])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    np.testing.assert_array_equal(decode(buffer.getvalue(), Pixels(4)), EIGHT_BITS[..., :4])


def test_changes_of_colour_are_refused_for_what_has_none(packed, recipe, tmp_path):
    data, _ = packed(lambda image: npy((255 * image).astype(np.uint8)), "npy", channels=5)
    made = recipe(data={"path": data, "image_channels": None, "augment": {"trivial_augment": True}})
    with pytest.raises(BcosError, match="trivial_augment change colours, and images of 5 channels have none"):
        train(made, tmp_path / "run")


def cut_off(image):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()[:2000]


@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
def test_jpegs_that_were_cut_off_are_packed_and_loaded_where_that_is_allowed(decoder, packed, recipe):
    with pytest.raises(BcosError, match=r"cut off: .*; --allow-truncated, or data.truncated=allow"):
        packed(cut_off, "jpg")
    data, index = packed(cut_off, "jpg", truncated=True)
    assert load_index(data).truncated
    assert len(images_at(data, index, "train", InputSpec(size=8, resize=None, channels=1), range(12))) == 12


def test_shards_are_explained_as_the_run_reads_them(packed, recipe, tmp_path):
    data, _ = packed(cut_off, "jpg", truncated=True)
    described = json.loads((Path(data) / "index.json").read_text())
    (Path(data) / "index.json").write_text(json.dumps({**described, "truncated": False}))  # as another tool writes it
    trained = build(recipe(), ["a", "b"])
    with pytest.raises(BcosError, match=r"cut off: .*data.truncated=allow"):
        explain_shards(trained, data, tmp_path / "refused", MapOptions(), split="train", workers=0)
    written = explain_shards(
        trained, data, tmp_path / "maps", MapOptions(), split="train", workers=0, reading=Reading(truncated=True)
    )
    assert written.images == 12


def test_cut_off_jpeg_is_explained_where_that_is_allowed(recipe, tmp_path, bcos):
    trained = build(recipe(), ["rows", "columns", "corner"])
    trained.model.eval()
    trained.save(tmp_path / "run" / "model.safetensors")
    (tmp_path / "x.jpg").write_bytes(cut_off(None))
    status, _, err = bcos("explain", "run", "x.jpg", "--out", "refused")
    assert (status, "--allow-truncated" in err) == (1, True)
    assert bcos("explain", "run", "x.jpg", "--out", "out", "--allow-truncated")[0] == 0
    (explained,) = json.loads((tmp_path / "out" / "explanations.json").read_text())["explanations"]
    assert explained["notes"] == ["cut off: black where it ends"]
    (tmp_path / "y.tif").write_bytes(twelve_bits(BANDS))
    assert bcos("explain", "run", "y.tif", "--out", "dark")[0] == 1
    assert bcos("explain", "run", "y.tif", "--out", "bright", "--range", "0:4095")[0] == 0


@pytest.fixture
def odd_files(recipe, tmp_path):
    """A JPEG that was cut off, a TIFF of 12 bits and one of several pages, of 64×64 and 8×8, and a network's folder."""
    trained = build(recipe(), ["rows", "columns", "corner"])
    trained.model.eval()
    trained.save(tmp_path / "run" / "model.safetensors")
    contents = {"cut.jpg": cut_off(None), "bits.tif": twelve_bits(BANDS), "pages.tif": pages(EIGHT_BITS)}
    for name, content in contents.items():
        (tmp_path / "odd" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "odd" / name).write_bytes(content)
    sides = {"cut.jpg": 64, "bits.tif": 8, "pages.tif": 8}
    annotated = {
        "images": [{"id": i, "file_name": name, "height": s, "width": s} for i, (name, s) in enumerate(sides.items())],
        "categories": [{"id": 0, "name": "rows"}],
        "annotations": [{"image_id": i, "category_id": 0, "bbox": [0, 0, 8, 8]} for i in range(3)],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(annotated))
    return [f"odd/{name}" for name in contents]


READERS = {
    "explain": lambda files: ["explain", "run", *files, "--out", "out"],
    "predict": lambda files: ["predict", "run", *files],
    "neurons": lambda files: [
        *("neurons", "run", "--out", "out", "--channel", "0"),
        *(part for file in files for part in ("--image", file)),
    ],
    "eval": lambda _: ["eval", "run", "--boxes", "boxes.json", "--photos", "odd"],
}


@pytest.mark.parametrize("command", READERS)
def test_every_command_takes_the_options_of_pixels_and_says_what_is_read_in_part(command, odd_files, bcos):
    arguments = READERS[command](odd_files)
    _, out, err = bcos(*arguments)
    assert "--range BLACK:WHITE" in out + err or "cut off: " in out + err  # neurons stops at the first
    status, _, err = bcos(*arguments, "--range", "0:4095", "--allow-truncated")
    assert status == 0, err
    for name, note in (("pages.tif", "the first of several frames or pages"), ("cut.jpg", "cut off: black where it")):
        assert any(name in line and note in line for line in err.splitlines()), err
    assert bcos(*arguments, "--range", "0")[0] == 2


def test_range_is_that_of_the_pixels(odd_files, tmp_path, bcos):
    trained = load_network("run", range=(0, 4095))
    assert trained.input.range == (0, 4095)
    with torch.no_grad():
        logits = trained.model.eval()(trained.encode(read_image(tmp_path / "odd/bits.tif", trained.input).pixels[None]))
    _, out, _ = bcos("predict", "run", "odd/bits.tif", "--range", "0:4095", "--json")
    assert json.loads(out)["probability"] == pytest.approx(float(trained.confidences(logits).max()), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "run", "--range", "0:1"], "go with --boxes"),
        (["neurons", "run", "--out", "out", "--allow-truncated"], "--allow-truncated goes with --image"),
        (["neurons", "run", "--out", "out", "--image", "odd/pages.tif", "--split", "x"], "--split cannot go with --im"),
        (["predict", "run", "s3://b/shards", "--range", "0:1"], "are for image files"),
    ],
)
def test_options_of_pixels_are_refused_where_shards_say_them(arguments, message, odd_files, bcos, line):
    assert message in line(bcos(*arguments))


def test_the_page_takes_the_options_of_pixels(odd_files, tmp_path):
    def predict(name, explainer):
        return explainer.predict(tmp_path / "odd" / name, "run").image

    refusing = PageExplainer(load_networks(["run"]), Limits())
    for name in ("cut.jpg", "bits.tif"):
        with pytest.raises(BcosError, match=r"--allow-truncated|--range BLACK:WHITE"):
            predict(name, refusing)
    taking = PageExplainer(load_networks(["run"], range=(0, 4095)), Limits(), truncated=True)
    assert predict("cut.jpg", taking).notes == ("cut off: black where it ends",)
    np.testing.assert_allclose(predict("bits.tif", taking).pixels[0], 255 * RAMP, atol=1)
    with pytest.raises(BcosError, match="cut off"):
        named_examples(["odd/cut.jpg"])
    assert [example.name for example in named_examples(["odd/cut.jpg"], truncated=True)] == ["cut.jpg"]


def test_pages_that_are_not_packed_are_in_the_summary_and_the_index(make_tree, tmp_path, bcos):
    several = pages(EIGHT_BITS)
    files = {f"{c}/{i}.tif": several if i else tiff(EIGHT_BITS[..., 0]) for c in "ab" for i in range(2)}
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "GIF", save_all=True, append_images=[Image.new("L", (8, 8), 200)])
    make_tree({**files, "a/2.gif": buffer.getvalue()})
    status, out, _ = bcos("shards", "pack", "tree", "s", "--samples-per-shard", "2", "--workers", "1")
    text = "read in part 3: the first of several frames or pages: a/1.tif, a/2.gif, b/1.tif"
    assert (status, text in out) == (0, True), out
    again = bcos("shards", "pack", "tree", "s", "--samples-per-shard", "2", "--workers", "1")
    assert (again[0], text in again[1]) == (0, True)
    (partial,) = json.loads((tmp_path / "s" / "index.json").read_text())["partial"]
    assert (partial["files"], partial["first"]) == (3, ["a/1.tif", "a/2.gif", "b/1.tif"])
    make_tree({f"{c}/0.tif": several for c in "ab"}, "bands")
    assert "read in part" not in bcos("shards", "pack", "bands", "s5", "--channels", "5")[1]


def test_info_shows_range_channels_and_files_that_were_cut_off(packed, bcos):
    data, _ = packed(twelve_bits, range=(0, 4095), truncated=True)
    expected = (
        "pixels: greyscale or RGB; black and white of more than 8 bits: 0 and 4095; JPEGs that were cut off: read"
    )
    assert expected in bcos("shards", "info", data)[1]
    shown = json.loads(bcos("shards", "info", data, "--json")[1])
    assert (shown["range"], shown["channels"], shown["truncated"]) == ([0, 4095], None, True)
    plain = str(Pixels(5))
    assert plain == (
        "5 channels; black and white of more than 8 bits: as the formats have it; JPEGs that were cut off: not read"
    )


def test_linked_folders_are_searched_as_packing_does_and_circles_end(make_tree):
    root = make_tree(["a/x.png"])
    elsewhere = make_tree(["y.png"], "elsewhere")
    (root / "linked").symlink_to(elsewhere, target_is_directory=True)
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    assert [f.path.name for f in find_images([root])[0]] == ["x.png", "y.png"]


def test_doctor_says_the_range_and_how_many_images_show_nothing(packed, recipe, tmp_path):
    def pixels(data):
        return [(f.status, f.text) for f in examine(recipe(data=data), tmp_path / "run") if f.check == "pixels"]

    data, _ = packed(twelve_bits, range=(0, 4095))
    ((status, text),) = pixels({"path": data})
    assert status == "ok"
    assert "more than 8 bits: 0 and 4095; 0 of 12 training images are nearly one colour" in text
    index = load_index(data)
    (tmp_path / "packed" / "index.json").write_text(index.model_copy(update={"range": None}).model_dump_json())
    ((status, text),) = pixels({"path": data})
    assert (status, "nearly black where 65535 is white" in text) == ("problem", True)
    ((status, text),) = pixels({"path": data, "range": "0:65535"})
    assert (status, "0 of 12" in text) == ("ok", True)
    ((status, text),) = pixels({"path": data, "range": "0:1000000"})
    assert (status, "12 of 12 training images are nearly one colour: look at them" in text) == ("note", True)
