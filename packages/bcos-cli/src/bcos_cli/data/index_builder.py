"""Making an index of shards that another program has made."""

import glob
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from braceexpand import braceexpand
from pydantic import ValidationError

from bcos_cli.data.address import COMMAND, WEB, as_path, folder_of, shard_address
from bcos_cli.data.index import (
    ShardIndex,
    check_addresses,
    index_location,
    index_problem,
    load_index,
    shard_urls,
    write_index,
)
from bcos_cli.data.verify import ShardScan, scan_shard
from bcos_cli.file_names import INDEX_NAME
from bcos_core.address import is_address, scheme_of
from bcos_core.errors import BcosError, shown

OnShard = Callable[[], None]


def expand(patterns: list[str]) -> list[str]:
    """Expand patterns such as ``data/train-{000000..000099}.tar`` or ``data/*.tar`` to paths and URLs, in order.

    Raises:
        BcosError: no file matches a pattern.
    """
    found: list[str] = []
    for name in itertools.chain.from_iterable(map(braceexpand, patterns)):
        if is_address(name) or not glob.has_magic(name):
            found.append(name)
        elif matching := sorted(str(match) for match in Path(name).parent.glob(Path(name).name)):
            found += matching
        else:
            raise BcosError(f"no shard fits {name!r}; give paths or URLs of .tar files")
    return found


def index_shards(
    splits: Mapping[str, list[str]], classes: list[str] | None, destination: Path, on_shard: OnShard | None = None
) -> tuple[ShardIndex, str]:
    """Read shards of any origin and write ``index.json`` into `destination`.

    Every sample needs a ``.cls`` file: a class index, or several of them. An index names shards relative to itself. So
    they lie below `destination`, or all of them below one URL, to which the index is to be copied.

    Args:
        splits: paths or URLs of shards by split.
        classes: names of the classes; None for their numbers.

    Returns:
        The index, and the folder or URL of its shards.

    Raises:
        BcosError: a shard lies elsewhere, cannot be read, or has labels that do not fit.
    """
    urls = {(split, as_path(url)): split for split, urls in splits.items() for url in urls}
    base = _base([url for _, url in urls], destination)
    names = [_name(url, base) for _, url in urls]
    scans = [_scan(url, None if classes is None else len(classes), on_shard) for _, url in urls]
    try:
        records = [scan.record(name, split) for scan, name, split in zip(scans, names, urls.values(), strict=True)]
        content = json.dumps([[[record.split, record.sha256] for record in records], classes])
        index = ShardIndex(
            source=", ".join(splits),
            fingerprint=hashlib.sha256(content.encode()).hexdigest(),
            classes=_numbers(scans) if classes is None else classes,
            multi_label=any(scan.several for scan in scans),
            shards=records,
        )
    except ValidationError as reason:
        raise BcosError(f"the shards cannot have an index: {index_problem(reason)}") from reason
    check_addresses(f"{base}{INDEX_NAME}", index)
    write_index(destination / INDEX_NAME, index)
    return index, base


def _numbers(scans: list[ShardScan]) -> list[str]:
    """Numbers as the names of classes that have none."""
    largest = max((label for scan in scans for label in scan.class_counts), default=-1)
    if largest < 0:
        raise BcosError("no image of the shards has a label; name the classes with --classes")
    return [str(k) for k in range(largest + 1)]


def _base(urls: list[str], destination: Path) -> str:
    """Return what precedes the names of the shards: the folder of the index, or what all addresses begin with."""
    if not any(map(is_address, urls)):
        return folder_of((destination.absolute() / INDEX_NAME).as_posix())
    folders = zip(*(url.split("/")[:-1] for url in urls), strict=False)
    base = "".join(f"{same[0]}/" for same in itertools.takewhile(lambda parts: len(set(parts)) == 1, folders))
    if not all(map(is_address, urls)) or not (urlsplit(base).netloc or scheme_of(base) == COMMAND):
        raise BcosError(
            f"the shards have no address in common, as {shown(urls[0])} and {shown(urls[-1])}; an index names "
            "shards of one folder or host: copy them there, or make an index for each"
        )
    return base


def _name(url: str, base: str) -> str:
    """Return the name by which an index in the folder or at the URL `base` calls a shard."""
    if not is_address(url):
        return _relative(Path(url), Path(base))
    name = unquote(url[len(base) :]) if scheme_of(base) in WEB else url[len(base) :]
    named = shard_address(base + INDEX_NAME, name)
    if unquote(named) != unquote(url) or urlsplit(url).query:
        raise BcosError(f"an index cannot name the address {shown(url)}; give one without ?, # and doubled /")
    return name


def _relative(path: Path, folder: Path) -> str:
    absolute, resolved = path.absolute(), path.parent.resolve() / path.name
    for shard, around in ((absolute, folder.absolute()), (resolved, folder.resolve())):  # a link in a folder lies in it
        if shard.is_relative_to(around) and ".." not in shard.parts:
            return shard.relative_to(around).as_posix()
    raise BcosError(
        f"the shard {str(path)!r} lies outside of {str(folder)!r}, and an index names what lies beside or below it; "
        f"write it into a folder above both, such as {os.path.commonpath([resolved, folder.resolve()])!r}"
    )


def count_classes(data: str, on_shard: OnShard | None = None) -> ShardIndex:
    """Add to an index how many images of each class its shards have; refuse a remote one, or one of other shards."""
    index = load_index(data)
    if is_address(as_path(data)):
        raise BcosError(f"the index of {data!r} is remote and cannot be written; copy it here first")
    records = []
    for url, record in zip(shard_urls(data, index.shards), index.shards, strict=True):
        scan = _scan(url, len(index.classes), on_shard)
        if scan.sha256 != record.sha256:
            raise BcosError(f"the shard {url!r} is not what the index says; check it with: bcos shards verify")
        counts = scan.record(record.name, record.split).class_counts
        records.append(record.model_copy(update={"class_counts": counts}))
    counted = index.model_copy(update={"shards": records})
    write_index(Path(as_path(index_location(data))), counted)
    return counted


def _scan(url: str, num_classes: int | None, on_shard: OnShard | None) -> ShardScan:
    scan = scan_shard(url, num_classes)
    if scan.problem:
        raise BcosError(f"the shard {url!r}: {scan.problem}")
    if not scan.samples:
        raise BcosError(
            f"the shard {url!r} has no .cls files, which say what an image is; write them beside the images"
        )
    if on_shard:
        on_shard()
    return scan
