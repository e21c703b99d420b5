"""The folder of the maps of shards: which are whole, how one is written aside, and the description of all."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import webdataset

from bcos_cli.data.index import ShardRecord
from bcos_cli.file_names import MAPS_NAME
from bcos_cli.folder_lock import LOCK_NAME, locked
from bcos_core.errors import BcosError, shown
from bcos_core.files import is_aside, remove_asides, replacement, write_atomically
from bcos_core.text import parse_json, read_text

FORMAT_VERSION = 1
_FINISHED = ".finished"
_DESCRIPTION = "description"
_ANYWHERE = frozenset(("model", "data"))
"""What may differ from call to call: a network and its shards may be given by another path."""


@dataclass(frozen=True)
class MapsFolder:
    """A folder into which the maps of some shards are written.

    Beside the maps lies a note on each shard that is whole, by which a later call knows it.
    """

    path: Path
    described: Mapping[str, Any]
    """What the maps are of; a folder with maps of anything else is refused."""
    records: Sequence[ShardRecord]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for writing; what a call that was killed had left aside is removed.

        Raises:
            BcosError: it holds other maps or anything else, or another process writes into it.
        """
        self.check()
        finished = self.path / _FINISHED
        finished.mkdir(parents=True, exist_ok=True)
        with locked(finished / LOCK_NAME, "writing maps", folder=self.path):
            self.check()  # another process may have ended since
            write_atomically(finished / _DESCRIPTION, json.dumps(self.described))
            places = [self.path / record.place for record in self.records]
            names = {place.name for place in places}
            for folder in {place.parent for place in places}:
                remove_asides(folder, names.__contains__)
            yield

    def check(self) -> None:
        """Refuse a folder that holds other maps or anything else; nothing is made yet."""
        description = self.path / _FINISHED / _DESCRIPTION
        existing = description if description.exists() else self.path / MAPS_NAME
        has_maps = (self.path / MAPS_NAME).exists() or any((self.path / _FINISHED).rglob("*.json"))
        if existing.exists() and has_maps:
            before = {k: v for k, v in read_note(existing).items() if k != "shards"}
            here = json.loads(json.dumps(self.described))
            if differing := [k for k in here if k not in _ANYWHERE and before.get(k) != here[k]]:
                raise BcosError(
                    f"{str(self.path)!r} holds other maps ({', '.join(differing)} differ); choose another folder with "
                    "--out"
                )
        elif any(not self._is_begun(path) for path in self.path.rglob("*") if path.is_file()):
            raise BcosError(f"{str(self.path)!r} is not empty; choose another folder with --out")

    def whole(self) -> list[str]:
        """Return the names of the shards whose maps are there, with the size that they had when finished."""

        def is_whole(record: ShardRecord) -> bool:
            note, path = self.note(record), self.path / record.place
            return note.is_file() and path.is_file() and path.stat().st_size == read_note(note).get("bytes")

        return [record.name for record in self.records if is_whole(record)]

    @contextmanager
    def shard(self, record: ShardRecord) -> Iterator[webdataset.TarWriter]:
        """Write the maps of a shard, which appear whole, with a note that they are finished, or not at all."""
        with replacement(self.path / record.place) as aside:
            with aside.open("wb") as stream, webdataset.TarWriter(stream, mtime=0.0) as writer:
                yield writer
            with aside.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            note = {"name": record.place, "samples": record.samples, "bytes": aside.stat().st_size, "sha256": digest}
        write_atomically(self.note(record), json.dumps(note))

    def write_index(self) -> None:
        """Describe all shards, each of which is there."""
        notes = [read_note(self.note(record)) for record in self.records]
        write_atomically(self.path / MAPS_NAME, json.dumps({**self.described, "shards": notes}, indent=1) + "\n")

    def note(self, record: ShardRecord) -> Path:
        """Return the path of the note that the maps of a shard are finished."""
        return self.path / _FINISHED / f"{record.place}.json"

    def _is_begun(self, path: Path) -> bool:
        """Whether a file is one that a call left that ended before its first shard was whole."""
        finished = self.path / _FINISHED
        return path.is_relative_to(finished) or (finished.is_dir() and is_aside(path.name))


def read_note(path: Path) -> dict[str, Any]:
    """Read what an earlier call wrote, a mapping in JSON; in a folder from elsewhere it may be anything."""
    try:
        values = parse_json(read_text(path))
    except BcosError as reason:
        raise BcosError(f"{str(path)!r} is damaged: {reason}; choose another folder with --out") from reason
    if not isinstance(values, dict):
        raise BcosError(f"{str(path)!r} does not describe maps, got {shown(values)}; choose another folder with --out")
    return values
