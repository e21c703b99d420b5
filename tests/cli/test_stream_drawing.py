"""Streams that begin in the middle, draw classes equally, repeat images, or leave out what is damaged."""

import io
import random
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from damaging import replace_members

from bcos_cli.config import Augment
from bcos_cli.data.image_decoder import UnreadableImageError
from bcos_cli.data.index import load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.data.pack import pack
from bcos_cli.data.reading import Reading
from bcos_cli.data.sample_order import Drawing, SampleOrder
from bcos_cli.data.samples import parse_labels
from bcos_cli.data.shards import Shards
from bcos_cli.data.sources import ArraySource, ImageItem, encode_png
from bcos_cli.data.stream import Labelling, ShardStream
from bcos_core import BcosError
from bcos_models import InputSpec

SPEC = InputSpec(size=4, channels=1, resize=None)
TWO = Labelling(2)


def packed(folder, labels, size):
    items = [ImageItem(f"train/{i:03d}.png", "train", label) for i, label in enumerate(labels)]
    pngs = {item.path: encode_png([[i] * 4] * 4) for i, item in enumerate(items)}
    return pack(ArraySource(["often", "rarely"], items, pngs), "s", folder, samples_per_shard=size, workers=1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """26 images, every fifth of the rare class, in shards of 7."""
    folder = tmp_path_factory.mktemp("s") / "shards"
    packed(folder, [int(i % 5 == 0) for i in range(26)], 7)
    return str(folder)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """The same with two images and a label that are none, and a last shard that is cut off."""
    folder = tmp_path_factory.mktemp("d") / "shards"
    index = packed(folder, [int(i % 5 == 0) for i in range(26)], 7)
    first, second, _, last = (folder / record.name for record in index.shards)
    replace_members(first, {0: b"junk", 3: b"junk"}, ".png")
    replace_members(second, {2: b"cat"}, ".cls")
    last.write_bytes(last.read_bytes()[: 512 * 2 * 2 + 512 * 2])  # one sample and a half of five are left
    return str(folder)


def value_and_draw(data, rng):
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data)).getpixel((0, 0)), rng.random()
    except OSError as reason:
        raise UnreadableImageError("cannot be read") from reason


def make(folder, *, batch_size=2, skip=False, rank=0, world=1, **drawing):
    index = load_index(folder)
    chosen = {"shuffle": 5, **drawing}
    if chosen.get("class_counts"):
        chosen["class_counts"] = tuple(index.class_counts("train"))
    order = SampleOrder(
        Shards.of(folder, index, "train"), rank=rank, world=world, batch_size=batch_size, drawing=Drawing(**chosen)
    )
    return ShardStream(order, value_and_draw, TWO, skip=skip)


def batches_of(stream, workers, epoch=0, first=0):
    """Batches as a loader takes them from its processes in turn, the first one first."""
    stream.set_epoch(epoch, first)
    size = stream.order.batch_size
    samples = [list(stream.samples(process, workers)) for process in range(workers)]
    queues = [[s[i : i + size] for i in range(0, len(s), size)] for s in samples]
    taken = []
    while any(queues):
        taken += [queue.pop(0) for queue in queues if queue]
    return taken


DRAWINGS = {
    "plain": {},
    "in order": {"shuffle": 0},
    "balanced": {"class_counts": True},
    "repeated": {"repeats": 2},
    "damaged": {"skip": True},
}


@pytest.mark.parametrize("workers", [1, 2, 3, 20])
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", DRAWINGS)
def test_stream_that_begins_at_a_batch_gives_the_rest_of_the_epoch(kind, world, workers, shards, damaged):
    folder = damaged if kind == "damaged" else shards
    for rank in range(world):
        stream = make(folder, rank=rank, world=world, **DRAWINGS[kind])
        whole = batches_of(stream, workers, epoch=3)
        assert len(whole) == stream.order.batches
        assert all(len(batch) == 2 for batch in whole)
        for first in (1, 2, len(whole) - 1, len(whole)):
            assert batches_of(stream, workers, epoch=3, first=first) == whole[first:]


def test_real_loaders_begin_in_the_middle_and_then_at_the_start(shards):
    options = {"batch_size": 4, "augment": Augment(pad_crop=1), "drawing": Drawing(shuffle=10)}
    index = load_index(shards)
    for workers in (0, 2):
        batches = make_batches(shards, index, "train", SPEC, workers=workers, **options)
        whole = [positions.tolist() for _, _, positions in batches.epoch(1)]
        assert [positions.tolist() for _, _, positions in batches.epoch(1, 3)] == whole[3:]
        assert [positions.tolist() for _, _, positions in batches.epoch(1)] == whole


@pytest.mark.parametrize("world", [1, 2])
def test_every_image_is_repeated_in_one_of_as_many_epochs(world, shards):
    seen = Counter()
    for epoch in range(2):
        for rank in range(world):
            for batch in batches_of(make(shards, batch_size=4, repeats=2, rank=rank, world=world), 2, epoch):
                times = Counter(position for _, _, position in batch)
                assert set(times.values()) == {2}
                draws = {(position, image[1]) for image, _, position in batch}
                assert len(draws) == 4  # each time augmented in another way
                seen.update(times)
    assert set(seen.values()) == {2}
    assert 26 - len(seen) < 4 * world


def test_batch_that_repeats_do_not_divide_is_refused(shards):
    with pytest.raises(BcosError, match=r"data.repeats=3 must divide the 4 images of a process's batch"):
        make(shards, batch_size=4, repeats=3)


def test_other_images_are_left_out_in_each_epoch(tmp_path):
    """Of a single shard too, whose order is that of the file."""
    folder = tmp_path / "shards"
    packed(folder, [0, 1] * 13, 26)
    for world in (1, 2):
        left_out = Counter()
        for epoch in range(80):
            streams = [make(str(folder), batch_size=4, rank=rank, world=world) for rank in range(world)]
            seen = [p for stream in streams for batch in batches_of(stream, 2, epoch) for _, _, p in batch]
            assert len(set(seen)) == len(seen) == 24
            left_out.update(set(range(26)) - set(seen))
        assert len(left_out) == 26
        assert max(left_out.values()) < 20  # 80 · 2 / 26 = 6 each


def test_classes_are_drawn_equally_often(tmp_path):
    folder = tmp_path / "shards"
    packed(folder, [int(i % 10 == 0) for i in range(200)], 23)
    stream = make(str(folder), batch_size=4, class_counts=True)
    counts, versions = Counter(), set()
    for epoch in range(5):
        batches = batches_of(stream, 2, epoch)
        assert len(batches) == 50
        counts.update(label for batch in batches for _, label, _ in batch)
        versions |= {(epoch, image) for batch in batches for image, label, _ in batch if label}
    assert abs(counts[1] / sum(counts.values()) - 0.5) < 0.05
    assert len(versions) == counts[1]  # no copy is augmented like another
    assert batches_of(stream, 2, 4) == batches


@pytest.mark.parametrize("workers", [1, 3])
def test_damaged_samples_are_counted_and_replaced_in_training(workers, damaged, capsys):
    stream = make(damaged, skip=True)
    batches = batches_of(stream, workers)
    assert [len(batch) for batch in batches] == [2] * 13
    assert stream.skipped >= 4
    assert "bcos: left out" in capsys.readouterr().err
    with pytest.raises(BcosError, match=r"cannot be read|must hold one class index|is damaged|ends after"):
        batches_of(make(damaged), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_has_every_readable_sample_once_and_counts_the_others(workers, damaged):
    index = load_index(damaged)
    total, skipped = [], 0
    for rank in range(2):
        batches = make_batches(
            damaged,
            index,
            "train",
            SPEC,
            batch_size=4,
            rank=rank,
            world=2,
            workers=workers,
            reading=Reading(skip=True),
        )
        total += [p for _, _, positions in batches.epoch(0) for p in positions.tolist()]
        skipped += batches.stream.skipped
    assert len(total) == len(set(total))
    assert len(total) + skipped == 26


def test_name_that_comes_twice_in_a_shard_is_told(tmp_path):
    folder = tmp_path / "shards"
    index = packed(folder, [0, 1] * 4, 8)
    path = folder / index.shards[0].name
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(path, "w") as tar:
        for name, data in [members[0], *members]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(BcosError, match=r"is damaged after 0 samples \(.*duplicate"):
        batches_of(make(str(folder)), 1)


def test_epoch_of_nothing_readable_ends(tmp_path):
    folder = tmp_path / "shards"
    index = packed(folder, [0, 1] * 4, 8)
    replace_members(folder / index.shards[0].name, dict.fromkeys(range(8), b"junk"), ".png")
    with pytest.raises(BcosError, match=r"none of \d+ samples could be read, the last because"):
        batches_of(make(str(folder), skip=True), 1)
    Path(folder, index.shards[0].name).unlink()
    with pytest.raises(BcosError, match=r"none of \d+ samples could be read, the last because cannot open the shard"):
        batches_of(make(str(folder), skip=True), 1)


@pytest.mark.parametrize(
    ("text", "several", "labels"),
    [(b"3", False, [3]), (b" 0\n", False, [0]), (b"0 3", True, [0, 3]), (b"1,2", True, [1, 2]), (b"", True, [])],
)
def test_labels_of_a_sample(text, several, labels):
    assert parse_labels(text, 4, several) == labels


@pytest.mark.parametrize(
    ("text", "several"), [(b"", False), (b"1 2", False), (b"cat", True), (b"-1", True), (b"4", False)]
)
def test_what_is_no_label_is_refused(text, several):
    with pytest.raises(BcosError, match=r"a .cls file (must hold|has the class index 4, there are 4 classes)"):
        parse_labels(text, 4, several)


def test_several_labels_are_zeros_and_ones():
    assert Labelling(3, multi_label=True).read(b"0 2").tolist() == [1, 0, 1]


def test_dead_loader_process_is_one_line(shards):
    batches = make_batches(shards, load_index(shards), "train", SPEC, batch_size=4, workers=1)
    batches.stream.transform = kill_yourself
    with pytest.raises(
        BcosError,
        match=r"a loader process has died \(DataLoader worker .*; if memory was short, use fewer data.workers",
    ):
        list(batches.epoch(0))


def kill_yourself(data, rng):
    import os
    import signal

    del data, rng
    os.kill(os.getpid(), signal.SIGKILL)


def test_drawing_leaves_the_global_generators_alone(shards):
    before = torch.get_rng_state(), random.getstate()
    batches_of(make(shards, class_counts=True), 2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
