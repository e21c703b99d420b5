"""Scores of explanations on annotated photographs, with boxes or masks around their objects: ``bcos eval --boxes``."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcos_cli.config.network import load_network
from bcos_cli.data.input_image import InputImage, PartlyRead, read_image
from bcos_cli.evaluate.explanations import ExplanationMetrics
from bcos_cli.evaluate.metrics import explanation_metrics
from bcos_cli.evaluate.options import EvaluationOptions
from bcos_cli.evaluate.result import Evaluation, ScoreFiles, low_share_notes, print_evaluation, score_values
from bcos_cli.evaluate.resumable import partial_results
from bcos_cli.processes.group import process_state
from bcos_core.errors import BcosError
from bcos_explain import MetricSpec
from bcos_explain.metrics.annotations import Annotation, Placement, boxes_in_input, masks_in_input, read_coco, read_voc
from bcos_models import TrainedModel
from bcos_models.images import Range

COLLECTION_SUFFIXES = (".xml", ".json")


def evaluate_photos(
    run_or_model: str,
    annotations: Path,
    photos: Path,
    given: dict[str, Any],
    *,
    weights: str | None = None,
    classes: Path | None = None,
    range: Range | None = None,
    files: ScoreFiles,
) -> Evaluation:
    """Score explanations of photographs whose objects have boxes or masks, for the classes of these objects.

    Args:
        annotations: a COCO file, a VOC file, or a folder of VOC files.
        given: fields of :class:`EvaluationOptions`.
        range: the values that are black and white in photographs of more than 8 bits; None for those of the network.
        files: what to write; partial results are in their folder.

    Raises:
        BcosError: malformed annotations, no image to score, or a metric that works on something else.
    """
    files.check()
    trained = load_network(run_or_model, weights, classes, range=range)
    options = EvaluationOptions(**{"metrics": ("epg",), **given})
    options.check()
    specs = [spec for spec in explanation_metrics() if spec.name in options.all_metrics]
    if unfit := [m for m in options.all_metrics if m not in {spec.name for spec in specs if spec.unit == "image"}]:
        raise BcosError(f"{', '.join(unfit)} cannot be measured on annotated photographs; leave out --boxes")
    masks = any("masks" in spec.needs for spec in specs)
    images = load_annotated(trained, annotations, photos, masks=masks, truncated=options.reading.truncated)
    trained.model.to(process_state().device).eval()
    kept = partial_results(files.partial, trained.fingerprint(), options.fingerprint(), images.fingerprint())
    explanations, failed = ExplanationMetrics(trained, images.inputs, options, kept).measure_all(specs)
    evaluation = Evaluation(
        model=run_or_model,
        data=str(photos),
        split=str(annotations),
        classes=trained.classes,
        classification=None,
        metrics=score_values(explanations),
        explanations=explanations,
        samples={spec.name: list(images.keys) for spec in specs},
        grid_size=options.grid_size,
        skipped=images.left_out | failed,
        notes=low_share_notes(explanations),
    )
    if process_state().is_main_process:
        files.write(evaluation)
        print_evaluation(evaluation)
    return evaluation


@dataclass
class AnnotatedImages:
    """Images as the network sees them, with the class that is explained and where its objects are."""

    images: Tensor
    """8-bit (M, C, H, W)."""
    targets: Tensor
    """(M,): the class of the annotated objects; among several, the one whose boxes cover most."""
    boxes: list[Tensor]
    """Boxes (B, 4) of each image: left, top, right, bottom, in pixels of the image the network sees."""
    keys: list[str]
    """File names."""
    masks: Tensor | None = None
    """(M, H, W), bool, where the annotations have outlines."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Annotated images that are not used, and why."""

    def inputs(self, _spec: MetricSpec) -> dict[str, Any]:
        """Return what metrics may need, by name; they explain the class of the annotated objects."""
        values = {"images": self.images, "labels": self.targets, "boxes": self.boxes, "keys": self.keys}
        values |= {"target": self.targets} | ({} if self.masks is None else {"masks": self.masks})
        return values

    def fingerprint(self) -> str:
        """Return the SHA-256 of everything that scores depend on."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(b"" if self.masks is None else self.masks.numpy().tobytes())
        digest.update(json.dumps([self.keys, self.targets.tolist(), [b.tolist() for b in self.boxes]]).encode())
        return digest.hexdigest()


def read_annotations(path: Path, *, masks: bool) -> dict[str, Annotation]:
    """Read annotations by file name: of a COCO file, of one VOC file, or of a folder of VOC files.

    Raises:
        BcosError: no annotations there, or a malformed file.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in COLLECTION_SUFFIXES)
        if not files:
            raise BcosError(f"there are no annotations in {str(path)!r}; VOC files end in .xml or .json")
        return {annotation.name: annotation for annotation in map(read_voc, files)}
    if path.suffix.lower() == ".xml" or '"annotation"' in _first_characters(path):
        annotation = read_voc(path)
        return {annotation.name: annotation}
    return read_coco(path, masks=masks)


def _first_characters(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(200)
    except OSError as reason:
        raise BcosError(f"cannot read annotations from {str(path)!r}: {reason.strerror}") from reason


def load_annotated(
    trained: TrainedModel, annotations: Path, photos: Path, *, masks: bool, truncated: bool = False
) -> AnnotatedImages:
    """Load photographs, and map their boxes and masks to the image that the network sees.

    Classes are matched by name. Images that are missing or damaged, that show no object of a class that the network
    knows, or whose objects the crop cuts off, are left out and named.

    Args:
        masks: read outlines, too.
        truncated: read JPEGs that were cut off.

    Raises:
        BcosError: malformed annotations, or no image to score.
    """
    left_out: dict[str, str] = {}
    partial = PartlyRead()
    images, targets, boxes, outlines, keys = [], [], [], [], []
    for name, annotation in sorted(read_annotations(annotations, masks=masks).items()):
        try:
            image = _load(Path(name), photos, annotation, trained, truncated)
            target, own = _objects_of_one_class(annotation, trained.classes)
            placed = boxes_in_input(own.boxes, _placement(own, trained))
            if len(placed) == 0:
                raise BcosError("the crop leaves nothing of its objects")
        except BcosError as reason:
            left_out[name] = str(reason)
            continue
        partial.add(Path(name), image)
        images.append(image.pixels)
        targets.append(target)
        boxes.append(placed)
        keys.append(name)
        if own.masks is not None:
            outlines.append(masks_in_input(own.masks, _placement(own, trained)).any(0))
    if not images:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:2])
        raise BcosError(f"no annotated image of {str(annotations)!r} can be scored ({reasons or 'it has none'})")
    if process_state().is_main_process:
        partial.tell()
    joined = torch.stack(outlines) if len(outlines) == len(images) else None
    return AnnotatedImages(torch.stack(images), torch.tensor(targets), boxes, keys, joined, left_out)


def _load(path: Path, photos: Path, annotation: Annotation, trained: TrainedModel, truncated: bool) -> InputImage:
    if path.is_absolute() or ".." in path.parts:
        raise BcosError("its name points outside the folder of photographs")
    path = photos / path
    if not path.is_file():
        raise BcosError(f"there is no {str(path)!r}")
    image = read_image(path, trained.input, truncated=truncated)
    (width, height), (rows, columns) = image.size, annotation.size
    if (height, width) != (rows, columns):
        raise BcosError(f"it has {height}×{width} pixels, its annotation is for {rows}×{columns}")
    return image


def _objects_of_one_class(annotation: Annotation, classes: Sequence[str]) -> tuple[int, Annotation]:
    """Return the known class that covers most, and its objects."""
    areas: dict[str, float] = {}
    for label, box in zip(annotation.labels, annotation.boxes, strict=True):
        if label in classes:
            areas[label] = areas.get(label, 0.0) + float((box[2] - box[0]) * (box[3] - box[1]))
    if not areas:
        shown = ", ".join(dict.fromkeys(annotation.labels)) or "nothing"
        raise BcosError(f"it shows {shown}, which is not a class of the network")
    label = max(areas, key=lambda name: areas[name])
    return list(classes).index(label), annotation.only(label)


def _placement(annotation: Annotation, trained: TrainedModel) -> Placement:
    spec = trained.input
    if spec.resize is None:
        return Placement(size=annotation.size, resize=(spec.size, spec.size), crop=None)
    return Placement(size=annotation.size, resize=spec.resize, crop=spec.size)
