"""Images in a folder. Imports no torch."""

from dataclasses import dataclass, field
from pathlib import Path

from bcos_cli.data.image_decoder import check_bytes, unreadable
from bcos_cli.data.index import LeftOut
from bcos_cli.data.sources.source import ImageItem


@dataclass(frozen=True)
class FolderSource:
    """Files below ``root``."""

    root: Path
    classes: list[str]
    items: list[ImageItem]
    left_out: list[LeftOut] = field(default_factory=list)

    def read(self, item: ImageItem) -> tuple[bytes, str]:
        """Read the file as it is."""
        path = self.root / item.path
        with unreadable():
            check_bytes(path.stat().st_size)
            return path.read_bytes(), item.extension
