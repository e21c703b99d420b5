"""What a shard holds, read from its first byte to its last as the loaders read it."""

import hashlib
import tarfile
from collections import Counter
from dataclasses import dataclass
from typing import IO, Any

from bcos_cli.data.image_decoder import decode
from bcos_cli.data.labels import MAX_CLASSES, parse_labels
from bcos_cli.data.opening import open_url
from bcos_cli.data.samples import image_and_label, read_samples
from bcos_core.errors import BcosError


@dataclass
class ShardScan:
    """Size, sum and content of a shard."""

    bytes: int
    sha256: str
    samples: int
    """Samples that a loader would give, whether or not they can be decoded."""
    class_counts: dict[int, int]
    several: bool
    """Whether an image has another number of labels than one."""
    problem: str | None = None
    """The first thing on which a loader would stop."""


class _Measured:
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

    def read_to_the_end(self) -> None:
        while self.read(1 << 20):
            pass


def scan_shard(url: str, num_classes: int | None = None, *, images: bool = True) -> ShardScan:
    """Read a shard.

    Args:
        url: path or URL.
        num_classes: to which class indices are held; None for any.
        images: decode each image too.

    Raises:
        BcosError: it cannot be opened, or not read to its end.
    """
    try:
        with open_url(url) as stream:
            measured = _Measured(stream)
            found = _content(url, measured, num_classes or MAX_CLASSES, images)
            measured.read_to_the_end()
    except OSError as reason:
        raise BcosError(f"cannot read the shard {url!r}: {reason}") from reason
    found.bytes, found.sha256 = measured.bytes, measured.sum.hexdigest()
    return found


def _content(url: str, measured: Any, num_classes: int, images: bool) -> ShardScan:
    labels: Counter[int] = Counter()
    found = ShardScan(bytes=0, sha256="", samples=0, class_counts={}, several=False)
    try:
        for sample in read_samples(url, measured):
            found.samples += 1
            if found.samples > measured.bytes:  # it would go on for ever
                raise tarfile.ReadError("it has more samples than bytes")
            try:
                image, text = image_and_label(sample)
                numbers = parse_labels(text, num_classes, multi_label=True)
                if images:
                    decode(image, channels=3)
            except BcosError as problem:
                found.problem = found.problem or f"the sample {sample['__key__']!r}: {problem}"
                continue
            labels.update(numbers)
            found.several = found.several or len(numbers) != 1
    except tarfile.ReadError as reason:
        found.problem = found.problem or f"is damaged after {found.samples} samples ({reason})"
    found.class_counts = dict(sorted(labels.items()))
    return found
