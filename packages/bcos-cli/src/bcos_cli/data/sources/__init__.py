"""Where images to be packed come from: folders, zips, torchvision and registered data sets. Imports no torch."""

from pathlib import Path

from bcos_cli.data.sources.folder import FolderSource, files_below, parse_tree
from bcos_cli.data.sources.source import ArraySource, ImageItem, ImageSource, encode_png
from bcos_cli.data.sources.table import read_table, table_items
from bcos_cli.data.sources.torchvision import torchvision_source
from bcos_cli.data.sources.zip import ZipSource, zip_members
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
    source: str, *, root: Path | None = None, split: str = "train", labels: Path | None = None
) -> ImageSource:
    """Open a source of labelled images.

    Args:
        source: a folder, a zip file, ``torchvision:NAME``, or the name of a registered data set.
        root: folder of a torchvision data set, to which it is downloaded if it is missing.
        split: name of the split, if the source has none.
        labels: table of the images of a folder or zip and their classes; None if folders are classes.

    Raises:
        BcosError: there is no such source, or it has no images in classes.
    """
    path = Path(source)
    if source.startswith("torchvision:") and labels is None:
        return torchvision_source(source.removeprefix("torchvision:"), root or Path("data"))
    if path.is_dir() or path.is_file():
        files = files_below(path) if path.is_dir() else zip_members(path)
        if labels is None:
            classes, items = parse_tree(files, split, source)
        else:
            classes, items = table_items(read_table(labels), files, split, labels)
        return (FolderSource if path.is_dir() else ZipSource)(path, classes, items)
    if labels is not None:
        raise BcosError(f"--labels goes with a folder or zip of images, got {source!r}")
    if source in datasets().names():
        with datasets().running(source):
            return checked(datasets().builder(source)(), ImageSource, datasets().described(source))  # type: ignore[type-abstract] # reason: a check
    raise BcosError(
        f"there is no data source {source!r}; give a folder or zip of class folders, torchvision:NAME, "
        f"or one of: {', '.join(datasets().names())}"
    )
