"""Single images of a split by their position."""

from collections.abc import Iterable

from torch import Tensor

from bcos_cli.data.decoding import decode
from bcos_cli.data.index import ShardIndex
from bcos_cli.data.labels import parse_labels
from bcos_cli.data.shards import Shards, read_slice
from bcos_cli.data.stream import encoded_image
from bcos_cli.data.transforms import inference_transform
from bcos_core.errors import BcosError
from bcos_models import InputSpec


def images_at(
    data: str, index: ShardIndex, split: str, spec: InputSpec, positions: Iterable[int]
) -> dict[int, tuple[Tensor, list[int]]]:
    """8-bit image (C, H, W) and labels at each position of a split; only these are decoded.

    Raises:
        BcosError: a position that is not there, or a shard that cannot be read.
    """
    wanted = set(positions)
    shards = Shards.of(data, index, split)
    if wanted and not (min(wanted) >= 0 and max(wanted) < shards.total):
        raise BcosError(f"the split {split!r} has positions from 0 to {shards.total - 1}, got {sorted(wanted)[-1]}")
    transform = inference_transform(spec)
    found: dict[int, tuple[Tensor, list[int]]] = {}
    for part in shards.slices(0, shards.total):
        here = {p for p in wanted if part.position <= p < part.position + part.stop - part.start}
        for sample in read_slice(part) if here else ():
            if sample["position"] in here:
                encoded = encoded_image(sample)
                assert encoded is not None
                labels = parse_labels(sample["cls"], len(index.classes), index.multi_label)
                found[sample["position"]] = (transform(decode(encoded, spec.channels)), labels)
    return found
