"""Streams of samples, against the sequence that the index describes."""

import itertools
import multiprocessing
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bcos_cli.config import Augment
from bcos_cli.data.index import load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.data.pack import pack
from bcos_cli.data.sample_order import Drawing, SampleOrder
from bcos_cli.data.shards import Shards
from bcos_cli.data.sources import ArraySource, ImageItem, encode_png
from bcos_cli.data.stream import Labelling, ShardStream
from bcos_core import BcosError
from bcos_models import InputSpec

FIVE = Labelling(5)
DRAWING = ("shuffle", "multiple", "repeats", "class_counts")
SPEC = InputSpec(size=4, channels=1, resize=None)


def source(n):
    """`n` images; the grey value and the label say which."""
    items = [ImageItem(f"train/{i % 5}/{i}.png", "train", i % 5) for i in range(n)]
    return ArraySource(list("abcde"), items, {x.path: encode_png([[i] * 4] * 4) for i, x in enumerate(items)})


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """(folder, index, grey values in order) of `n` images in shards of `size`."""
    made = {}

    def make(n, size):
        if (n, size) not in made:
            folder = tmp_path_factory.mktemp("s") / "shards"
            index = pack(source(n), "s", folder, samples_per_shard=size, workers=1)
            stream = ShardStream(SampleOrder(Shards.of(str(folder), index, "train")), value, FIVE)
            made[n, size] = str(folder), index, [v for v, _, _ in stream]
        return made[n, size]

    return make


def value(data, rng):
    """Stands for a transform: the grey value."""
    from bcos_cli.data.image_decoder import opened

    with opened(data) as image:
        return image.getpixel((0, 0))


def value_and_draw(data, rng):
    return value(data, rng), rng.random()


def of_workers(stream, workers):
    """Samples that the workers of one process give, as lists."""
    return [list(stream.samples(worker, workers)) for worker in range(workers)]


def batches_in_turn(per_worker, batch_size):
    """What a loader makes of it: whole batches, one worker after another, until none has any left."""
    cut = [[s[i : i + batch_size] for i in range(0, len(s), batch_size)] for s in per_worker]
    return [b for turn in itertools.zip_longest(*cut) for b in turn if b is not None]


SIZES = [(1, 1), (7, 3), (12, 4), (13, 5), (20, 100), (23, 1)]


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize(("n", "size"), SIZES)
def test_evaluation_yields_every_sample_once(n, size, world, workers, packed):
    folder, index, values = packed(n, size)
    for batch_size in (1, 4, 64):
        found = []
        for rank in range(world):
            order = SampleOrder(Shards.of(folder, index, "train"), rank=rank, world=world, batch_size=batch_size)
            stream = ShardStream(order, value, FIVE)
            samples = of_workers(stream, workers)
            assert sum(map(len, samples)) == len(stream)
            cut = batches_in_turn(samples, batch_size)
            assert len(cut) == order.batches
            assert sum(len(b) < batch_size for b in cut) <= 1
            found += [s for b in cut for s in b]
        assert sorted(position for _, _, position in found) == list(range(n))
        assert all(values[position] == v and label == v % 5 for v, label, position in found)


@pytest.mark.parametrize("shuffle", [0, 1, 5, 1000])
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("n", "size"), [(12, 4), (25, 3), (26, 7), (40, 100)])
def test_training_gives_equal_whole_batches_and_no_sample_twice(n, size, world, workers, shuffle, packed):
    folder, index, _ = packed(n, size)
    for batch_size, accumulate in ((1, 1), (2, 2), (4, 1)):
        found, counts = [], []
        for rank in range(world):
            order = SampleOrder(
                Shards.of(folder, index, "train"),
                rank=rank,
                world=world,
                batch_size=batch_size,
                drawing=Drawing(shuffle, accumulate),
            )
            stream = ShardStream(order, value, FIVE)
            cut = batches_in_turn(of_workers(stream, workers), batch_size)
            assert all(len(b) == batch_size for b in cut)
            assert len(cut) == order.batches
            counts.append(len(cut))
            found += [position for b in cut for _, _, position in b]
        assert len(set(counts)) == 1
        assert counts[0] % accumulate == 0
        assert max(Counter(found).values()) == 1
        assert n - len(found) < world * batch_size * accumulate


def make(packed, n=25, size=4, **options):
    folder, index, _ = packed(n, size)
    drawing = Drawing(**{k: options.pop(k) for k in list(options) if k in DRAWING}) if options else Drawing()
    given = {"batch_size": 2, "drawing": replace(drawing, shuffle=drawing.shuffle or 6), **options}
    return ShardStream(SampleOrder(Shards.of(folder, index, "train"), **given), value, FIVE)


def positions(stream, epoch=0):
    stream.set_epoch(epoch)
    return [p for _, _, p in stream]


def test_order_is_a_function_of_seed_epoch_rank_and_worker(packed):
    stream = make(packed)
    first = positions(stream)
    random.seed(5), torch.manual_seed(5)
    assert positions(make(packed)) == first == positions(stream)
    assert positions(stream, 1) != first
    assert positions(stream, 0) == first
    assert positions(make(packed, seed=1)) != first
    assert positions(make(packed, shuffle=1)) != first
    halves = [positions(make(packed, world=2, rank=rank)) for rank in (0, 1)]
    assert not set(halves[0]) & set(halves[1])
    assert of_workers(stream, 2) == of_workers(make(packed), 2)


def test_what_is_left_out_differs_between_epochs(packed):
    stream = make(packed, n=25, size=1, batch_size=8)
    left_out = {frozenset(range(25)) - frozenset(positions(stream, epoch)) for epoch in range(4)}
    assert len(left_out) > 1


def test_shuffling_mixes_more_than_the_order_of_shards(packed):
    mixed = positions(make(packed, n=40, size=100, shuffle=20, batch_size=1))
    assert sorted(mixed) == list(range(40))
    assert mixed != list(range(40))


def test_iterating_leaves_the_global_generators_alone(packed):
    before = torch.get_rng_state(), random.getstate()
    positions(make(packed))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_transform_draws_from_seed_epoch_and_key_alone(packed):
    def draws(**options):
        stream = make(packed, **options)
        stream.transform = value_and_draw
        stream.set_epoch(options.get("epoch", 0))
        return dict(s[0] for worker in of_workers(stream, workers) for s in worker)

    workers = 1
    one = draws()
    workers = 3
    for other in (draws(), draws(shuffle=2), draws(size=7), draws(batch_size=1)):
        shared = one.keys() & other.keys()
        assert len(shared) > 15
        assert all(one[v] == other[v] for v in shared)
    changed = draws(seed=1)
    assert all(one[v] != changed[v] for v in one.keys() & changed.keys())
    assert len(set(one.values())) == len(one)


def test_transform_draws_anew_every_epoch(packed):
    stream = make(packed)
    stream.transform = value_and_draw
    first = dict(v for v, _, _ in stream)
    stream.set_epoch(1)
    second = dict(v for v, _, _ in stream)
    assert all(first[v] != second[v] for v in first.keys() & second.keys())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_real_loader_gives_the_batches_of_every_worker_in_turn(workers, packed):
    folder, index, values = packed(13, 5)
    batches = make_batches(folder, index, "train", SPEC, batch_size=3, workers=workers)
    for epoch in range(2):
        found = list(batches.epoch(epoch))
        assert sorted(len(b[0]) for b in found) == [1, 3, 3, 3, 3]
        assert sorted(torch.cat([b[2] for b in found]).tolist()) == list(range(13))
        for images, labels, places in found:
            assert images.dtype == torch.uint8
            assert images[:, 0, 0, 0].tolist() == [values[p] for p in places]
            assert (labels == images[:, 0, 0, 0] % 5).all()


def test_workers_that_persist_see_the_epoch(packed):
    folder, index, _ = packed(26, 7)
    options = {"batch_size": 4, "workers": 2, "augment": Augment(pad_crop=1), "drawing": Drawing(shuffle=10)}
    kept = make_batches(folder, index, "train", SPEC, **options)
    orders = [torch.cat([b[2] for b in kept.epoch(e)]).tolist() for e in (0, 1, 2)]
    assert len({tuple(o) for o in orders}) == 3
    fresh = make_batches(folder, index, "train", SPEC, **options)
    assert torch.cat([b[2] for b in fresh.epoch(2)]).tolist() == orders[2]


def test_too_few_samples_for_one_step_are_refused(packed):
    with pytest.raises(BcosError, match=r"25 samples are fewer than the 32 of one step \(train.batch_size\)"):
        make(packed, world=2, batch_size=8, multiple=2)


@pytest.mark.parametrize("cut", [-1, 0.75, 0.5, 512 * 7, 512 * 7 + 100, 10, 0])
def test_truncated_shard_is_named_with_what_to_do(cut, packed, tmp_path):
    folder, index, _ = packed(12, 12)
    content = Path(folder, index.shards[0].name).read_bytes()
    length = {-1: 512 * 2 * 12, 0.75: len(content) * 3 // 4, 0.5: len(content) // 2}.get(cut, cut)
    path = tmp_path / "train-000000.tar"
    path.write_bytes(content[:length])
    stream = ShardStream(SampleOrder(Shards([str(path)], [12]), batch_size=4), value, FIVE)
    with pytest.raises(BcosError, match=r"train-000000.tar'.*check it with: bcos shards verify") as error:
        list(stream)
    assert "\n" not in str(error.value)


def test_missing_shard_is_named(tmp_path):
    stream = ShardStream(SampleOrder(Shards([str(tmp_path / "no.tar")], [2])), value, FIVE)
    with pytest.raises(BcosError, match=r"cannot open the shard '.*no.tar': .*; check it with: bcos shards verify"):
        list(stream)


def test_batches_in_a_worker_tell_a_mistake_in_one_line(packed, tmp_path):
    _, index, _ = packed(12, 12)
    (tmp_path / "index.json").write_text(index.model_dump_json())
    batches = make_batches(str(tmp_path), load_index(str(tmp_path)), "train", SPEC, batch_size=4, workers=1)
    with pytest.raises(BcosError, match="cannot open the shard") as error:
        list(batches.epoch(0))
    assert "Traceback" not in str(error.value)
    assert multiprocessing.active_children() == []


def test_an_epoch_that_is_left_leaves_no_process_and_the_next_one_is_whole(packed):
    folder, index, _ = packed(12, 12)
    with make_batches(folder, index, "train", SPEC, batch_size=4, workers=1) as batches:
        epoch = batches.epoch(0)
        next(epoch)
        epoch.close()  # as the end of a loop that was left
        assert multiprocessing.active_children() == []
        assert len(list(batches.epoch(0))) == 3
        again = batches.epoch(1)  # still referred to after the block, as by the traceback of an error
        next(again)
        assert len(multiprocessing.active_children()) == 1
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("then", ["pass", pytest.param("list(batches.epoch(0))", marks=pytest.mark.slow)])
def test_program_with_loader_processes_comes_to_its_end(then, packed, tmp_path):
    """Whatever still refers to them: they ignore SIGTERM, and Python waits for its processes."""
    folder, *_ = packed(12, 12)
    code = (
        "import sys; from bcos_cli.data.index import load_index; from bcos_cli.data.loader import make_batches\n"
        "from bcos_models import InputSpec\n"
        "spec = InputSpec(size=4, channels=1, resize=None); data = sys.argv[1]\n"
        "batches = make_batches(data, load_index(data), 'train', spec, batch_size=4, workers=1)\n"
        f"for _ in batches.epoch(0): break\n{then}"
    )
    assert subprocess.run([sys.executable, "-c", code, folder], check=False, timeout=60).returncode == 0


def test_sample_without_label_and_image_that_does_not_decode_are_named(tmp_path):
    import io
    import tarfile

    def shard(**members):
        with tarfile.open(tmp_path / "t.tar", "w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(f"cat/1.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return ShardStream(SampleOrder(Shards([str(tmp_path / "t.tar")], [1])), value, FIVE)

    with pytest.raises(BcosError, match=r"the sample 'cat/1' of .*t.tar': it needs an image and a .cls file, has"):
        list(shard(png=b"x"))
    with pytest.raises(BcosError, match=r"the sample 'cat/1' of .*t.tar': it needs an image and a .cls file, has"):
        list(shard(cls=b"1"))
    with pytest.raises(BcosError, match=r"the image 'cat/1' of .*t.tar: cannot be read"):
        list(shard(png=b"x", cls=b"1"))
