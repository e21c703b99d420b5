"""Which split is meant by a name, and which is scored. Imports no torch."""

import re
from dataclasses import dataclass
from functools import cache

from bcos_cli.config import Recipe
from bcos_cli.config.run_recipe import recipe_of
from bcos_cli.data.index import ShardIndex, load_index
from bcos_cli.data.reading import Reading
from bcos_core.errors import BcosError

TEST = "test"
VALIDATION = "val"
SPELLINGS = {
    "train": ("train", "training"),
    VALIDATION: (VALIDATION, "valid", "validation", "dev"),
    TEST: (TEST, "testing", "eval", "evaluation"),
}
"""Spellings of the names of splits, in upper or lower case; beside them may stand numbers and :data:`_BESIDE`."""
_BESIDE = ("data", "dataset", "images", "img", "imgs", "seg", "set", "split")
_WORDS = re.compile(r"[a-z]+")


@cache
def usual_split(name: str) -> str | None:
    """Return the split that a usual spelling of its name means, such as ``train`` for ``seg_train`` or ``TrainingSet``.

    >>> usual_split("Validation"), usual_split("test_set"), usual_split("train station")
    ('val', 'test', None)
    """
    words = [word for word in _WORDS.findall(name.lower()) if word not in _BESIDE]
    word = words[0].removesuffix("set") if len(words) == 1 else ""
    return next((split for split, spellings in SPELLINGS.items() if word in spellings), None)


def find_split(index: ShardIndex, name: str, *, but: tuple[str | None, ...] = ()) -> str | None:
    """Return what the shards call a split: this name, or another usual spelling; refuse one that may mean several."""
    splits = [split for split in index.splits() if split not in but]
    if name in splits:
        return name
    meant = usual_split(name) or name.lower()
    found = [split for split in splits if (usual_split(split) or split.lower()) == meant]
    if len(found) > 1:
        raise BcosError(
            f"the shards have the splits {' and '.join(map(repr, found))}, each of which may be {name!r}; name the one "
            "that is meant, such as with data.val_split"
        )
    return found[0] if found else None


def named_split(index: ShardIndex, name: str) -> str:
    """Return what the shards call a split, as :func:`find_split` does; refuse a name that none has."""
    found = find_split(index, name)
    if found is None:
        index.of(name)  # raises, and lists the splits that there are
    return found or name


@dataclass(frozen=True)
class ScoredSplit:
    """A split that is scored, or explained."""

    name: str
    note: str | None = None
    """Why it is not the one that a reader expects."""


def scored_split(
    index: ShardIndex,
    asked: str | None = None,
    *,
    test: str = TEST,
    val: str | None = None,
    option: str = "--split, data.test_split",
) -> ScoredSplit:
    """Return the split that the user named, or the one for tests or else for validation; refuse if there is none.

    Args:
        option: what names one, for the refusal.
    """
    if asked is not None:
        return ScoredSplit(named_split(index, asked))
    if (found := find_split(index, test)) is not None:
        return ScoredSplit(found)
    if (found := find_split(index, val or VALIDATION)) is None:
        raise BcosError(
            f"the shards have no split {test!r} to be scored on, and none for validation, only "
            f"{', '.join(index.splits())}; name one ({option}), or pack the images "
            "again with --test-share"
        )
    return ScoredSplit(found, f"there is no split {test!r}: the images are those of {found!r}")


@dataclass(frozen=True)
class NamedShards:
    """The shards that the user named, or those of a run."""

    location: str
    index: ShardIndex
    split: ScoredSplit
    recipe: Recipe | None
    """Of the run; None for models that are not a run's folder."""

    @property
    def reading(self) -> Reading:
        """As in the run; the defaults where there is none."""
        return Reading() if self.recipe is None else Reading.of(self.recipe.data)


def shards_of(run_or_model: str, data: str | None = None, asked: str | None = None) -> NamedShards:
    """Return the shards that the user named, or those of a run, and the split that is meant.

    Args:
        run_or_model: as :func:`bcos_models.load_trained` takes it.
        data: location of shards; None for those of the run.
        asked: name of a split; None for the one that the run is scored on, or else the usual one.

    Raises:
        BcosError: no shards, no such split, or an address that only a trusted run may name.
    """
    recipe = recipe_of(run_or_model, data=data)
    location = data or (None if recipe is None else recipe.data.path)
    if location is None:
        raise BcosError(f"{run_or_model!r} names no data; give a folder of shards with --data")
    index = load_index(location)
    test, val = (TEST, None) if recipe is None else (recipe.data.test_split, recipe.data.val_split)
    return NamedShards(location, index, scored_split(index, asked, test=test, val=val), recipe)
