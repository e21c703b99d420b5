"""Single images of a split by their position."""

from collections.abc import Collection

from torch import Tensor

from bcos_cli.data.index import ShardIndex
from bcos_cli.data.loader import make_batches
from bcos_cli.data.reading import Reading
from bcos_models import InputSpec


def images_at(
    data: str,
    index: ShardIndex,
    split: str,
    spec: InputSpec,
    positions: Collection[int],
    reading: Reading | None = None,
) -> dict[int, tuple[Tensor, list[int]]]:
    """8-bit image (C, H, W) and labels at each position of a split; only these are decoded.

    Raises:
        BcosError: a position that is not there, or, unless such are left out, an image that cannot be read.
    """
    stream = make_batches(data, index, split, spec, batch_size=1, reading=reading).stream
    return {position: (image, labels_of(label)) for image, label, position in stream.at(positions)}


def labels_of(label: int | Tensor) -> list[int]:
    """Classes of a sample: its label, or those that are not 0 in (K,)."""
    if isinstance(label, Tensor) and label.ndim:
        several: list[int] = label.nonzero()[:, 0].tolist()
        return several
    return [int(label)]
