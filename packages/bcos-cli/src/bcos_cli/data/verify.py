"""Checking shards against their index. Imports no torch."""

import hashlib
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bcos_cli.data.index import ShardIndex, ShardRecord
from bcos_cli.data.labels import parse_labels
from bcos_core.errors import BcosError


def verify(folder: Path, index: ShardIndex, on_shard: Callable[[], None] | None = None) -> list[str]:
    """Compare size, SHA-256, number of samples and labels of every shard with the index.

    Returns:
        One line for each problem; none if all is well.
    """
    problems = []
    for shard in index.shards:
        problem = _problem(folder / shard.name, shard, len(index.classes), index.multi_label)
        if problem:
            problems.append(f"{shard.name}: {problem}")
        if on_shard:
            on_shard()
    return problems


def _problem(path: Path, shard: ShardRecord, num_classes: int, multi_label: bool) -> str | None:
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    if size != shard.bytes:
        return f"has {size} bytes, the index says {shard.bytes}"
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            return "its SHA-256 differs from the index: the content was changed or damaged"
    labels: list[int] = []
    samples = 0
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith(".cls") and (content := tar.extractfile(member)) is not None:
                samples += 1
                try:
                    labels += parse_labels(content.read(), num_classes, multi_label)
                except BcosError as problem:
                    return f"{member.name}: {problem}"
    if samples != shard.samples:
        return f"has {samples} samples, the index says {shard.samples}"
    if shard.class_counts is not None and shard.class_counts != Counter(labels):
        return "has other numbers of images in its classes than the index says"
    return None
