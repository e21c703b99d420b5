"""Labels in a table beside the images: one for each image, or several. Imports no torch."""

import csv
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from bcos_cli.data.sources.inventory import Inventory, is_image
from bcos_cli.data.sources.layout import class_name
from bcos_cli.data.sources.source import ImageItem
from bcos_cli.data.splits import usual_split
from bcos_core.errors import BcosError, shortened, shown
from bcos_core.plugins import suggestion
from bcos_core.text import printable

IMAGE, LABELS, SPLIT = "image", "labels", "split"
"""Names of the columns."""
_FLAGS = {"": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
"""What may stand in a column of a class."""


@dataclass(frozen=True)
class LabelTable:
    """A CSV file with the images of a source and their classes."""

    path: Path
    image: str = IMAGE
    """Column of paths; their suffix may be missing."""
    labels: Sequence[str] = (LABELS,)
    """Column of class names, separated by ``;``; or several columns, or patterns for them, named by the classes and
    with 1 where an image has that class."""

    def rows(self) -> "list[TableRow]":
        """Read the table; its column ``split`` may be missing.

        Raises:
            BcosError: there is no such file, no such column, no row, or a row without an image.
        """
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file)
                columns = self._columns(next(reader, []))
                chosen = self._label_columns(columns)
                lines = [(reader.line_num, self._row(reader.line_num, columns, row)) for row in reader if row]
        except UnicodeDecodeError as reason:
            raise BcosError(f"cannot read the table {str(self.path)!r}: {reason}; save it as UTF-8") from reason
        except (OSError, csv.Error) as reason:
            raise BcosError(f"cannot read the table {str(self.path)!r}: {reason}") from reason
        if not lines:
            raise BcosError(f"the table {str(self.path)!r} has no rows")
        self._refuse_splits_elsewhere(columns, chosen, [row for _, row in lines])
        found = []
        for number, row in lines:
            if not (image := row[self.image].strip()):
                raise BcosError(f"line {number} of the table {str(self.path)!r} has no {self.image}; remove or fill it")
            split = row.get(SPLIT, "").strip()
            found.append(TableRow(image, self._names(number, row, chosen), usual_split(split) or split or None))
        return found

    def _columns(self, headings: Sequence[str]) -> list[str]:
        """Return the names of columns; ``image``, ``labels`` and ``split`` in any case."""
        names = [name.strip() for name in headings]
        usual = {name: name for name in (self.image, *self.labels, SPLIT)}
        columns = [name if name in usual else usual.get(name.lower(), name) for name in names]
        if twice := [name for name in columns if name and columns.count(name) > 1]:
            raise BcosError(f"the table {str(self.path)!r} has two columns {shown(twice[0])}; rename or remove one")
        return columns

    def _row(self, number: int, columns: Sequence[str], fields: Sequence[str]) -> dict[str, str]:
        """Return the fields of a line by their columns; those at its end may be missing, but there are none beyond."""
        if len(fields) > len(columns):
            raise BcosError(
                f"line {number} of the table {str(self.path)!r} has {len(fields)} fields, its first line "
                f"{len(columns)}; several labels are separated by ';', and a name with a comma stands in double quotes"
            )
        return dict(zip(columns, [*fields, *[""] * (len(columns) - len(fields))], strict=True))

    def _refuse_splits_elsewhere(
        self, columns: Sequence[str], chosen: Sequence[str], rows: Sequence[Mapping[str, str]]
    ) -> None:
        """Refuse a column that holds the names of splits but is not called so: its test images would be trained on."""
        if SPLIT in columns:
            return
        for name in columns:
            if name == self.image or name in chosen:
                continue
            values = {row[name].strip() for row in rows}
            if len(values) > 1 and all(map(usual_split, values)):
                raise BcosError(
                    f"the column {shown(name)} of the table {str(self.path)!r} holds names of splits "
                    f"({', '.join(sorted(values))}); call it {SPLIT!r}, or remove it"
                )

    def _label_columns(self, columns: list[str]) -> list[str]:
        others = [name for name in columns if name not in (self.image, SPLIT)]
        chosen = [name for given in self.labels for name in columns if name == given or fnmatchcase(name, given)]
        chosen = [name for name in dict.fromkeys(chosen) if name in others]
        unknown = [given for given in self.labels if not any(c == given or fnmatchcase(c, given) for c in others)]
        if missing := ([self.image] if self.image not in columns else []) + unknown:
            given = printable(shortened(", ".join(columns))) or "none"
            if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
                given += ", one column: fields are separated by commas"
            raise BcosError(
                f"the table {str(self.path)!r} has no column {missing[0]!r}, has {given}; its first line must be: "
                "image,labels or image,labels,split, or name the columns with --image-column and --label-column"
            )
        return chosen

    def _names(self, number: int, row: Mapping[str, str], columns: list[str]) -> tuple[str, ...]:
        """Return the names of the classes in a row."""
        if len(columns) == 1:
            return tuple(dict.fromkeys(class_name(n) for part in row[columns[0]].split(";") if (n := part.strip())))
        try:
            return tuple(class_name(name) for name in columns if _FLAGS[row[name].strip().lower()])
        except KeyError as reason:
            raise BcosError(
                f"line {number} of the table {str(self.path)!r} has {shown(reason.args[0])} in a class's column, which "
                "holds 0 or 1; if one column holds the names of classes, give that one to --label-column"
            ) from reason


@dataclass(frozen=True)
class TableRow:
    """A row of a table."""

    image: str
    """As the table has it."""
    labels: tuple[str, ...]
    """Names of classes."""
    split: str | None


def table_items(
    table: LabelTable, inventory: Inventory, split: str | None, root: Path
) -> tuple[list[str], list[ImageItem]]:
    """Return the classes and images of a table; each image has one label, or all of them have a tuple of labels.

    Files that the table does not name, and those that the user excludes, are left out.

    Args:
        split: of images for which the table has none.
        root: folder or zip of the images, of which paths from the root are understood.

    Raises:
        BcosError: an image is not there, may be several, comes twice or has no label where the others have one.
    """
    rows = _by_path(table, inventory, root)
    classes = sorted({name for row in rows.values() for name in row.labels})
    if not classes:
        raise BcosError(f"the table {str(table.path)!r} has no labels")
    several = any(len(row.labels) > 1 for row in rows.values())
    if blank := [row.image for row in rows.values() if not row.labels and not several]:
        raise BcosError(
            f"{len(blank)} of {len(rows)} images of the table {str(table.path)!r} have no label, such as "
            f"{shown(blank[0])}, and no image has several; fill them in (with a name such as none), or remove the rows"
        )
    numbers = {name: k for k, name in enumerate(classes)}
    items = []
    for path, row in sorted(rows.items()):
        labels = tuple(numbers[name] for name in row.labels)
        part = row.split or split or "train"
        items.append(ImageItem(path, part, labels if several else labels[0], inventory.files[path]))
    for path in inventory.files.keys() - rows.keys():
        inventory.leave_out(path, "not in the table")
    return classes, items


def _by_path(table: LabelTable, inventory: Inventory, root: Path) -> dict[str, TableRow]:
    """Find the file of each row."""
    composed = {unicodedata.normalize("NFC", path): path for path in (*inventory.files, *inventory.excluded)}
    stems: dict[str, list[str]] = {}
    for name, path in composed.items():
        if is_image(path):
            stems.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(path)
    found: dict[str, TableRow] = {}
    for row in table.rows():
        name = unicodedata.normalize("NFC", _relative(row.image, root))
        candidates = [composed[name]] if name in composed else stems.get(name, [])
        if not candidates:
            raise BcosError(
                f"the image {shown(row.image)} of the table {str(table.path)!r} is not there; "
                f"{suggestion(row.image, inventory.files)}"
            )
        if len(candidates) > 1:
            raise BcosError(
                f"the image {shown(row.image)} of the table {str(table.path)!r} may be {' or '.join(candidates[:5])}; "
                "write its suffix"
            )
        if candidates[0] in found:
            raise BcosError(
                f"the table {str(table.path)!r} has the image {shown(row.image)} twice; give its labels in one row"
            )
        found[candidates[0]] = row
    return {path: row for path, row in found.items() if path not in inventory.excluded}


def _relative(image: str, root: Path) -> str:
    """Return the path of an image in the source, without ``./``, backslashes and the folder of the source."""
    path = PurePosixPath(image.replace("\\", "/"))
    for folder in (root.absolute(), root.resolve()):
        if path.is_relative_to(folder.as_posix()):
            return str(path.relative_to(folder.as_posix()))
    return str(path)
