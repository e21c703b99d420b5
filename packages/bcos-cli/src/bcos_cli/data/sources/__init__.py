"""Where images to be packed come from: folders, zips, torchvision and registered data sets. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from bcos_cli.data.sources.folder import FolderSource
from bcos_cli.data.sources.inventory import inventory_of
from bcos_cli.data.sources.layout import parse_tree
from bcos_cli.data.sources.source import ArraySource, ImageItem, ImageSource, encode_png
from bcos_cli.data.sources.table import LabelTable, table_items
from bcos_cli.data.sources.torchvision import torchvision_source
from bcos_cli.data.sources.zip import ZipSource, zip_inventory
from bcos_cli.plugins import datasets
from bcos_core.errors import BcosError
from bcos_core.plugins import checked

__all__ = [
    "ArraySource",
    "FolderSource",
    "ImageItem",
    "ImageSource",
    "ZipSource",
    "encode_png",
    "open_source",
    "parse_tree",
]


def open_source(
    source: str,
    *,
    root: Path | None = None,
    split: str | None = None,
    labels: LabelTable | None = None,
    exclude: Sequence[str] = (),
    output: Path | None = None,
) -> ImageSource:
    """Open a source of labelled images.

    Args:
        source: a folder, a zip file, ``torchvision:NAME``, or the name of a registered data set.
        root: folder of a torchvision data set, to which it is downloaded if it is missing.
        split: name of the split of all images, where folders are classes, whatever their names; None to find splits.
        labels: table of the images of a folder or zip and their classes; None if folders are classes.
        exclude: patterns of files and folders to leave out, as :meth:`Inventory.exclude` takes them.
        output: folder for the shards, whose files are no images of the source.

    Raises:
        BcosError: there is no such source, it has no images in classes, or an option does not go with it.
    """
    path = Path(source)
    is_torchvision = source.startswith("torchvision:")
    if root is not None and not is_torchvision:
        raise BcosError(f"--root goes with torchvision:NAME, got {source!r}; leave it out")
    if not is_torchvision and path.exists():
        inventory = inventory_of(path, output) if path.is_dir() else zip_inventory(path)
        for pattern in exclude:
            inventory.exclude(pattern, source)
        if labels is None:
            classes, items = parse_tree(inventory, split, source)
        else:
            classes, items = table_items(labels, inventory, split, path)
        return (FolderSource if path.is_dir() else ZipSource)(path, classes, items, inventory.left_out)
    for option, given in (("--labels", labels), ("--exclude", exclude)):
        if given:
            raise BcosError(f"{option} goes with a folder or zip of images, got {source!r}; leave it out")
    if not is_torchvision and source not in datasets().names():
        raise BcosError(
            f"there is no data source {source!r}; give a folder or zip of class folders, torchvision:NAME, "
            f"or one of: {', '.join(datasets().names())}"
        )
    if split is not None:
        raise BcosError(f"--split goes with a folder or zip of images, got {source!r}; leave it out")
    if is_torchvision:
        return torchvision_source(source.removeprefix("torchvision:"), root or Path("data"))
    with datasets().running(source):
        return checked(datasets().builder(source)(), ImageSource, datasets().described(source))  # type: ignore[type-abstract] # reason: a check
