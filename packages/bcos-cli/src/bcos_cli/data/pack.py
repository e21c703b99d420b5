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
from pydantic import BaseModel, ValidationError

from bcos_cli.data.image_decoder import UnreadableImageError, decode
from bcos_cli.data.index import (
    INDEX_NAME,
    ShardIndex,
    ShardRecord,
    SkippedImage,
    check_names,
    load_index,
)
from bcos_cli.data.sources import ImageItem, ImageSource
from bcos_cli.processes.interrupts import unheard_by_children
from bcos_core.errors import BcosError, first_line
from bcos_core.files import remove_asides, write_atomically

OnError = Literal["fail", "skip"]
PROGRESS_NAME = ".packing.json"
LOCK_NAME = ".packing.lock"
_HIDDEN = re.compile(r"(?<![^/])__+")
"""Underscores with which WebDataset marks members that it leaves out."""
_SHARD = re.compile(r"[^/\\\0]+-[0-9]{6,}\.tar")
"""File names of shards."""


@dataclass(frozen=True)
class PlannedShard:
    """A shard before it is written."""

    name: str
    split: str
    items: list[tuple[str, ImageItem]]
    """(key, image)"""


class _Finished(BaseModel):
    """A shard after it is written."""

    record: ShardRecord
    skipped: list[SkippedImage]


class _Progress(BaseModel):
    """What an interrupted packing leaves behind: the proof that what it names is ours."""

    fingerprint: str
    finished: list[_Finished] = []


def pack(
    source: ImageSource,
    name: str,
    destination: Path,
    *,
    samples_per_shard: int = 1000,
    seed: int = 0,
    on_error: OnError = "fail",
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ShardIndex:
    """Write the shards of `source` and their index into `destination`.

    The images of a split are shuffled (by `seed`) and cut into shards. A shard is written aside and renamed
    when it is whole; the index comes last. Packing the same source again continues where it was interrupted
    and gives the same bytes.

    Args:
        source: the images.
        name: how the index calls the source.
        destination: folder, made if it is missing.
        samples_per_shard: images in a shard; the last of a split may have fewer.
        seed: of the order.
        on_error: what to do about images that cannot be decoded: ``"fail"`` after listing them all, or
            ``"skip"`` them and list them in the index.
        workers: processes; None for one a core.
        on_progress: called with (images done, images in all).

    Returns:
        The index.

    Raises:
        BcosError: the folder holds other shards, nothing to pack, or unreadable images with
            ``on_error="fail"``.
    """
    if samples_per_shard < 1:
        raise BcosError(f"samples per shard must be at least 1, got {samples_per_shard}")
    check_names(source.classes, {item.split for item in source.items})
    plan = plan_shards(source.items, samples_per_shard, seed)
    fingerprint = _fingerprint(source, samples_per_shard, seed)
    with _alone(destination):
        return _pack(source, name, destination, plan, fingerprint, on_error, workers, on_progress)


@contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """Keep other processes from packing into the folder."""
    if destination.exists() and not destination.is_dir():
        raise BcosError(f"{str(destination)!r} is a file; give a folder for the shards")
    destination.mkdir(parents=True, exist_ok=True)
    if not os.access(destination, os.W_OK):  # nobody packs here; what is packed already may be asked for
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
    source: ImageSource,
    name: str,
    destination: Path,
    plan: list[PlannedShard],
    fingerprint: str,
    on_error: OnError,
    workers: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> ShardIndex:
    total = len(source.items)
    done = _already_done(destination, fingerprint)
    if isinstance(done, ShardIndex):
        if on_error == "fail":
            _refuse_unreadable(done.skipped, total)
        if on_progress:
            on_progress(total, total)
        return done

    finished = {f.record.name: f for f in done.finished}
    write_atomically(destination / PROGRESS_NAME, done.model_dump_json())  # from now on the folder is ours
    unreadable = [image for f in finished.values() for image in f.skipped] if on_error == "fail" else []
    images_done = sum(f.record.samples + len(f.skipped) for f in finished.values())
    for result in _write_all(source, [s for s in plan if s.name not in finished], destination, on_error, workers):
        images_done += result.record.samples + len(result.skipped)
        if on_progress:
            on_progress(images_done, total)
        if result.skipped and on_error == "fail":
            unreadable += result.skipped
            continue
        finished[result.record.name] = result
        progress = _Progress(fingerprint=fingerprint, finished=list(finished.values()))
        write_atomically(destination / PROGRESS_NAME, progress.model_dump_json())
    _refuse_unreadable(unreadable, total)
    ordered = [finished[shard.name] for shard in plan]
    index = ShardIndex(
        source=name,
        fingerprint=fingerprint,
        classes=source.classes,
        multi_label=any(isinstance(item.label, tuple) for item in source.items),
        shards=[f.record for f in ordered if f.record.samples],
        skipped=[image for f in ordered for image in f.skipped],
    )
    write_atomically(destination / INDEX_NAME, index.model_dump_json(indent=1) + "\n")
    (destination / PROGRESS_NAME).unlink(missing_ok=True)
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
        remaining = iter(chosen)
        while part := list(islice(remaining, samples_per_shard)):
            number = sum(shard.split == split for shard in shards)
            shards.append(PlannedShard(f"{split}-{number:06d}.tar", split, part))
    return shards


def _with_keys(items: list[ImageItem]) -> list[tuple[str, ImageItem]]:
    """Give each image a WebDataset key: its path without extension, dots and doubles."""
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


def _already_done(destination: Path, fingerprint: str) -> ShardIndex | _Progress:
    """Return the finished index or the progress of an earlier packing of the same source."""
    fresh = _Progress(fingerprint=fingerprint)
    other = BcosError(
        f"{str(destination)!r} already holds other shards or files; give an empty folder, or remove that one first"
    )
    if (destination / INDEX_NAME).exists():
        index = load_index(str(destination))
        if index.fingerprint != fingerprint:
            raise other
        if all(_is_whole(destination / record.name, record) for record in index.shards):
            return index
        return fresh  # shards are missing: write them again
    progress_file = destination / PROGRESS_NAME
    if os.path.lexists(progress_file):
        progress = _read_progress(progress_file)
        remove_asides(destination, lambda name: name in (PROGRESS_NAME, INDEX_NAME) or bool(_SHARD.fullmatch(name)))
        if progress.fingerprint == fingerprint:
            progress.finished = [f for f in progress.finished if _is_whole(destination / f.record.name, f.record)]
            return progress
        noted = [(destination / finished.record.name, finished.record) for finished in progress.finished]
        ours = [path for path, record in noted if _is_ours(path, record)]
        if set(destination.glob("*.tar")) - set(ours):
            raise other
        for path in (*ours, progress_file):  # of an interrupted packing of something else, as before files were removed
            path.unlink()
    if any(destination.glob("*.tar")):
        raise other
    return fresh


def _read_progress(path: Path) -> _Progress:
    """Read what an interrupted packing noted; in a folder from elsewhere it may say anything.

    Raises:
        BcosError: a file that no packing writes.
    """
    odd = BcosError(
        f"{str(path)!r} is not what an interrupted packing leaves there; give another folder, or remove that file"
    )
    if path.is_symlink() or not path.is_file():
        raise odd
    try:
        progress = _Progress.model_validate_json(path.read_bytes())
    except ValidationError as reason:
        raise odd from reason
    if not all(_SHARD.fullmatch(finished.record.name) for finished in progress.finished):
        raise odd
    return progress


def _is_ours(path: Path, record: ShardRecord) -> bool:
    """Whether a shard still is what was noted when it was written; anything else of its name may be somebody's."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != record.bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == record.sha256


def _is_whole(path: Path, record: ShardRecord) -> bool:
    if not record.samples:  # nothing in it could be read, and nothing was written
        return True
    return path.exists() and path.stat().st_size == record.bytes


def _fingerprint(source: ImageSource, samples_per_shard: int, seed: int) -> str:
    digest = hashlib.sha256(f"1 {samples_per_shard} {seed} {source.classes}\n".encode())
    for item in source.items:
        digest.update(f"{item.split}\t{item.label}\t{item.path}\t{item.version}\n".encode())
    return digest.hexdigest()


def _write_all(
    source: ImageSource, plan: list[PlannedShard], destination: Path, on_error: OnError, workers: int | None
) -> Iterator[_Finished]:
    """Write shards in parallel, yielding each as it is finished."""
    workers = min(workers or os.cpu_count() or 1, len(plan))
    if workers <= 1:
        for shard in plan:
            yield write_shard(source, shard, destination, on_error)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_set_source, initargs=(source,)) as pool:

        def submit(shard: PlannedShard) -> Future[_Finished]:
            with unheard_by_children():
                return pool.submit(_write_with_source, shard, destination, on_error)

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


_SOURCE: list[ImageSource] = []  # of this worker process: sent once, not with every shard


def _set_source(source: ImageSource) -> None:
    _SOURCE[:] = [source]


def _write_with_source(shard: PlannedShard, destination: Path, on_error: OnError) -> _Finished:
    return write_shard(_SOURCE[0], shard, destination, on_error)


def write_shard(source: ImageSource, shard: PlannedShard, destination: Path, on_error: OnError) -> _Finished:
    """Write one tar file, aside and then renamed; not at all if an image is unreadable and that is fatal."""
    buffer = io.BytesIO()
    skipped: list[SkippedImage] = []
    counts: Counter[int] = Counter()
    samples = 0
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, item in shard.items:
            try:
                data, extension = source.read(item)
                decode(data, channels=3)  # all that reading for training will do
            except UnreadableImageError as reason:
                skipped.append(SkippedImage(path=item.path, reason=str(reason)))
                continue
            except Exception as reason:  # archives raise many types
                skipped.append(SkippedImage(path=item.path, reason=f"{type(reason).__name__}: {first_line(reason)}"))
                continue
            _add(tar, f"{key}.{extension}", data)
            labels = item.label if isinstance(item.label, tuple) else (item.label,)
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
    if samples and not (skipped and on_error == "fail"):
        write_atomically(destination / shard.name, content)
    return _Finished(record=record, skipped=skipped)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # time, owner and mode are constants: the same images give the same bytes
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
