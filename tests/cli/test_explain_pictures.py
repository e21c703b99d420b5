"""What ``bcos explain`` draws and writes for still images."""

import base64
import io
import json
import re
from xml.dom import minidom

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_cli.data.input_image import read_image
from bcos_cli.explain.batch import explain_images
from bcos_cli.explain.files import explain_files
from bcos_cli.explain.image_files import find_images
from bcos_cli.explain.options import PictureOptions
from bcos_cli.explain.sheets import percent
from bcos_cli.train.model import build
from bcos_core import BcosError, explain
from bcos_explain import ClassTarget, explain_batch, explanation_image
from bcos_explain.render import common_alpha_scale, contribution_rgb, on_background, smoothing, symmetric_limit
from bcos_models import load_trained

CLASSES = ["rows", "$columns$ <b>", "corner"]


@pytest.fixture
def run(recipe, tmp_path):
    trained = build(recipe(), CLASSES)
    trained.model(torch.rand(8, 2, 8, 8))
    trained.model.eval()
    trained.save(tmp_path / "run.safetensors")
    return "run.safetensors"


@pytest.fixture
def pictures(make_tree):
    rng = np.random.default_rng(0)
    noise = {f"{i}.png": Image.fromarray(rng.integers(0, 60 * i + 70, (8, 8)).astype(np.uint8)) for i in range(3)}
    return make_tree(noise, name="pictures")


def exact(run, files, target=None):
    trained = load_trained(run)
    images = torch.stack([read_image(f, trained.input).pixels for f in files])
    return explain(trained.model, trained.encode(images), target)


def separate(out, explained, kind):
    with Image.open(out / explained.pictures[kind]) as image:
        return np.asarray(image)[:: image.height // 8, :: image.width // 8] / 255


def by_image(written, method="bcos"):
    return [e for e in written.explanations if e.method == method]


@pytest.mark.parametrize("scale", ["own", "shared"])
def test_colours_and_opacity_are_on_the_scale_that_is_written_down(scale, run, pictures, tmp_path):
    out = tmp_path / "out"
    options = PictureOptions(layouts=("separate",), scale=scale)
    written = explain_files(run, find_images([pictures])[0], out, pictures=options, batch_size=2)
    e = exact(run, [pictures / f"{i}.png" for i in range(3)])
    smooth = smoothing(8)
    for i, explained in enumerate(by_image(written)):
        part = slice(None) if scale == "shared" else slice(i, i + 1)
        limit = symmetric_limit(e.map[part])
        alpha = common_alpha_scale(e.input[part], e.weight[part], smooth=smooth)
        assert explained.scale["limit"] == pytest.approx(limit, rel=1e-4)
        assert explained.scale["alpha"] == pytest.approx(alpha, rel=1e-4)
        expected = contribution_rgb(e.map[i], limit=limit)
        np.testing.assert_allclose(separate(out, explained, "contributions"), expected, atol=0.02)
        expected = explanation_image(e.input[i], e.weight[i], smooth=smooth, alpha_scale=alpha)
        shown = separate(out, explained, "explanation")
        np.testing.assert_allclose(shown[..., 3], expected[..., 3], atol=0.01)
        np.testing.assert_allclose(shown[..., :3][shown[..., 3] > 0], expected[..., :3][shown[..., 3] > 0], atol=0.01)
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_own_scale_of_one_class_gives_the_picture_of_the_library(run, pictures, tmp_path):
    """What one gets from explanation_image without a scale."""
    written = explain_files(run, find_images([pictures / "0.png"])[0], tmp_path / "out")
    e = exact(run, [pictures / "0.png"])
    expected = explanation_image(e.input[0], e.weight[0], smooth=smoothing(8))
    shown = separate(tmp_path / "out", written.explanations[0], "explanation")
    np.testing.assert_allclose(shown[..., 3], expected[..., 3], atol=0.01)


def test_contrast_is_the_difference_of_both_explanations(run, pictures, tmp_path):
    methods = ["bcos", "input_x_gradient"]
    options = PictureOptions(raw_weight=True)
    written = explain_files(
        run, find_images([pictures])[0], tmp_path / "out", contrasts=["rows:corner"], methods=methods, pictures=options
    )
    assert len(written.explanations) == 3 * 3 * 2
    for method in methods:
        for i in range(0, 9, 3):
            a, b, both = by_image(written, method)[i : i + 3]
            assert (both.target, both.against, a.against, b.against) == ("rows", "corner", None, None)
            assert both.logit == pytest.approx(a.logit - b.logit, abs=1e-5)
            maps = [np.load(tmp_path / "out" / x.map) for x in (a, b, both)]
            np.testing.assert_allclose(maps[2], maps[0] - maps[1], atol=1e-6)
            if method == "bcos":
                weights = [np.load(tmp_path / "out" / x.weight) for x in (a, b, both)]
                assert weights[0].shape == (2, 8, 8)
                np.testing.assert_allclose(weights[2], weights[0] - weights[1], atol=1e-6)
                assert both.contributions + both.bias == pytest.approx(both.logit, abs=1e-4)
            else:
                assert both.weight is None


def test_what_a_method_says_of_its_map_is_in_the_records_and_under_the_picture(run, pictures, tmp_path, bcos):
    options = PictureOptions(format="svg", contact_sheet=True)
    methods = ["bcos", "guided_backprop"]
    written = explain_files(
        run, find_images([pictures])[0], tmp_path / "out", methods=methods, top_k=2, pictures=options
    )
    said = "this is the plain gradient: no ReLU was seen in this network"
    assert all(e.remarks == ([said] if e.method == "guided_backprop" else []) for e in written.explanations)
    for name in (written.explanations[0].pictures["overview"], *written.contact_sheets):
        shown = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "out" / name).read_text()))
        assert f"guided_backprop: {said}" in shown
    _, out, _ = bcos("explain", run, pictures / "0.png", "--method", "guided_backprop", "--out", "again")
    assert f"guided_backprop: {said}" in " ".join(out.split())


def test_contrast_of_a_method_that_is_the_same_for_both_classes_is_zero_and_says_so(run, pictures):
    trained = load_trained(run)
    images = torch.stack([read_image(p, trained.input).pixels for p in sorted(pictures.iterdir())])

    def blind(model, x, target):  # up to rounding
        return x.sum(1) * (1 + 1e-7 * target.reshape(-1, 1, 1))

    targets = [ClassTarget(1), ClassTarget(1, 0)]
    for image in explain_batch(trained.model, images, targets, {"blind": blind}, encode=trained.encode):
        alone, contrast = image.explanations
        assert not alone.remarks
        assert [str(r) for r in contrast.remarks] == ["the map is zero: its parts cancel, up to rounding"]
        assert not contrast.map.any()


def test_receipt_says_what_the_logit_is_made_of(run, pictures, tmp_path):
    explain_files(run, find_images([pictures])[0], tmp_path / "out", top_k=2)
    document = json.loads((tmp_path / "out" / "explanations.json").read_text())
    for explained in document["explanations"]:
        receipt = explained["receipt"]
        assert receipt["passed"] is True
        total = receipt["contributions"] + sum(receipt["bias_terms"].values()) + receipt["residual"]
        assert total == pytest.approx(receipt["logit"], rel=1e-6)
        assert abs(receipt["residual"]) <= receipt["allowed"] < 1e-2
        assert receipt["logit"] == pytest.approx(explained["logit"], rel=1e-4)
        assert "logit bias" in receipt["bias_terms"]
        saved = np.load(tmp_path / "out" / explained["map"])
        assert saved.dtype == np.float32
        assert float(saved.sum(dtype=np.float64)) == pytest.approx(receipt["contributions"], abs=1e-4)


def test_probabilities_are_those_of_the_targets(run, pictures, tmp_path):
    written = explain_files(run, find_images([pictures])[0], tmp_path / "out", top_k=3)
    e = exact(run, [pictures / f"{i}.png" for i in range(3)])
    for i in range(3):
        row = written.explanations[3 * i : 3 * i + 3]
        assert [x.target_index for x in row] == e.logits[i].argsort(descending=True).tolist()
        for x in row:
            assert x.probability == pytest.approx(float(e.logits[i, x.target_index].sigmoid()), rel=1e-4)
        assert len({x.pictures["overview"] for x in row}) == 1


def test_scales_and_maps_do_not_depend_on_the_batch(run, pictures, tmp_path):
    options = PictureOptions(scale="shared", contact_sheet=True)
    given = {"top_k": 2, "contrasts": ["corner"], "methods": ["bcos", "gradcam"], "pictures": options}
    a, b = (explain_files(run, find_images([pictures])[0], tmp_path / str(n), batch_size=n, **given) for n in (1, 3))
    assert len(a.explanations) == len(b.explanations)
    for one, other in zip(a.explanations, b.explanations, strict=True):
        assert (one.file, one.target, one.against, one.pictures) == (
            other.file,
            other.target,
            other.against,
            other.pictures,
        )
        assert one.scale["limit"] == pytest.approx(other.scale["limit"], rel=1e-4)
        maps = [np.load(tmp_path / n / x.map) for n, x in (("1", one), ("3", other))]
        np.testing.assert_allclose(*maps, atol=1e-5)


def test_overview_holds_every_name_and_number(run, pictures, tmp_path):
    options = PictureOptions(layouts=("side-by-side", "overlay"), format="svg")
    written = explain_files(run, find_images([pictures / "0.png"])[0], tmp_path / "out", top_k=3, pictures=options)
    first = written.explanations[0]
    assert set(first.pictures) == {"overview", "overlay"}
    document = minidom.parse(str(tmp_path / "out" / first.pictures["overview"]))
    texts = [t.firstChild.data for t in document.getElementsByTagName("text") if t.firstChild]
    for name in CLASSES:
        assert name in texts
    for explained in written.explanations:
        assert any(t.startswith(f"{percent(explained.probability)} · logit") for t in texts)
    assert sum(t.endswith(" bias") for t in texts) == 3
    assert texts.count("adds up") == 3
    assert sum(t.startswith("image share ") and " · cancellation " in t for t in texts) == 3
    assert texts.count("logit per pixel") == 3
    bars_off = PictureOptions(layouts=("side-by-side",), format="svg", colorbar=False)
    explain_files(run, find_images([pictures / "0.png"])[0], tmp_path / "plain", pictures=bars_off)
    assert "logit per pixel" not in (tmp_path / "plain" / "0.svg").read_text()


@pytest.mark.parametrize("background", [None, "white", "black", "checker", "none"])
def test_background_is_under_w_and_around_everything(background, run, pictures, tmp_path):
    options = PictureOptions(background=background, format="webp")
    written = explain_files(run, find_images([pictures / "0.png"])[0], tmp_path / "out", pictures=options)
    explained = written.explanations[0]
    shown = separate(tmp_path / "out", explained, "explanation")
    assert shown.shape[2] == (4 if background in (None, "none") else 3)
    with Image.open(tmp_path / "out" / explained.pictures["overview"]) as sheet:
        corner = sheet.convert("RGBA").getpixel((0, 0))
    if background == "none":
        assert corner[3] == 0
    else:
        assert corner == ((0, 0, 0, 255) if background == "black" else (255, 255, 255, 255))
    if background in ("white", "black"):
        e = exact(run, [pictures / "0.png"])
        rgba = explanation_image(e.input[0], e.weight[0], smooth=smoothing(8))
        np.testing.assert_allclose(shown, on_background(rgba, float(background == "white")), atol=0.02)


@pytest.mark.parametrize(("side", "expected"), [(None, 224), (16, 16), (100, 100)])
def test_pictures_have_the_size_asked_for(side, expected, run, pictures, tmp_path):
    written = explain_files(
        run, find_images([pictures / "0.png"])[0], tmp_path / "out", pictures=PictureOptions(side=side)
    )
    for kind in ("contributions", "explanation"):
        with Image.open(tmp_path / "out" / written.explanations[0].pictures[kind]) as image:
            assert image.size == (expected, expected)


@pytest.mark.parametrize(("width", "images", "bars"), [(1400, [4, 1], [4, 2]), (700, [2, 2, 1], [2, 2, 2])])
def test_contact_sheet_is_a_grid_in_pages(width, images, bars, run, make_tree, tmp_path, monkeypatch):
    monkeypatch.setattr("bcos_cli.explain.contact_sheet.ROWS", 2)
    monkeypatch.setattr("bcos_cli.explain.contact_sheet.WIDTH", width)
    root = make_tree([f"image-{i}.png" for i in range(5)], name="many")
    options = PictureOptions(layouts=("separate",), contact_sheet=True, format="svg", scale="shared")
    written = explain_files(run, find_images([root])[0], tmp_path / "out", top_k=2, pictures=options)
    pages = [(tmp_path / "out" / name).read_text() for name in written.contact_sheets]
    assert written.contact_sheets == [f"contact-sheet.{i + 1}.svg" for i in range(len(images))]
    assert [len(re.findall(r">image-\d\.png<", page)) for page in pages] == images
    assert [page.count("logit per pixel") for page in pages] == bars  # below the last row alone
    for page in pages:
        assert int(re.search(r'width="(\d+)"', page)[1]) <= width + 12
        assert "all pictures share one scale" in page


@pytest.mark.parametrize(("background", "ground"), [(None, 0.5), ("white", 1.0), ("black", 0.0)])
def test_greyscale_w_lies_on_grey_unless_a_background_is_asked_for(background, ground, run, pictures, tmp_path):
    options = PictureOptions(layouts=("side-by-side",), background=background, format="svg")
    explain_files(run, find_images([pictures / "0.png"])[0], tmp_path / "out", pictures=options)
    tiles = re.findall(r'href="data:image/png;base64,([^"]+)"', (tmp_path / "out" / "0.svg").read_text())
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(tiles[1])))) / 255
    e = exact(run, [pictures / "0.png"])
    expected = on_background(explanation_image(e.input[0], e.weight[0], smooth=smoothing(8)), ground)
    np.testing.assert_allclose(shown, expected, atol=0.02)


def test_maps_without_a_sign_say_where_their_colours_start(run, pictures, tmp_path):
    written = explain_files(
        run, find_images([pictures / "0.png"])[0], tmp_path / "out", methods=["bcos", "gradcam", "rise"]
    )
    for explained in written.explanations:
        map = np.load(tmp_path / "out" / explained.map)
        signed = explained.method == "bcos"
        assert explained.scale["low"] == (None if signed else pytest.approx(float(map.min())))
        rgb = contribution_rgb(map, limit=explained.scale["limit"], low=explained.scale["low"])
        np.testing.assert_allclose(separate(tmp_path / "out", explained, "contributions"), rgb, atol=0.01)


def test_same_name_in_two_folders_is_two_sets_of_files(run, make_tree, tmp_path):
    root = make_tree(["a/x.png", "b/x.png"], name="two")
    written = explain_files(run, find_images([root])[0], tmp_path / "out")
    names = [{*e.pictures.values(), e.map} for e in written.explanations]
    assert not names[0] & names[1]


def test_what_was_done_to_an_image_is_written_down(run, make_tree, tmp_path):
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 40))
    root = make_tree({"x.png": clear, "y.png": None}, name="clear")
    written = explain_files(run, find_images([root])[0], tmp_path / "out")
    assert [e.notes for e in written.explanations] == [["transparent parts laid on white, as in training"], []]


def test_what_a_crop_leaves_out_stands_under_the_picture_and_in_the_record(run, make_tree, tmp_path):
    root = make_tree({"x.png": Image.new("L", (16, 8)), "y.gif": None}, name="wide")
    Image.new("L", (12, 8)).save(root / "y.gif", save_all=True, append_images=[Image.new("L", (12, 8), 9)])
    options = PictureOptions(layouts=("side-by-side",), format="svg")
    written = explain_files(run, find_images([root])[0], tmp_path / "out", pictures=options)
    still, clip = written.explanations
    assert still.notes == ["squeezed to a square"]
    assert clip.notes[0] == "squeezed to a square"
    assert "image: squeezed to a square" in (tmp_path / "out" / still.pictures["overview"]).read_text()


def test_command_takes_every_option(run, pictures, tmp_path, bcos):
    status, out, err = bcos(
        "explain", run, str(pictures / "[01].png"), "--out", "out", "--top-k", 2, "--contrast", "corner:rows",
        "--method", "bcos", "--method", "gradcam", "--layout", "overlay", "--contact-sheet", "--format", "webp",
        "--scale", "shared", "--no-colorbar", "--background", "checker", "--size", 64, "--raw-weight",
    )  # fmt: skip
    assert status == 0, err
    assert "corner, not rows" in out
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"0.overlay.webp", "1.overlay.webp", "contact-sheet.1.webp", "0.corner-not-rows.bcos.weight.npy"} <= names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layout", "beside"], "layout must be one of side-by-side, overlay, separate, got 'beside'"),
        (["--size", 4], "size must be from 16 to 4096 pixels, got 4"),
        (["--top-k", 9], "top-k must be from 1 to the 3 classes"),
    ],
)
def test_impossible_options_are_one_line(options, message, run, pictures, bcos, line, tmp_path):
    assert message in line(bcos("explain", run, pictures, "--out", "out", *options))
    assert not (tmp_path / "out").exists()


def test_rows_of_many_explanations_are_cut(run, make_tree, bcos):
    root = make_tree([f"{i:02d}.png" for i in range(21)], name="many")
    options = ["--layout", "side-by-side", "--size", 16, "--no-colorbar"]
    status, out, _ = bcos("explain", run, root, "--out", "out", "--top-k", 2, *options)
    assert status == 0
    assert "… and 2 more in out/explanations.json" in out


def test_same_targets_can_be_explained_for_all(run, pictures):
    trained = load_trained(run)
    images = torch.stack([read_image(pictures / f"{i}.png", trained.input).pixels for i in range(3)])
    targets = [ClassTarget(2), ClassTarget(0, 2)]
    found = explain_images(trained, images, targets)
    assert [[e.target for e in image.explanations] for image in found] == [targets] * 3


def test_options_are_checked():
    with pytest.raises(BcosError, match="format must be one of png, svg, webp, got 'jpg'"):
        PictureOptions(format="jpg")
    with pytest.raises(BcosError, match="scale must be one of own, shared, got 'common'"):
        PictureOptions(scale="common")


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100.0 %"), (0.99999, "> 99.9 %"), (0.9994, "99.9 %"), (0.5, "50.0 %"), (1e-6, "< 0.1 %"), (0.0, "0.0 %")],
)
def test_certainty_is_not_made_by_rounding(share, text):
    assert percent(share) == text


def test_the_opacity_of_w_is_smoothed_as_asked(run, pictures, tmp_path, bcos, line):
    arguments = ("explain", run, "pictures/0.png", "--layout", "separate", "--background", "none", "--size", 16)
    trained = load_trained(run)
    images = read_image(pictures / "0.png", trained.input).pixels[None]
    found = explain(trained.model, trained.encode(images))
    for smooth in (1, 5):
        status, _, err = bcos(*arguments, "--smooth", smooth, "--out", f"o{smooth}")
        assert status == 0, err
        (record,) = json.loads((tmp_path / f"o{smooth}/explanations.json").read_text())["explanations"]
        drawn = np.asarray(Image.open(tmp_path / f"o{smooth}" / record["pictures"]["explanation"]))
        expected = explanation_image(found.input[0], found.weight[0], smooth=smooth)
        assert np.abs(drawn[::2, ::2, 3] / 255 - expected[..., 3]).max() < 0.01
    assert "smooth must be odd and at least 1, got 4" in line(bcos(*arguments, "--smooth", 4, "--out", "o4"))


@pytest.mark.parametrize("command", ["explain", "maps", "neurons"])
def test_json_is_all_of_standard_output(command, run, pictures, shards, bcos, tmp_path):
    (tmp_path / "names.txt").write_text("rows\ncolumns\ncorner\n")
    rest = ["pictures"] if command == "explain" else ["--data", shards, "--workers", 0, "--classes", "names.txt"]
    status, out, err = bcos(command, run, *rest, "--out", "o", "--json")
    assert status == 0, err
    value = json.loads(out)
    assert len(value["explanations"]) == 3 if command == "explain" else value
