"""Checking shards against their index. Each is read from its first byte to its last, as the loaders read it."""

import hashlib
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bcos_cli.data.image_decoder import decode
from bcos_cli.data.index import MAX_CLASSES, ShardIndex, ShardRecord, shard_urls
from bcos_cli.data.pixels import USUAL, Pixels
from bcos_cli.data.remote import open_url
from bcos_cli.data.samples import image_and_label, parse_labels, read_samples
from bcos_cli.data.sources.inventory import is_image
from bcos_core.address import is_address
from bcos_core.errors import BcosError


def verify(
    data: str | Path, index: ShardIndex, on_shard: Callable[[], None] | None = None, *, images: bool = True
) -> list[str]:
    """Compare size, SHA-256, number of samples and labels of every shard with the index, and read it as loaders do.

    Returns:
        One line for each problem; none if all is well.
    """
    problems = []
    for url, shard in zip(shard_urls(str(data), index.shards), index.shards, strict=True):
        if problem := _problem(url, shard, index, images):
            problems.append(f"{shard.name}: {problem}")
        if on_shard:
            on_shard()
    return problems


def size_problem(path: Path, shard: ShardRecord) -> str | None:
    """Return what is wrong with a local shard at first sight: it is missing, or of another size."""
    if not path.is_file():
        return "is not a regular file" if path.exists() else "missing"
    size = path.stat().st_size
    return None if size == shard.bytes else _other_size(size, shard)


def _other_size(size: int, shard: ShardRecord) -> str:
    return f"has {size} bytes, the index says {shard.bytes}"


def _problem(url: str, shard: ShardRecord, index: ShardIndex, images: bool) -> str | None:
    if not is_address(url) and (problem := size_problem(Path(url), shard)) is not None:  # before anything is read
        return problem
    try:
        scan = scan_shard(url, len(index.classes), index.pixels() if images else None)
    except BcosError as reason:
        return str(reason)
    if scan.bytes != shard.bytes:
        return _other_size(scan.bytes, shard)
    if scan.sha256 != shard.sha256:
        return "its SHA-256 differs from the index: the content was changed or damaged"
    if scan.problem:
        return scan.problem
    if scan.samples != shard.samples:
        return f"has {scan.samples} samples, the index says {shard.samples}"
    if scan.several and not index.multi_label:
        return "has images with another number of labels than one"
    if shard.class_counts is not None and shard.class_counts != scan.class_counts:
        return "has other numbers of images in its classes than the index says"
    return None


@dataclass
class ShardScan:
    """Size, checksum and content of a shard."""

    bytes: int = 0
    sha256: str = ""
    samples: int = 0
    """Samples that a loader would give, whether or not they can be decoded."""
    class_counts: Counter[int] = field(default_factory=Counter)
    several: bool = False
    """Whether an image has another number of labels than one."""
    problem: str | None = None
    """The first thing on which a loader would stop."""

    def record(self, name: str, split: str) -> ShardRecord:
        """What an index says of the shard; a ``pydantic.ValidationError`` for something that no index may say."""
        counts = dict(sorted(self.class_counts.items()))
        return ShardRecord(
            name=name, split=split, samples=self.samples, bytes=self.bytes, sha256=self.sha256, class_counts=counts
        )


class _CountedStream:
    """A stream that counts and sums what is read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.bytes = 0
        self.sum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.bytes += len(data)
        self.sum.update(data)
        return data


def scan_shard(url: str, num_classes: int | None = None, pixels: Pixels | None = USUAL) -> ShardScan:
    """Read a shard, whose class indices are below `num_classes`, if given; refuse one that cannot be read.

    Args:
        pixels: how its images are decoded; None for not at all.
    """
    try:
        with open_url(url) as stream:
            counted = _CountedStream(stream)
            found = _content(url, counted, num_classes or MAX_CLASSES, pixels)
            while counted.read(1 << 20):  # what follows the last sample
                pass
    except OSError as reason:
        raise BcosError(f"cannot read the shard {url!r}: {reason}") from reason
    found.bytes, found.sha256 = counted.bytes, counted.sum.hexdigest()
    return found


def _content(url: str, counted: Any, num_classes: int, pixels: Pixels | None) -> ShardScan:
    found, keys, reserved = ShardScan(), set[bytes](), list[str]()
    try:
        for sample in read_samples(url, counted, lambda name: reserved.append(name) if is_image(name) else None):
            found.samples += 1
            key = hashlib.blake2b(sample["__key__"].encode(errors="surrogatepass"), digest_size=12).digest()
            if key in keys:  # outputs are named after it
                found.problem = found.problem or f"has two samples {sample['__key__']!r}; give each a name of its own"
            keys.add(key)
            if found.samples > counted.bytes:  # it would go on for ever
                raise tarfile.ReadError("it has more samples than bytes")
            try:
                image, text = image_and_label(sample)
                numbers = parse_labels(text, num_classes, multi_label=True)
                if pixels is not None:
                    decode(image, pixels)
            except BcosError as problem:
                found.problem = found.problem or f"the sample {sample['__key__']!r}: {problem}"
                continue
            found.class_counts.update(numbers)
            found.several = found.several or len(numbers) != 1
    except tarfile.ReadError as reason:
        found.problem = found.problem or f"is damaged after {found.samples} samples ({reason})"
    if reserved:
        found.problem = found.problem or (
            f"has {len(reserved)} images under names that WebDataset reserves and leaves out, such as {reserved[0]!r}; "
            "give them names that do not begin with two underscores and end with two"
        )
    return found
