"""Images in a zip file. Imports no torch."""

import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bcos_cli.data.image_decoder import check_bytes, unreadable
from bcos_cli.data.sources.source import ImageItem
from bcos_core.errors import BcosError, first_line


@dataclass
class ZipSource:
    """Members of a zip file, which is opened once a process."""

    archive: Path
    classes: list[str]
    items: list[ImageItem]

    def read(self, item: ImageItem) -> tuple[bytes, str]:
        """Read the member as it is."""
        with unreadable():  # zipfile and its decompressors raise many types
            check_bytes(self._zip.getinfo(item.path).file_size)  # no more than that is read, even if there is more
            return self._zip.read(item.path), item.extension

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.archive)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_zip"}


def zip_members(archive: Path) -> dict[str, str]:
    """Return the paths of all files in a zip, with their checksums; refuse a file that is no zip, or damaged."""
    if not zipfile.is_zipfile(archive):
        raise BcosError(f"{str(archive)!r} is a file, but no zip; give a folder of class folders, or a zip of one")
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {member.filename: f"{member.CRC:08x}" for member in opened.infolist() if not member.is_dir()}
    except Exception as reason:  # zipfile raises many types for archives that are damaged
        raise BcosError(f"the zip {str(archive)!r} cannot be read: {first_line(reason)}; make it again") from reason
    return dict(sorted(members.items()))
