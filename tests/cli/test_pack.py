import hashlib
import io
import json
import os
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
import webdataset
from PIL import Image

from bcos_cli.data.index import load_index
from bcos_cli.data.pack import pack, plan_shards
from bcos_cli.data.sources import ArraySource, ImageItem, encode_png, open_source
from bcos_cli.data.verify import verify
from bcos_core import BcosError

# WebDataset leaves closing its files to the garbage collector.
UNCLOSED = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
PATHS = [f"{split}/{c}/{i}.png" for split in ("train", "test") for c in ("cat", "dog") for i in range(5)]


def samples(folder):
    """(key, label) of each sample, shard by shard, read with tarfile alone."""
    found = {}
    for shard in load_index(str(folder)).shards:
        with tarfile.open(folder / shard.name) as tar:
            members = tar.getmembers()
            pairs = list(zip(members[::2], members[1::2], strict=True))
            assert all(a.name.rpartition(".")[0] == b.name.rpartition(".")[0] for a, b in pairs)
            found[shard.name] = [(a.name, int(tar.extractfile(b).read())) for a, b in pairs]
    return found


def test_every_image_is_in_one_shard_with_its_label(tree, folder_source, tmp_path):
    source = folder_source(tree)
    index = pack(source, "tree", tmp_path / "s", samples_per_shard=4, workers=1)
    assert [(s.name, s.samples) for s in index.shards] == [
        *((f"test-00000{i}.tar", n) for i, n in enumerate((4, 4, 2))),
        *((f"train-00000{i}.tar", n) for i, n in enumerate((4, 4, 2))),
    ]
    written = [pair for pairs in samples(tmp_path / "s").values() for pair in pairs]
    assert sorted(written) == sorted((i.path, i.label) for i in source.items)
    assert written != sorted(written)  # shuffled
    assert (index.classes, index.source) == (["cat", "dog"], "tree")
    assert (index.samples("train"), index.samples("test"), index.splits()) == (10, 10, ["test", "train"])


def test_index_agrees_with_the_files(tree, folder_source, tmp_path, files):
    index = pack(folder_source(tree), "tree", tmp_path / "s", samples_per_shard=4, workers=1)
    content = files(tmp_path / "s")
    assert set(content) == {"index.json", *(s.name for s in index.shards)}
    for shard in index.shards:
        assert shard.bytes == len(content[shard.name])
        assert shard.sha256 == hashlib.sha256(content[shard.name]).hexdigest()
    assert load_index(str(tmp_path / "s")) == index
    assert verify(tmp_path / "s", index) == []


def test_same_source_gives_the_same_bytes_whatever_its_dates_and_the_workers(tree, folder_source, tmp_path, files):
    pack(folder_source(tree), "tree", tmp_path / "a", samples_per_shard=4, workers=1)
    os.utime(tree / PATHS[0], (0, 0))
    (tree / PATHS[1]).chmod(0o600)
    pack(folder_source(tree), "tree", tmp_path / "b", samples_per_shard=4, workers=3)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_seed_changes_the_order_only(tree, folder_source, tmp_path):
    for seed in (0, 1):
        pack(folder_source(tree), "tree", tmp_path / str(seed), seed=seed, workers=1)
    a, b = samples(tmp_path / "0"), samples(tmp_path / "1")
    assert a.keys() == b.keys() == {"test-000000.tar", "train-000000.tar"}
    assert all(a[name] != b[name] and sorted(a[name]) == sorted(b[name]) for name in a)


def test_shards_are_bounded_in_bytes_and_a_large_image_has_one_of_its_own(tmp_path):
    items = [ImageItem(f"a/{k}.png", "train", 0, size) for k, size in enumerate([4000] * 6 + [50_000])]
    plan = plan_shards(items, 4, 0, bytes_per_shard=20_000)
    sizes = [[item.bytes for _, item in shard.items] for shard in plan]
    assert sorted(map(sorted, sizes)).count([50_000]) == 1
    assert all(len(part) <= 4 and (sum(part) + 2560 * len(part) <= 20_000 or len(part) == 1) for part in sizes)
    assert sorted(item.path for shard in plan for _, item in shard.items) == sorted(item.path for item in items)


def test_a_shard_is_never_whole_in_memory(tmp_path):
    one = bytearray(encode_png(np.zeros((8, 8))))
    one += bytes(2_000_000 - len(one))  # what follows a PNG is not read
    items = [ImageItem(f"a/{k}.png", "train", 0, len(one)) for k in range(40)]
    source = ArraySource(["a"], items, dict.fromkeys((item.path for item in items), bytes(one)))
    tracemalloc.start()
    try:
        index = pack(source, "t", tmp_path / "s", workers=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert index.shards[0].bytes > 80_000_000
    assert peak < 24_000_000


def test_size_of_a_shard_must_be_a_positive_number(tree, folder_source, tmp_path):
    for size in (0, -1, float("nan"), float("inf")):
        with pytest.raises(BcosError, match="the size of a shard must be a number of megabytes above 0, got "):
            pack(folder_source(tree), "t", tmp_path / "s", megabytes_per_shard=size)


def test_names_that_are_not_utf_8_are_packed(make_tree, folder_source, tmp_path):
    root = make_tree({"a/0.png": None, "a/2.png": b"x"})
    for name, new in (("0.png", b"\xe9.png"), ("2.png", b"\xe8.png")):
        (root / "a" / name).rename(root / "a" / os.fsdecode(new))
    index = pack(folder_source(root), "t", tmp_path / "s", workers=1, on_error="skip")
    assert [image.path for image in index.skipped] == ["a/\ufffd.png"]
    assert load_index(str(tmp_path / "s")) == index
    assert verify(tmp_path / "s", index) == []
    assert pack(folder_source(root), "t", tmp_path / "s", workers=1, on_error="skip") == index


def test_reasons_have_no_addresses_of_memory(tmp_path):
    class Odd(ArraySource):
        def read(self, item):
            raise OSError(f"cannot identify image file {io.BytesIO()!r}")

    source = Odd(["a"], [ImageItem("a/0.png", "train", 0)], {})
    index = pack(source, "t", tmp_path / "s", workers=1, on_error="skip")
    assert [image.reason for image in index.skipped] == ["OSError: cannot identify image file <_io.BytesIO object>"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_command_accounts_for_every_file(make_tree, tmp_path, bcos):
    files = {"train/a/0.png": None, "train/b/1.jfif": Image.new("RGB", (4, 4)).tobytes(), "test/a/2.jpe": None}
    root = make_tree(files | {"train/a/notes.txt": b"", "shards/index.json": b"", "shards/x.tar": b"", "3.png": None})
    status, out, err = bcos("shards", "pack", root, root / "new", "--workers", 1, "--on-error", "skip")
    assert status == 0, err
    for text in (
        "left out 1: images that cannot be read (index.json has the reasons): train/b/1.jfif",
        "left out 1: a folder that this program wrote: shards/",
        "left out 1: an image in no class folder: 3.png",
        "left out 1: no image, by its name (.txt): train/a/notes.txt",
    ):
        assert text in out
    index = load_index(str(root / "new"))
    assert {left_out.reason: left_out.first for left_out in index.left_out}["an image in no class folder"] == ["3.png"]
    shown = [line.replace("│", " ").split() for line in bcos("shards", "info", root / "new")[1].splitlines()]
    assert ["a", "1", "1"] in shown
    assert ["b", "0", "0"] in shown
    assert bcos("shards", "pack", root, root / "new", "--workers", 1, "--on-error", "skip")[1] == out


def test_image_that_loaders_would_refuse_for_its_size_is_unreadable(tree, folder_source, tmp_path, monkeypatch):
    monkeypatch.setattr("bcos_cli.data.pack.MAX_SAMPLE_BYTES", 2000)
    with pytest.raises(BcosError, match=r"20 of 20 images cannot be read.*\n.*: too large: shards hold files of up to"):
        pack(folder_source(tree), "t", tmp_path / "s", workers=1)


def test_the_index_that_is_shown_is_named_once(tree, bcos):
    bcos("shards", "pack", "tree", "s")
    for data in ("s", "s/", "s/index.json"):
        assert "s/index.json\n" in bcos("shards", "info", data)[2]


def test_shards_may_lie_in_the_folder_of_their_images(tree, tmp_path):
    index = pack(open_source(str(tree), output=tree / "s"), "t", tree / "s", workers=1)
    assert index.samples("train") == 10
    assert pack(open_source(str(tree), output=tree / "s"), "t", tree / "s", workers=1) == index


@UNCLOSED
def test_webdataset_itself_reads_the_shards(tree, folder_source, tmp_path):
    index = pack(folder_source(tree), "tree", tmp_path / "s", workers=1)
    url = str(tmp_path / "s" / index.of("train")[0].name)
    read = list(webdataset.WebDataset(url, shardshuffle=False).decode("pil").to_tuple("png", "cls", "__key__"))
    assert len(read) == 10
    for image, label, key in read:
        assert label == ("dog" in key)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(tree / f"{key}.png")))


def test_keys_are_unique_and_have_no_dots():
    paths = ["a/x.png", "a/x.jpg", "a/x.y.png", "a/x_y.png", "b.c/x.png", "a/x__2.png"]
    (shard,) = plan_shards([ImageItem(p, "train", 0) for p in paths], 10, 0)
    keys = {item.path: key for key, item in shard.items}
    assert len(set(keys.values())) == len(paths)
    assert all("." not in key.rpartition("/")[2] for key in keys.values())
    assert keys["b.c/x.png"] == "b.c/x"


@UNCLOSED
def test_names_that_differ_in_their_extension_or_dots_come_back(make_tree, folder_source, tmp_path):
    root = make_tree(["a/x.png", "a/x.jpg", "a/x.y.png", "v1.0/ä ß.png", "v1.0/" + "long" * 40 + ".png"])
    index = pack(folder_source(root), "t", tmp_path / "s", workers=1)
    url = str(tmp_path / "s" / index.shards[0].name)
    assert len(list(webdataset.WebDataset(url, shardshuffle=False))) == 5


@UNCLOSED
def test_class_whose_name_webdataset_takes_for_its_own_is_not_lost(make_tree, folder_source, tmp_path):
    """WebDataset passes over members such as ``__meta__/x``."""
    root = make_tree(["__rest__/1.png", "cat/1.png"])
    index = pack(folder_source(root), "t", tmp_path / "s", workers=1)
    url = str(tmp_path / "s" / index.shards[0].name)
    assert len(list(webdataset.WebDataset(url, shardshuffle=False))) == 2


def test_progress_counts_every_image(tree, folder_source, tmp_path):
    seen = []
    pack(
        folder_source(tree),
        "t",
        tmp_path / "s",
        samples_per_shard=4,
        workers=1,
        on_progress=lambda *a: seen.append(a),
    )
    assert [done for done, _ in seen] == [4, 8, 10, 14, 18, 20]
    assert {total for _, total in seen} == {20}


BAD = {
    "train/cat/0.png": b"not an image",
    "test/dog/3.png": b"",
    "train/dog/1.png": b"\x89PNG\r\n\x1a\n" + bytes(20),
}


@pytest.fixture
def damaged(make_tree):
    return make_tree({p: BAD.get(p) for p in PATHS}, name="damaged")


@pytest.mark.parametrize("workers", [1, 2])
def test_file_that_would_run_a_program_or_is_too_large_is_skipped(
    workers, make_tree, folder_source, tmp_path, monkeypatch
):
    hostile = {
        "a/photo.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{ } loop\n",
        "a/wide.pgm": b"P5 100000 100000 255\n",
    }
    root = make_tree({"a/1.png": None, "a/2.png": None, **hostile})
    index = pack(folder_source(root), "t", tmp_path / "s", samples_per_shard=3, workers=workers, on_error="skip")
    assert {s.path: s.reason.partition(";")[0] for s in index.skipped} == {
        "a/photo.jpg": "cannot be read: this is no image, or of another format",
        "a/wide.pgm": "too large: 100000×100000 pixels, at most 268 megapixels are decoded",
    }
    assert index.samples("train") == 2


def test_member_of_a_zip_that_claims_to_be_huge_is_not_unpacked(make_tree, tmp_path, monkeypatch):
    tree = make_tree({"a/1.png": None, "a/2.bmp": bytes(5000)})
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/1.png", "a/2.bmp"):
            archive.write(tree / name, name)
    monkeypatch.setattr("bcos_cli.data.image_decoder.MOST_BYTES", 4000)
    index = pack(open_source(str(tmp_path / "x.zip")), "t", tmp_path / "s", workers=1, on_error="skip")
    assert [s.reason.partition(":")[0] for s in index.skipped] == ["too large"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_images_are_all_listed_and_fatal(damaged, folder_source, tmp_path, workers):
    truncate(damaged / "train/dog/4.png")
    with pytest.raises(BcosError, match="4 of 20 images cannot be read; remove them, or pass --on-error skip:") as e:
        pack(folder_source(damaged), "t", tmp_path / "s", samples_per_shard=4, workers=workers)
    listed = [line.strip().partition(": ")[0] for line in str(e.value).splitlines()[1:]]
    assert listed == sorted([*BAD, "train/dog/4.png"])
    assert not (tmp_path / "s" / "index.json").exists()


def test_unreadable_images_are_skipped_and_recorded(damaged, folder_source, tmp_path):
    index = pack(folder_source(damaged), "t", tmp_path / "s", samples_per_shard=4, workers=1, on_error="skip")
    assert {s.path for s in index.skipped} == set(BAD)
    assert all(s.reason for s in index.skipped)
    assert index.samples("train") == 8
    assert index.samples("test") == 9
    written = {name for pairs in samples(tmp_path / "s").values() for name, _ in pairs}
    assert written == set(PATHS) - set(BAD)
    assert verify(tmp_path / "s", index) == []


def test_shard_without_one_readable_image_is_left_out(make_tree, folder_source, tmp_path):
    root = make_tree({"a/1.png": b"x", "a/2.png": None, "a/3.png": b"x"})
    index = pack(folder_source(root), "t", tmp_path / "s", samples_per_shard=1, workers=1, on_error="skip")
    assert [s.samples for s in index.shards] == [1]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == sorted(["index.json", index.shards[0].name])


@pytest.mark.parametrize("advice", ["skip", "remove"])
def test_advice_of_the_failure_can_be_followed(advice, damaged, folder_source, tmp_path):
    with pytest.raises(BcosError, match="remove them, or pass --on-error skip"):
        pack(folder_source(damaged), "t", tmp_path / "s", samples_per_shard=4, workers=1)
    if advice == "remove":
        for path in BAD:
            (damaged / path).unlink()
    on_error = "skip" if advice == "skip" else "fail"
    index = pack(folder_source(damaged), "t", tmp_path / "s", samples_per_shard=4, workers=1, on_error=on_error)
    assert index.samples("train") + index.samples("test") == 17
    assert verify(tmp_path / "s", index) == []


def test_image_that_was_repaired_in_its_place_is_packed(damaged, folder_source, tmp_path, files):
    with pytest.raises(BcosError, match="3 of 20"):
        pack(folder_source(damaged), "t", tmp_path / "s", samples_per_shard=4, workers=1)
    for path in BAD:
        Image.new("RGB", (4, 4)).save(damaged / path)
    pack(folder_source(damaged), "t", tmp_path / "s", samples_per_shard=4, workers=1)
    pack(folder_source(damaged), "t", tmp_path / "fresh", samples_per_shard=4, workers=1)
    assert files(tmp_path / "s") == files(tmp_path / "fresh")


@pytest.mark.parametrize("n", [0, -3])
def test_samples_per_shard_must_be_positive(n, tree, folder_source, tmp_path):
    with pytest.raises(BcosError, match=f"samples per shard must be at least 1, got {n}"):
        pack(folder_source(tree), "t", tmp_path / "s", samples_per_shard=n)


def test_greyscale_and_16_bit_images_are_packed_as_they_are(make_tree, folder_source, tmp_path):
    root = make_tree(
        {
            "a/1.png": Image.new("L", (4, 4)),
            "a/2.png": Image.new("I;16", (4, 4)),
            "a/3.gif": Image.new("P", (4, 4)),
        }
    )
    index = pack(folder_source(root), "t", tmp_path / "s", workers=1)
    with tarfile.open(tmp_path / "s" / index.shards[0].name) as tar:
        for member in tar:
            if not member.name.endswith(".cls"):
                data = tar.extractfile(member).read()
                assert data == (root / member.name).read_bytes()
                Image.open(io.BytesIO(data)).load()


def test_command_packs_shows_and_verifies(tree, tmp_path, bcos, line):
    status, out, err = bcos("shards", "pack", tree, "s", "--samples-per-shard", 4, "--workers", 1)
    assert status == 0, err
    assert "2 classes: cat, dog" in out
    status, out, _ = bcos("shards", "info", "s")
    assert status == 0
    assert "train" in out
    status, out, _ = bcos("shards", "info", "s", "--json")
    assert json.loads(out) == json.loads((tmp_path / "s" / "index.json").read_text())
    assert bcos("shards", "verify", "s")[:2] == (0, "6 shards agree with the index\n")
    assert "already holds other" in line(bcos("shards", "pack", tree, "s"))
    assert "--on-error must be fail or skip, got 'ignore'" in line(
        bcos("shards", "pack", tree, "x", "--on-error", "ignore")
    )
