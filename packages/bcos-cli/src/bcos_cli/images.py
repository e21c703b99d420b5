"""Image files that a user names, ready for a network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from bcos_cli.data.sources import IMAGE_SUFFIXES
from bcos_cli.data.transforms import inference_transform
from bcos_core.errors import BcosError
from bcos_models import InputSpec
from bcos_models.images import as_seen


@dataclass(frozen=True)
class ImageFile:
    """A file, and a name for what is made of it that no other file of the same call has."""

    path: Path
    name: str


def find_images(paths: Sequence[Path]) -> list[ImageFile]:
    """Return the files, and those with the name of an image in the folders, in order.

    Raises:
        BcosError: a path that is not there, or no image at all.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise BcosError(f"there is no image or folder {str(path)!r}; give files or folders of images")
    if not found:
        raise BcosError(f"no images in {', '.join(map(str, paths))}; images end in {', '.join(IMAGE_SUFFIXES)}")
    unique = list(dict.fromkeys(found))
    return [ImageFile(path, name) for path, name in zip(unique, _names(unique), strict=True)]


def _names(paths: list[Path]) -> Iterator[str]:
    """File names without extension; numbered where the name is taken."""
    taken: set[str] = set()
    for path in paths:
        name = path.stem
        number = 2
        while name in taken:
            name = f"{path.stem}-{number}"
            number += 1
        taken.add(name)
        yield name


def load_image(path: Path, spec: InputSpec) -> Tensor:
    """Decode, resize and crop as the network was evaluated.

    Returns:
        8-bit (C, H, W).

    Raises:
        OSError: the file is no image or is damaged.
    """
    with Image.open(path) as image:
        tensor: Tensor = inference_transform(spec)(as_seen(image, spec.channels))
        return tensor
