import io
import os
import pickle
import shlex
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bcos_cli.data.index import load_index
from bcos_cli.data.sources import ImageItem, encode_png, open_source
from bcos_cli.data.sources.inventory import Inventory
from bcos_cli.data.sources.layout import parse_tree
from bcos_cli.data.sources.source import split_off_test, warnings_of
from bcos_cli.data.sources.table import LabelTable
from bcos_cli.data.sources.torchvision import torchvision_source
from bcos_core import BcosError


def zipped(root, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root))
    return path


def described(source):
    return source.classes, [(i.path, i.split, i.label) for i in source.items]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_tree_of_classes(kind, make_tree, tmp_path):
    root = make_tree(["dog/2.png", "dog/1.PNG", "cat/deep/er/1.jpg"])
    source = open_source(str(root if kind == "folder" else zipped(root, tmp_path / "t.zip")), split="all")
    assert described(source) == (
        ["cat", "dog"],
        [("cat/deep/er/1.jpg", "all", 0), ("dog/1.PNG", "all", 1), ("dog/2.png", "all", 1)],
    )
    for item in source.items:
        assert source.read(item)[0] == (root / item.path).read_bytes()
    assert [source.read(i)[1] for i in source.items] == ["jpg", "png", "png"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_zip_and_folder_survive_pickling(kind, make_tree, tmp_path):
    root = make_tree(["a/1.png", "b/1.png"])
    source = open_source(str(root if kind == "folder" else zipped(root, tmp_path / "t.zip")))
    first = source.read(source.items[0])
    again = pickle.loads(pickle.dumps(source))
    assert described(again) == described(source)
    assert again.read(again.items[0]) == first


def tree(files, split=None):
    return parse_tree(Inventory(dict.fromkeys(files, 0)), split, "s")


SPLITS = ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png"]


@pytest.mark.parametrize("above", ["", "data/", "some/nested/folder/", "data/cifar.v2/"])
def test_splits_are_found_below_folders_that_all_share(above):
    classes, items = tree([above + f for f in SPLITS])
    assert classes == ["cat", "dog"]
    assert [(i.path, i.split, i.label) for i in items] == [
        (f"{above}test/cat/1.png", "test", 0),
        (f"{above}train/cat/1.png", "train", 0),
        (f"{above}train/dog/1.png", "train", 1),
    ]


def test_class_that_one_split_lacks_keeps_its_label():
    classes, items = tree(["train/a/1.png", "train/c/1.png", "val/b/1.png", "val/c/1.png"])
    assert classes == ["a", "b", "c"]
    assert [i.label for i in items] == [0, 2, 1, 2]


def test_one_split_is_a_split_and_not_a_class():
    classes, items = tree(["train/a/1.png", "train/b/1.png"])
    assert classes == ["a", "b"]
    assert {i.split for i in items} == {"train"}


def test_folder_named_like_a_split_beside_others_is_a_class_where_the_user_says_so():
    with pytest.raises(BcosError, match=r"'s' holds train, which may be a split or a class, beside plane; .* --split"):
        tree(["train/1.png", "plane/1.png"])
    classes, items = tree(["train/1.png", "plane/1.png"], "all")
    assert classes == ["plane", "train"]
    assert {i.split for i in items} == {"all"}
    with pytest.raises(BcosError, match=r"'s' has splits of its own \(test, train\); leave out --split"):
        tree(SPLITS, "all")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("training_set", "test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("trainset", "eval"),
        ("train2017", "Testing Images"),
        ("a/b/train", "a/b/TEST"),
    ],
)
def test_usual_names_of_splits_are_splits(train, test):
    classes, items = tree([f"{train}/cats/0.png", f"{train}/dogs/0.png", f"{test}/cats/1.png"])
    assert classes == ["cats", "dogs"]
    assert {(i.path, i.split, i.label) for i in items} == {
        (f"{train}/cats/0.png", "train", 0),
        (f"{train}/dogs/0.png", "train", 1),
        (f"{test}/cats/1.png", "test", 0),
    }


def test_splits_in_classes_are_splits():
    classes, items = tree(["cat/train/0.png", "cat/val/1.png", "dog/train/0.png"])
    assert classes == ["cat", "dog"]
    assert [(i.split, i.label) for i in items] == [("train", 0), ("val", 0), ("train", 1)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/a/0.png", "val/1.png"], "the images of the split 'val' of 's' lie in no class folder, as val/CLASS"),
        (["train/a/0.png", "Training/a/1.png"], "the splits Training, train, of which two mean the same; rename"),
        (["train/a/0.png", "valid/a/1.png", "dev/a/1.png"], "the splits dev, train, valid, of which two mean"),
        (["train/0.png", "test/1.png"], "holds no images in class folders"),
        (["a\udcff/0.png"], r"the class 'a\\udcff' has a name that is not UTF-8; rename its folder"),
    ],
)
def test_folders_that_may_mean_several_things_are_refused_by_name(files, message):
    with pytest.raises(BcosError, match=message):
        tree(files)


def test_images_beside_the_folder_of_all_are_left_out_and_counted():
    inventory = Inventory(dict.fromkeys(["logo.png", "data/x.png", *("data/" + f for f in SPLITS), "data/a.txt"], 0))
    assert parse_tree(inventory, None, "s")[0] == ["cat", "dog"]
    assert [left_out.model_dump() for left_out in inventory.left_out] == [
        {"reason": "an image in no class folder", "files": 2, "first": ["data/x.png", "logo.png"]},
        {"reason": "no image, by its name (.txt)", "files": 1, "first": ["data/a.txt"]},
    ]


def test_composed_and_decomposed_names_are_one_class():
    classes, items = tree(["train/Lo\u0308we/0.png", "test/L\u00f6we/1.png"])
    assert classes == ["L\u00f6we"]
    assert [i.label for i in items] == [0, 0]


def test_classes_that_look_alike_are_empty_or_alone_are_told(make_tree):
    root = make_tree(["cat/0.png", "Cat/0.png", "dog/0.png", "Dog /0.png"])
    (root / "empty").mkdir()
    source = open_source(str(root))
    assert source.classes == ["Cat", "Dog ", "cat", "dog", "empty"]
    assert warnings_of(source) == [
        "1 of 5 classes have no images: 'empty'; leave out what is no class with --exclude empty",
        "the classes 'Cat' and 'cat' differ by case or blanks alone; are they one?",
        "the classes 'Dog ' and 'dog' differ by case or blanks alone; are they one?",
    ]
    parts = open_source(str(make_tree([f"part{k}/{name}/0.png" for k in (1, 2) for name in ("cat", "dog")], "parts")))
    assert warnings_of(parts) == [
        "all classes ('part1', 'part2') hold folders of the same names ('cat', 'dog'); if those are the classes, "
        "rename the folders above them to train, val or test"
    ]
    inside = make_tree([f"{name}/{split}/0.png" for split in ("train", "test") for name in ("cat", "dog")], "inside")
    assert warnings_of(open_source(str(inside))) == []
    alone = open_source(str(make_tree({"photos/0.png": None, "annotations/0.xml": b""}, "alone")))
    assert warnings_of(alone)[0].startswith("there is one class, 'photos', so there is nothing to learn")


def test_every_file_is_packed_or_left_out_with_its_reason(make_tree):
    other = {"a/0.png": None, "a/1.JFIF": b"", "a/2.heic": b"", "b/3.jp2": b"", "b/notes": b"", "0.png": None}
    programs = {
        "runs/x/config.yaml": b"",
        "runs/x/metrics.jsonl": b"",
        "runs/x/explanations/0.png": None,
        "explained/explanations.json": b"",
        "explained/0.png": None,
        "shards/index.json": b"",
        "shards/a.tar": b"",
        "next/.packing.json": b"",
        "out/notes.txt": b"",
        "out/.packing.lock": b"",
        ".git/x.png": None,
        "a/.x.png": None,
    }
    root = make_tree(other | programs)
    (root / "a" / "gone.png").symlink_to("nowhere")
    (root / "c").symlink_to("nowhere")
    (root / "a" / "self").symlink_to("self")
    (root / "a" / "up").symlink_to(root)
    os.mkfifo(root / "a" / "pipe.png")
    source = open_source(str(root), output=root / "out")
    assert [i.path for i in source.items] == ["a/0.png", "a/1.JFIF", "a/2.heic", "a/gone.png", "b/3.jp2"]
    assert {left_out.reason: left_out.first for left_out in source.left_out} == {
        "a folder that this program wrote": ["explained/", "next/", "runs/x/", "shards/"],
        "a link that leads nowhere": ["a/self", "c"],
        "a link to a folder above it": ["a/up/"],
        "an image in no class folder": ["0.png"],
        "hidden": [".git/", "a/.x.png"],
        "no image, by its name (no suffix)": ["b/notes"],
        "no regular file": ["a/pipe.png"],
    }


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    ("patterns", "left", "reasons"),
    [
        (["junk"], ["a/1.png", "a/1_mask.png", "a/deep/2.png", "b/1.png"], {"junk": 2}),
        (["junk/", "a/deep"], ["a/1.png", "a/1_mask.png", "b/1.png"], {"junk/": 2, "a/deep": 1}),
        (["*unk", "**/*_mask.png"], ["a/1.png", "a/deep/2.png", "b/1.png"], {"*unk": 2, "**/*_mask.png": 1}),
        (["[ab]/**/2.png", "junk/**"], ["a/1.png", "a/1_mask.png", "b/1.png"], {"[ab]/**/2.png": 1, "junk/**": 2}),
        (["**/1.png"], ["a/1_mask.png", "a/deep/2.png"], {"**/1.png": 4}),
    ],
    ids=str,
)
def test_what_the_user_excludes_is_left_out_with_its_pattern(kind, patterns, left, reasons, make_tree, tmp_path):
    root = make_tree(
        ["a/1.png", "a/1_mask.png", "a/deep/2.png", "b/1.png", "junk/1.png", "junk/below/1.png", ".hidden/1.png"]
    )
    source = open_source(str(root if kind == "folder" else zipped(root, tmp_path / "t.zip")), exclude=patterns)
    assert [item.path for item in source.items] == left
    assert source.classes == sorted({path[0] for path in left})
    found = {entry.reason: entry.files for entry in source.left_out}
    assert found.pop("hidden") == 1
    assert found == {f"excluded by --exclude {pattern}": files for pattern, files in reasons.items()}


def test_pattern_that_fits_nothing_is_refused_and_one_of_what_is_left_out_anyway_is_not(
    make_tree, tmp_path, bcos, line
):
    root = make_tree({"a/1.png": None, "b/1.png": None, "c/.keep": b""})
    (root / "empty").mkdir()
    for pattern in ("c.png", "1.png", "A", "a/2*", "/", "deep/**"):
        message = line(bcos("shards", "pack", "tree", "s", "--exclude", pattern))
        assert f"--exclude {pattern!r} fits no file or folder of 'tree'; patterns are of paths from there" in message
    assert not (tmp_path / "s").exists()
    for given in (["digits", "s", "--exclude", "a"], ["torchvision:MNIST", "s", "--exclude", "a"]):
        assert "--exclude goes with a folder or zip of images" in line(bcos("shards", "pack", *given))
    assert open_source(str(root), exclude=["c"]).classes == ["a", "b", "empty"]
    assert open_source(str(root), exclude=["empty"]).classes == ["a", "b"]
    with pytest.raises(BcosError, match="holds no images in class folders"):
        open_source(str(root), exclude=["*"])
    status, out, _ = bcos("shards", "pack", "tree", "s", "--exclude", "empty", "--exclude", "b/*")
    assert (status, "left out 1: excluded by --exclude b/*: b/1.png" in out) == (0, True), out
    assert "left out 1: excluded by --exclude empty: empty/" in out
    reasons = [entry.reason for entry in load_index("s").left_out]
    assert reasons == ["excluded by --exclude b/*", "excluded by --exclude empty", "hidden"]


@pytest.mark.parametrize("above", ["", "train/", "data/train/"])
def test_classes_without_images_are_told_with_what_leaves_them_out(above, make_tree, bcos):
    root = make_tree([f"{above}cat/1.png", f"{above}dog/1.png"])
    (root / above / "empty class [1]").mkdir()
    _, _, err = bcos("shards", "pack", "tree", "s")
    told = next(line for line in err.splitlines() if "classes have no images" in line)
    assert "1 of 3 classes have no images: 'empty class [1]'; leave out what is no class with --exclude " in told
    pattern = shlex.split(told)[-1]
    assert open_source(str(root), exclude=[pattern]).classes == ["cat", "dog"]


@pytest.mark.parametrize("output", ["tree", "tree/cat", "tree/cat/..", "link", "tree/train"])
def test_packing_into_the_images_is_refused_before_anything_is_written(output, make_tree, files, bcos, line):
    root = make_tree(["cat/1.png", "dog/1.png", "train/deep/1.png"])
    Path("link").symlink_to(root)
    before = files(root)
    message = line(bcos("shards", "pack", "tree", output, "--split", "train"))
    assert "choose another folder" in message
    assert ("of the images, which is to be packed" in message) == (output in ("tree", "tree/cat/..", "link"))
    assert files(root) == before


def test_shards_inside_the_source_are_left_out_of_it(make_tree, bcos, monkeypatch):
    monkeypatch.chdir(make_tree(["cat/1.png", "dog/1.png"]))
    for _ in range(2):
        status, out, _ = bcos("shards", "pack", ".", "shards")
        assert (status, "left out" in out) == (0, False)
    assert load_index("shards").samples("train") == 2


def test_what_an_earlier_packing_wrote_is_not_taken_for_the_users(make_tree):
    old = {".packing.json": b"", "test-000000.tar": b"", ".packing.lock": b"", "mine.tar": b"", ".mine": b""}
    source = open_source(str(make_tree({"cat/1.png": None, "dog/1.png": None} | old)))
    assert {entry.reason: entry.first for entry in source.left_out} == {
        "hidden": [".mine"],
        "no image, by its name (.tar)": ["mine.tar"],
        "written here by an earlier packing": [".packing.json", ".packing.lock", "test-000000.tar"],
    }


def test_a_share_for_testing_says_how_far_it_is_off_and_keeps_images_where_they_are(make_tree, bcos):
    make_tree([f"{name}/{i}.png" for name in ("cat", "dog", "emu") for i in range(10 if name != "emu" else 1)])
    source = open_source("tree")
    first = split_off_test(source.items, 0.3)
    tests = {name: sum(i.split == "test" for i in first if i.path.startswith(name)) for name in ("cat", "dog", "emu")}
    shares = {name: count / (1 if name == "emu" else 10) for name, count in tests.items()}
    low, _, high = sorted(shares, key=shares.get)
    of = {"cat": 10, "dog": 10, "emu": 1}
    _, _, err = bcos("shards", "pack", "tree", "s", "--test-share", 0.3)
    total = sum(tests.values())
    assert f"test: {total} of 21 images, {total / 21:.1%} where 30.0% were asked" in err
    assert f"from {tests[low]} of {of[low]} of {low!r} to {tests[high]} of {of[high]} of {high!r}" in err
    assert ("classes have no images in the split 'test': 'emu'" in err) == (tests["emu"] == 0)
    more = split_off_test([*source.items, ImageItem("cat/new.png", "train", 0, 5)], 0.3)
    assert more[:-1] == first


def test_images_that_are_tested_and_trained_on_are_told(make_tree):
    one, other, third, last = (encode_png(np.full((6, 6), value)).ljust(200, b"0") for value in range(4))
    root = make_tree({"train/a/1.png": one, "train/b/2.png": other, "test/a/3.png": other, "test/b/4.png": third})
    (told,) = warnings_of(open_source(str(root)))
    assert told.startswith("1 images of 'test' are in other splits too, byte for byte ('test/a/3.png'); ")
    (root / "test" / "a" / "3.png").write_bytes(last)
    assert warnings_of(open_source(str(root))) == []


def test_classes_without_test_images_are_told(make_tree):
    root = make_tree(["train/a/1.png", "train/b/1.png", "train/c/1.png", "test/b/1.png"])
    assert "2 of 3 classes have no images in the split 'test': 'a', 'c'" in warnings_of(open_source(str(root)))


def test_rows_of_a_table_whose_images_are_excluded_do_not_count(make_tree, tmp_path):
    root = make_tree(["x/1.png", "x/2.png", "y/1.png"])
    (tmp_path / "t.csv").write_text("image,labels\nx/1.png,cat\nx/2,dog\ny/1.png,emu\n")
    source = open_source(str(root), labels=LabelTable(tmp_path / "t.csv"), exclude=["y", "x/2*"])
    assert ([item.path for item in source.items], source.classes) == (["x/1.png"], ["cat"])
    assert {entry.reason for entry in source.left_out} == {"excluded by --exclude y", "excluded by --exclude x/2*"}


def test_link_to_a_folder_beside_it_takes_nothing_away(make_tree):
    root = make_tree(["train/a/0.png"])
    (root / "test").symlink_to(root / "train")
    assert [i.path for i in open_source(str(root)).items] == ["test/a/0.png", "train/a/0.png"]


def test_folder_that_cannot_be_read_is_refused(make_tree, monkeypatch):
    root = make_tree(["a/0.png", "b/0.png"])
    real = os.scandir

    def scandir(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(BcosError, match=r"cannot read the folder '.*b': Permission denied"):
        open_source(str(root))


def test_zip_with_backslashes_folders_alone_and_members_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("train\\a\\0.png", "./train/b/1.png", "__MACOSX/train/._0.png"):
            archive.writestr(name, name)
        archive.writestr("train\\c\\", "")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("./train/b/1.png", "later")
    source = open_source(str(tmp_path / "x.zip"))
    assert described(source) == (["a", "b", "c"], [("train/a/0.png", "train", 0), ("train/b/1.png", "train", 1)])
    assert [source.read(item)[0] for item in source.items] == [b"train\\a\\0.png", b"later"]
    assert [(left_out.reason, left_out.first) for left_out in source.left_out] == [
        ("hidden", ["__MACOSX/train/._0.png"]),
        ("replaced by a later file of the same name", ["train/b/1.png"]),
    ]


def test_split_beside_something_else_is_refused():
    message = r"'s' holds splits \(train\) and beside them plane; move those away"
    with pytest.raises(BcosError, match=message):
        tree(["train/cat/1.png", "plane/1.png"])


def test_images_behind_links_are_found_and_loops_end(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "1.png").write_bytes(encode_png(np.zeros((4, 4))))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "cat").symlink_to(tmp_path / "far")
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree")
    assert [item.path for item in open_source(str(tmp_path / "tree")).items] == ["cat/1.png"]


def test_share_held_out_for_testing_is_always_the_same():
    items = tree([f"cat/{i}.png" for i in range(400)])[1]
    once, again = split_off_test(items, 0.25), split_off_test(items[::-1], 0.25)
    assert {i.path for i in once if i.split == "test"} == {i.path for i in again if i.split == "test"}
    assert 70 < sum(i.split == "test" for i in once) < 130
    with pytest.raises(BcosError, match="the images are split already; leave out --test-share"):
        split_off_test(once, 0.25)
    with pytest.raises(BcosError, match=r"must be between 0 and 1, got 1\.5"):
        split_off_test(items, 1.5)


def test_single_class_is_a_class():
    assert tree(["cat/1.png", "cat/2.png"])[0] == ["cat"]
    assert tree(["data/cat/1.png", "data/cat/2.png"])[0] == ["cat"]


@pytest.mark.parametrize("files", [[], ["1.png"], ["train/1.png", "test/1.png"][:0], ["a/readme.md"]])
def test_tree_without_images_in_classes_is_refused(files):
    with pytest.raises(BcosError, match=r"'s' holds no images in class folders; lay them out as CLASS/image.jpg or"):
        tree(files)


def test_what_is_no_source_is_named(tmp_path):
    with pytest.raises(BcosError, match=r"there is no data source 'digit'; give a folder or zip.*or one of: digits"):
        open_source("digit")
    (tmp_path / "a.txt").write_text("hi")
    with pytest.raises(BcosError, match=r"'a.txt' is a file, but no zip; give a folder of class folders"):
        open_source("a.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": Path("x")}, "--root goes with torchvision:NAME, got 'digits'; leave it out"),
        ({"split": "all"}, "--split goes with a folder or zip of images, got 'digits'; leave it out"),
        ({"labels": LabelTable(Path("x"))}, "--labels goes with a folder or zip of images, got 'digits'"),
    ],
)
def test_option_that_does_not_go_with_a_source_is_refused(options, message):
    with pytest.raises(BcosError, match=message):
        open_source("digits", **options)


def test_registered_data_set_is_found_by_name():
    source = open_source("digits")
    assert source.classes == list("0123456789")
    assert len(source.items) == 1797
    assert sum(i.split == "test" for i in source.items) == 359
    data, extension = source.read(source.items[0])
    assert (data[:4], extension) == (b"\x89PNG", "png")


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_arrays_come_back_from_png(shape):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    with Image.open(io.BytesIO(encode_png(array))) as image:
        np.testing.assert_array_equal(np.asarray(image), array)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 255], [7, 1]]), [[0, 255], [7, 1]]),
        (np.array([[0.0, 1.0], [0.5, 0.25]]), [[0, 255], [128, 64]]),
        (np.array([[True, False]]), [[255, 0]]),
    ],
)
def test_values_of_arrays_are_those_of_their_type(array, expected):
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(array)))), expected)


@pytest.mark.parametrize("array", [np.array([[0, 256]]), np.array([[-1, 0]]), np.array([[0.0, 239.0]])])
def test_values_that_no_png_holds_are_refused_not_wrapped(array):
    with pytest.raises(BcosError, match="its values go from"):
        encode_png(array)


def write_mnist(root, images, labels, prefix):
    """The files of MNIST: big-endian header, then bytes."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, *images.shape) + images.tobytes())
    (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(labels)) + bytes(labels))


@pytest.fixture
def mnist(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
    write_mnist(tmp_path, images[:3], [7, 0, 9], "train")
    write_mnist(tmp_path, images[3:], [1, 7], "t10k")
    return tmp_path, images


def test_torchvision_data_set_has_both_splits_classes_and_pixels(mnist):
    import io

    from PIL import Image

    root, images = mnist
    source = open_source("torchvision:MNIST", root=root)
    assert source.classes[7] == "7 - seven"
    assert [(i.split, i.label) for i in source.items] == [
        ("train", 7), ("train", 0), ("train", 9), ("test", 1), ("test", 7)
    ]  # fmt: skip
    for item, expected in zip(source.items, images, strict=True):
        data, extension = source.read(item)
        assert extension == "png"
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(np.asarray(image), expected)


def test_torchvision_source_is_packed_by_the_command(mnist, bcos):
    status, out, err = bcos("shards", "pack", "torchvision:MNIST", "shards", "--root", mnist[0], "--workers", 1)
    assert status == 0, err
    assert "10 classes: 0 - zero" in out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MINST", r"torchvision has no data set 'MINST'; did you mean 'MNIST'\?"),
        ("FakeData", "torchvision's FakeData has no train and test splits; unpack it to folders"),
        ("Omniglot", "torchvision's Omniglot has no train and test splits"),
    ],
)
def test_torchvision_data_set_that_does_not_do_is_refused(name, message, tmp_path):
    with pytest.raises(BcosError, match=message):
        torchvision_source(name, tmp_path)


def test_torchvision_data_set_that_cannot_be_opened_says_where_it_was_looked_for(tmp_path, monkeypatch):
    from torchvision import datasets

    def no_network(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", no_network)
    with pytest.raises(BcosError, match=r"cannot open torchvision's CIFAR10 below '.*': no network; put the files"):
        torchvision_source("CIFAR10", tmp_path)


def test_torchvision_labels_that_are_no_classes_are_refused(tmp_path, monkeypatch):
    from torchvision import datasets

    class Captions:
        def __init__(self, root, train): ...

        def __len__(self):
            return 1

        def __getitem__(self, i):
            return np.zeros((4, 4)), "a cat"

    monkeypatch.setattr(datasets, "MNIST", Captions)
    with pytest.raises(BcosError, match="MNIST has no class labels; choose a classification data set"):
        torchvision_source("MNIST", tmp_path)


def test_images_of_torchvision_data_sets_are_opened_as_all_others_and_named(tmp_path, monkeypatch):
    from torchvision import datasets

    class Files:
        classes = ("a",)

        def __init__(self, root, train, loader):
            self.path, self.loader = f"{root}/{train}.jpg", loader

        def __len__(self):
            return 1

        def __getitem__(self, i):
            return self.loader(self.path), 0

    monkeypatch.setattr(datasets, "MNIST", Files)
    Image.new("RGB", (4, 4)).save(tmp_path / "True.jpg")
    (tmp_path / "False.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    with pytest.raises(
        BcosError, match=r"image 0 of test in torchvision's MNIST below .*False.jpg: cannot be read: this is"
    ):
        torchvision_source("MNIST", tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "False.jpg")
    assert len(torchvision_source("MNIST", tmp_path).items) == 2
