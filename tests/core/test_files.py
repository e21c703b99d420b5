"""Files are replaced whole; nothing else is ever replaced."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bcos_core.files import remove_asides, replacement, write_atomically

FULL = Path("/dev/full")
full = pytest.mark.skipif(not FULL.is_char_device(), reason="there is no device that is always full")


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("content", ["text", b"bytes", ""])
def test_file_is_written_with_its_folders_and_nothing_is_left_beside_it(content, tmp_path):
    write_atomically(tmp_path / "a/b/x.txt", content)
    assert (tmp_path / "a/b/x.txt").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(tmp_path / "a/b") == ["x.txt"]


def test_old_file_stays_whole_where_writing_fails(tmp_path):
    (tmp_path / "x").write_text("old")

    def fail():
        with replacement(tmp_path / "x") as aside:
            aside.write_text("half")
            assert (tmp_path / "x").read_text() == "old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_links_keep_pointing(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "second").symlink_to("link")
    (tmp_path / "dangling").symlink_to("new/file")
    for link in ("second", "dangling"):
        write_atomically(tmp_path / link, "new")
    assert (tmp_path / "target").read_text() == (tmp_path / "new/file").read_text() == "new"
    assert [str((tmp_path / name).readlink()) for name in ("link", "second")] == ["target", "link"]
    assert str((tmp_path / "dangling").readlink()) == "new/file"
    assert names(tmp_path) == ["dangling", "link", "new", "second", "target"]


def test_pipes_are_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=write_atomically, args=(tmp_path / "pipe", "through"), daemon=True)
    writer.start()
    with (tmp_path / "pipe").open() as reader:
        assert reader.read() == "through"
    writer.join(10)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert names(tmp_path) == ["pipe"]


@full
def test_devices_are_written_to(tmp_path):
    (tmp_path / "full").symlink_to(FULL)  # were it replaced, the machine would keep its own
    with pytest.raises(OSError, match=r"No space left on device: '.*/full'"):
        write_atomically(tmp_path / "full", "x")
    assert (tmp_path / "full").is_symlink()
    assert FULL.is_char_device()
    (tmp_path / "null").symlink_to(os.devnull)
    write_atomically(tmp_path / "null", "x")
    assert names(tmp_path) == ["full", "null"]


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="standard output has no name")
@pytest.mark.parametrize("place", ["stdout", "out.txt"])
def test_standard_output_is_appended_to_also_where_it_is_a_file(place, tmp_path):
    (tmp_path / "stdout").symlink_to("/dev/stdout")  # were it replaced, the machine would keep its own
    program = "import sys; from bcos_core.files import write_atomically as w\n"
    program += f"print('before', flush=True); w({place!r}, 'written\\n'); print('after')"
    with (tmp_path / "out.txt").open("wb") as stream:
        subprocess.run([sys.executable, "-c", program], stdout=stream, cwd=tmp_path, check=True)
    assert (tmp_path / "out.txt").read_text() == "before\nwritten\nafter\n"


def test_folder_is_an_error_that_names_it(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=r"Is a directory: '.*folder'"):
        write_atomically(tmp_path / "folder", "x")
    assert names(tmp_path) == ["folder"]


def test_place_that_cannot_be_written_is_named_as_it_was_given(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("bcos_core.files.os.open", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: '[^']*/x.json'$"):
        write_atomically(tmp_path / "x.json", "x")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_permissions_of_an_old_file_are_kept(mode, tmp_path):
    (tmp_path / "x").write_text("old")
    (tmp_path / "x").chmod(mode)
    with replacement(tmp_path / "x") as aside:
        assert not stat.S_IMODE(aside.stat().st_mode) & ~(mode | stat.S_IWUSR)  # nobody else reads it meanwhile
        aside.write_text("new")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode
    assert (tmp_path / "x").read_text() == "new"


def test_link_that_waits_beside_the_file_is_not_written_through(tmp_path):
    """Somebody else's folder may hold links under every name that a temporary file could have."""
    (tmp_path / "victim").write_text("mine")
    for name in (f".x.{os.getpid()}.tmp", f".x.{'0' * 8}.tmp"):
        (tmp_path / name).symlink_to("victim")
    write_atomically(tmp_path / "x", "new")
    assert (tmp_path / "victim").read_text() == "mine"


def test_only_what_a_killed_write_of_ours_left_is_removed(tmp_path):
    with replacement(tmp_path / "ours.json") as aside:
        left = aside.name
    kept = [".mine.tmp", ".ours.json.tmp", ".theirs.json.01ab.tmp", ".ours.json.zz.tmp"]
    for name in (left, ".ours.json.4711.tmp", *kept):
        (tmp_path / name).write_text("half")
    (tmp_path / ".ours.json.11.tmp").symlink_to("ours.json")
    (tmp_path / ".ours.json.12.tmp").mkdir()
    remove_asides(tmp_path, lambda name: name == "ours.json")
    assert names(tmp_path) == sorted([*kept, ".ours.json.11.tmp", ".ours.json.12.tmp", "ours.json"])
