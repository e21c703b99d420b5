"""Checking shards against their index."""

from collections.abc import Callable
from pathlib import Path

from bcos_cli.data.address import is_url
from bcos_cli.data.index import ShardIndex, ShardRecord, shard_urls
from bcos_cli.data.scan import scan_shard
from bcos_core.errors import BcosError


def verify(
    data: str | Path, index: ShardIndex, on_shard: Callable[[], None] | None = None, *, images: bool = True
) -> list[str]:
    """Compare size, SHA-256, number of samples and labels of every shard with the index, and read it as loaders do.

    Args:
        data: folder or URL of shards.
        index: of them.
        on_shard: called after each.
        images: decode each image too.

    Returns:
        One line for each problem; none if all is well.
    """
    problems = []
    for url, shard in zip(shard_urls(str(data), index.shards), index.shards, strict=True):
        problem = _problem(url, shard, index, images)
        if problem:
            problems.append(f"{shard.name}: {problem}")
        if on_shard:
            on_shard()
    return problems


def size_problem(path: Path, shard: ShardRecord) -> str | None:
    """Say what is wrong with a local shard at first sight: missing, or of another size."""
    if not path.is_file():
        return "is not a regular file" if path.exists() else "missing"
    size = path.stat().st_size
    return None if size == shard.bytes else _other_size(size, shard)


def _other_size(size: int, shard: ShardRecord) -> str:
    return f"has {size} bytes, the index says {shard.bytes}"


def _problem(url: str, shard: ShardRecord, index: ShardIndex, images: bool) -> str | None:
    if not is_url(url) and (problem := size_problem(Path(url), shard)) is not None:  # known without reading it
        return problem
    try:
        scan = scan_shard(url, len(index.classes), images=images)
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
