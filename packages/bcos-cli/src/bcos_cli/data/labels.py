"""Labels of samples: one class, or several. Imports no torch."""

import re

from bcos_core.errors import BcosError

MAX_CLASSES = 1_000_000
_MOST_DIGITS = 9
_MOST_BYTES = 1 << 20


def parse_labels(text: bytes, num_classes: int, multi_label: bool) -> list[int]:
    """Class indices in the content of a ``.cls`` file, each once.

    Exactly one, or, where images have several labels, any number, separated by spaces or commas.

    Raises:
        BcosError: other content, or an index outside [0, num_classes).
    """
    content = text.strip() if len(text) <= _MOST_BYTES else b"-"
    parts = re.split(rb"[\s,;]+", content) if content else []
    are_indices = all(part.isdigit() and len(part) <= _MOST_DIGITS for part in parts)
    if not are_indices or (not multi_label and len(parts) != 1):
        wanted = "class indices" if multi_label else "one class index"
        raise BcosError(f"a .cls file must hold {wanted}, got {text[:20]!r}")
    labels = list(dict.fromkeys(map(int, parts)))
    wrong = [label for label in labels if label >= num_classes]
    if wrong:
        raise BcosError(f"a .cls file has the class index {wrong[0]}, there are {num_classes} classes")
    return labels
