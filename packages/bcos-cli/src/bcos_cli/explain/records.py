"""What ``explanations.json`` holds."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bcos_cli.explain.image_files import Failure
from bcos_core.files import write_atomically


@dataclass(frozen=True)
class ExplainedImage:
    """One explanation of one image, or of one clip, whose numbers are means over its frames."""

    file: str
    predicted: str
    confidence: float
    """Probability of the predicted class."""
    target: str
    target_index: int
    against: str | None
    """The class that the target is compared with, in explanations of why one and not the other."""
    against_index: int | None
    probability: float
    """Of the target."""
    logit: float
    """Of the target; less that of the class it is compared with."""
    method: str
    contributions: float
    """Sum of the map."""
    bias: float | None
    """What of the logit does not come from the image; None for methods that are not exact."""
    receipt: dict[str, Any] | None
    """What the bias is made of, what is left over, and whether that is rounding; None as `bias`."""
    scale: dict[str, float | None]
    """Contribution at the ends of the colours (``limit``), and norm of W where it is opaque (``alpha``)."""
    pictures: dict[str, str]
    """File names by kind."""
    map: str
    """File name of the contributions (H, W), of a clip (frames, H, W), as a NumPy array of float32."""
    weight: str | None = None
    """File name of W (C, H, W), if asked for."""
    remarks: list[str] = field(default_factory=list)
    """What the method said of its map: that it fell back to another, or is incomplete, zero or mostly noise."""
    notes: list[str] = field(default_factory=list)
    """What was done to the image before the network saw it."""
    frames: list[dict[str, Any]] | None = None
    """Of clips: time and numbers of each frame."""


@dataclass
class Written:
    """What was written."""

    explanations: list[ExplainedImage] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    contact_sheets: list[str] = field(default_factory=list)
    """File names."""

    def save(self, path: Path, **about: Any) -> None:
        """Write everything as JSON."""
        text = json.dumps({**about, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode(errors="backslashreplace"))  # names of files may be bytes that are no text
