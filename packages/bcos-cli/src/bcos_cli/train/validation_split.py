"""The images that a run trains on, that choose among its epochs, and that are scored at the end. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from bcos_cli.config import Data, EarlyStopping, Recipe, Train
from bcos_cli.data.index import ShardIndex
from bcos_cli.data.shards import HoldOut
from bcos_cli.data.splits import VALIDATION, find_split, named_split, scored_split
from bcos_core.errors import BcosError

VAL_SHARE = 0.1
"""Share of the training images that is held out where something must choose, and the recipe does not say how much."""


def chooses(recipe: Recipe) -> bool:
    """Whether a recipe chooses among epochs, by early stopping or by ending with the best one."""
    return recipe.early_stopping is not None or recipe.train.restore_best


def with_validation(recipe: Recipe, index: ShardIndex, before: Recipe | None = None) -> Recipe:
    """Return the recipe with ``data.val_split`` and ``data.val_share`` filled in, which ``config.yaml`` then names.

    What chooses is a split for validation, where the shards have one that is neither trained on nor scored at the end;
    else a share of the training images, where the recipe chooses; else nothing.

    Args:
        recipe: of the user; one that is filled in already stays as it is.
        before: recipe of the run that is resumed, if one is. One of an older version, which does not say what chooses
            and scored every epoch on the test images, goes on as it was if they chose nothing.

    Raises:
        BcosError: a recipe that chooses, without anything that may, or a run that chose by its test images.
    """
    if before is not None and before.data.val_share is None:
        if chooses(before):
            raise BcosError(
                "this run was started by an older version, which chose its epochs (early_stopping, train.restore_best) "
                "by their scores on the test images; start a new run, from one of its checkpoints if you like: "
                "bcos train --from RUN/checkpoints/step-.../model.safetensors"
            )
        return recipe
    data = recipe.data
    others = find_split(index, data.train_split), find_split(index, data.test_split)
    if data.val_split is not None:
        found: str | None = named_split(index, data.val_split)
        if found in others:
            raise BcosError(
                f"data.val_split={found} is the split that is trained on or scored in the end, which may not choose; "
                "give another one, or data.val_share"
            )
        share = 0.0
    elif data.val_share:
        found, share = None, data.val_share
    else:
        found = find_split(index, VALIDATION, but=others)
        share = VAL_SHARE if data.val_share is None and found is None and chooses(recipe) else 0.0
    if chooses(recipe) and found is None and not share:
        raise BcosError(
            "early_stopping and train.restore_best need images that choose, data.val_share=0 leaves none; give a "
            "share, or shards with a split val"
        )
    return recipe.model_copy(update={"data": data.model_copy(update={"val_split": found, "val_share": share})})


@dataclass(frozen=True)
class Splits:
    """The splits of a run, by the names that the shards have for them."""

    train: str
    val: str | None
    """Split that chooses."""
    hold_out: HoldOut | None
    """Share of the training images that chooses."""
    final: str
    """Scored at the end; the split for validation, where there is none for tests."""

    @classmethod
    def of(cls, data: Data, index: ShardIndex) -> "Splits":
        """Read them from a recipe that :func:`with_validation` has filled in.

        Raises:
            BcosError: a split that is not there, or a share that leaves nothing to train on.
        """
        train = named_split(index, data.train_split)
        hold_out = HoldOut(data.val_share, data.val_seed) if data.val_share else None
        val = None if data.val_split is None else named_split(index, data.val_split)
        final = scored_split(index, test=data.test_split, val=val, option="-o data.test_split=...")
        found = cls(train, val, hold_out, final.name)
        if found.trained_on(index) < 1:
            raise BcosError(
                f"data.val_share={data.val_share:g} of {index.samples(train)} training images leaves none to train on; "
                "give a smaller share, or shards with a split val"
            )
        return found

    @property
    def role(self) -> Literal["val", "test"]:
        """Whether epochs are scored on images that may choose, or on those of the end, which choose nothing."""
        return "test" if self.val is None and self.hold_out is None else "val"

    @property
    def scored(self) -> str:
        """Name of the images on which every epoch is scored."""
        if self.hold_out is not None:
            return f"{self.hold_out.share:g} of {self.train}"
        return self.final if self.val is None else self.val

    @property
    def label(self) -> str:
        """Name of the images on which every epoch is scored, and whether they choose."""
        return self.scored if self.role == "val" else f"{self.scored}, chooses nothing"

    def trained_on(self, index: ShardIndex) -> int:
        """Count the images that are trained on."""
        lengths = [record.samples for record in index.of(self.train)]
        return sum(lengths) - (0 if self.hold_out is None else sum(self.hold_out.counts(lengths)))

    def summary(self, train: Train, early_stopping: EarlyStopping | None, index: ShardIndex) -> list[str]:
        """Say in a few lines what is trained on, what chooses what, and what is scored."""
        whole, trained_on = index.samples(self.train), self.trained_on(index)
        of = "" if self.hold_out is None else f" of {whole:,}"
        lines = [f"train: {trained_on:,}{of} images of the split {self.train!r}"]
        what = "chooses the best epoch" if train.restore_best else "chooses checkpoints/best; the last epoch counts"
        if early_stopping is not None:
            what = f"{what}, and when to stop"
        if self.hold_out is not None:
            lines.append(
                f"val: the other {whole - trained_on:,} ({self.hold_out.share:.3g} of them, data.val_seed="
                f"{self.hold_out.seed}), which are not trained on: their score {what}"
            )
        elif self.val is not None:
            lines.append(f"val: {index.samples(self.val):,} images of the split {self.val!r}: their score {what}")
        images = f"test: {index.samples(self.final):,} images of the split {self.final!r}"
        if self.final == self.val:
            return [*lines, f"there is no split for tests: {self.final!r} is scored in the end too"]
        if self.role == "val":
            return [*lines, f"{images}, scored once, in the end"]
        return [*lines, f"{images}, scored after every epoch; they choose nothing: the last epoch counts"]
