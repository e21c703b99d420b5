"""Checking shards against their index. Imports no torch."""

import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path

from bcos_cli.data.index import ShardIndex, ShardRecord


def verify(folder: Path, index: ShardIndex, on_shard: Callable[[], None] | None = None) -> list[str]:
    """Compare size, SHA-256, number of samples and labels of every shard with the index.

    Returns:
        One line for each problem; none if all is well.
    """
    problems = []
    for shard in index.shards:
        problem = _problem(folder / shard.name, shard, len(index.classes))
        if problem:
            problems.append(f"{shard.name}: {problem}")
        if on_shard:
            on_shard()
    return problems


def _problem(path: Path, shard: ShardRecord, num_classes: int) -> str | None:
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    if size != shard.bytes:
        return f"has {size} bytes, the index says {shard.bytes}"
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            return "its SHA-256 differs from the index: the content was changed or damaged"
    labels = []
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith(".cls") and (content := tar.extractfile(member)) is not None:
                text = content.read()
                if not text.strip().isdigit():
                    return f"{member.name} holds {text[:20]!r}, no label"
                labels.append(int(text))
    if len(labels) != shard.samples:
        return f"has {len(labels)} samples, the index says {shard.samples}"
    if labels and not 0 <= min(labels) <= max(labels) < num_classes:
        return f"has labels from {min(labels)} to {max(labels)} for {num_classes} classes"
    return None
