"""Where objects are: annotations of COCO and Pascal VOC, and how they move with resizing and cropping."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from bcos_core.errors import BcosError, first_line, shortened, shown
from bcos_core.text import parse_json, read_text

MOST_BYTES = 2**31
"""Size of a file of annotations: those of COCO's training images have half a gigabyte."""
MOST_PIXELS = 2**28
"""Of an annotated image."""

Size = int | tuple[int, int]
"""Of the shorter side, or height and width."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """The objects of one image, in the pixels of its file."""

    name: str
    """File name of the image."""
    size: tuple[int, int]
    """Height and width."""
    boxes: Tensor
    """(B, 4): left, top, right, bottom, from the image's corner."""
    labels: tuple[str, ...]
    """B names of classes."""
    masks: Tensor | None = None
    """(B, H, W), bool, where the file has outlines of all objects."""

    def only(self, *labels: str) -> "Annotation":
        """Keep the objects of some classes."""
        kept = [i for i, label in enumerate(self.labels) if label in labels]
        masks = None if self.masks is None else self.masks[kept]
        names = tuple(self.labels[i] for i in kept)
        return Annotation(name=self.name, size=self.size, boxes=self.boxes[kept], labels=names, masks=masks)


def read_coco(path: str | Path, *, masks: bool = False) -> dict[str, Annotation]:
    """Read a COCO file of instances.

    Args:
        path: of JSON with ``images`` (id, file_name, height, width), ``annotations`` (image_id, category_id,
            bbox as left, top, width, height) and ``categories`` (id, name).
        masks: whether to draw the ``segmentation`` too: polygons, or run lengths as a list.

    Returns:
        Annotations of all images by file name.

    Raises:
        BcosError: no such file, or one that is malformed; the message says where.
    """
    content = _json(path)
    found = {}
    with _malformed_refused(path, "COCO"):
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        objects: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for one in content["annotations"]:
            objects[one["image_id"]].append(one)
        for image in content["images"]:
            of_image, size = objects[image["id"]], _size(image)
            drawn = [segmentation_mask(one["segmentation"], size) for one in of_image] if masks else []
            empty = torch.zeros(0, *size, dtype=torch.bool)
            found[str(image["file_name"])] = Annotation(
                name=str(image["file_name"]),
                size=size,
                boxes=_boxes([[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in of_image)]),
                labels=tuple(names[one["category_id"]] for one in of_image),
                masks=(torch.stack(drawn) if drawn else empty) if masks else None,
            )
    return found


def read_voc(path: str | Path) -> Annotation:
    """Read the boxes of one image in the form of Pascal VOC.

    The file counts pixels from 1 and includes the last one; the result counts from the corner.

    Args:
        path: of XML, or of JSON with the same names (``{"annotation": {"filename": ..., "size": ..., "object":
            [{"name": ..., "bndbox": {"xmin": ...}}]}}``), as torchvision returns it.

    Raises:
        BcosError: no such file, or one that is malformed; the message says where.
    """
    path = Path(path)
    if path.suffix == ".json":
        described = _json(path)
        with _malformed_refused(path, "VOC"):
            return _voc(described["annotation"])
    try:
        root = ElementTree.fromstring(_text(path))
    except ElementTree.ParseError as reason:
        raise BcosError(f"{path} is not XML: {reason}") from reason
    size = {child.tag: child.text for child in root.iterfind("size/*")}
    objects = [
        {"name": one.findtext("name"), "bndbox": {child.tag: child.text for child in one.iterfind("bndbox/*")}}
        for one in root.iterfind("object")
    ]
    with _malformed_refused(path, "VOC"):
        return _voc({"filename": root.findtext("filename"), "size": size, "object": objects})


def segmentation_mask(segmentation: Any, size: tuple[int, int]) -> Tensor:
    """(H, W), bool, from a segmentation of COCO.

    Args:
        segmentation: polygons ``[[x0, y0, x1, y1, ...], ...]``, whose union is taken, or run lengths
            ``{"counts": [...], "size": [h, w]}`` of alternating zeros and ones down the columns.
        size: height and width of the image.

    Raises:
        BcosError: compressed run lengths, lengths that do not add up, or not a polygon.
    """
    height, width = size
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        if isinstance(counts, str | bytes):
            raise BcosError(
                "run lengths are compressed; decode them with pycocotools and write them as a list of counts"
            )
        if sum(counts) != height * width or list(segmentation["size"]) != [height, width]:
            raise BcosError(
                f"run lengths cover {sum(counts)} pixels of {segmentation['size']}, the image has {height}×{width}"
            )
        runs = torch.tensor(counts)
        filled = torch.arange(len(counts)).remainder(2).repeat_interleave(runs).bool()
        return filled.view(width, height).t().contiguous()
    canvas = Image.new("1", (width, height))
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            raise BcosError(f"a polygon needs at least three points x, y, got {len(polygon)} numbers")
        ImageDraw.Draw(canvas).polygon(polygon, fill=1, outline=1)
    values = torch.frombuffer(bytearray(canvas.convert("L").tobytes()), dtype=torch.uint8)
    return values.view(height, width) > 0


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the pixels of an image come to lie after it was resized and cropped at its centre, as in torchvision.

    Args:
        size: height and width of the image.
        resize: of the shorter side, or height and width; None for no resizing.
        crop: side of the square, or height and width; None for no cropping.

    Raises:
        BcosError: a size below 1.
    """

    size: tuple[int, int]
    resize: Size | None = None
    crop: Size | None = None

    def __post_init__(self) -> None:
        for name in ("size", "resize", "crop"):
            value = getattr(self, name)
            if value is not None and min(value if isinstance(value, tuple) else (value,)) < 1:
                raise BcosError(f"{name} must be at least 1 pixel, got {value}")

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width after resizing."""
        height, width = self.size
        if self.resize is None:
            return self.size
        if isinstance(self.resize, tuple):
            return self.resize
        longer = int(self.resize * max(height, width) / min(height, width))
        return (self.resize, longer) if height <= width else (longer, self.resize)

    @property
    def cropped(self) -> tuple[int, int]:
        """Height and width in the end."""
        if self.crop is None:
            return self.resized
        return self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop)

    @property
    def offset(self) -> tuple[int, int]:
        """Rows and columns cut off at the top and at the left; negative where the image was padded."""
        top, left = (
            round((whole - part) / 2.0) if whole >= part else -((part - whole) // 2)
            for whole, part in zip(self.resized, self.cropped, strict=True)
        )
        return top, left


def boxes_in_input(boxes: Tensor, placement: Placement) -> Tensor:
    """Move boxes (B, 4) with their image; what the crop cuts off is gone, boxes of which nothing is left too.

    Returns:
        (B', 4) with B' ≤ B, in pixels of the cropped image.
    """
    (height, width), (new_height, new_width) = placement.size, placement.resized
    (top, left), (crop_height, crop_width) = placement.offset, placement.cropped
    scale = torch.tensor([new_width / width, new_height / height] * 2, dtype=torch.float64)
    moved = boxes.double() * scale - torch.tensor([left, top, left, top])
    limits = torch.tensor([crop_width, crop_height] * 2, dtype=torch.float64)
    moved = torch.minimum(moved.clamp_min(0), limits)
    return moved[(moved[:, 2:] > moved[:, :2]).all(1)]


def masks_in_input(masks: Tensor, placement: Placement) -> Tensor:
    """Move masks (B, H, W) with their image, each pixel from the nearest one; nothing where it was padded.

    Returns:
        (B, H', W'), bool.
    """
    if masks.shape[1:] != placement.size:
        raise BcosError(f"masks are of {tuple(masks.shape[1:])}, their image of {placement.size}")
    resized = F.interpolate(masks[:, None].float(), placement.resized, mode="nearest-exact")[:, 0] > 0.5
    (top, left), (height, width) = placement.offset, placement.cropped
    padded = F.pad(resized, (max(-left, 0), width, max(-top, 0), height))
    top, left = max(top, 0), max(left, 0)
    return padded[:, top : top + height, left : left + width]


def _voc(content: Mapping[str, Any]) -> Annotation:
    objects = content["object"]
    objects = [objects] if isinstance(objects, Mapping) else objects
    size = content["size"]
    boxes = [[float(one["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")] for one in objects]
    if content["filename"] is None or any(one["name"] is None for one in objects):
        raise ValueError("a filename and a name of each object are needed")
    return Annotation(
        name=str(content["filename"]),
        size=_size(size),
        boxes=_boxes([[x0 - 1, y0 - 1, x1, y1] for x0, y0, x1, y1 in boxes]),
        labels=tuple(str(one["name"]) for one in objects),
    )


def _size(described: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width, of at most :data:`MOST_PIXELS`: masks of that size are made."""
    height, width = int(described["height"]), int(described["width"])
    if min(height, width) < 1 or height * width > MOST_PIXELS:
        raise ValueError(f"an image of {height}×{width} pixels; from 1 to {MOST_PIXELS:,} are possible")
    return height, width


def _boxes(corners: list[list[float]]) -> Tensor:
    boxes = torch.tensor(corners, dtype=torch.float64).reshape(-1, 4)
    if bool((boxes[:, 2:] < boxes[:, :2]).any()):
        raise ValueError(f"a box ends before it starts: {shown(corners)}")
    return boxes


def _text(path: str | Path) -> str:
    try:
        return read_text(path, MOST_BYTES)
    except OSError as reason:
        raise BcosError(f"cannot read annotations from {path}: {reason.strerror}") from reason


def _json(path: str | Path) -> Any:
    text = _text(path)
    try:
        return parse_json(text, finite=False)
    except BcosError as reason:
        raise BcosError(f"{path} is not JSON: {reason}") from reason


@contextmanager
def _malformed_refused(path: str | Path, kind: str) -> Iterator[None]:
    try:
        yield
    except BcosError as reason:
        raise BcosError(f"{path}: {reason}") from reason
    except KeyError as reason:
        raise BcosError(f"{path} is not a {kind} annotation: {shortened(str(reason))} is missing") from reason
    except Exception as reason:  # values of another kind, numbers of any size, masks that torch cannot make
        raise BcosError(f"{path} is not a {kind} annotation: {first_line(reason)}") from reason
