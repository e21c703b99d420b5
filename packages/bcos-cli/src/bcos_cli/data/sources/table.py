"""Labels in a table beside the images: one for each image, or several. Imports no torch."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bcos_cli.data.sources.source import ImageItem
from bcos_core.errors import BcosError, shortened, shown
from bcos_core.plugins import suggestion
from bcos_core.text import printable


@dataclass(frozen=True)
class TableRow:
    """A row of a table."""

    image: str
    """Path in the source."""
    labels: tuple[str, ...]
    """Names of classes."""
    split: str | None


def read_table(table: Path) -> list[TableRow]:
    """Read a CSV file: columns ``image``, ``labels`` (class names, separated by ``;``) and perhaps ``split``.

    Raises:
        BcosError: there is no such file, no such column or no row, or an image comes twice.
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
    found: dict[str, TableRow] = {}
    for row in rows:
        image = row["image"].strip()
        if image in found:
            raise BcosError(f"the table {str(table)!r} has the image {shown(image)} twice; give its labels in one row")
        names = tuple(dict.fromkeys(name for part in row["labels"].split(";") if (name := part.strip())))
        found[image] = TableRow(image, names, row.get("split", "").strip() or None)
    if not found:
        raise BcosError(f"the table {str(table)!r} has no rows")
    return list(found.values())


def table_items(
    rows: list[TableRow], files: Mapping[str, str], split: str, table: Path
) -> tuple[list[str], list[ImageItem]]:
    """Return the classes and images of a table; each image has one label, or all of them have a tuple of labels.

    Args:
        files: paths in the source, and for each what changes with its content.

    Raises:
        BcosError: an image is not among `files`, or there are no labels at all.
    """
    for row in rows:
        if row.image not in files:
            raise BcosError(
                f"the image {shown(row.image)} of the table {str(table)!r} is not there; {suggestion(row.image, files)}"
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
        items.append(ImageItem(row.image, row.split or split, label, files[row.image]))
    return classes, items
