"""Labels of samples: one class, or several. Imports no torch."""

import re

from bcos_core.errors import BcosError

_INDICES = re.compile(rb"\s*(\d+([\s,;]+\d+)*)?\s*")


def parse_labels(text: bytes, num_classes: int, multi_label: bool) -> list[int]:
    """Class indices in the content of a ``.cls`` file.

    Exactly one, or, where images have several labels, any number, separated by spaces or commas.

    Raises:
        BcosError: other content, or an index outside [0, num_classes).
    """
    if _INDICES.fullmatch(text) is None or (not multi_label and not text.strip().isdigit()):
        wanted = "class indices" if multi_label else "one class index"
        raise BcosError(f"a .cls file must hold {wanted}, got {text[:20]!r}")
    labels = [int(part) for part in re.split(rb"[\s,;]+", text.strip()) if part]
    wrong = [label for label in labels if label >= num_classes]
    if wrong:
        raise BcosError(f"a .cls file has the class index {wrong[0]}, there are {num_classes} classes")
    return labels
