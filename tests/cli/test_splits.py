"""Splits by their names, shares that are held out, and what a recipe lets choose."""

import itertools

import pytest

from bcos_cli.data.index import ShardIndex, ShardRecord, load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.data.shards import HoldOut, Shards
from bcos_cli.data.splits import find_split, scored_split
from bcos_cli.train.validation_split import Splits, with_validation
from bcos_core import BcosError
from bcos_models import InputSpec

TEN = [7, 1, 0, 12, 5, 5, 9, 3, 30, 28]


def index_of(**samples):
    shards = [
        ShardRecord(name=f"{split}-{k}.tar", split=split, samples=n, bytes=10**9, sha256="0" * 64)
        for split, lengths in samples.items()
        for k, n in enumerate([lengths] if isinstance(lengths, int) else lengths)
    ]
    return ShardIndex(source="s", fingerprint="f", classes=["a", "b"], shards=shards)


STOPPING = {"early_stopping": {"patience": 2}}
BEST = {"train": {"restore_best": True}}


@pytest.mark.parametrize(
    ("splits", "name", "found"),
    [
        (["train", "test"], "test", "test"),
        (["Training", "Testing"], "test", "Testing"),
        (["TRAIN", "VALIDATION"], "val", "VALIDATION"),
        (["train", "valid"], "val", "valid"),
        (["train", "Val", "val"], "val", "val"),
        (["train", "dev"], "Dev", "dev"),
        (["train", "dev"], "val", "dev"),
        (["training_set", "test_set"], "train", "training_set"),
        (["train", "extra"], "Extra", "extra"),
        (["train", "train station"], "test", None),
    ],
)
def test_split_is_found_by_its_usual_spellings(splits, name, found):
    assert find_split(index_of(**dict.fromkeys(splits, 1)), name) == found


def test_two_splits_that_may_be_the_one_are_refused():
    with pytest.raises(
        BcosError, match="the splits 'valid' and 'Validation', each of which may be 'val'; name the one"
    ):
        find_split(index_of(train=1, valid=1, Validation=1), "val")


def test_without_a_split_for_tests_that_for_validation_is_scored_and_told():
    assert (scored_split(index_of(train=1, val=1, test=1)).name, scored_split(index_of(a=1), "a").note) == (
        "test",
        None,
    )
    found = scored_split(index_of(train=1, Valid=1))
    assert (found.name, found.note) == ("Valid", "there is no split 'test': the images are those of 'Valid'")
    with pytest.raises(
        BcosError, match=r"no split 'test' to be scored on, and none for validation, only train; .*--test-share"
    ):
        scored_split(index_of(train=1))
    with pytest.raises(BcosError, match="no split 'tset'; did you mean 'test'"):
        scored_split(index_of(train=1, test=1), "tset")


@pytest.mark.parametrize(
    ("samples", "sections", "val", "share"),
    [
        ({"train": 9, "test": 9}, {}, None, 0.0),  # chooses nothing, trains on all
        ({"train": 9, "test": 9}, STOPPING, None, 0.1),
        ({"train": 9, "test": 9}, BEST, None, 0.1),
        ({"train": 9, "test": 9}, {"data": {"val_share": 0.3}}, None, 0.3),
        ({"train": 9, "test": 9, "val": 9}, {}, "val", 0.0),
        ({"train": 9, "test": 9, "Validation": 9}, STOPPING, "Validation", 0.0),
        ({"train": 9, "test": 9, "val": 9}, {"data": {"val_share": 0.3}}, None, 0.3),
        ({"train": 9, "test": 9, "dev": 9}, {"data": {"val_split": "dev"}}, "dev", 0.0),
        ({"train": 9, "val": 9}, {**BEST, "data": {"test_split": "val"}}, None, 0.1),  # ImageNet's is for tests
        ({"train": 9, "valid": 9}, {"data": {"test_split": "val"}}, None, 0.0),
        ({"Train": 9, "Valid": 9}, BEST, "Valid", 0.0),
    ],
)
def test_what_chooses_is_never_the_split_of_the_end(samples, sections, val, share, recipe):
    index = index_of(**samples)
    found = with_validation(recipe(**sections), index)
    assert (found.data.val_split, found.data.val_share) == (val, share)
    assert with_validation(found, index) == found  # as when the run is resumed
    splits = Splits.of(found.data, index)
    assert splits.role == ("test" if val is None and not share else "val")
    assert splits.val is None or splits.val != splits.final or "test" not in index.splits()


@pytest.mark.parametrize(
    ("samples", "data", "message"),
    [
        ({"train": 9, "test": 9}, {"val_share": 0.0}, "images that choose, data.val_share=0 leaves none; give a share"),
        (
            {"train": 9, "Test": 9},
            {"val_split": "Test"},
            "data.val_split=Test is the split that is trained on or scored",
        ),
        ({"train": 9, "test": 9}, {"val_split": "dev"}, "no split 'dev'"),
        (
            {"train": 1, "test": 9},
            {},
            "data.val_share=0.1 of 1 training images leaves none to train on; give a smaller",
        ),
        ({"train": 9}, {}, "no split 'test' to be scored on, and none for validation"),
        (
            {"train": [9, 10**8], "test": 9},
            {},
            "shards of at most 1,000,000 samples, one has 100,000,000; make smaller",
        ),
    ],
)
def test_what_cannot_choose_is_refused(samples, data, message, recipe):
    index = index_of(**samples)
    with pytest.raises(BcosError, match=message):
        Splits.of(with_validation(recipe(**BEST, data=data), index).data, index)


@pytest.mark.parametrize("data", [{"val_split": "test"}, {"val_split": "val", "val_share": 0.1}])
def test_recipe_that_lets_two_things_or_the_test_split_choose_is_refused(data, recipe):
    with pytest.raises(BcosError, match=r"may not choose|both choose"):
        recipe(data=data)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_held_out_share_is_rounded_spread_over_the_shards_and_drawn_by_the_seed(share, seed):
    hold_out = HoldOut(share, seed)
    counts = hold_out.counts(TEN)
    assert sum(counts) == max(round(share * 100), 1)
    assert all(abs(count - share * n) < 1 for count, n in zip(counts, TEN, strict=True)) or share == 0.01
    for shard, (n, count) in enumerate(zip(TEN, counts, strict=True)):
        here = hold_out.positions(shard, n, count)
        assert len(here) == count
        assert here <= set(range(n))
        assert here == HoldOut(share, seed).positions(shard, n, count)
    assert HoldOut(0.5, 0).positions(8, 30, 15) != HoldOut(0.5, 1).positions(8, 30, 15)
    assert HoldOut(0.5, 0).positions(8, 30, 15) != HoldOut(0.5, 0).positions(9, 30, 15)


def test_held_out_positions_are_those_of_ever():
    """Another version that drew others would train on what has chosen."""
    assert sorted(HoldOut(0.5, 0).positions(0, 10, 4)) == [1, 3, 4, 6]


def test_both_parts_are_cut_like_a_sequence_of_their_own():
    """Against the list of positions, from the definition."""
    hold_out = HoldOut(0.3, 5)
    urls = [str(k) for k in range(len(TEN))]
    starts = [0, *itertools.accumulate(TEN)]
    counts = hold_out.counts(TEN)
    held_out = {starts[k] + p for k, n in enumerate(TEN) for p in hold_out.positions(k, n, counts[k])}
    for part, expected in (
        ("held out", sorted(held_out)),
        ("rest", [p for p in range(sum(TEN)) if p not in held_out]),
    ):
        shards = Shards(urls, TEN, hold_out, part)
        assert shards.total == len(expected)
        for begin, end in [(0, shards.total), (3, 17), (10, 11), (5, 5)]:
            found = []
            for piece in shards.slices(begin, end):
                start = starts[int(piece.url)]
                own = [start + k for k in range(piece.start, piece.stop) if k not in piece.left_out]
                assert (piece.position, piece.samples) == (start + piece.start, len(own))
                found += own
            assert found == expected[begin:end]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 3])
def test_what_is_held_out_is_never_trained_on_and_scored_once_by_any_number_of_processes(world, workers, shards):
    from bcos_cli.config import Augment

    index, hold_out = load_index(shards), HoldOut(0.25, 3)
    common = {"hold_out": hold_out, "world": world, "workers": workers}
    spec = InputSpec(size=8, channels=1, resize=None)
    scored, trained = [], set()
    for rank in range(world):
        own = make_batches(shards, index, "train", spec, batch_size=2, rank=rank, part="held out", **common)
        scored += [p for _, _, positions in own.epoch(0) for p in positions.tolist()]
        drawn = make_batches(shards, index, "train", spec, batch_size=2, rank=rank, augment=Augment(), **common)
        trained |= {p for epoch in range(4) for _, _, positions in drawn.epoch(epoch) for p in positions.tolist()}
    assert len(scored) == 6
    assert len(set(scored)) == 6
    assert trained == set(range(24)) - set(scored)
    plain = make_batches(shards, index, "train", spec, batch_size=24).epoch(0)
    whole = next(iter(plain))
    again = next(
        iter(make_batches(shards, index, "train", spec, batch_size=24, part="held out", hold_out=hold_out).epoch(0))
    )
    order = again[2].tolist()
    assert (whole[0][order] == again[0]).all()
    assert (whole[1][order] == again[1]).all()
