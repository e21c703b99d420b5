"""From a subject to its files and records."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcos_cli.explain.answers import EXACT, Answer, Subject
from bcos_cli.explain.image_files import ImageFile
from bcos_cli.explain.options import PictureOptions
from bcos_cli.explain.pictures import as_floats
from bcos_cli.explain.records import ExplainedImage
from bcos_cli.explain.scales import Scales
from bcos_cli.explain.sheets import Style, contributions, explanation, overview, side_of
from bcos_cli.explain.targets import Question, slugs
from bcos_core.files import write_atomically
from bcos_explain.explainers import remark_lines
from bcos_explain.render import (
    contribution_overlay,
    explanation_overlay,
    laid_on,
    picture_bytes,
    save_sheet,
)


@dataclass(frozen=True)
class Writer:
    """Writes pictures, arrays and records of still images below a folder."""

    out: Path
    classes: list[str]
    options: PictureOptions

    def style(self, pixels: int, *, overlay: bool = False) -> Style:
        """How pictures of images of so many pixels look."""
        return Style(
            classes=self.classes,
            side=side_of(pixels, self.options.side),
            background=self.options.page,
            colorbar=self.options.colorbar,
            overlay=overlay,
        )

    def write(
        self, file: ImageFile, subject: Subject, scales: Scales, size: tuple[int, int], notes: tuple[str, ...]
    ) -> list[ExplainedImage]:
        """Write everything about one image; return a record for each answer."""
        sheets = self._write_sheets(file, subject, scales, size)
        return [self._write_answer(file, subject, i, scales, sheets, notes) for i in range(len(subject.answers))]

    def stem(self, file: ImageFile, answer: Answer) -> str:
        """Start of the names of an answer's files."""
        return f"{file.name}.{self._slug(answer.question)}.{answer.method}"

    @cached_property
    def _slugs(self) -> list[str]:
        return slugs(self.classes)

    def _slug(self, question: Question) -> str:
        slug = self._slugs[question.target]
        return slug if question.against is None else f"{slug}-not-{self._slugs[question.against]}"

    def _write_sheets(self, file: ImageFile, subject: Subject, scales: Scales, size: tuple[int, int]) -> dict[str, str]:
        pixels = subject.arrays["rgb"].shape[0]
        names = {}
        for layout, kind in (("side-by-side", "overview"), ("overlay", "overlay")):
            if layout in self.options.layouts:
                names[kind] = f"{file.name}{'.overlay' if layout == 'overlay' else ''}.{self.options.format}"
                sheet = overview(
                    subject,
                    scales,
                    self.style(pixels, overlay=layout == "overlay"),
                    heading=file.path.name,
                    original=f"{size[0]}×{size[1]}, seen as {pixels}×{pixels}",
                )
                save_sheet(sheet, self.out / names[kind])
        return names

    def _write_answer(
        self,
        file: ImageFile,
        subject: Subject,
        i: int,
        scales: Scales,
        sheets: dict[str, str],
        notes: tuple[str, ...],
    ) -> ExplainedImage:
        answer = subject.answers[i]
        stem = self.stem(file, answer)
        pictures = dict(sheets)
        for kind, picture in self._separate(subject, i, scales):
            pictures[kind] = f"{stem}.{kind}.{self.options.format}"
            side = side_of(picture.shape[0], self.options.side)
            laid = laid_on(picture, self.options.background or "none")
            write_atomically(self.out / pictures[kind], picture_bytes(laid, self.options.format, side=side))
        save_array(self.out / f"{stem}.npy", subject.arrays[f"map.{i}"])
        weight = subject.arrays.get(f"weight.{i}")
        if weight is not None:
            save_array(self.out / f"{stem}.weight.npy", weight)
        return record(
            str(file.path),
            subject,
            answer,
            self.classes,
            scale=scale_of(answer, scales),
            pictures=pictures,
            map=f"{stem}.npy",
            weight=None if weight is None else f"{stem}.weight.npy",
            notes=list(notes),
        )

    def _separate(self, subject: Subject, i: int, scales: Scales) -> Iterator[tuple[str, NDArray[Any]]]:
        """Pictures without text, by kind."""
        if "separate" not in self.options.layouts:
            return
        w = explanation(subject, i, scales)
        yield "contributions", contributions(subject, i, scales)
        if w is not None:
            yield "explanation", w
        if "overlay" in self.options.layouts:
            rgb = as_floats(subject.arrays["rgb"])
            limit = scales.limits[subject.answers[i].method]
            yield "contributions-overlay", contribution_overlay(rgb, subject.arrays[f"map.{i}"], limit=limit)
            if w is not None:
                yield "explanation-overlay", explanation_overlay(rgb, w)


def record(
    file: str,
    subject: Subject,
    answer: Answer,
    classes: list[str],
    *,
    scale: dict[str, float | None],
    pictures: dict[str, str],
    map: str,
    **more: Any,
) -> ExplainedImage:
    """What is written of an answer in numbers."""
    question = answer.question
    return ExplainedImage(
        file=file,
        predicted=classes[subject.predicted],
        confidence=subject.confidence,
        target=classes[question.target],
        target_index=question.target,
        against=None if question.against is None else classes[question.against],
        against_index=question.against,
        probability=answer.probability,
        logit=answer.logit,
        method=answer.method,
        contributions=answer.contributions,
        bias=None if answer.receipt is None else answer.receipt.bias,
        receipt=receipt_record(answer),
        remarks=remark_lines(answer.remarks),
        scale=scale,
        pictures=pictures,
        map=map,
        **more,
    )


def receipt_record(answer: Answer) -> dict[str, Any] | None:
    """A receipt as JSON holds it."""
    return None if answer.receipt is None else answer.receipt.to_dict()


def scale_of(answer: Answer, scales: Scales) -> dict[str, float | None]:
    """The scales that an answer's pictures were drawn with."""
    return {"limit": scales.limits[answer.method], "alpha": scales.alpha if answer.method == EXACT else None}


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as float32; the file appears complete or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, dtype=np.float32))
    write_atomically(path, buffer.getvalue())
