"""Splits and classes that folders stand for. Imports no torch."""

import unicodedata
from collections.abc import Iterable
from functools import cache

from bcos_cli.data.sources.inventory import Inventory
from bcos_cli.data.sources.source import ImageItem
from bcos_cli.data.splits import usual_split
from bcos_core.errors import BcosError, shown
from bcos_core.text import listed

Parts = tuple[str, ...]
"""Names of the folders in which a file lies, from the top."""


def parse_tree(inventory: Inventory, split: str | None, source: str) -> tuple[list[str], list[ImageItem]]:
    """Derive classes and splits from paths ``[split/]class/.../image`` or ``class/split/.../image``.

    Folders that all images share, above the splits or classes, do not count. Images in no class folder are left out. A
    folder with nothing in it, beside the classes, is a class.

    Args:
        split: name of the split; the folders are classes then, whatever their names. None to find splits.

    Raises:
        BcosError: no image in a class folder, or folders that may be splits or classes.
    """
    folders = {path: tuple(path.split("/")[:-1]) for path in inventory.images()}
    depth = _shared_depth(folders.values())
    shared = next((parts[:depth] for parts in folders.values() if len(parts) > depth), ())
    below = {path: parts[depth:] for path, parts in folders.items() if len(parts) > depth}
    placed = _placed(below, split, source)
    for path in folders.keys() - placed.keys():
        inventory.leave_out(path, "an image in no class folder")
    if not placed:
        raise BcosError(
            f"{source!r} holds no images in class folders; lay them out as CLASS/image.jpg or train/CLASS/image.jpg"
        )
    has_splits = all(usual_split(parts[0]) for parts in below.values()) and split is None
    names = {class_name(name) for _, name in placed.values()}
    for path in inventory.empty:
        parts = tuple(path.split("/"))
        if parts[:depth] == shared and len(parts) == depth + 1 + has_splits and not usual_split(parts[-1]):
            names.add(class_name(parts[-1]))
        else:
            inventory.leave_out(f"{path}/", "an empty folder")
    classes = sorted(names)
    labels = {name: label for label, name in enumerate(classes)}
    return classes, [
        ImageItem(path, placed[path][0], labels[class_name(placed[path][1])], inventory.files[path])
        for path in sorted(placed)
    ]


@cache
def class_name(name: str) -> str:
    """Return the name of a class in composed form, which is the same whatever system wrote it."""
    try:
        name.encode()
    except UnicodeEncodeError as reason:
        raise BcosError(f"the class {shown(name)} has a name that is not UTF-8; rename its folder") from reason
    return unicodedata.normalize("NFC", name)


def _placed(below: dict[str, Parts], split: str | None, source: str) -> dict[str, tuple[str, str]]:
    """Return the split and class of each image that has a class.

    Args:
        below: for each image its folders from the first that not all images share.
    """
    splits = {parts[0]: found for parts in below.values() if (found := usual_split(parts[0]))}
    others = sorted({parts[0] for parts in below.values()} - splits.keys())
    with_folders = {parts[0] for parts in below.values() if len(parts) > 1}
    has_classes_in_splits = bool(splits.keys() & with_folders)
    named = ", ".join(sorted(splits))
    if split is not None and has_classes_in_splits:
        raise BcosError(f"{source!r} has splits of its own ({named}); leave out --split")
    if split is None and not splits and all(len(parts) > 1 and usual_split(parts[1]) for parts in below.values()):
        return {path: (usual_split(parts[1]) or "", parts[0]) for path, parts in below.items()}
    if split is not None or not splits:
        return {path: (split or "train", parts[0]) for path, parts in below.items()}
    if others:
        beside = listed(others)
        if has_classes_in_splits:
            raise BcosError(
                f"{source!r} holds splits ({named}) and beside them {beside}; "
                "move those away, or rename the splits if they are classes"
            )
        raise BcosError(
            f"{source!r} holds {named}, which may be a split or a class, beside {beside}; if all are classes, name the "
            f"split of all images: --split train; otherwise move images into class folders"
        )
    if len(set(splits.values())) < len(splits):
        raise BcosError(f"{source!r} holds the splits {named}, of which two mean the same; rename or move one of them")
    if bare := sorted(splits.keys() - with_folders) if has_classes_in_splits else []:
        raise BcosError(
            f"the images of the split {bare[0]!r} of {source!r} lie in no class folder, as {bare[0]}/CLASS/image.jpg; "
            "lay them out so, give a table of labels (--labels), or move that folder away"
        )
    return _in_splits(below, splits)


def _in_splits(below: dict[str, Parts], splits: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return split and class of the images in folders of splits; a folder in one may repeat its name."""
    inside: dict[str, tuple[str, Parts]] = {}
    for top, split in splits.items():
        own = {path: parts[1:] for path, parts in below.items() if parts[0] == top and len(parts) > 1}
        while own and all(len(parts) > 1 and usual_split(parts[0]) == split for parts in own.values()):
            own = {path: parts[1:] for path, parts in own.items()}
        inside |= {path: (split, parts) for path, parts in own.items()}
    depth = _shared_depth([parts for _, parts in inside.values()])
    return {path: (split, parts[depth]) for path, (split, parts) in inside.items() if len(parts) > depth}


def _shared_depth(folders: Iterable[Parts]) -> int:
    """Count the leading folders that all images share, of which none is a split and which have a class below them.

    Images beside a folder of classes or splits do not keep it from being shared, if it stands alone or has splits.
    """
    depth = 0
    inside = [parts for parts in folders if parts]
    while len({parts[depth] for parts in inside}) == 1 and not usual_split(inside[0][depth]):
        deeper = [parts for parts in inside if len(parts) > depth + 1]
        if len(deeper) < len(inside) and not any(usual_split(parts[depth + 1]) for parts in deeper):
            break
        if not deeper:
            break
        inside, depth = deeper, depth + 1
    return depth
