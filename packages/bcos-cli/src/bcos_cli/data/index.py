"""``index.json``: what a folder of shards holds. Imports no torch."""

import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, PrivateAttr, StringConstraints, ValidationError, model_validator

from bcos_cli.config.section import Range
from bcos_cli.data.address import CONTROL, file_name_problem, shard_address
from bcos_cli.data.pixels import Pixels
from bcos_cli.data.remote import open_url
from bcos_cli.file_names import INDEX_NAME
from bcos_core.address import is_address
from bcos_core.errors import BcosError, first_line, shown
from bcos_core.files import write_atomically
from bcos_core.plugins import suggestion
from bcos_core.text import parse_json, printable
from bcos_models.spec import MAX_CHANNELS, InputSpec

if TYPE_CHECKING:
    from bcos_models import TrainedModel

FORMAT_VERSION = 1
MAX_INDEX_BYTES = 1 << 28
MAX_CLASSES = 1_000_000
_FIRST = 5
"""Names that are given of files that are left out."""
MAX_SAMPLE_BYTES = 1 << 28
"""Bytes of a sample that is read from a shard."""


def _printable(text: str) -> str:
    if CONTROL.search(text):
        raise ValueError(f"{text[:100]!r} has control characters")
    return text


Name = Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_printable)]
"""A name that is shown in tables and pictures, or is part of a file's name."""
Count = Annotated[int, Field(strict=True, ge=0, le=10**9)]


class ShardRecord(BaseModel, extra="forbid", frozen=True):
    """One tar file."""

    name: Name
    """File name, relative to the index; or an address of the host that the index comes from."""
    split: Name
    samples: Count
    bytes: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    class_counts: dict[Annotated[int, Field(ge=0)], Count] | None = None
    """Samples of each class; None in indexes of versions that did not count them."""

    @property
    def place(self) -> str:
        """Relative path for what is made from this shard; no two shards of a folder have the same."""
        path = urlsplit(self.name).path if is_address(self.name) else self.name
        return posixpath.normpath(f"/{path}").lstrip("/")  # from the root no ".." leads out


class SkippedImage(BaseModel, extra="forbid", frozen=True):
    """A file that could not be read when the shards were packed."""

    path: str
    reason: str


class LeftOut(BaseModel, extra="forbid", frozen=True):
    """Files that were not packed, or not read as a whole, for one reason."""

    reason: str
    files: Count
    first: Annotated[list[str], Field(max_length=100)] = []
    """The first of them; a folder of which nothing was packed ends with a slash."""

    def __str__(self) -> str:
        more = ", ..." if self.files > len(self.first) else ""
        return f"{self.files:,}: {self.reason}: {', '.join(self.first)}{more}"


def by_reason(reasons: Mapping[str, Sequence[str]]) -> list[LeftOut]:
    """Count the files of each reason, and keep the first names."""
    return [
        LeftOut(reason=reason, files=len(names), first=sorted(names)[:_FIRST])
        for reason, names in sorted(reasons.items())
    ]


class ShardIndex(BaseModel, extra="forbid"):
    """Classes and shards of a data set."""

    format_version: Annotated[int, Field(strict=True, ge=1)] = FORMAT_VERSION
    source: str
    """What was packed, as the user named it."""
    fingerprint: str
    """SHA-256 of the list of images and of the options, by which packing recognises its own work."""
    classes: Annotated[list[Name], Field(min_length=1, max_length=MAX_CLASSES, fail_fast=True)]
    multi_label: Annotated[bool, Field(strict=True)] = False
    """Whether an image has any number of labels instead of one."""
    channels: Annotated[int, Field(strict=True, ge=1, le=MAX_CHANNELS)] | None = None
    """Channels of every image; None for images of any kind, which become greyscale or RGB."""
    range: Range | None = None
    """Values that are black and white in images of more than 8 bits; None for those of the formats."""
    truncated: Annotated[bool, Field(strict=True)] = False
    """Whether JPEGs that were cut off are among them, and are read."""
    shards: Annotated[list[ShardRecord], Field(fail_fast=True)]
    skipped: Annotated[list[SkippedImage], Field(fail_fast=True)] = []
    """Images that cannot be read."""
    left_out: Annotated[list[LeftOut], Field(fail_fast=True)] = []
    """All other files of the source that are in no shard."""
    partial: Annotated[list[LeftOut], Field(fail_fast=True)] = []
    """Images of which only a part is read, such as the first page."""
    _numbers: tuple[int, ...] | None = PrivateAttr(None)
    _left_aside: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "ShardIndex":
        if repeated := _repeated(self.classes):
            raise ValueError(f"two classes are called {repeated!r}; give each a name of its own")
        for shard in self.shards:
            if problem := self._problem(shard):
                raise ValueError(f"the shard {shard.name!r} {problem}")
        return self

    def _problem(self, shard: ShardRecord) -> str | None:
        if not 0 < shard.samples <= shard.bytes:
            return f"cannot have {shard.samples:,} samples in {shard.bytes:,} bytes"
        counts = shard.class_counts
        if counts is None:
            return None
        if (largest := max(counts, default=0)) >= len(self.classes):
            return f"counts images of the class {largest}, there are {len(self.classes)} classes"
        total = sum(counts.values())
        if max(counts.values(), default=0) > shard.samples or not (self.multi_label or total == shard.samples):
            return f"counts {total:,} images in its classes and has {shard.samples:,} samples"
        return None

    @property
    def numbers(self) -> tuple[int, ...]:
        """Number in `classes` that each label of the shards stands for; -1 for one that no image has."""
        return tuple(range(len(self.classes))) if self._numbers is None else self._numbers

    @property
    def left_aside(self) -> list[str]:
        """In one line, which classes of the shards :meth:`aligned` has left aside; nothing if it has none."""
        if not (names := self._left_aside):
            return []
        first = ", ".join(map(repr, names[:_FIRST])) + (", ..." if len(names) > _FIRST else "")
        return [f"left aside {len(names):,}: classes without images here that the network does not know: {first}"]

    def aligned(self, trained: "TrainedModel", data: str, split: str) -> "ShardIndex":
        """Return an index of the same shards, at `data`, with the classes of a network in its order.

        A network that does not name its classes takes the names of the shards. Classes without images in the split,
        which alone is read, need not be known to it.

        Raises:
            BcosError: shards of a class that the network does not know.
        """
        absent = []
        if all(shard.class_counts is not None for shard in self.of(split)):
            absent = [name for name, count in zip(self.classes, self.class_counts(split), strict=True) if not count]
        numbers = trained.align_classes(self.classes, data, absent)
        if numbers == tuple(range(len(trained.classes))) and all(name.isdecimal() for name in trained.classes):
            return self
        counted = [
            shard.model_copy(
                update={"class_counts": {numbers[k]: n for k, n in shard.class_counts.items() if numbers[k] >= 0}}
            )
            if shard.class_counts is not None
            else shard
            for shard in self.shards
        ]
        index = self.model_copy(update={"classes": trained.classes, "shards": counted})
        index._numbers = numbers
        index._left_aside = tuple(name for name, k in zip(self.classes, numbers, strict=True) if k < 0)
        return index

    def pixels(self, spec: InputSpec | None = None, truncated: bool = False) -> Pixels:
        """Say how its images are read, for a network that takes `spec`; refuse one of another number of channels."""
        channels = self.channels or 3 if spec is None else spec.channels
        if self.channels not in (None, channels):
            raise BcosError(f"the images of the shards have {self.channels} channels, the network takes {channels}")
        own = None if spec is None else spec.range
        return Pixels(channels, self.range or own, self.truncated or truncated)

    def splits(self) -> list[str]:
        """Names of the splits, in order of appearance."""
        return list(dict.fromkeys(shard.split for shard in self.shards))

    def of(self, split: str) -> list[ShardRecord]:
        """Return the shards of one split; refuse one that is not there."""
        shards = [shard for shard in self.shards if shard.split == split]
        if not shards:
            raise BcosError(f"the shards have no split {split!r}; {suggestion(split, self.splits())}")
        return shards

    def samples(self, split: str) -> int:
        """Count the images of one split."""
        return sum(shard.samples for shard in self.of(split))

    def class_counts(self, split: str) -> list[int]:
        """Count the images of each class in a split; refuse an index that does not say."""
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


def write_index(path: Path, index: ShardIndex) -> None:
    """Write an index to a file."""
    write_atomically(path, index.model_dump_json(indent=1) + "\n")


def index_location(data: str) -> str:
    """Return where the index of `data` is, which is a folder or URL of shards, or the index itself."""
    return data if data.endswith(".json") else f"{data.rstrip('/')}/{INDEX_NAME}"


def load_index(data: str) -> ShardIndex:
    """Read and check the index of a folder, or URL, of shards.

    Raises:
        BcosError: there is none, or it is damaged, of a newer format, or names what it may not.
    """
    location = index_location(data)
    try:
        with open_url(location) as stream:
            content = stream.read(MAX_INDEX_BYTES + 1)
    except OSError as reason:
        raise BcosError(
            f"there are no shards at {data!r} (cannot read {location}: {reason.strerror or reason}); "
            "make them with: bcos shards pack SOURCE DESTINATION"
        ) from reason
    if len(content) > MAX_INDEX_BYTES:
        raise BcosError(f"{location} is no index of shards: it has more than {MAX_INDEX_BYTES:,} bytes")
    index = _parsed(location, content)
    check_addresses(location, index)
    return index


def _parsed(location: str, content: bytes) -> ShardIndex:
    try:
        values = parse_json(content.decode())
    except ValueError as reason:
        raise BcosError(f"{location} is no index of shards: {first_line(reason)}") from reason
    version = values.get("format_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BcosError(
            f"{location} has format version {str(version)[:20]}, this program knows {FORMAT_VERSION}; "
            "install a newer bcos-cli"
        )
    try:
        return ShardIndex.model_validate(values)
    except ValidationError as reason:
        raise BcosError(f"{location} is no index of shards: {index_problem(reason)}") from reason


def index_problem(reason: ValidationError) -> str:
    """Return in one line of bounded length what is wrong with an index, and where."""
    first = reason.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part)[:60] for part in first["loc"]) or "file"
    return f"{printable(where)}: {first['msg'].removeprefix('Value error, ')[:400]}"


def check_names(classes: list[str], splits: Iterable[str]) -> None:
    """Refuse repeated or unprintable names, and splits whose shards would lie elsewhere, before anything is packed."""
    try:
        ShardIndex(source="", fingerprint="", classes=classes, shards=[])
    except ValidationError as reason:
        raise BcosError(f"the images cannot be packed: {index_problem(reason)}") from reason
    for split in splits:
        problem = "has a slash" if "/" in split else file_name_problem(split)
        if problem:
            raise BcosError(f"the images cannot be packed: the split {shown(split)} {problem}; name it otherwise")


def check_addresses(location: str, index: ShardIndex) -> None:
    """Refuse an index at `location` that names a shard which it may not name, or one twice in a split."""
    urls = shard_urls(location, index.shards)
    splits = [shard.split for shard in index.shards]
    if repeated := _repeated(list(zip(splits, urls, strict=True))):
        raise BcosError(
            f"{location} is no index of shards: the split {repeated[0]!r} has the shard {repeated[1]!r} twice, "
            "whose images would count twice; leave one out"
        )


def shard_urls(data: str, shards: list[ShardRecord]) -> list[str]:
    """Return the full path or URL of every shard; refuse a name that leads where an index may not lead."""
    location = index_location(data)
    return [shard_address(location, shard.name) for shard in shards]


def _repeated(values: list[Any]) -> Any:
    """Return a value that comes more than once; None if there is none."""
    value, count = Counter(values).most_common(1)[0] if values else (None, 0)
    return value if count > 1 else None
