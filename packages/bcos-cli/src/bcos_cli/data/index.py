"""``index.json``: what a folder of shards holds. Imports no torch."""

from pathlib import Path
from urllib.parse import urlparse

from pydantic import BaseModel, ConfigDict, ValidationError

from bcos_core.errors import BcosError
from bcos_core.plugins import suggestion

INDEX_NAME = "index.json"
FORMAT_VERSION = 1


class ShardRecord(BaseModel):
    """One tar file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """File name, relative to the index; or a URL, or a path from the root."""
    split: str
    samples: int
    bytes: int
    sha256: str
    class_counts: dict[int, int] | None = None
    """Samples of each class; None in shards that were packed before it was counted."""


class SkippedImage(BaseModel):
    """A file that could not be read when the shards were packed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    reason: str


class _Versioned(BaseModel):
    """What an index of any version has."""

    format_version: int = FORMAT_VERSION


class ShardIndex(BaseModel):
    """Classes and shards of a data set."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = FORMAT_VERSION
    source: str
    """What was packed, as the user named it."""
    fingerprint: str
    """SHA-256 of the list of images and of the options, by which a packing is recognised."""
    classes: list[str]
    multi_label: bool = False
    """Whether an image has any number of labels instead of one."""
    shards: list[ShardRecord]
    skipped: list[SkippedImage] = []

    def splits(self) -> list[str]:
        """Names of the splits, in order of appearance."""
        return list(dict.fromkeys(shard.split for shard in self.shards))

    def of(self, split: str) -> list[ShardRecord]:
        """Shards of one split.

        Raises:
            BcosError: no such split.
        """
        shards = [shard for shard in self.shards if shard.split == split]
        if not shards:
            raise BcosError(f"the shards have no split {split!r}; {suggestion(split, self.splits())}")
        return shards

    def samples(self, split: str) -> int:
        """Count the images of one split."""
        return sum(shard.samples for shard in self.of(split))

    def class_counts(self, split: str) -> list[int]:
        """Count the images of each class in a split.

        Raises:
            BcosError: the shards do not say.
        """
        totals = [0] * len(self.classes)
        for shard in self.of(split):
            if shard.class_counts is None:
                raise BcosError(
                    f"the index does not say how many images of each class the shard {shard.name!r} has; "
                    "pack the images again, or count them with: bcos shards index"
                )
            for label, count in shard.class_counts.items():
                totals[label] += count
        return totals


def is_url(location: str) -> bool:
    """Whether `location` is remote, as WebDataset knows it: ``http:``, ``s3:``, ``gs:``, ``pipe:``, ..."""
    return len(urlparse(location).scheme) > 1


def index_location(data: str) -> str:
    """Where the index of `data` (a folder or URL of shards, or the index itself) is."""
    if data.endswith(".json"):
        return data
    return f"{data.rstrip('/')}/{INDEX_NAME}"


def load_index(data: str) -> ShardIndex:
    """Read and check the index of a folder, or URL, of shards.

    Raises:
        BcosError: no index there, or one that is damaged or of a newer format.
    """
    location = index_location(data)
    try:
        if is_url(location):
            from bcos_cli.data.opening import open_url

            with open_url(location) as stream:
                text = stream.read().decode()
        else:
            text = Path(location).read_text()
    except OSError as reason:
        raise BcosError(
            f"there are no shards at {data!r} (cannot read {location}: {reason.strerror or reason}); "
            "make them with: bcos shards pack SOURCE DESTINATION"
        ) from reason
    try:
        version = _Versioned.model_validate_json(text).format_version
        if version > FORMAT_VERSION:
            raise BcosError(
                f"{location} has format version {version}, this program knows {FORMAT_VERSION}; "
                "install a newer bcos-cli"
            )
        return ShardIndex.model_validate_json(text)
    except ValidationError as reason:
        first = reason.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BcosError(f"{location} is no index of shards: {where or 'file'}: {first['msg']}") from reason


def shard_urls(data: str, shards: list[ShardRecord]) -> list[str]:
    """Full path or URL of every shard."""
    base = index_location(data).rpartition("/")[0] or "."
    return [
        shard.name if is_url(shard.name) or shard.name.startswith("/") else f"{base}/{shard.name}" for shard in shards
    ]
