"""The files of an explained image, and the records of them in ``explanations.json``."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcos_cli.explain.image_files import Failure, ImageFile
from bcos_cli.explain.options import PictureOptions
from bcos_cli.explain.sheets import Scale, Style, map_picture, overview, side_of, weight_picture
from bcos_cli.explain.targets import slugs
from bcos_core.files import write_atomically
from bcos_explain import ClassExplanation, ExplainedImage
from bcos_explain.explainers import remark_lines
from bcos_explain.render import laid_on, picture_bytes, save_sheet


@dataclass(frozen=True, kw_only=True)
class ExplanationRecord:
    """One explanation of one image, or of one clip, whose numbers are means over its frames."""

    file: str
    predicted: str
    confidence: float
    """Probability of the predicted class."""
    target: str
    target_index: int
    against: str | None
    """The class that the target is compared with: why one and not the other."""
    against_index: int | None
    probability: float
    """Probability of the target."""
    logit: float
    """Logit of the target, less that of the class it is compared with."""
    method: str
    contributions: float
    """Sum of the map."""
    bias: float | None
    """The part of the logit that does not come from the image; None for methods without a receipt."""
    receipt: dict[str, Any] | None
    """What the bias is made of, the residual, and whether that is rounding; None where `bias` is."""
    scale: dict[str, float | None]
    """Contribution at the ends of the colours (``limit``), and norm of W where it is opaque (``alpha``)."""
    pictures: dict[str, str]
    """File names by kind."""
    map: str
    """File name of the contributions (H, W), for a clip (frames, H, W), as a NumPy array of float32."""
    weight: str | None = None
    """File name of W (C, H, W), if asked for."""
    remarks: list[str] = field(default_factory=list)
    """Remarks of the method on its map: that it fell back to another, or is incomplete, zero or mostly noise."""
    notes: list[str] = field(default_factory=list)
    """What was done to the image before the network saw it."""
    frames: list[dict[str, Any]] | None = None
    """Time and numbers of each frame of a clip."""

    @classmethod
    def of(
        cls, explanation: ClassExplanation, classes: Sequence[str], *, predicted: int, **more: Any
    ) -> "ExplanationRecord":
        """Return the record of an explanation; `more` are the fields that do not follow from it."""
        target, receipt = explanation.target, explanation.receipt
        return cls(
            predicted=classes[predicted],
            target=classes[target.index],
            target_index=target.index,
            against=None if target.against is None else classes[target.against],
            against_index=target.against,
            probability=explanation.probability,
            logit=explanation.logit,
            method=explanation.method,
            contributions=explanation.contributions,
            bias=None if receipt is None else receipt.bias,
            receipt=None if receipt is None else receipt.to_dict(),
            remarks=remark_lines(explanation.remarks),
            **more,
        )


@dataclass
class ExplainedFiles:
    """What was written, and which files could not be explained."""

    explanations: list[ExplanationRecord] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    contact_sheets: list[str] = field(default_factory=list)
    """File names."""

    def names(self) -> set[str]:
        """Return the names of all files that were written."""
        of_each = ((*e.pictures.values(), e.map, e.weight) for e in self.explanations)
        return {name for names in of_each for name in names if name} | set(self.contact_sheets)

    def save(self, path: Path, **about: Any) -> None:
        """Write everything as JSON."""
        text = json.dumps({**about, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode(errors="backslashreplace"))  # file names may not be valid text


@dataclass(frozen=True)
class Writer:
    """Writes pictures, arrays and records of still images below a folder."""

    out: Path
    classes: list[str]
    options: PictureOptions

    def style(self, image: ExplainedImage, *, overlay: bool = False) -> Style:
        """Return the style of the pictures of an image."""
        return Style(
            classes=self.classes,
            side=side_of(image.image.shape[0], self.options.side),
            background=self.options.page,
            colorbar=self.options.colorbar,
            overlay=overlay,
            ground=self.options.background is None,
        )

    def write(
        self, file: ImageFile, image: ExplainedImage, scale: Scale, size: tuple[int, int], notes: Sequence[str]
    ) -> list[ExplanationRecord]:
        """Write everything about one image; return a record for each explanation."""
        names = self.sheet_names(file, self.options.format)
        pixels = image.image.shape[0]
        for kind, name in names.items():
            style = self.style(image, overlay=kind == "overlay")
            original = f"{size[0]}×{size[1]}, {pixels}×{pixels} for the network"
            sheet = overview(image, scale, style, heading=file.path.name, original=original, notes=notes)
            save_sheet(sheet, self.out / name)
        return [self._write_explanation(file, image, e, scale, names, notes) for e in image.explanations]

    def sheet_names(self, file: ImageFile, format: str) -> dict[str, str]:
        """Return the file names of the requested sheets, by kind."""
        kinds = {"side-by-side": ("overview", ""), "overlay": ("overlay", ".overlay")}
        chosen = [kinds[layout] for layout in kinds if layout in self.options.layouts]
        return {kind: f"{file.name}{suffix}.{format}" for kind, suffix in chosen}

    def stem(self, file: ImageFile, explanation: ClassExplanation) -> str:
        """Return the start of the names of an explanation's files."""
        target = explanation.target
        slug = self._slugs[target.index]
        if target.against is not None:
            slug = f"{slug}-not-{self._slugs[target.against]}"
        return f"{file.name}.{slug}.{explanation.method}"

    @cached_property
    def _slugs(self) -> list[str]:
        return slugs(self.classes)

    def _write_explanation(
        self,
        file: ImageFile,
        image: ExplainedImage,
        explanation: ClassExplanation,
        scale: Scale,
        sheets: dict[str, str],
        notes: Sequence[str],
    ) -> ExplanationRecord:
        stem = self.stem(file, explanation)
        pictures = dict(sheets)
        for kind, picture in self._separate(image, explanation, scale):
            pictures[kind] = f"{stem}.{kind}.{self.options.format}"
            side = side_of(picture.shape[0], self.options.side)
            laid = laid_on(picture, self.options.background or "none")
            write_atomically(self.out / pictures[kind], picture_bytes(laid, self.options.format, side=side))
        write_atomically(self.out / f"{stem}.npy", npy_bytes(explanation.map))
        if explanation.weight is not None:
            write_atomically(self.out / f"{stem}.weight.npy", npy_bytes(explanation.weight))
        return ExplanationRecord.of(
            explanation,
            self.classes,
            predicted=image.predicted,
            confidence=image.confidence,
            file=str(file.path),
            scale=scale.to_dict(explanation),
            pictures=pictures,
            map=f"{stem}.npy",
            weight=None if explanation.weight is None else f"{stem}.weight.npy",
            notes=list(notes),
        )

    def _separate(
        self, image: ExplainedImage, explanation: ClassExplanation, scale: Scale
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield pictures without text, by kind."""
        if "separate" not in self.options.layouts:
            return
        for suffix in ("", "-overlay") if "overlay" in self.options.layouts else ("",):
            yield f"contributions{suffix}", map_picture(image, explanation, scale, overlay=bool(suffix))
            weight = weight_picture(image, explanation, scale, overlay=bool(suffix), ground=False)
            if weight is not None:
                yield f"explanation{suffix}", weight


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Return an array as a NumPy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array))
    return buffer.getvalue()
