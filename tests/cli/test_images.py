import os

import pytest

from bcos_cli.explain.image_files import find_images
from bcos_core import BcosError


def test_folders_are_searched_and_files_taken_as_they_are(make_tree, tmp_path):
    root = make_tree({"b.png": None, "a/x.JPG.png": None, "a/notes.txt": b"x", "c.dat": b"x"})
    found, empty = find_images([root / "c.dat", root])
    assert [f.path.relative_to(root).as_posix() for f in found] == ["c.dat", "a/x.JPG.png", "b.png"]
    assert empty == []


def test_file_named_twice_is_taken_once(make_tree):
    root = make_tree(["a/x.png", "a/y.png"])
    assert len(find_images([root / "a" / "x.png", root / "a", root])[0]) == 2


@pytest.mark.parametrize(
    "paths",
    [
        ["a/x.png", "b/x.png", "c/x.png"],
        ["x.png", "x.jpg"],
        ["a/x.png", "b/x.png", "c/x-2.png"],
        ["a/x-2.png", "b/x.png", "c/x.png"],
    ],
    ids=str,
)
def test_names_are_unique(paths, make_tree):
    root = make_tree(paths)
    names = [f.name for f in find_images([root / p for p in paths])[0]]
    assert len(set(names)) == len(paths)
    assert names[0] == (root / paths[0]).stem


def test_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        BcosError, match=r"there is no image or folder 'nope.png'; give files, folders or patterns of images"
    ):
        find_images([tmp_path.relative_to(tmp_path) / "nope.png"])


def test_folder_without_images_is_named(make_tree):
    with pytest.raises(BcosError, match=r"no images in .*tree; images end in \.jpg, "):
        find_images([make_tree({"a.txt": b"x"})])


def test_patterns_find_files_and_folders_in_order(make_tree, monkeypatch):
    root = make_tree(["b/2.png", "a/1.png", "a/c/3.png", "x[1].png"])
    monkeypatch.chdir(root)
    assert [f.path.as_posix() for f in find_images(["*/*.png"])[0]] == ["a/1.png", "b/2.png"]
    assert [f.path.as_posix() for f in find_images(["**/3.png", "[b]"])[0]] == ["a/c/3.png", "b/2.png"]
    assert [f.path.as_posix() for f in find_images(["x[1].png"])[0]] == ["x[1].png"]  # a file of that very name
    with pytest.raises(BcosError, match=r"no file matches the pattern '\*.jpg'"):
        find_images(["*.jpg"])


def test_folder_without_images_beside_others_is_a_failure(make_tree):
    root = make_tree({"a/x.png": None, "b/notes.txt": b"x"})
    found, empty = find_images([root / "a", root / "b"])
    assert len(found) == 1
    assert [f.file for f in empty] == [str(root / "b")]
    assert empty[0].reason.startswith("no images in this folder")


def test_hidden_files_and_what_is_no_file_are_left_out(make_tree):
    root = make_tree(["a/x.png", "a/._x.png", ".cache/y.png"])
    os.mkfifo(root / "a" / "pipe.png")
    assert [f.path.name for f in find_images([root])[0]] == ["x.png"]


def test_names_differ_on_file_systems_that_ignore_case_and_leave_our_own_alone(make_tree):
    root = make_tree(["a/X.png", "b/x.png", "contact-sheet.png", "v1.2.png"])
    names = [f.name for f in find_images([root / p for p in ("a", "b", "contact-sheet.png", "v1.2.png")])[0]]
    assert names == ["X", "x-2", "contact-sheet-2", "v1_2"]


def test_long_names_are_cut(make_tree):
    root = make_tree([f"{'n' * 200}{i}.png" for i in range(2)])
    names = [f.name for f in find_images([root])[0]]
    assert [len(n) for n in names] == [80, 82]
