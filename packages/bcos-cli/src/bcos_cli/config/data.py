"""Section ``data`` of a recipe."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bcos_cli.config.section import Count, Positive, Probability, Range, Rate, Section
from bcos_core.errors import BcosError
from bcos_models.spec import MAX_CHANNELS


class RandAugment(Section):
    """RandAugment (Cubuk et al., 2020), torchvision's."""

    num_ops: Positive = 2
    """Number of changes to an image."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 10
    """Strength of all of them, out of 30."""


class Augment(Section):
    """Random changes of training images, in this order; 0, false or null leaves a step out."""

    random_resized_crop: tuple[Probability, Probability] | None = None
    """Share of the area, from and to."""
    pad_crop: Count = 0
    """Pixels of zero padding on each side before a random crop of the original size."""
    affine_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation."""
    affine_translate: Probability = 0.0
    """Largest shift as a share of the size."""
    horizontal_flip: Probability = 0.0
    rand_augment: RandAugment | None = None
    trivial_augment: bool = False
    """TrivialAugmentWide (Müller and Hutter, 2021)."""
    random_erasing: Probability = 0.0

    @model_validator(mode="after")
    def _fits_together(self) -> "Augment":
        area = self.random_resized_crop
        if area is not None and area[0] > area[1]:
            raise ValueError(
                f"data.augment.random_resized_crop={list(area)} must go from the smaller to the larger share"
            )
        return self


class Data(Section):
    """Images to train on, and those that choose among epochs."""

    path: str | None = None
    """Folder or URL of shards; ``--data`` sets it."""
    path_from_run: str | None = None
    """Way from a run's folder to ``path``, which ``bcos train`` adds: there the data are if both have been moved."""
    train_split: str = "train"
    val_split: str | None = None
    """Split that chooses (best epoch, early stopping); null for ``val``, ``valid`` or ``validation``, if any."""
    val_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the training images that is held out to choose; null for a tenth where the recipe chooses
    (``early_stopping``, ``train.restore_best``) and there is no split for it."""
    val_seed: Count = 0
    """Seed that draws the images that are held out."""
    test_split: str = "test"
    """Split that is scored at the end, and chooses nothing."""
    image_size: Positive | None = None
    """Side in pixels of training images, and of those that are evaluated; null for the model's own."""
    resize: Positive | Literal["squash"] | None = None
    """Shorter side in pixels to which evaluated images are resized before the centre crop of ``image_size``;
    ``squash``: their height and width become ``image_size``. Null for what the model does, in proportion."""
    mean: Annotated[list[float], Field(min_length=1)] | None = None
    """Mean of each channel, or one number for all, that a plain network subtracts from values in [0, 1]; null for the
    network's own."""
    std: Annotated[list[Rate], Field(min_length=1)] | None = None
    """What it divides them by."""
    train_image_size: Positive | None = None
    """Side in pixels of training images alone, where it differs."""
    image_channels: Annotated[int, Field(ge=1, le=MAX_CHANNELS)] | None = None
    """1 for greyscale, 3 for RGB, any other for images that have as many; null for that of the shards or the model."""
    range: Range | None = None
    """Values that are black and white in images of more than 8 bits; null for those of the shards or the formats."""
    truncated: Literal["refuse", "allow"] = "refuse"
    """What to do with JPEGs that were cut off: refuse them as damaged, or read them, black where they end."""
    augment: Augment = Augment()
    repeats: Positive = 1
    """Augmented versions of an image in a batch; an epoch then sees so many times fewer images.

    Repeated augmentation (Hoffer et al., 2020).
    """
    balanced: bool = False
    """Draw every class equally often, rare classes several times in an epoch."""
    shuffle_buffer: Positive = 2000
    """Images among which the next one is drawn, for each loader process."""
    workers: Count = 2
    """Loader processes a training process."""
    decoder: Literal["pillow", "torchvision"] = "pillow"
    """``torchvision`` is quicker for JPEG, and differs by rounding."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do at a damaged image or shard: end the run, or leave it out and count it."""
    cache: str | None = None
    """Folder for copies of remote shards; null for none."""
    cache_gb: Rate = 100.0
    """Size in GB to which the least recently used copies are removed."""

    @property
    def location(self) -> str:
        """``path``, where there has to be one: without it, a BcosError is raised."""
        if self.path is None:
            raise BcosError("there are no data to train on; give a folder of shards with --data")
        return self.path

    @model_validator(mode="after")
    def _one_thing_chooses(self) -> "Data":
        if self.val_split is not None and self.val_share:
            raise ValueError(
                f"data.val_split={self.val_split} and data.val_share={self.val_share:g} both choose; give one of them"
            )
        if self.val_split is not None and self.val_split in (self.train_split, self.test_split):
            raise ValueError(
                f"data.val_split={self.val_split} is the split that is trained on or scored in the end, which may not "
                "choose; give another one, or data.val_share"
            )
        return self
