"""Whether a network sees so little of large images that its maps are too coarse to look at."""

import tarfile
from itertools import islice
from statistics import median

from bcos_cli.data.image_decoder import opened
from bcos_cli.data.index import ShardIndex, shard_urls
from bcos_cli.data.remote import open_url
from bcos_cli.data.samples import image_and_label, read_samples
from bcos_core.address import is_address
from bcos_core.errors import BcosError

COARSE = 64
"""Side of maps up to which it is told."""
TIMES = 3
"""How many times larger the shorter side of the images is."""
_SEEN = 16
"""Images whose size is read, from their headers."""


def coarse_images(data: str, index: ShardIndex, split: str, size: int) -> str | None:
    """Return a line if the first images of a split are much larger than the `size` pixels at which they are trained.

    None too where they cannot be read, which training tells better, and for remote shards.
    """
    url = shard_urls(data, index.of(split)[:1])[0]
    if size > COARSE or is_address(url):
        return None
    sides: list[int] = []
    try:
        with open_url(url) as stream:
            for sample in islice(read_samples(url, stream), _SEEN):
                with opened(image_and_label(sample)[0]) as image:
                    sides.append(min(image.size))
    except (OSError, tarfile.TarError, BcosError):
        return None
    side = round(median(sides)) if sides else 0
    if side <= TIMES * size:
        return None
    return (
        f"images whose shorter side is {side:,} pixels are trained at {size}×{size}: maps have {size}×{size} pixels; "
        "for finer ones set data.image_size, or take a recipe for photographs, such as photographs_resnet18"
    )
