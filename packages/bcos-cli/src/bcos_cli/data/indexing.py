"""An index for shards that are there already."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from braceexpand import braceexpand

from bcos_cli.data.index import INDEX_NAME, ShardIndex, ShardRecord, index_location, is_url, load_index, shard_urls
from bcos_cli.data.scan import ShardScan, scan_shard
from bcos_core.errors import BcosError
from bcos_core.files import write_atomically

OnShard = Callable[[], None]


def expand(patterns: list[str]) -> list[str]:
    """Paths and URLs of patterns such as ``data/train-{000000..000099}.tar`` or ``data/*.tar``, in order.

    Raises:
        BcosError: a pattern that fits nothing.
    """
    found: list[str] = []
    for pattern in patterns:
        for name in braceexpand(pattern):
            if is_url(name) or not any(letter in name for letter in "*?["):
                found.append(name)
                continue
            path = Path(name)
            matching = sorted(str(match) for match in path.parent.glob(path.name))
            if not matching:
                raise BcosError(f"no shard fits {name!r}; give paths or URLs of .tar files")
            found += matching
    return found


def index_shards(
    splits: Mapping[str, list[str]], classes: list[str] | None, destination: Path, on_shard: OnShard | None = None
) -> ShardIndex:
    """Read shards of any origin and write ``index.json`` into `destination`.

    Every sample needs a ``.cls`` file: a class index, or several of them.

    Args:
        splits: paths or URLs by split.
        classes: names of the classes; None for their numbers.
        destination: folder of the index; shards in it are named relative to it, others by path or URL.
        on_shard: called after each.

    Raises:
        BcosError: a shard that cannot be read, or labels that do not fit.
    """
    scans = {
        (split, url): _scan(url, None if classes is None else len(classes), on_shard)
        for split, urls in splits.items()
        for url in urls
    }
    largest = max((label for scan in scans.values() for label in scan.class_counts), default=-1)
    records = [
        ShardRecord(
            name=_name(url, destination),
            split=split,
            samples=scan.samples,
            bytes=scan.bytes,
            sha256=scan.sha256,
            class_counts=scan.class_counts,
        )
        for (split, url), scan in scans.items()
    ]
    index = ShardIndex(
        source=", ".join(splits),
        fingerprint=_fingerprint(records, classes),
        classes=[str(k) for k in range(largest + 1)] if classes is None else classes,
        multi_label=any(scan.several for scan in scans.values()),
        shards=records,
    )
    write_atomically(destination / INDEX_NAME, index.model_dump_json(indent=1) + "\n")
    return index


def count_classes(data: str, on_shard: OnShard | None = None) -> ShardIndex:
    """Add to an index how many images of each class its shards have.

    Raises:
        BcosError: an index that cannot be written to, or shards that are not what it says.
    """
    index = load_index(data)
    if is_url(data):
        raise BcosError(f"the index of {data!r} is remote and cannot be written; copy it here first")
    records = []
    for url, record in zip(shard_urls(data, index.shards), index.shards, strict=True):
        scan = _scan(url, len(index.classes), on_shard)
        if scan.sha256 != record.sha256:
            raise BcosError(f"the shard {url!r} is not what the index says; check it with: bcos shards verify")
        records.append(record.model_copy(update={"class_counts": scan.class_counts}))
    counted = index.model_copy(update={"shards": records})
    write_atomically(Path(index_location(data)), counted.model_dump_json(indent=1) + "\n")
    return counted


def _scan(url: str, num_classes: int | None, on_shard: OnShard | None) -> ShardScan:
    scan = scan_shard(url, num_classes)
    if scan.problems:
        raise BcosError(f"the shard {url!r}: {scan.problems[0]}")
    if not scan.samples:
        raise BcosError(
            f"the shard {url!r} has no .cls files, which say what an image is; write them beside the images"
        )
    if on_shard:
        on_shard()
    return scan


def _name(url: str, destination: Path) -> str:
    if is_url(url):
        return url
    path = Path(url).resolve()
    folder = destination.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _fingerprint(records: list[ShardRecord], classes: list[str] | None) -> str:
    described = [[record.split, record.sha256] for record in records]
    return hashlib.sha256(json.dumps([described, classes]).encode()).hexdigest()
