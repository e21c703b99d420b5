"""Labels of images in a table beside them: one for each image, or several. Imports no torch."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bcos_cli.data.sources import ImageItem
from bcos_core.errors import BcosError, shortened, shown
from bcos_core.plugins import suggestion
from bcos_core.text import printable

SEPARATOR = ";"


@dataclass(frozen=True)
class LabelledImage:
    """A row of a table."""

    image: str
    """Path below the source."""
    labels: tuple[str, ...]
    """Names of classes."""
    split: str | None


def read_table(table: Path) -> list[LabelledImage]:
    """Read a CSV file: columns ``image``, ``labels`` (class names, separated by ``;``) and, if wanted, ``split``.

    Raises:
        BcosError: no such file or columns, an image that comes twice, or no rows.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or []]
            if missing := [name for name in ("image", "labels") if name not in columns]:
                given = printable(shortened(", ".join(columns))) or "none"
                raise BcosError(
                    f"the table {str(table)!r} has no column {missing[0]!r}, has {given}; "
                    "its first line must be: image,labels or image,labels,split"
                )
            rows = [{(key or "").strip(): (value or "") for key, value in row.items() if key} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as reason:
        raise BcosError(f"cannot read the table {str(table)!r}: {reason}") from reason
    found = []
    seen: set[str] = set()
    for row in rows:
        image = row["image"].strip()
        if image in seen:
            raise BcosError(f"the table {str(table)!r} has the image {shown(image)} twice; give its labels in one row")
        seen.add(image)
        names = tuple(dict.fromkeys(name for part in row["labels"].split(SEPARATOR) if (name := part.strip())))
        found.append(LabelledImage(image, names, row.get("split", "").strip() or None))
    if not found:
        raise BcosError(f"the table {str(table)!r} has no rows")
    return found


def labelled_items(
    rows: list[LabelledImage], files: Iterable[str], split: str, versions: Mapping[str, str], table: Path
) -> tuple[list[str], list[ImageItem]]:
    """Classes and images of a table; each image has one label, or all of them have a tuple of them.

    Raises:
        BcosError: an image that is not among `files`, or no labels at all.
    """
    known = set(files)
    for row in rows:
        if row.image not in known:
            raise BcosError(
                f"the image {shown(row.image)} of the table {str(table)!r} is not there; {suggestion(row.image, known)}"
            )
    classes = sorted({name for row in rows for name in row.labels})
    if not classes:
        raise BcosError(f"the table {str(table)!r} has no labels")
    numbers = {name: k for k, name in enumerate(classes)}
    several = any(len(row.labels) != 1 for row in rows)
    items = []
    for row in sorted(rows, key=lambda row: row.image):
        labels = tuple(numbers[name] for name in row.labels)
        label = labels if several else labels[0]
        items.append(ImageItem(row.image, row.split or split, label, versions.get(row.image, "")))
    return classes, items
