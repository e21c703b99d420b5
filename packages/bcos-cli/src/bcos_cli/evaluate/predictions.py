"""What a network predicts for each image: of a split while it is scored, or of files and shards alone."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from bcos_cli import console
from bcos_cli.data.image_decoder import UnreadableImageError
from bcos_cli.data.index import ShardIndex
from bcos_cli.data.input_image import PartlyRead, read_image
from bcos_cli.data.loader import labels_of, make_batches
from bcos_cli.data.reading import Reading
from bcos_cli.data.stream import Place
from bcos_cli.evaluate.loop import run_network
from bcos_cli.explain.batch import explain_images
from bcos_cli.explain.clips import survey
from bcos_cli.explain.frames import in_groups
from bcos_cli.explain.image_files import Failure, ImageFile
from bcos_cli.explain.options import ClipOptions
from bcos_cli.processes.group import default_device
from bcos_core.errors import BcosError
from bcos_core.files import write_atomically
from bcos_core.text import printable
from bcos_models import TrainedModel

LABELS = ";"
"""Between the labels of an image that has several."""


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one image."""

    file: str
    """Path of the file, or name of the image in its shard."""
    classes: Sequence[str]
    """Most likely first."""
    probabilities: Sequence[float]
    label: str | None = None
    """True classes, where they are known."""

    def to_dict(self) -> dict[str, Any]:
        """Return ``file``, ``label`` (where it is known), ``class``, ``probability``, ``class_2``, ..."""
        values: dict[str, Any] = {"file": self.file} | ({} if self.label is None else {"label": self.label})
        for k, (name, probability) in enumerate(zip(self.classes, self.probabilities, strict=True), start=1):
            end = "" if k == 1 else f"_{k}"
            values |= {f"class{end}": name, f"probability{end}": probability}
        return values


Write = Callable[[Prediction], None]


def csv_writer(file: IO[str]) -> Write:
    """Return what writes a line for each image, below one of headings; control characters in names are escapes."""
    writer = csv.writer(file, lineterminator="\n")
    is_first = True

    def write(prediction: Prediction) -> None:
        nonlocal is_first
        values = prediction.to_dict()
        if is_first:
            writer.writerow(values)
            is_first = False
        writer.writerow([printable(v) if isinstance(v, str) else f"{v:.6g}" for v in values.values()])
        file.flush()

    return write


def json_writer(file: IO[str]) -> Write:
    """Return what writes a JSON object for each image on a line of its own, in ASCII."""

    def write(prediction: Prediction) -> None:
        file.write(json.dumps(prediction.to_dict()).replace("\x7f", "\\u007f") + "\n")
        file.flush()

    return write


def predictions_of(trained: TrainedModel, names: Sequence[str], logits: Tensor, top_k: int = 1) -> list[Prediction]:
    """Return the `top_k` most likely classes of N images by their logits (N, K); refuse logits that are not finite."""
    if not bool(torch.isfinite(logits).all()):
        raise BcosError(
            "the outputs of the network are infinite or not a number; train it again with a lower optimizer.lr"
        )
    best = logits.topk(top_k).indices  # (N, top_k); sigmoids of large logits may be equal
    probabilities = trained.confidences(logits).gather(1, best).tolist()
    classes = trained.classes
    found = zip(names, best.tolist(), probabilities, strict=True)
    return [Prediction(name, [classes[k] for k in order], values) for name, order, values in found]


@dataclass(frozen=True, slots=True)
class SplitPrediction:
    """What was predicted for one image of a split."""

    labels: Sequence[int]
    """True classes."""
    predicted: int
    probability: float
    """Of the predicted class."""
    name: str = ""
    """Of the image in its shard, where names were asked for."""

    @property
    def label(self) -> int:
        """The predicted class where it is a true one, else the first true class; 0 without any."""
        return self.predicted if self.predicted in self.labels else next(iter(self.labels), 0)


class SplitPredictions:
    """What was predicted for every image of a split, by position, over all processes; `classes` are the network's."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._found: dict[int, SplitPrediction] = {}

    def update(self, labels: Tensor, predicted: Tensor, probabilities: Tensor, places: Any) -> None:
        """Take a batch: labels (N,) or (N, K), predicted classes (N,), their probabilities, positions or a `Place`."""
        positions, names = places if isinstance(places, Place) else (places, [""] * len(labels))
        true = map(labels_of, labels.cpu())
        made = map(SplitPrediction, true, predicted.tolist(), probabilities.tolist(), names)
        self._found |= dict(zip(torch.as_tensor(positions).tolist(), made, strict=True))

    def state(self) -> dict[int, SplitPrediction]:
        """Return the predictions by position."""
        return self._found

    def merge(self, state: Mapping[int, SplitPrediction]) -> None:
        """Add predictions of another process."""
        self._found |= state

    def rows(self) -> Tensor:
        """Return rows (M, 4) of position, label, predicted class and its probability, in the order of the split."""
        rows = [(position, p.label, p.predicted, p.probability) for position, p in sorted(self._found.items())]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)

    def save(self, path: Path) -> None:
        """Write a table (CSV) in the order of the split."""
        classes, text = self._classes, io.StringIO()
        write = csv_writer(text)
        for _, p in sorted(self._found.items()):
            label = LABELS.join(classes[k] for k in p.labels)
            write(Prediction(p.name, [classes[p.predicted]], [p.probability], label))
        write_atomically(path, text.getvalue())


@dataclass(frozen=True)
class Predictor:
    """Predicts the `top_k` most likely classes of images with a network, which is moved to this process's device.

    Raises:
        BcosError: more classes than there are.
    """

    trained: TrainedModel
    write: Write
    """Called with each prediction."""
    top_k: int = 1
    batch_size: int = 64
    truncated: bool = False
    """Read JPEG files that were cut off."""
    show_progress: bool = True
    """Draw a progress bar; not where lines are written to the same terminal."""

    def __post_init__(self) -> None:
        classes = len(self.trained.classes)
        if not 1 <= self.top_k <= classes:
            raise BcosError(f"top-k must be from 1 to the {classes} classes of the network, got {self.top_k}")
        self.trained.model.to(default_device()).eval()

    def predict_files(self, files: Sequence[ImageFile]) -> list[Failure]:
        """Predict images, and clips by the mean logits of their frames, in order; return those that cannot be read."""
        failures: list[Failure] = []
        partial = PartlyRead()
        with console.counted("predicting", len(files), self.show_progress) as counter:
            for group in in_groups(files, self.batch_size):
                before = len(failures)
                if isinstance(group, ImageFile):
                    self._predict_clip(group, failures)
                    counter.advance()
                else:
                    self._predict_images(group, failures, partial)
                    counter.advance(len(group), images=len(group) - len(failures) + before)
        partial.tell()
        return failures

    def predict_shards(self, data: str, index: ShardIndex, split: str, reading: Reading, workers: int) -> int:
        """Predict the images of a split; return how many could not be read."""
        options: dict[str, Any] = {"batch_size": self.batch_size, "workers": workers, "named": True}

        def update(_images: Tensor, _labels: Tensor, places: Place, logits: Tensor) -> None:
            self._write(list(places.name), logits)

        network, device = self.trained.model, default_device()
        with make_batches(data, index, split, self.trained.input, reading=reading, **options) as batches:
            shown: dict[str, Any] = {"label": "predicting", "show_progress": self.show_progress}
            return run_network(self.trained, network, batches, update, device=device, **shown).unread

    def _predict_images(self, files: Sequence[ImageFile], failures: list[Failure], partial: PartlyRead) -> None:
        names, pixels = [], []
        for file in files:
            try:
                image = read_image(file.path, self.trained.input, truncated=self.truncated)
            except UnreadableImageError as reason:
                failures.append(Failure(str(file.path), str(reason)))
                continue
            partial.add(file.path, image)
            pixels.append(image.pixels)
            names.append(str(file.path))
        if names:
            images = explain_images(self.trained, torch.stack(pixels), methods=())
            self._write(names, torch.stack([image.logits for image in images]))

    def _predict_clip(self, file: ImageFile, failures: list[Failure]) -> None:
        try:
            found = survey(file.path, self.trained, self.batch_size, ClipOptions())
        except UnreadableImageError as reason:
            failures.append(Failure(str(file.path), str(reason)))
            return
        first = "the first " if found.is_cut else ""
        console.err.print(f"{file.path}: the mean over {first}{len(found.times)} frames")
        self._write([str(file.path)], found.logits[None])

    def _write(self, names: Sequence[str], logits: Tensor) -> None:
        for prediction in predictions_of(self.trained, names, logits.float().cpu(), self.top_k):
            self.write(prediction)
