"""The records in ``explanations.json``."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bcos_cli.explain.image_files import Failure
from bcos_core.files import write_atomically
from bcos_explain import ClassExplanation
from bcos_explain.explainers import remark_lines


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
            receipt=receipt_record(explanation),
            remarks=remark_lines(explanation.remarks),
            **more,
        )


def receipt_record(explanation: ClassExplanation) -> dict[str, Any] | None:
    """Return a receipt for JSON."""
    return None if explanation.receipt is None else explanation.receipt.to_dict()


@dataclass
class ExplainedFiles:
    """What was written, and which files could not be explained."""

    explanations: list[ExplanationRecord] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    contact_sheets: list[str] = field(default_factory=list)
    """File names."""

    def save(self, path: Path, **about: Any) -> None:
        """Write everything as JSON."""
        text = json.dumps({**about, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode(errors="backslashreplace"))  # file names may not be valid text
