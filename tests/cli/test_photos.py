import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_cli.evaluate.photos import load_annotated
from bcos_cli.train.model import build
from bcos_core import BcosError, explain

CLASSES = ["rows", "columns", "corner"]
VOC = """<annotation><filename>{name}</filename><size><width>{w}</width><height>{h}</height></size>
<object><name>{label}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>
</annotation>"""


@pytest.fixture
def trained(recipe):
    made = build(recipe(), CLASSES)
    made.model.eval()
    return made


@pytest.fixture
def photos(tmp_path):
    """Four images of 16×12, which the network gets as 8×8, with annotations as a COCO file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (12, 16), np.uint8)).save(folder / f"{i}.png")
    objects = [
        (0, "rows", [4, 3, 8, 6]),
        (1, "columns", [0, 0, 4, 3]),
        (1, "corner", [8, 6, 8, 6]),
        (2, "teapot", [1, 1, 4, 4]),
        (3, "rows", [0, 0, 8, 12]),
        (3, "rows", [8, 0, 8, 6]),
    ]
    names = sorted({label for _, label, _ in objects})
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 12, "width": 16} for i in range(4)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
        "annotations": [
            {
                "image_id": i,
                "category_id": names.index(label),
                "bbox": box,
                "segmentation": [[box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3]]],
            }
            for i, label, box in objects
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return folder


def test_boxes_follow_their_images_and_the_largest_class_is_the_target(trained, photos, tmp_path):
    annotated = load_annotated(trained, tmp_path / "coco.json", photos, masks=True)
    assert annotated.keys == ["0.png", "1.png", "3.png"]
    assert annotated.targets.tolist() == [0, 2, 0]
    assert annotated.images.shape == (3, 1, 8, 8)
    assert annotated.boxes[0].tolist() == [[2, 2, 6, 6]]
    assert annotated.boxes[1].tolist() == [[4, 4, 8, 8]]
    assert annotated.boxes[2].tolist() == [[0, 0, 4, 8], [4, 0, 8, 4]]
    assert annotated.masks.shape == (3, 8, 8)
    assert not annotated.masks[0, :2].any()
    assert annotated.left_out == {"2.png": "it shows teapot, which is not a class of the network"}


def shares(values):
    """A map without any positive contribution has no share anywhere."""
    return torch.stack(values).nan_to_num(0).tolist()


def test_energy_inside_is_that_of_the_contributions(trained, photos, tmp_path, bcos):
    trained.save(tmp_path / "model.safetensors")
    arguments = ["--boxes", "coco.json", "--photos", "photos", "--out", "scores", "--metric", "epg"]
    status, out, err = bcos("eval", "model.safetensors", *arguments, "--explainer", "bcos", "--metric", "epg_masks")
    assert status == 0, err
    annotated = load_annotated(trained, tmp_path / "coco.json", photos, masks=True)
    maps = explain(trained.model, trained.encode(annotated.images), annotated.targets).map.clamp_min(0)
    inside = [
        maps[0, 2:6, 2:6].sum() / maps[0].sum(),
        maps[1, 4:, 4:].sum() / maps[1].sum(),
        (maps[2, :, :4].sum() + maps[2, :4, 4:].sum()) / maps[2].sum(),
    ]
    found = json.loads((tmp_path / "scores/scores.json").read_text())
    assert found["epg/bcos"]["scores"] == pytest.approx(shares(inside), rel=1e-4)
    masks = [(m * a).sum() / m.sum() for m, a in zip(maps, annotated.masks, strict=True)]
    assert found["epg_masks/bcos"]["scores"] == pytest.approx(shares(masks), rel=1e-4)
    assert max(shares(inside)) > 0
    assert "epg/bcos,0.png,," in (tmp_path / "scores/scores.csv").read_text()
    assert "it shows teapot" in out


def test_voc_files_are_read_one_or_a_folder(trained, photos, tmp_path):
    (tmp_path / "voc").mkdir()
    for i in (0, 3):
        values = {"name": f"{i}.png", "w": 16, "h": 12, "label": "columns", "x0": 5, "y0": 4, "x1": 12, "y1": 9}
        (tmp_path / f"voc/{i}.xml").write_text(VOC.format(**values))
    both = load_annotated(trained, tmp_path / "voc", photos, masks=False)
    assert both.keys == ["0.png", "3.png"]
    assert both.masks is None
    one = load_annotated(trained, tmp_path / "voc/3.xml", photos, masks=False)
    assert one.keys == ["3.png"]
    assert torch.equal(one.boxes[0], both.boxes[1])
    assert one.boxes[0].tolist() == [[2, 2, 6, 6]]


def test_missing_damaged_and_wrong_images_are_left_out_and_named(trained, photos, tmp_path):
    (photos / "0.png").unlink()
    (photos / "1.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(photos / "3.png")
    with pytest.raises(BcosError, match=r"no annotated image of .* can be scored"):
        load_annotated(trained, tmp_path / "coco.json", photos, masks=False)
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(photos / "3.png")
    (photos / "0.png").write_bytes((photos / "3.png").read_bytes()[:40])
    annotated = load_annotated(trained, tmp_path / "coco.json", photos, masks=False)
    assert annotated.keys == ["3.png"]
    assert set(annotated.left_out) == {"0.png", "1.png", "2.png"}
    assert "cannot be read" in annotated.left_out["1.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--boxes", "coco.json"], "--boxes and --photos go together"),
        (["--boxes", "no.json", "--photos", "photos"], "cannot read annotations from 'no.json'"),
        (
            ["--boxes", "coco.json", "--photos", "photos", "--metric", "gridpg"],
            "gridpg cannot be measured on annotated photographs",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, message, trained, photos, tmp_path, bcos, line):
    trained.save(tmp_path / "model.safetensors")
    assert message in line(bcos("eval", "model.safetensors", *arguments))


@pytest.mark.parametrize("name", ["../outside.png", "a/../../outside.png", "/outside.png"])
def test_annotation_cannot_name_an_image_outside_of_the_photographs(name, trained, photos, tmp_path):
    shutil.copy(photos / "0.png", tmp_path / "outside.png")
    name = f"{tmp_path}{name}" if name[0] == "/" else name
    described = json.loads((tmp_path / "coco.json").read_text())
    described["images"][0]["file_name"] = name
    (tmp_path / "coco.json").write_text(json.dumps(described))
    left_out = load_annotated(trained, tmp_path / "coco.json", photos, masks=False).left_out
    assert left_out[name] == "its name points outside the folder of photographs"
