"""How shards are read. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from bcos_cli.config import Data
from bcos_cli.data.cache import ShardCache
from bcos_cli.data.remote import Open, open_url


@dataclass(frozen=True)
class Reading:
    """How shards are read: the same in training, in the scores after it and in the report."""

    skip: bool = False
    """Leave out what cannot be read, count it and report it; otherwise it is an error."""
    decoder: Literal["pillow", "torchvision"] = "pillow"
    """What decodes JPEG."""
    cache: str | None = None
    """Folder for copies of remote shards."""
    cache_gb: float = 100.0
    truncated: bool = False
    """Read JPEGs that were cut off."""

    @classmethod
    def of(cls, data: Data) -> "Reading":
        """Take it from the section ``data`` of a recipe."""
        return cls(data.on_error == "skip", data.decoder, data.cache, data.cache_gb, data.truncated == "allow")

    def opener(self) -> Open:
        """Return what opens a path or URL; refuse a folder for copies that cannot be made."""
        return open_url if self.cache is None else ShardCache(self.cache, int(self.cache_gb * 1e9))
