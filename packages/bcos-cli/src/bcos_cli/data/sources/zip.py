"""Images in a zip file. Imports no torch."""

import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from bcos_cli.data.image_decoder import check_bytes, unreadable
from bcos_cli.data.index import LeftOut
from bcos_cli.data.sources.inventory import Inventory, is_hidden
from bcos_cli.data.sources.source import ImageItem
from bcos_core.errors import BcosError, first_line


@dataclass
class ZipSource:
    """Members of a zip file, which is opened once a process."""

    archive: Path
    classes: list[str]
    items: list[ImageItem]
    left_out: list[LeftOut] = field(default_factory=list)

    def read(self, item: ImageItem) -> tuple[bytes, str]:
        """Read the member as it is."""
        with unreadable():  # zipfile and its decompressors raise many types
            member = self._members[item.path]
            check_bytes(member.file_size)  # no more than that is read, even if there is more
            return self._zip.read(member), item.extension

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.archive)

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        return {_path(member): member for member in self._zip.infolist()}

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_zip", "_members")}


def zip_inventory(archive: Path) -> Inventory:
    """List the files in a zip, sorted; refuse a file that is no zip, or damaged."""
    if not zipfile.is_zipfile(archive):
        raise BcosError(f"{str(archive)!r} is a file, but no zip; give a folder of class folders, or a zip of one")
    try:
        with zipfile.ZipFile(archive) as opened:
            members = sorted(opened.infolist(), key=_path)
    except Exception as reason:  # zipfile raises many types for archives that are damaged
        raise BcosError(f"the zip {str(archive)!r} cannot be read: {first_line(reason)}; make it again") from reason
    found, folders = Inventory(), []
    for member in members:
        path = _path(member)
        if member.filename.endswith(("/", "\\")):
            folders.append(path)
        elif is_hidden(PurePosixPath(path)):
            found.leave_out(path, "hidden")
        else:
            if path in found.files:
                found.leave_out(path, "replaced by a later file of the same name")
            found.files[path] = member.file_size
    filled = {str(parent) for path in (*found.files, *folders) for parent in PurePosixPath(path).parents}
    found.empty = [name for name in folders if name and name not in filled and not is_hidden(PurePosixPath(name))]
    return found


def _path(member: zipfile.ZipInfo) -> str:
    """Return the path of a member; some programs write it with backslashes, or with ``./`` before it."""
    return str(PurePosixPath(member.filename.replace("\\", "/"))).lstrip("/")
