"""Packing labelled images into WebDataset shards: deterministic, parallel, resumable. Imports no torch."""

import hashlib
import io
import itertools
import math
import multiprocessing
import os
import random
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, cast

from bcos_cli.data.image_decoder import PARTIAL, decode_part
from bcos_cli.data.index import (
    MAX_SAMPLE_BYTES,
    ShardIndex,
    ShardRecord,
    SkippedImage,
    by_reason,
    check_names,
    write_index,
)
from bcos_cli.data.pack_progress import LOCK_NAME, FinishedShard, Progress, earlier_packing
from bcos_cli.data.pixels import USUAL, Pixels
from bcos_cli.data.sources.inventory import utf8
from bcos_cli.data.sources.source import ImageItem, ImageSource
from bcos_cli.file_names import INDEX_NAME, PROGRESS_NAME
from bcos_cli.folder_lock import locked_folder
from bcos_cli.processes.parent import end_with_starter
from bcos_cli.processes.signals import unheard_by_children
from bcos_core.errors import BcosError, first_line
from bcos_core.files import replacement
from bcos_core.text import listed

OnError = Literal["fail", "skip"]
_HIDDEN = re.compile(r"(?<![^/])__+")
"""Underscores with which WebDataset marks members that it leaves out."""
_SAMPLE_BYTES = 5 * tarfile.BLOCKSIZE
"""Bytes of a sample in a tar beside those of its image: two headers, the label, and what fills the last block."""
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Address of an object in memory, in messages of decoders."""


@dataclass(frozen=True)
class PlannedShard:
    """A shard before it is written."""

    name: str
    split: str
    items: list[tuple[str, ImageItem]]
    """(key, image)"""

    def as_finished(self, record: ShardRecord | None, skipped: Mapping[str, SkippedImage]) -> FinishedShard | None:
        """Return what an index says of the shard; None if it says nothing."""
        own = [skipped[path] for _, item in self.items if (path := utf8(item.path)) in skipped]
        return None if record is None else FinishedShard(record=record, skipped=own)


def pack(
    source: ImageSource,
    name: str,
    destination: Path,
    *,
    samples_per_shard: int = 1000,
    megabytes_per_shard: float = 1000,
    seed: int = 0,
    on_error: OnError = "fail",
    pixels: Pixels = USUAL,
    workers: int | None = None,
    wait: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ShardIndex:
    """Write the shards of `source` and their index into `destination`.

    The images of a split are shuffled and cut into shards. A shard is written aside and renamed when it is whole; the
    index comes last. Packing the same source again continues where it was interrupted and gives the same bytes; shards
    of images that have changed since are written anew. No more than one image is held in memory by each process.

    Args:
        name: how the index calls the source.
        destination: folder, made if it is missing.
        samples_per_shard: images in a shard at most.
        megabytes_per_shard: their size at most, in 10^6 bytes; a larger image has a shard of its own.
        seed: of the order.
        on_error: what to do about images that cannot be decoded: ``"fail"`` and list them all, or ``"skip"`` them and
            list them in the index.
        pixels: how the images are read, which the index says to all that read them.
        workers: processes; None for one a core.
        wait: for another process that packs into the folder, instead of an error.
        on_progress: called with (images done, images in all).

    Raises:
        BcosError: the folder holds other shards, or those of images that have changed since, or there are unreadable
            images with ``on_error="fail"``.
    """
    if samples_per_shard < 1:
        raise BcosError(f"samples per shard must be at least 1, got {samples_per_shard}")
    if not 0 < megabytes_per_shard < math.inf:
        raise BcosError(f"the size of a shard must be a number of megabytes above 0, got {megabytes_per_shard:g}")
    check_names(source.classes, {item.split for item in source.items})
    plan = plan_shards(source.items, samples_per_shard, seed, int(megabytes_per_shard * 1e6))
    writer = _Writer(source, destination, on_error, pixels)
    if destination.exists() and not destination.is_dir():
        raise BcosError(f"{str(destination)!r} is a file; give a folder for the shards")
    read_only = destination.exists() and not os.access(destination, os.W_OK)  # a finished index can be returned from it
    alone = locked_folder(destination, "packing", name=LOCK_NAME, timeout=-1 if wait else 0)
    with nullcontext() if read_only else alone:
        fingerprint = _fingerprint(source, samples_per_shard, megabytes_per_shard, seed, pixels)
        earlier = earlier_packing(destination, fingerprint)
        if isinstance(earlier, Progress):
            try:
                return _pack(writer, destination, name, plan, earlier, workers, on_progress)
            except BaseException:
                if not any(destination.glob("*.tar")):  # there is nothing to go on from
                    (destination / PROGRESS_NAME).unlink(missing_ok=True)
                raise
        if on_error == "fail":
            _refuse_unreadable(earlier.skipped, len(source.items))
        _refuse_changed(replace(writer, destination=None), destination, plan, earlier, workers, on_progress)
        return earlier


def _pack(
    writer: "_Writer",
    folder: Path,
    name: str,
    plan: list[PlannedShard],
    progress: Progress,
    workers: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> ShardIndex:
    """Write the shards that are missing, or whose images have changed since they were written; then the index."""
    source, may_skip = writer.source, writer.on_error == "skip"
    progress.write(folder)
    finished = {shard.record.name: shard for shard in progress.finished}
    unreadable: list[SkippedImage] = []
    images_done = 0
    for shard in _write_all(writer, [(planned, finished.get(planned.name)) for planned in plan], workers):
        images_done += shard.record.samples + len(shard.skipped)
        if on_progress:
            on_progress(images_done, len(source.items))
        if shard.skipped and not may_skip:
            unreadable += shard.skipped
        if finished.get(shard.record.name) == shard or (shard.skipped and not may_skip):
            continue
        finished[shard.record.name] = shard
        progress.finished = list(finished.values())
        progress.write(folder)
    _refuse_unreadable(unreadable, len(source.items))
    ordered = [finished[planned.name] for planned in plan]
    index = ShardIndex(
        source=utf8(name),
        fingerprint=progress.fingerprint,
        classes=source.classes,
        multi_label=any(isinstance(item.label, tuple) for item in source.items),
        channels=None if writer.pixels.channels in (1, 3) else writer.pixels.channels,
        range=writer.pixels.range,
        truncated=writer.pixels.truncated,
        shards=[shard.record for shard in ordered if shard.record.samples],
        skipped=[image for shard in ordered for image in shard.skipped],
        left_out=getattr(source, "left_out", []),
        partial=by_reason({part: names for part in PARTIAL if (names := _of_all(ordered, part))}),
    )
    write_index(folder / INDEX_NAME, index)
    (folder / PROGRESS_NAME).unlink(missing_ok=True)
    return index


def _of_all(shards: list[FinishedShard], part: str) -> list[str]:
    return [name for shard in shards for name in shard.partial.get(part, [])]


def _refuse_changed(
    writer: "_Writer",
    folder: Path,
    plan: list[PlannedShard],
    index: ShardIndex,
    workers: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Refuse finished shards if they are not what the images of today would give, whatever their sizes and dates."""
    skipped = {image.path: image for image in index.skipped}
    records = {record.name: record for record in index.shards}
    jobs = [(planned, planned.as_finished(records.get(planned.name), skipped)) for planned in plan]
    earlier = {planned.name: finished for planned, finished in jobs}
    changed, images_done = [], 0
    for shard in _write_all(writer, jobs, workers):
        images_done += shard.record.samples + len(shard.skipped)
        if on_progress:
            on_progress(images_done, len(writer.source.items))
        if shard != earlier[shard.record.name] and (shard.record.samples or shard.record.name in records):
            changed.append(shard.record.name)
    if changed:
        raise BcosError(
            f"images have changed since they were packed into {str(folder)!r} ({listed(sorted(changed))}); give "
            "an empty folder, or remove that one first"
        )


def _refuse_unreadable(images: list[SkippedImage], total: int) -> None:
    if images:
        listing = "\n".join(f"  {image.path}: {image.reason}" for image in sorted(images, key=lambda s: s.path))
        raise BcosError(
            f"{len(images)} of {total} images cannot be read; remove them, or pass --on-error skip:\n{listing}"
        )


def plan_shards(
    items: list[ImageItem], samples_per_shard: int, seed: int, bytes_per_shard: int = 10**9
) -> list[PlannedShard]:
    """Shuffle each split and cut it into shards of at most so many images and bytes, but of one image at least."""
    shards: list[PlannedShard] = []
    for split in dict.fromkeys(item.split for item in items):
        chosen = _with_keys([item for item in items if item.split == split])
        random.Random(f"{seed}/{split}").shuffle(chosen)
        parts: list[list[tuple[str, ImageItem]]] = []
        size = 0
        for key, item in chosen:
            needed = item.bytes + _SAMPLE_BYTES
            if not parts or len(parts[-1]) == samples_per_shard or size + needed > bytes_per_shard:
                parts.append([])
                size = 0
            parts[-1].append((key, item))
            size += needed
        shards += [PlannedShard(f"{split}-{number:06d}.tar", split, part) for number, part in enumerate(parts)]
    return shards


def _with_keys(items: list[ImageItem]) -> list[tuple[str, ImageItem]]:
    """Give each image a WebDataset key of its own: its path without extension and dots, numbered if it is taken."""
    taken: set[str] = set()
    keyed = []
    for item in items:
        path = PurePosixPath(utf8(item.path))
        stem = key = _HIDDEN.sub("_", str(path.parent / path.stem.replace(".", "_")))
        n = 2
        while key in taken:
            key = f"{stem}__{n}"
            n += 1
        taken.add(key)
        keyed.append((key, item))
    return keyed


def _fingerprint(
    source: ImageSource, samples_per_shard: int, megabytes_per_shard: float, seed: int, pixels: Pixels
) -> str:
    read = "" if pixels == USUAL else f" {pixels}"
    settings = f"2 {samples_per_shard} {megabytes_per_shard:g} {seed}{read} {source.classes}\n"
    digest = hashlib.sha256(settings.encode())
    for item in source.items:
        line = f"{item.split}\t{item.label}\t{item.path}\t{item.bytes}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


Job = tuple[PlannedShard, FinishedShard | None]
"""A shard, and what is known of it if it was written earlier."""


def _write_all(writer: "_Writer", jobs: list[Job], workers: int | None) -> Iterator[FinishedShard]:
    """Write shards in parallel, yielding each as it is finished."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers <= 1:
        yield from itertools.starmap(writer.write, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_set_writer, initargs=(writer,)) as pool:

        def submit(job: Job) -> Future[FinishedShard]:
            with unheard_by_children(), _without_script(writer):
                return pool.submit(_write_in_process, *job)

        waiting = iter(jobs)
        try:
            running = set(map(submit, itertools.islice(waiting, workers)))
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                running |= set(map(submit, itertools.islice(waiting, len(finished))))
                for future in finished:
                    yield future.result()
        except BaseException as reason:
            # Shards that are begun are finished, no more; what they write must be there before the folder is left
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(reason, BrokenProcessPool):
                raise BcosError(
                    "a process that packs has ended, killed or out of memory; pack again, with fewer workers. A script "
                    'that defines its own source must call pack below: if __name__ == "__main__"'
                ) from reason
            raise


@contextmanager
def _without_script(writer: "_Writer") -> Iterator[None]:
    """Keep processes that start here from running the program's script again, unless it defines the source."""
    script = sys.modules["__main__"]
    file, spec = getattr(script, "__file__", None), script.__spec__
    if file is None or type(writer.source).__module__ == "__main__":
        yield
        return
    script.__file__, script.__spec__ = None, None  # by which multiprocessing finds it
    try:
        yield
    finally:
        script.__file__, script.__spec__ = file, spec


@dataclass(frozen=True)
class _Writer:
    source: ImageSource
    destination: Path | None
    """None to write nothing, and only to say what would be written."""
    on_error: OnError
    pixels: Pixels

    def write(self, shard: PlannedShard, earlier: FinishedShard | None = None) -> FinishedShard:
        """Write one tar file, aside and then renamed, unless it is what was written earlier.

        It is not written either if no image is readable, or if one is not and that is fatal.
        """
        if earlier is not None and self._is_current(shard, earlier):
            return earlier
        if self.destination is None:
            return self._tar(shard, None)
        with suppress(_RefusedError), replacement(self.destination / shard.name) as aside, aside.open("wb") as file:
            finished = self._tar(shard, file)
            if not finished.record.samples or (finished.skipped and self.on_error == "fail"):
                raise _RefusedError
        return finished

    def _is_current(self, shard: PlannedShard, earlier: FinishedShard) -> bool:
        """Whether the images are those of a shard that was written: it reads them, and decodes only unreadable ones."""
        unreadable = {image.path for image in earlier.skipped}
        now = self._tar(shard, None, lambda item: utf8(item.path) in unreadable)
        return now.record == earlier.record and {image.path for image in now.skipped} == unreadable

    def _tar(
        self, shard: PlannedShard, file: IO[bytes] | None, doubted: Callable[[ImageItem], bool] = lambda _: True
    ) -> FinishedShard:
        """Write the tar of a shard to a file, or nowhere.

        Args:
            doubted: says whether it has to be shown that an image can be decoded.
        """
        stream = _SummedStream(file)
        skipped: list[SkippedImage] = []
        partial: dict[str, list[str]] = {}
        counts: Counter[int] = Counter()
        samples = 0
        with tarfile.open(fileobj=cast(Any, stream), mode="w", format=tarfile.PAX_FORMAT) as tar:
            for key, item in shard.items:
                try:
                    data, extension = self.source.read(item)
                    if len(data) + _SAMPLE_BYTES > MAX_SAMPLE_BYTES:
                        raise BcosError(f"too large: shards hold files of up to {MAX_SAMPLE_BYTES / 1e6:.0f} MB")
                    if doubted(item):
                        _, unread = decode_part(data, self.pixels)  # all that reading for training will do
                        for part in unread:
                            partial.setdefault(part, []).append(utf8(item.path))
                except Exception as reason:  # archives raise many types
                    kind = "" if isinstance(reason, BcosError) else f"{type(reason).__name__}: "
                    text = _ADDRESS.sub("", f"{kind}{first_line(reason)}")
                    skipped.append(SkippedImage(path=utf8(item.path), reason=utf8(text)))
                    continue
                labels = item.label if isinstance(item.label, tuple) else (item.label,)
                _add(tar, f"{key}.{extension}", data)
                _add(tar, f"{key}.cls", " ".join(map(str, labels)).encode())
                samples += 1
                counts.update(labels)
        record = ShardRecord(
            name=shard.name,
            split=shard.split,
            samples=samples,
            bytes=stream.bytes,
            sha256=stream.sum.hexdigest(),
            class_counts=dict(sorted(counts.items())),
        )
        return FinishedShard(record=record, skipped=skipped, partial=partial)


class _RefusedError(Exception):
    """A shard is not to be written after all."""


class _SummedStream:
    """Counts and sums what is written, and passes it on to a file, if there is one."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file
        self.bytes = 0
        self.sum = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        self.sum.update(data)
        return len(data) if self._file is None else self._file.write(data)

    def tell(self) -> int:
        return self.bytes


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # time, owner and mode are constants: the same images give the same bytes
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


_WRITER: list[_Writer] = []  # of this process: it holds the source, which is sent once and not with every shard


def _set_writer(writer: _Writer) -> None:
    end_with_starter()
    _WRITER[:] = [writer]


def _write_in_process(shard: PlannedShard, earlier: FinishedShard | None) -> FinishedShard:
    return _WRITER[0].write(shard, earlier)
