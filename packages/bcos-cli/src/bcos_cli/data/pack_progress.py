"""What an earlier packing left in a folder: the shards of a finished one, or the notes of an interrupted one."""

import hashlib
import os
import re
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel, ValidationError

from bcos_cli.data.index import ShardIndex, ShardRecord, SkippedImage, load_index
from bcos_cli.file_names import INDEX_NAME, PROGRESS_NAME
from bcos_core.errors import BcosError
from bcos_core.files import remove_asides, write_atomically

LOCK_NAME = ".packing.lock"
"""File that is there as long as a process packs into a folder, which is ours by it."""
_SHARD = re.compile(r"[^/\\\0]+-[0-9]{6,}\.tar")
"""File names of shards."""


class FinishedShard(BaseModel):
    """A shard after it is written."""

    record: ShardRecord
    skipped: list[SkippedImage]
    partial: dict[str, list[str]] = {}
    """Images of which only a part is read, by what that is."""

    def is_ours(self, folder: Path) -> bool:
        """Whether its content is what was noted, too; anything else of its name may be somebody's."""
        path = folder / self.record.name
        if path.is_symlink() or not path.is_file() or path.stat().st_size != self.record.bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.record.sha256


class Progress(BaseModel):
    """Notes of a packing that goes on: the proof that the shards they name are ours."""

    fingerprint: str
    finished: list[FinishedShard] = []

    def write(self, folder: Path) -> None:
        """Write the notes into a folder, which is ours from then on."""
        write_atomically(folder / PROGRESS_NAME, self.model_dump_json())


def written_here(names: Collection[str]) -> set[str]:
    """Return which files of a folder of these names a packing into it has written, finished or not."""
    ours = {name for name in names if name in (PROGRESS_NAME, LOCK_NAME)}
    shards = {name for name in names if _SHARD.fullmatch(name)}
    if INDEX_NAME in names and shards:
        ours.add(INDEX_NAME)
    return ours | shards if ours else set()


def earlier_packing(folder: Path, fingerprint: str) -> ShardIndex | Progress:
    """Return the finished index or the progress of an earlier packing of the source; refuse other shards or notes."""
    fresh = Progress(fingerprint=fingerprint)
    other = BcosError(
        f"{str(folder)!r} already holds other shards or files; give an empty folder, or remove that one first"
    )
    if (folder / INDEX_NAME).exists():
        index = load_index(str(folder))
        if index.fingerprint != fingerprint:
            raise other
        return index if all(_is_whole(folder, record) for record in index.shards) else fresh
    notes = folder / PROGRESS_NAME
    if os.path.lexists(notes):
        progress = _read(notes)
        remove_asides(folder, lambda name: name in (PROGRESS_NAME, INDEX_NAME) or bool(_SHARD.fullmatch(name)))
        if progress.fingerprint == fingerprint:
            progress.finished = [shard for shard in progress.finished if _is_whole(folder, shard.record)]
            return progress
        ours = [folder / shard.record.name for shard in progress.finished if shard.is_ours(folder)]
        if set(folder.glob("*.tar")) - set(ours):
            raise other
        for path in (*ours, notes):  # the source has changed, or the options: its shards are written anew
            path.unlink()
    if any(folder.glob("*.tar")):
        raise other
    return fresh


def _is_whole(folder: Path, record: ShardRecord) -> bool:
    """Whether a shard is there as it was written; one of unreadable images alone was not."""
    path = folder / record.name
    return not record.samples or (path.exists() and path.stat().st_size == record.bytes)


def _read(path: Path) -> Progress:
    """Read notes; in a folder from elsewhere they may say anything."""
    try:
        if path.is_file() and not path.is_symlink():
            progress = Progress.model_validate_json(path.read_bytes())
            if all(_SHARD.fullmatch(shard.record.name) for shard in progress.finished):
                return progress
    except ValidationError:
        pass
    raise BcosError(
        f"{str(path)!r} is not what an interrupted packing leaves there; give another folder, or remove that file"
    )
