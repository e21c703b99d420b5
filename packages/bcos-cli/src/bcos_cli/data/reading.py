"""How shards are read: the same in training, in the scores after it and in the report."""

from dataclasses import dataclass
from typing import Literal

from bcos_cli.config import Data
from bcos_cli.config.run_recipe import recipe_of
from bcos_cli.data.cache import open_shard
from bcos_cli.data.opening import open_url
from bcos_cli.data.shards import Open


@dataclass(frozen=True)
class Reading:
    """What a recipe says of it."""

    skip: bool = False
    """Leave out what cannot be read, count it and tell it; else it is an error."""
    decoder: Literal["pillow", "torchvision"] = "pillow"
    """Of JPEG."""
    cache: str | None = None
    """Folder for copies of remote shards."""
    cache_gb: float = 100.0

    @classmethod
    def of(cls, data: Data) -> "Reading":
        """Take it from the section ``data`` of a recipe."""
        return cls(data.on_error == "skip", data.decoder, data.cache, data.cache_gb)

    def opener(self) -> Open:
        """What opens a path or URL.

        Raises:
            BcosError: the folder for copies cannot be made.
        """
        return open_shard(self.cache, self.cache_gb) or open_url


def reading_of(run_or_model: str, data: str | None = None) -> Reading:
    """Say how a run reads shards; with the defaults for models that are not runs. Arguments as of :func:`recipe_of`."""
    recipe = recipe_of(run_or_model, data=data)
    return Reading() if recipe is None else Reading.of(recipe.data)
