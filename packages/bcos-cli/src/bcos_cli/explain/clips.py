"""Explaining videos and animated images, frame by frame, with a memory that does not grow with their length."""

from collections.abc import Iterator, Sequence
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
from bcos_cli.explain.answers import Answer, Asker, Subject
from bcos_cli.explain.frames import frames
from bcos_cli.explain.image_files import ImageFile
from bcos_cli.explain.options import ClipOptions
from bcos_cli.explain.records import ExplainedImage
from bcos_cli.explain.scales import Scales, Shelf, scales_of
from bcos_cli.explain.sheets import overview
from bcos_cli.explain.targets import Question, Wanted
from bcos_cli.explain.writer import Writer, receipt_record, record, scale_of
from bcos_core.files import replacement
from bcos_explain.explainers import Remark
from bcos_explain.explainers.remarks import worst
from bcos_explain.render import animation
from bcos_explain.render.raster import draw


@dataclass(frozen=True)
class ClipExplainer:
    """Explains a clip with the same classes, on the same scale, from its first frame to its last."""

    asker: Asker
    wanted: Wanted
    writer: Writer
    options: ClipOptions
    batch_size: int

    def explain(self, file: ImageFile) -> list[ExplainedImage]:
        """Write an animation and the maps of all frames; return a record for each answer.

        The file is read twice: first for the mean logits over its frames, which choose the classes.

        Raises:
            UnreadableImageError: a damaged file.
        """
        mean, times, cut = self._survey(file.path)
        questions = self.wanted.of(mean[None])[0]
        with TemporaryDirectory(dir=self.writer.out, prefix=".frames-") as folder:
            shelf = Shelf(Path(folder))
            for images in self._batches(file.path, []):
                for subject in self.asker.answer(images, questions):
                    shelf.add(subject)
            scales = scales_of(shelf)
            pictures = self._animate(file, shelf, scales, times)
            maps = self._save_maps(file, shelf)
        notes = [f"only the first {len(times)} frames of the clip: --max-frames"] if cut else []
        return self._records(file, shelf, scales, mean, times, pictures, maps, notes)

    def _batches(self, path: Path, times: list[float]) -> Iterator[Tensor]:
        """8-bit (N, C, H, W) of the frames; their times are appended to `times`, also that of one frame too many."""
        spec, most = self.asker.trained.input, self.options.max_frames
        batch: list[Tensor] = []
        for frame in islice(frames(path, self.options.every), most + 1):
            times.append(frame.milliseconds)
            if len(times) <= most:
                batch.append(prepare(frame.image, spec).pixels)
            if len(batch) == self.batch_size:
                yield torch.stack(batch)
                batch = []
        if batch:
            yield torch.stack(batch)

    def _survey(self, path: Path) -> tuple[Tensor, list[float], bool]:
        """Mean logits (K,), times of the frames in milliseconds, and whether there are more of them than explained."""
        times: list[float] = []
        total = sum(self.asker.logits(images).double().sum(0) for images in self._batches(path, times))
        assert isinstance(total, Tensor)  # frames() raises where there is none
        count = min(len(times), self.options.max_frames)
        return (total / count).float(), times[:count], len(times) > count

    def _animate(self, file: ImageFile, shelf: Shelf, scales: Scales, times: Sequence[float]) -> dict[str, str]:
        names = {}
        with ExitStack() as stack:
            writers = {}
            for layout, kind in (("side-by-side", "overview"), ("overlay", "overlay")):
                if layout in self.writer.options.layouts:
                    suffix = ".overlay" if layout == "overlay" else ""
                    names[kind] = f"{file.name}{suffix}.{self.options.format}"
                    path = self.writer.out / names[kind]
                    writers[kind] = stack.enter_context(animation(path, self.options.format))
            start = 0.0
            said = _common_remarks(shelf.numbers)  # below every frame, so that all are of one size
            for subject, milliseconds in zip(shelf, times, strict=True):
                answers = [replace(a, remarks=common) for a, common in zip(subject.answers, said, strict=True)]
                subject = replace(subject, answers=answers)
                for kind, writer in writers.items():
                    style = self.writer.style(subject.arrays["rgb"].shape[0], overlay=kind == "overlay")
                    at = f"at {start / 1000:.2f} s of {sum(times) / 1000:.2f} s"
                    sheet = overview(subject, scales, style, heading=file.path.name, original=at)
                    writer.add(draw(sheet), milliseconds)
                start += milliseconds
        return names

    def _save_maps(self, file: ImageFile, shelf: Shelf) -> list[str]:
        """Write maps (frames, H, W) of each answer, one frame in memory at a time; return the file names."""
        names: list[str] = []
        stored: list[NDArray[Any]] = []
        with ExitStack() as stack:
            for f, subject in enumerate(shelf):
                for i, answer in enumerate(subject.answers):
                    map = subject.arrays[f"map.{i}"]
                    if f == 0:
                        names.append(f"{self.writer.stem(file, answer)}.npy")
                        aside = stack.enter_context(replacement(self.writer.out / names[i]))
                        shape = (len(shelf), *map.shape)
                        stored.append(np.lib.format.open_memmap(aside, "w+", dtype=np.float32, shape=shape))
                    stored[i][f] = map
            stored.clear()  # written to disk when nobody holds them any more
        return names

    def _records(
        self,
        file: ImageFile,
        shelf: Shelf,
        scales: Scales,
        mean: Tensor,
        times: Sequence[float],
        pictures: dict[str, str],
        maps: Sequence[str],
        notes: list[str],
    ) -> list[ExplainedImage]:
        predicted = int(mean.argmax())
        numbers = shelf.numbers
        confidences = self.asker.trained.confidences(mean[None])[0]
        own = [
            fmean(subject.answers[i].probability for subject in numbers)
            for i, first in enumerate(numbers[0].answers)
            if first.question == Question(predicted)
        ]
        clip = Subject(predicted, own[0] if own else float(confidences[predicted]))
        notes = [*notes, "numbers are means over frames; predicted is the class of the largest mean logit"]
        starts = np.cumsum([0.0, *times[:-1]]).tolist()
        made = []
        for i, first in enumerate(numbers[0].answers):
            answers = [subject.answers[i] for subject in numbers]
            made.append(
                record(
                    str(file.path),
                    clip,
                    _mean_answer(answers),
                    self.writer.classes,
                    scale=scale_of(first, scales),
                    pictures=pictures,
                    map=maps[i],
                    notes=notes,
                    frames=[_frame_record(a, at, ms) for a, at, ms in zip(answers, starts, times, strict=True)],
                )
            )
        return made


def _frame_record(answer: Answer, start: float, milliseconds: float) -> dict[str, Any]:
    return {
        "start_ms": round(start, 3),
        "duration_ms": round(milliseconds, 3),
        "probability": answer.probability,
        "logit": answer.logit,
        "contributions": answer.contributions,
        "receipt": receipt_record(answer),
    }


def _mean_answer(answers: Sequence[Answer]) -> Answer:
    """Means over frames."""
    papers = [answer.receipt for answer in answers if answer.receipt is not None]
    receipt = None
    if papers:
        receipt = replace(
            papers[0],
            score=fmean(p.score for p in papers),
            contributions=fmean(p.contributions for p in papers),
            absolute=fmean(p.absolute for p in papers),
            bias=fmean(p.bias for p in papers),
            terms={name: fmean(p.terms.get(name, 0.0) for p in papers) for name in papers[0].terms},
            held=fmean(p.held for p in papers),
            probe=max((p.probe for p in papers if p.probe is not None), default=None),
            residual=max((p.residual for p in papers), key=abs),
            allowed=min(p.allowed for p in papers),
        )
    return replace(
        answers[0],
        logit=fmean(a.logit for a in answers),
        probability=fmean(a.probability for a in answers),
        contributions=fmean(a.contributions for a in answers),
        receipt=receipt,
        remarks=_remarks_of(answers),
    )


def _common_remarks(frames: Sequence[Subject]) -> list[tuple[Remark, ...]]:
    """Remarks of each answer over all frames."""
    return [_remarks_of(answers) for answers in zip(*(frame.answers for frame in frames), strict=True)]


def _remarks_of(answers: Sequence[Answer]) -> tuple[Remark, ...]:
    return tuple(worst(found for answer in answers for found in answer.remarks))
