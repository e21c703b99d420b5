"""Images to try the page with: those that a user names, or some of a run's own test images."""

from collections.abc import Sequence
from typing import NamedTuple

from bcos_cli import console
from bcos_cli.config.run_recipe import recipe_of
from bcos_cli.data.image_decoder import UnreadableImageError, load, opened
from bcos_cli.data.loader import images_at
from bcos_cli.data.splits import shards_of
from bcos_cli.evaluate.samplers import SampledImages
from bcos_cli.explain.image_files import find_images
from bcos_core.address import is_address
from bcos_core.errors import BcosError
from bcos_explain import input_image
from bcos_explain.render import picture_bytes
from bcos_models import TrainedModel

FORMATS = ("PNG", "JPEG", "WebP", "GIF", "BMP")
"""Formats that browsers show."""
COUNT = 8
"""Test images of a run that are offered."""
_LARGEST = 2**20
"""Bytes of one example, which is part of the page."""


class Example(NamedTuple):
    """One image, as a file."""

    name: str
    title: str
    content: bytes


def named_examples(paths: Sequence[str], *, truncated: bool = False) -> list[Example]:
    """Return the images that a user names by files, folders or patterns; JPEGs that were cut off only if `truncated`.

    Raises:
        BcosError: none there, one that is too large or that browsers do not show.
    """
    found = find_images(paths)[0] if paths else []
    for path in (file.path for file in found):
        if path.stat().st_size > _LARGEST:
            raise BcosError(
                f"the example {str(path)!r} has more than 1 MB, which every page would load; make it smaller"
            )
        try:
            with opened(path, FORMATS) as image:
                load(image, truncated)
        except UnreadableImageError as reason:
            raise BcosError(f"the example {str(path)!r}: {reason}") from reason
    return [Example(file.path.name, file.path.name, file.path.read_bytes()) for file in found]


def run_examples(run_or_model: str, trained: TrainedModel) -> list[Example]:
    """Return a few images of a run's test split, as its network sees them; where there are none, say why."""
    try:
        recipe = recipe_of(run_or_model)
        if recipe is None or is_address(recipe.data.path or ""):
            return []
        shards = shards_of(run_or_model)
        index, split = shards.index, shards.split.name
        positions = SampledImages(COUNT, index.samples(split)).positions
        found = images_at(shards.location, index, split, trained.input, positions, shards.reading)
    except BcosError as reason:
        console.err.print(f"no example images: {reason}; give some with --example")
        return []
    return [
        Example(
            f"{split}-{position}.png",
            ", ".join(index.classes[k] for k in labels),
            picture_bytes(input_image(image), "png"),
        )
        for position, (image, labels) in sorted(found.items())
    ]
