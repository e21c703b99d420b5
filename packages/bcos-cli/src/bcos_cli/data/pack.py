"""Packing labelled images into WebDataset shards: deterministic, parallel, resumable. Imports no torch."""

import hashlib
import io
import multiprocessing
import os
import random
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal

from filelock import FileLock, Timeout

from bcos_cli.data.image_decoder import decode
from bcos_cli.data.index import INDEX_NAME, ShardIndex, ShardRecord, SkippedImage, check_names, write_index
from bcos_cli.data.pack_progress import PROGRESS_NAME, FinishedShard, Progress, earlier_packing
from bcos_cli.data.pixels import USUAL, Pixels
from bcos_cli.data.sources.source import ImageItem, ImageSource
from bcos_cli.processes.signals import unheard_by_children
from bcos_core.errors import BcosError, first_line
from bcos_core.files import write_atomically

OnError = Literal["fail", "skip"]
LOCK_NAME = ".packing.lock"
_HIDDEN = re.compile(r"(?<![^/])__+")
"""Underscores with which WebDataset marks members that it leaves out."""


@dataclass(frozen=True)
class PlannedShard:
    """A shard before it is written."""

    name: str
    split: str
    items: list[tuple[str, ImageItem]]
    """(key, image)"""


def pack(
    source: ImageSource,
    name: str,
    destination: Path,
    *,
    samples_per_shard: int = 1000,
    seed: int = 0,
    on_error: OnError = "fail",
    pixels: Pixels = USUAL,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ShardIndex:
    """Write the shards of `source` and their index into `destination`.

    The images of a split are shuffled and cut into shards. A shard is written aside and renamed when it is whole; the
    index comes last. Packing the same source again continues where it was interrupted and gives the same bytes.

    Args:
        name: how the index calls the source.
        destination: folder, made if it is missing.
        samples_per_shard: images in a shard; the last of a split may have fewer.
        seed: of the order.
        on_error: what to do about images that cannot be decoded: ``"fail"`` and list them all, or ``"skip"`` them and
            list them in the index.
        pixels: how the images are read, which the index says to all that read them.
        workers: processes; None for one a core.
        on_progress: called with (images done, images in all).

    Raises:
        BcosError: the folder holds other shards, or there are unreadable images with ``on_error="fail"``.
    """
    if samples_per_shard < 1:
        raise BcosError(f"samples per shard must be at least 1, got {samples_per_shard}")
    check_names(source.classes, {item.split for item in source.items})
    total = len(source.items)
    with _alone(destination):
        earlier = earlier_packing(destination, _fingerprint(source, samples_per_shard, seed, pixels))
        if isinstance(earlier, Progress):
            plan = plan_shards(source.items, samples_per_shard, seed)
            return _pack(_Writer(source, destination, on_error, pixels), name, plan, earlier, workers, on_progress)
        if on_error == "fail":
            _refuse_unreadable(earlier.skipped, total)
        if on_progress:
            on_progress(total, total)
        return earlier


@contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """Make the folder, and keep other processes from packing into it."""
    if destination.exists() and not destination.is_dir():
        raise BcosError(f"{str(destination)!r} is a file; give a folder for the shards")
    destination.mkdir(parents=True, exist_ok=True)
    if not os.access(destination, os.W_OK):  # nobody packs here, but a finished index can be returned
        yield
        return
    lock = FileLock(destination / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout as reason:
        raise BcosError(
            f"another process is packing into {str(destination)!r}; wait for it, or give another folder"
        ) from reason
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # before it is released: afterwards it may be another's
        lock.release()


def _pack(
    writer: "_Writer",
    name: str,
    plan: list[PlannedShard],
    progress: Progress,
    workers: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> ShardIndex:
    """Write the shards that are missing, then the index."""
    source, folder, may_skip = writer.source, writer.destination, writer.on_error == "skip"
    progress.write(folder)
    finished = {shard.record.name: shard for shard in progress.finished}
    unreadable = [] if may_skip else [image for shard in finished.values() for image in shard.skipped]
    images_done = sum(shard.record.samples + len(shard.skipped) for shard in finished.values())
    for shard in _write_all(writer, [planned for planned in plan if planned.name not in finished], workers):
        images_done += shard.record.samples + len(shard.skipped)
        if on_progress:
            on_progress(images_done, len(source.items))
        if shard.skipped and not may_skip:
            unreadable += shard.skipped
            continue
        finished[shard.record.name] = shard
        progress.finished = list(finished.values())
        progress.write(folder)
    _refuse_unreadable(unreadable, len(source.items))
    ordered = [finished[planned.name] for planned in plan]
    index = ShardIndex(
        source=name,
        fingerprint=progress.fingerprint,
        classes=source.classes,
        multi_label=any(isinstance(item.label, tuple) for item in source.items),
        channels=None if writer.pixels.channels in (1, 3) else writer.pixels.channels,
        range=writer.pixels.range,
        truncated=writer.pixels.truncated,
        shards=[shard.record for shard in ordered if shard.record.samples],
        skipped=[image for shard in ordered for image in shard.skipped],
    )
    write_index(folder / INDEX_NAME, index)
    (folder / PROGRESS_NAME).unlink(missing_ok=True)
    return index


def _refuse_unreadable(images: list[SkippedImage], total: int) -> None:
    if images:
        listing = "\n".join(f"  {image.path}: {image.reason}" for image in sorted(images, key=lambda s: s.path))
        raise BcosError(
            f"{len(images)} of {total} images cannot be read; remove them, or pass --on-error skip:\n{listing}"
        )


def plan_shards(items: list[ImageItem], samples_per_shard: int, seed: int) -> list[PlannedShard]:
    """Shuffle each split and cut it into shards."""
    shards: list[PlannedShard] = []
    for split in dict.fromkeys(item.split for item in items):
        chosen = _with_keys([item for item in items if item.split == split])
        random.Random(f"{seed}/{split}").shuffle(chosen)
        for number, start in enumerate(range(0, len(chosen), samples_per_shard)):
            part = chosen[start : start + samples_per_shard]
            shards.append(PlannedShard(f"{split}-{number:06d}.tar", split, part))
    return shards


def _with_keys(items: list[ImageItem]) -> list[tuple[str, ImageItem]]:
    """Give each image a WebDataset key of its own: its path without extension and dots, numbered if it is taken."""
    taken: set[str] = set()
    keyed = []
    for item in items:
        path = PurePosixPath(item.path)
        stem = key = _HIDDEN.sub("_", str(path.parent / path.stem.replace(".", "_")))
        n = 2
        while key in taken:
            key = f"{stem}__{n}"
            n += 1
        taken.add(key)
        keyed.append((key, item))
    return keyed


def _fingerprint(source: ImageSource, samples_per_shard: int, seed: int, pixels: Pixels) -> str:
    read = "" if pixels == USUAL else f" {pixels}"
    digest = hashlib.sha256(f"1 {samples_per_shard} {seed}{read} {source.classes}\n".encode())
    for item in source.items:
        digest.update(f"{item.split}\t{item.label}\t{item.path}\t{item.version}\n".encode())
    return digest.hexdigest()


def _write_all(writer: "_Writer", plan: list[PlannedShard], workers: int | None) -> Iterator[FinishedShard]:
    """Write shards in parallel, yielding each as it is finished."""
    workers = min(workers or os.cpu_count() or 1, len(plan))
    if workers <= 1:
        yield from map(writer.write, plan)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_set_writer, initargs=(writer,)) as pool:

        def submit(shard: PlannedShard) -> Future[FinishedShard]:
            with unheard_by_children():
                return pool.submit(_write_in_process, shard)

        waiting = iter(plan)
        try:
            running = set(map(submit, islice(waiting, 2 * workers)))
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                running |= set(map(submit, islice(waiting, len(finished))))
                for future in finished:
                    yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # shards that are begun are finished, no more
            raise


@dataclass(frozen=True)
class _Writer:
    source: ImageSource
    destination: Path
    on_error: OnError
    pixels: Pixels

    def write(self, shard: PlannedShard) -> FinishedShard:
        """Write one tar file, aside and then renamed; not at all if an image is unreadable and that is fatal."""
        buffer = io.BytesIO()
        skipped: list[SkippedImage] = []
        counts: Counter[int] = Counter()
        samples = 0
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for key, item in shard.items:
                try:
                    data, extension = self.source.read(item)
                    decode(data, self.pixels)  # all that reading for training will do
                except Exception as reason:  # archives raise many types
                    kind = "" if isinstance(reason, BcosError) else f"{type(reason).__name__}: "
                    skipped.append(SkippedImage(path=item.path, reason=f"{kind}{first_line(reason)}"))
                    continue
                labels = item.label if isinstance(item.label, tuple) else (item.label,)
                _add(tar, f"{key}.{extension}", data)
                _add(tar, f"{key}.cls", " ".join(map(str, labels)).encode())
                samples += 1
                counts.update(labels)
        content = buffer.getvalue()
        record = ShardRecord(
            name=shard.name,
            split=shard.split,
            samples=samples,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            class_counts=dict(sorted(counts.items())),
        )
        if samples and not (skipped and self.on_error == "fail"):
            write_atomically(self.destination / shard.name, content)
        return FinishedShard(record=record, skipped=skipped)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # time, owner and mode are constants: the same images give the same bytes
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


_WRITER: list[_Writer] = []  # of this process: it holds the source, which is sent once and not with every shard


def _set_writer(writer: _Writer) -> None:
    _WRITER[:] = [writer]


def _write_in_process(shard: PlannedShard) -> FinishedShard:
    return _WRITER[0].write(shard)
