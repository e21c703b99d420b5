"""Samples of a shard: the one way in which loaders and checks read them from a tar file."""

import contextlib
import re
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from webdataset.tariterators import base_plus_ext, group_by_keys

from bcos_cli.data.index import MAX_SAMPLE_BYTES
from bcos_cli.data.remote import Open, open_url
from bcos_cli.data.shards import ShardSlice
from bcos_cli.data.sources.inventory import is_image
from bcos_core.errors import BcosError, first_line

LARGEST = MAX_SAMPLE_BYTES  # a header may claim a terabyte, and a compressed file may even hold it
_LARGEST_EXTENSION = 1 << 20
"""Bytes of a long name, or of another extension of a header."""
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, b"X", tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_META = re.compile(r"__[^/]*__($|/)")
"""Names that WebDataset reserves."""

_MOST_DIGITS = 9
_MOST_LABEL_BYTES = 1 << 20

Problem = Callable[[int, str], None]
"""Called with how many samples are left out, and why."""

VERIFY = "check it with: bcos shards verify"

NOTES = ("position", "copy", "version")
"""Keys that a stream adds to a sample."""


def read_slice(
    part: ShardSlice, *, open_shard: Open = open_url, on_problem: Problem | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the samples of a slice as WebDataset's dictionaries, each with its ``position``.

    Args:
        on_problem: called for samples that cannot be reached, which are then left out; None to raise.

    Raises:
        BcosError: the shard has more samples than the index says; or, without `on_problem`, it cannot be opened or ends
            too early.
    """
    given = 0
    try:
        for sample in _slice(part, open_shard):
            given += 1
            yield sample
    except _TooLongError as reason:  # never left out: scores of a part of the images would pass for scores of all
        raise BcosError(
            f"the shard {part.url!r} has more samples than the {part.length} that the index says; {VERIFY}"
        ) from reason
    except BcosError as problem:
        if on_problem is None:
            raise
        on_problem(part.samples - given, str(problem))


class _TooLongError(Exception):
    """A shard goes on after the last sample that its index knows."""


def _slice(part: ShardSlice, open_shard: Open) -> Iterator[dict[str, Any]]:
    try:
        stream = open_shard(part.url)
    except OSError as reason:
        raise BcosError(f"cannot open the shard {part.url!r}: {reason}; {VERIFY}") from reason
    samples = read_samples(part.url, stream)
    count = 0
    try:
        for count, sample in enumerate(samples, start=1):
            if count == part.length and next(samples, None) is not None:
                raise _TooLongError
            if count > part.start and count - 1 not in part.left_out:
                yield {**sample, "position": part.position + count - 1 - part.start}
            if count == part.stop:
                return
    except tarfile.ReadError as reason:
        raise BcosError(f"the shard {part.url!r} is damaged after {count} samples ({reason}); {VERIFY}") from reason
    finally:
        with contextlib.suppress(OSError):  # of a command that was not read to its end
            stream.close()
    raise BcosError(f"the shard {part.url!r} ends after {count} samples, the index says at least {part.stop}; {VERIFY}")


def read_samples(
    url: str, stream: IO[bytes], on_reserved: Callable[[str], None] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the samples of a tar file, compressed or not, as WebDataset's dictionaries.

    Args:
        on_reserved: called with the name of each file that is left out, since WebDataset reserves such names.

    Raises:
        tarfile.ReadError: it is not a tar file, is damaged, or claims impossible sizes.
    """
    samples = group_by_keys(_members(url, stream, on_reserved))
    while True:
        try:
            sample = next(samples, None)
        except Exception as reason:  # tarfile, decompressors and WebDataset (of a name twice) raise many types
            told = reason.args[0] if reason.args and isinstance(reason.args[0], str) else first_line(reason)
            raise tarfile.ReadError(told[:200]) from reason
        if sample is None:
            return
        yield sample


def image_and_label(sample: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return a sample's encoded image and its label; refuse one that lacks either, or has several images."""
    name = _image(sample)
    if "cls" not in sample:
        raise _incomplete(sample)
    return sample[name], sample["cls"]


def image_name(sample: dict[str, Any]) -> str:
    """Return the name of a sample's image in its shard."""
    return f"{sample['__key__']}.{_image(sample)}"


def _image(sample: dict[str, Any]) -> str:
    """The member that has the suffix of an image, or else the only one beside the label and notes in JSON or text."""
    members = [name for name in sample if name not in NOTES and not name.startswith("__")]
    files = [name for name in members if name not in ("cls", "json", "txt")]
    images = [name for name in files if is_image(f".{name}")] or files
    if not images:
        raise _incomplete(sample)
    if len(images) > 1:
        raise BcosError(f"it may have one image, has {' and '.join(images[:5])}")
    return images[0]


def _incomplete(sample: dict[str, Any]) -> BcosError:
    members = [name for name in sample if name not in NOTES and not name.startswith("__")]
    return BcosError(f"it needs an image and a .cls file, has {members}; write the number of its class there")


def parse_labels(text: bytes, num_classes: int, multi_label: bool) -> list[int]:
    """Return the class indices in the content of a ``.cls`` file, each once.

    There is exactly one, or, where images have several labels, any number, separated by spaces or commas.

    Raises:
        BcosError: the content is anything else, or an index is outside [0, num_classes).
    """
    content = text.strip() if len(text) <= _MOST_LABEL_BYTES else b"-"
    parts = re.split(rb"[\s,;]+", content) if content else []
    are_indices = all(part.isdigit() and len(part) <= _MOST_DIGITS for part in parts)
    if not are_indices or (not multi_label and len(parts) != 1):
        needed = "class indices" if multi_label else "one class index"
        raise BcosError(f"a .cls file must hold {needed}, got {text[:20]!r}; names of classes go to --classes")
    labels = list(dict.fromkeys(map(int, parts)))
    if wrong := [label for label in labels if label >= num_classes]:
        raise BcosError(f"a .cls file has the class index {wrong[0]}, there are {num_classes} classes")
    return labels


class _Header(tarfile.TarInfo):
    """A header that raises an error if it is damaged, which tarfile takes for the end, or if its size is absurd."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as reason:
            if type(reason).__name__ in ("InvalidHeaderError", "TruncatedHeaderError"):  # not those of a tar's end
                raise tarfile.ReadError(str(reason)) from reason
            raise
        _check_size(header, _LARGEST_EXTENSION if header.type in _EXTENSIONS else LARGEST)
        return header


def _check_size(header: tarfile.TarInfo, largest: int) -> None:
    if not 0 <= header.size <= largest:
        raise tarfile.ReadError(f"{header.name[:100]!r} claims {header.size:,} bytes, at most {largest:,} are read")


def _members(url: str, stream: IO[bytes], on_reserved: Callable[[str], None] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the files of a tar as WebDataset's ``tar_file_expander`` does, bounded in size."""
    key, size = None, 0
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header) as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined] # reason: not public; it would keep them all
            _check_size(member, LARGEST)  # again: an extension may have changed it
            name = member.name
            is_file = member.isreg() and not _META.match(name)
            if member.isreg() and not is_file and on_reserved is not None:
                on_reserved(name)
            prefix = base_plus_ext(name)[0] if is_file else None
            if prefix is not None and prefix != key:
                key, size = prefix, 0
            size += member.size + tarfile.BLOCKSIZE
            if size > LARGEST:
                raise tarfile.ReadError(f"more than {LARGEST:,} bytes follow the sample {str(key)[:100]!r}")
            content = tar.extractfile(member) if is_file else None
            if content is not None:
                yield {"fname": name, "data": content.read(), "__url__": url}
