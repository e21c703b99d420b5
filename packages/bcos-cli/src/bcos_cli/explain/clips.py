"""Explaining videos and animated images, frame by frame, with a memory that does not grow with their length."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcos_cli.data.input_image import prepare
from bcos_cli.explain.batch import Request, explain_images
from bcos_cli.explain.frames import frames
from bcos_cli.explain.image_files import ImageFile
from bcos_cli.explain.options import ClipOptions
from bcos_cli.explain.sheets import Scale, overview
from bcos_cli.explain.store import ImageStore
from bcos_cli.explain.writer import ExplanationRecord, Writer
from bcos_core.files import replacement
from bcos_explain import ClassExplanation, ClassTarget
from bcos_explain.explainers import Remark
from bcos_explain.explainers.remarks import worst
from bcos_explain.render import animation
from bcos_explain.render.files import draw
from bcos_explain.render.sheet import Sheet
from bcos_models import TrainedModel


@dataclass(frozen=True)
class Survey:
    """What is known about a clip before its frames are explained."""

    logits: Tensor
    """(K,), their mean over the frames."""
    times: list[float]
    """How long each frame is shown, in milliseconds."""
    is_cut: bool
    """Whether the clip has more frames than are explained."""
    notes: tuple[str, ...]
    """What was done to its frames beside resizing."""


def survey(path: Path, trained: TrainedModel, batch_size: int, options: ClipOptions) -> Survey:
    """Pass the frames of a clip through a network; raise :class:`UnreadableImageError` for a damaged file."""
    times: list[float] = []
    logits = [
        image.logits.double()
        for images in _batches(path, trained, batch_size, options, times)
        for image in explain_images(trained, images, methods=())
    ]
    most = options.max_frames
    notes = prepare(next(frames(path)).image, trained.input).notes
    return Survey(torch.stack(logits).mean(0).float(), times[:most], len(times) > most, notes)


def _batches(
    path: Path, trained: TrainedModel, batch_size: int, options: ClipOptions, times: list[float]
) -> Iterator[Tensor]:
    """Yield frames as 8-bit (N, C, H, W); append their times to `times`, and that of the first frame too many."""
    most = options.max_frames
    batch: list[Tensor] = []
    for frame in islice(frames(path, options.every), most + 1):
        times.append(frame.milliseconds)
        if len(times) <= most:
            batch.append(prepare(frame.image, trained.input).pixels)
        if len(batch) == batch_size:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)


@dataclass(frozen=True)
class ClipExplainer:
    """Explains a clip with the same classes, on the same scale, from its first frame to its last."""

    request: Request
    writer: Writer
    options: ClipOptions

    def explain(self, file: ImageFile) -> list[ExplanationRecord]:
        """Write an animation and the maps of all frames; return a record for each explanation.

        The file is read twice: first for the mean logits over its frames, which choose the classes.

        Raises:
            UnreadableImageError: a damaged file.
        """
        request = self.request
        whole = survey(file.path, request.trained, request.batch_size, self.options)
        (targets,) = request.choice(whole.logits[None])
        self.writer.out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.writer.out, prefix=".frames-") as folder:
            store = ImageStore(Path(folder))
            for images in _batches(file.path, request.trained, request.batch_size, self.options, []):
                for image in request.explain(images, targets):
                    store.add(replace(image, explanations=tuple(replace(e, weight=None) for e in image.explanations)))
            scale = Scale.of(store)
            pictures = self._animate(file, store, scale, whole)
            maps = self._save_maps(file, store)
        return self._records(file, store, scale, whole, pictures, maps)

    def _animate(self, file: ImageFile, store: ImageStore, scale: Scale, survey: Survey) -> dict[str, str]:
        """Write an animation for each layout; return the file names by kind."""
        names = self.writer.sheet_names(file, self.options.format)
        # A receipt takes as many lines as it needs, but all frames of an animation are of one size: the largest.
        sizes = dict.fromkeys(names, (0, 0))
        for sheets in self._sheets(file, store, scale, survey, names):
            for kind, sheet in sheets.items():
                width, height = sizes[kind]
                sizes[kind] = (max(width, sheet.width), max(height, sheet.height))
        with ExitStack() as stack:
            writers = {
                kind: stack.enter_context(animation(self.writer.out / name, self.options.format))
                for kind, name in names.items()
            }
            all_sheets = self._sheets(file, store, scale, survey, names)
            for sheets, milliseconds in zip(all_sheets, survey.times, strict=True):
                for kind, sheet in sheets.items():
                    sheet.width, sheet.height = sizes[kind]
                    writers[kind].add(draw(sheet), milliseconds)
        return names

    def _sheets(
        self, file: ImageFile, store: ImageStore, scale: Scale, survey: Survey, kinds: Iterable[str]
    ) -> Iterator[dict[str, Sheet]]:
        """Lay out the sheets of every frame, by kind; remarks over all frames stand below each of them."""
        common = [_worst_remarks(r) for r in zip(*(image.explanations for image in store.without_arrays), strict=True)]
        start = 0.0
        for image, milliseconds in zip(store, survey.times, strict=True):
            explanations = [replace(e, remarks=r) for e, r in zip(image.explanations, common, strict=True)]
            image = replace(image, explanations=tuple(explanations))
            at = f"at {start / 1000:.2f} s of {sum(survey.times) / 1000:.2f} s"
            styles = {kind: self.writer.style(image, overlay=kind == "overlay") for kind in kinds}
            yield {
                kind: overview(image, scale, style, heading=file.path.name, original=at, notes=survey.notes)
                for kind, style in styles.items()
            }
            start += milliseconds

    def _save_maps(self, file: ImageFile, store: ImageStore) -> list[str]:
        """Write maps (frames, H, W) of each explanation, one frame in memory at a time; return the file names."""
        names: list[str] = []
        stored: list[NDArray[Any]] = []
        with ExitStack() as stack:
            for f, image in enumerate(store):
                for i, explanation in enumerate(image.explanations):
                    if f == 0:
                        names.append(f"{self.writer.stem(file, explanation)}.npy")
                        aside = stack.enter_context(replacement(self.writer.out / names[i]))
                        shape = (len(store), *explanation.map.shape)
                        stored.append(np.lib.format.open_memmap(aside, "w+", dtype=np.float32, shape=shape))
                    stored[i][f] = explanation.map
            stored.clear()  # a memory map is written when its last reference goes
        return names

    def _records(
        self, file: ImageFile, store: ImageStore, scale: Scale, survey: Survey, sheets: dict[str, str], maps: list[str]
    ) -> list[ExplanationRecord]:
        predicted = int(survey.logits.argmax())
        starts = np.cumsum([0.0, *survey.times[:-1]]).tolist()
        by_explanation = list(zip(*(image.explanations for image in store.without_arrays), strict=True))
        means = [_mean(explanations) for explanations in by_explanation]
        own = [mean.probability for mean in means if mean.target == ClassTarget(predicted)]
        confidence = own[0] if own else float(self.request.trained.confidences(survey.logits[None])[0, predicted])
        notes = [f"only the first {len(survey.times)} frames of the clip: --max-frames"] if survey.is_cut else []
        notes += survey.notes
        notes.append("numbers are means over frames; predicted is the class of the largest mean logit")
        return [
            ExplanationRecord.of(
                mean,
                self.writer.classes,
                predicted=predicted,
                confidence=confidence,
                file=str(file.path),
                scale=scale.to_dict(mean),
                pictures=sheets,
                map=name,
                notes=notes,
                frames=[_frame_record(e, at, ms) for e, at, ms in zip(frames, starts, survey.times, strict=True)],
            )
            for mean, frames, name in zip(means, by_explanation, maps, strict=True)
        ]


def _frame_record(explanation: ClassExplanation, start: float, milliseconds: float) -> dict[str, Any]:
    return {
        "start_ms": round(start, 3),
        "duration_ms": round(milliseconds, 3),
        "probability": explanation.probability,
        "logit": explanation.logit,
        "contributions": explanation.contributions,
        "receipt": None if explanation.receipt is None else explanation.receipt.to_dict(),
    }


def _mean(explanations: Sequence[ClassExplanation]) -> ClassExplanation:
    """Return the mean numbers over frames, of one target by one method."""
    receipts = [e.receipt for e in explanations if e.receipt is not None]
    receipt = None
    if receipts:
        receipt = replace(
            receipts[0],
            score=fmean(r.score for r in receipts),
            contributions=fmean(r.contributions for r in receipts),
            absolute=fmean(r.absolute for r in receipts),
            bias=fmean(r.bias for r in receipts),
            terms={name: fmean(r.terms.get(name, 0.0) for r in receipts) for name in receipts[0].terms},
            held=fmean(r.held for r in receipts),
            probe=max((r.probe for r in receipts if r.probe is not None), default=None),
            residual=max((r.residual for r in receipts), key=abs),
            allowed=min(r.allowed for r in receipts),
        )
    return replace(
        explanations[0],
        logit=fmean(e.logit for e in explanations),
        probability=fmean(e.probability for e in explanations),
        contributions=fmean(e.contributions for e in explanations),
        receipt=receipt,
        remarks=_worst_remarks(explanations),
    )


def _worst_remarks(explanations: Sequence[ClassExplanation]) -> tuple[Remark, ...]:
    return tuple(worst(remark for e in explanations for remark in e.remarks))
