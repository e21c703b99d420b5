"""Classification data sets of torchvision as sources. Imports no torch until one is opened."""

import inspect
from pathlib import Path
from typing import Any

from PIL import Image

from bcos_cli.data.image_decoder import UnreadableImageError, decode
from bcos_cli.data.pixels import USUAL
from bcos_cli.data.sources.source import ArraySource, ImageItem, encode_png
from bcos_core.errors import BcosError, first_line
from bcos_core.plugins import suggestion


def torchvision_source(name: str, root: Path) -> ArraySource:
    """Read both splits of the torchvision data set `name` below `root`; it is downloaded if it is not there.

    Raises:
        BcosError: there is no such data set, it has no train and test splits or class labels, or a download fails.
    """
    from torchvision import datasets

    known = [n for n in datasets.__all__ if inspect.isclass(getattr(datasets, n))]
    if name not in known:
        raise BcosError(f"torchvision has no data set {name!r}; {suggestion(name, known)}")
    builder = getattr(datasets, name)
    items: list[ImageItem] = []
    pngs: dict[str, bytes] = {}
    classes: list[str] = []
    for split in ("train", "test"):
        data = _open(builder, name, root, split)
        classes = [str(c if isinstance(c, str) else c[0]) for c in getattr(data, "classes", [])]
        for i in range(len(data)):
            try:
                image, label = data[i]
            except Exception as reason:  # torchvision chooses the decoder
                raise BcosError(
                    f"image {i} of {split} in torchvision's {name} below {str(root)!r} cannot be read: "
                    f"{first_line(reason)}; remove its folder there, and it is downloaded again"
                ) from reason
            if not isinstance(label, int):
                raise BcosError(f"torchvision's {name} has no class labels; choose a classification data set")
            path = f"{split}/{label}/{i:07d}.png"
            pngs[path] = encode_png(image)
            items.append(ImageItem(path, split, label, len(pngs[path])))
    largest = max((item.label for item in items if isinstance(item.label, int)), default=0)
    return ArraySource(classes or [str(label) for label in range(largest + 1)], items, pngs)


def _open(builder: Any, name: str, root: Path, split: str) -> Any:
    parameters = inspect.signature(builder).parameters
    if not parameters.keys() & {"train", "split"}:
        raise BcosError(f"torchvision's {name} has no train and test splits; unpack it to folders and pack those")
    wanted = {"root": str(root), "train": split == "train", "split": split, "loader": _load, "download": True}
    try:
        return builder(**{option: value for option, value in wanted.items() if option in parameters})
    except (RuntimeError, OSError, ValueError, TypeError) as reason:
        raise BcosError(
            f"cannot open torchvision's {name} below {str(root)!r}: {reason}; "
            "put the files there, or name their folder with --root"
        ) from reason


def _load(path: str | Path) -> Image.Image:
    """Open a file as all other images are opened."""
    try:
        image = decode(Path(path), USUAL)
        assert isinstance(image, Image.Image)
        return image
    except UnreadableImageError as reason:
        raise BcosError(f"{path}: {reason}") from reason
