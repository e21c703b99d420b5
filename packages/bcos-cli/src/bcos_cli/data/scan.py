"""What a shard holds, read from its first byte to its last."""

import hashlib
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, Any

from bcos_cli.data.labels import parse_labels
from bcos_cli.data.opening import open_url
from bcos_core.errors import BcosError


@dataclass
class ShardScan:
    """Size, sum and content of a shard."""

    bytes: int
    sha256: str
    samples: int
    """Members that say what an image is: ``.cls`` files."""
    class_counts: dict[int, int]
    several: bool
    """Whether an image has another number of labels than one."""
    problems: list[str] = field(default_factory=list)
    """What is damaged in it, and labels that are none."""


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


def scan_shard(url: str, num_classes: int | None = None) -> ShardScan:
    """Read a shard.

    Args:
        url: path or URL.
        num_classes: to which class indices are held; None for any.

    Raises:
        BcosError: it cannot be opened.
    """
    labels: Counter[int] = Counter()
    problems: list[str] = []
    samples = 0
    several = False
    try:
        stream = open_url(url)
    except OSError as reason:
        raise BcosError(f"cannot open the shard {url!r}: {reason}") from reason
    with stream:
        measured: Any = _Measured(stream)
        try:
            with tarfile.open(fileobj=measured, mode="r|") as tar:
                for member in tar:
                    if not member.name.endswith(".cls") or (content := tar.extractfile(member)) is None:
                        continue
                    samples += 1
                    try:
                        found = parse_labels(content.read(), num_classes or 1 << 31, multi_label=True)
                    except BcosError as problem:
                        problems.append(f"{member.name}: {problem}")
                        continue
                    labels.update(found)
                    several = several or len(found) != 1
        except (tarfile.TarError, EOFError) as reason:
            problems.append(f"is damaged after {samples} samples ({reason})")
        measured.read_to_the_end()
    counts = dict(sorted(labels.items()))
    return ShardScan(measured.bytes, measured.sum.hexdigest(), samples, counts, several, problems)
