import json

import pytest
import torch
import torch.nn.functional as F

from bcos_core import BcosError
from bcos_explain.metrics import Placement, boxes_in_input, masks_in_input, read_coco, read_voc, segmentation_mask

COCO = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "height": 6, "width": 8},
        {"id": 9, "file_name": "b.jpg", "height": 5, "width": 5},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 18, "name": "dog"}],
    "annotations": [
        {"image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 3, 2, 3, 5, 1, 5]]},
        {
            "image_id": 7,
            "category_id": 1,
            "bbox": [0, 0, 1.5, 2],
            "segmentation": {"counts": [0, 2, 40, 3, 3], "size": [6, 8]},
        },
    ],
}

VOC = """<annotation><filename>a.jpg</filename><size><width>8</width><height>6</height><depth>3</depth></size>
<object><name>dog</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>4</xmax><ymax>6</ymax></bndbox></object>
<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>8</xmax><ymax>6</ymax></bndbox></object>
</annotation>"""


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_coco_boxes_are_read(tmp_path):
    found = read_coco(written(tmp_path / "instances.json", COCO))
    assert sorted(found) == ["a.jpg", "b.jpg"]
    a, b = found["a.jpg"], found["b.jpg"]
    assert a.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 1.5, 2]]
    assert a.labels == ("dog", "cat")
    assert a.size == (6, 8)
    assert a.masks is None
    assert b.boxes.shape == (0, 4)


def test_coco_masks_are_read(tmp_path):
    found = read_coco(written(tmp_path / "instances.json", COCO), masks=True)
    assert found["a.jpg"].masks.shape == (2, 6, 8)
    assert found["b.jpg"].masks.shape == (0, 5, 5)
    polygon, runs = found["a.jpg"].masks
    assert polygon.nonzero().min(0).values.tolist() == [2, 1]
    assert polygon.nonzero().max(0).values.tolist() == [5, 3]
    literal = [0] * 0 + [1] * 2 + [0] * 40 + [1] * 3 + [0] * 3
    assert [int(runs[p % 6, p // 6]) for p in range(48)] == literal  # down the columns


def test_classes_can_be_selected(tmp_path):
    found = read_coco(written(tmp_path / "instances.json", COCO), masks=True)["a.jpg"]
    cats = found.only("cat", "cow")
    assert cats.labels == ("cat",)
    assert torch.equal(cats.boxes, found.boxes[1:])
    assert torch.equal(cats.masks, found.masks[1:])


@pytest.mark.parametrize("form", ["xml", "json"])
def test_voc_counts_pixels_from_one(tmp_path, form):
    boxes = [("dog", 2, 3, 4, 6), ("cat", 1, 1, 8, 6)]
    objects = [
        {"name": n, "bndbox": {"xmin": str(a), "ymin": str(b), "xmax": str(c), "ymax": str(d)}}
        for n, a, b, c, d in boxes
    ]
    as_json = {"annotation": {"filename": "a.jpg", "size": {"width": "8", "height": "6"}, "object": objects}}
    found = read_voc(written(tmp_path / f"a.{form}", VOC if form == "xml" else as_json))
    assert found.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 8, 6]]
    assert found.labels == ("dog", "cat")
    assert (found.name, found.size) == ("a.jpg", (6, 8))


def test_a_single_object_of_voc_need_not_be_a_list(tmp_path):
    one = {"name": "dog", "bndbox": {"xmin": 1, "ymin": 1, "xmax": 2, "ymax": 2}}
    content = {"annotation": {"filename": "a", "size": {"width": 8, "height": 6}, "object": one}}
    assert read_voc(written(tmp_path / "a.json", content)).boxes.tolist() == [[0, 0, 2, 2]]


def without(key):
    changed = json.loads(json.dumps(COCO))
    del changed["annotations"][0][key]
    return changed


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_coco, "{", "is not JSON"),
        (read_coco, {"images": []}, "is not a COCO annotation: 'categories' is missing"),
        (read_coco, without("bbox"), "is not a COCO annotation: 'bbox' is missing"),
        (read_coco, [], "is not a COCO annotation"),
        (read_voc, {"annotation": {"size": {}}}, "is not a VOC annotation: 'object' is missing"),
        (read_voc, {"other": 1}, "is not a VOC annotation: 'annotation' is missing"),
    ],
)
def test_malformed_files_are_named(tmp_path, read, content, message):
    path = written(tmp_path / "bad.json", content)
    with pytest.raises(BcosError, match=f"bad.json.*{message}"):
        read(path)


def test_malformed_xml_and_missing_files_are_named(tmp_path):
    with pytest.raises(BcosError, match=r"a\.xml is not XML"):
        read_voc(written(tmp_path / "a.xml", "<annotation>"))
    with pytest.raises(BcosError, match=r"b\.xml is not a VOC annotation"):
        read_voc(written(tmp_path / "b.xml", "<annotation><object/></annotation>"))
    with pytest.raises(BcosError, match="cannot read annotations from"):
        read_coco(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"counts": "Ab1", "size": [6, 8]}, "run lengths are compressed"),
        ({"counts": [3, 4], "size": [6, 8]}, r"cover 7 pixels of \[6, 8\], the image has 6×8"),
        ([[1, 2, 3, 4]], "at least three points x, y, got 4 numbers"),
    ],
)
def test_outlines_that_cannot_be_drawn_are_refused(segmentation, message):
    with pytest.raises(BcosError, match=message):
        segmentation_mask(segmentation, (6, 8))


PLACEMENTS = [
    {"size": (40, 60), "resize": 32, "crop": 24},
    {"size": (61, 40), "resize": 33, "crop": (24, 20)},
    {"size": (40, 60), "resize": (50, 30), "crop": 24},
    {"size": (40, 60), "crop": 31},
    {"size": (20, 30), "crop": (24, 27)},  # padded
    {"size": (40, 60)},
]


@pytest.mark.parametrize("given", PLACEMENTS)
def test_images_move_as_in_torchvision(given):
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    from torchvision.transforms import InterpolationMode

    image = torch.rand(1, 1, *given["size"])
    moved = image
    if "resize" in given:
        size = [given["resize"]] if isinstance(given["resize"], int) else list(given["resize"])
        moved = transforms.resize(moved, size, InterpolationMode.NEAREST_EXACT)
    placement = Placement(**given)
    assert placement.resized == tuple(moved.shape[-2:])
    if "crop" in given:
        moved = transforms.center_crop(
            moved, [given["crop"]] if isinstance(given["crop"], int) else list(given["crop"])
        )
    assert placement.cropped == tuple(moved.shape[-2:])
    assert torch.equal(masks_in_input(image[0] > 0.5, placement)[0], moved[0, 0] > 0.5)


@pytest.mark.parametrize("given", PLACEMENTS)
def test_boxes_move_with_their_pixels(given):
    placement = Placement(**given)
    height, width = given["size"]
    boxes = torch.tensor([[3.0, 4, 21, 19], [width - 12, 0, width, height], [0, 0, width, height]])
    masks = torch.zeros(3, height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    moved = masks_in_input(masks, placement)
    kept = moved[moved.flatten(1).any(1)]
    found = boxes_in_input(boxes, placement)
    assert len(found) == len(kept)
    for mask, (x0, y0, x1, y1) in zip(kept, found.tolist(), strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert torch.allclose(torch.tensor([x0, y0, x1, y1]), torch.stack(edges).float(), atol=1.0)


def test_boxes_that_the_crop_cuts_off_are_gone():
    placement = Placement(size=(40, 80), crop=40)
    boxes = torch.tensor([[0.0, 0, 20, 40], [10, 5, 30, 15], [60, 0, 80, 40]])
    assert boxes_in_input(boxes, placement).tolist() == [[0, 5, 10, 15]]
    assert boxes_in_input(boxes[:0], placement).shape == (0, 4)


def test_a_placement_without_changes_changes_nothing():
    boxes = torch.rand(3, 2).repeat(1, 2) + torch.tensor([0, 0, 2, 3])
    torch.testing.assert_close(boxes_in_input(boxes, Placement(size=(9, 9))), boxes.double())
    masks = torch.rand(2, 5, 6) < 0.5
    assert torch.equal(masks_in_input(masks, Placement(size=(5, 6))), masks)


def test_impossible_placements_are_refused():
    with pytest.raises(BcosError, match="crop must be at least 1 pixel, got 0"):
        Placement(size=(4, 4), crop=0)
    with pytest.raises(BcosError, match=r"masks are of \(4, 5\), their image of \(4, 4\)"):
        masks_in_input(F.pad(torch.ones(1, 4, 4), (0, 1)).bool(), Placement(size=(4, 4)))


@pytest.mark.parametrize("size", [(0, 5), (10**6, 10**6), (5, -1)])
def test_size_of_an_annotated_image_is_bounded_before_masks_are_made(size, tmp_path):
    image = {"id": 1, "file_name": "x.png", "height": size[0], "width": size[1]}
    one = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "segmentation": [[0, 0, 1, 0, 1, 1]]}
    content = {"images": [image], "annotations": [one], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(BcosError, match=f"coco.json is not a COCO annotation: an image of {size[0]}×{size[1]} pixels"):
        read_coco(tmp_path / "coco.json", masks=True)


def test_deeply_nested_annotations_are_one_line(tmp_path):
    (tmp_path / "coco.json").write_text("[" * 100_000)
    with pytest.raises(BcosError, match="is not JSON"):
        read_coco(tmp_path / "coco.json")
