"""Packing that is repeated, interrupted, killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace

import pytest
from PIL import Image

from bcos_cli.data.pack import LOCK_NAME, pack
from bcos_cli.data.sources import open_source
from bcos_cli.data.verify import verify
from bcos_cli.file_names import PROGRESS_NAME
from bcos_core import BcosError


def test_packing_again_changes_nothing_and_other_options_are_refused(tree, folder_source, tmp_path, files):
    source = folder_source(tree)
    first = pack(source, "t", tmp_path / "s", samples_per_shard=4, workers=1)
    before = files(tmp_path / "s")
    assert pack(source, "t", tmp_path / "s", samples_per_shard=4, workers=1) == first
    for options in ({"samples_per_shard": 5}, {"samples_per_shard": 4, "seed": 1}):
        with pytest.raises(BcosError, match="already holds other shards or files; give an empty folder"):
            pack(source, "t", tmp_path / "s", workers=1, **options)
    assert files(tmp_path / "s") == before


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_images_that_changed_in_their_place_are_not_taken_for_those_that_were_packed(kind, tree, tmp_path, files):
    def source():
        if kind == "folder":
            return open_source(str(tree))
        with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
            for path in sorted(tree.rglob("*.png")):
                archive.write(path, path.relative_to(tree))
        return open_source(str(tmp_path / "t.zip"))

    path = tree / "train/cat/1.png"
    content = path.read_bytes() + b"0"  # what follows a PNG is not read
    path.write_bytes(content)
    pack(source(), "t", tmp_path / "s", samples_per_shard=4, workers=1)
    before, status = files(tmp_path / "s"), path.stat()
    path.write_bytes(content[:-1] + b"1")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    with pytest.raises(BcosError, match=r"images have changed since they were packed into .* \(train-00000\d.tar\)"):
        pack(source(), "t", tmp_path / "s", samples_per_shard=4, workers=1)
    assert files(tmp_path / "s") == before
    path.write_bytes(content)
    assert pack(source(), "t", tmp_path / "s", samples_per_shard=4, workers=1).shards


def test_interrupted_packing_writes_shards_of_changed_images_anew(interrupted, tree, folder_source, tmp_path, files):
    remove_unnoted(interrupted)
    with tarfile.open(sorted(interrupted.glob("*.tar"))[0]) as tar:
        changed = tree / tar.getnames()[0]
    other = next(
        path for path in tree.rglob("*.png") if path != changed and len(path.read_bytes()) == changed.stat().st_size
    )
    changed.write_bytes(other.read_bytes())
    for name in ("s", "fresh"):
        pack(folder_source(tree), "t", tmp_path / name, samples_per_shard=2, workers=1)
    assert files(interrupted) == files(tmp_path / "fresh")


def test_images_skipped_once_are_packed_when_they_can_be_read(make_tree, folder_source, tmp_path):
    root = make_tree({"a/0.png": None, "a/1.png": b"x", "b/2.png": b"y"})
    options = {"samples_per_shard": 1, "workers": 1, "on_error": "skip"}
    index = pack(folder_source(root), "t", tmp_path / "s", **options)
    assert (len(index.skipped), len(index.shards)) == (2, 1)
    assert {image.reason.partition(":")[0] for image in index.skipped} == {"cannot be read"}
    assert pack(folder_source(root), "t", tmp_path / "s", **options) == index


def test_packing_that_fails_leaves_only_what_it_can_go_on_from(make_tree, folder_source, tmp_path):
    root = make_tree({"train/a/0.png": b"x", "train/b/0.png": b"x"})
    for _ in range(2):
        with pytest.raises(BcosError, match="2 of 2 images cannot be read"):
            pack(folder_source(root), "t", tmp_path / "s", workers=1)
        assert not (tmp_path / "s").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(BcosError, match="2 of 2 images cannot be read"):
        pack(folder_source(root), "t", tmp_path / "mine", workers=1)
    assert list((tmp_path / "mine").iterdir()) == []
    (root / "test" / "a").mkdir(parents=True)
    Image.new("L", (6, 6)).save(root / "test" / "a" / "0.png")
    with pytest.raises(BcosError, match="2 of 3 images cannot be read"):
        pack(folder_source(root), "t", tmp_path / "s", workers=1)
    assert {path.name for path in (tmp_path / "s").iterdir()} == {PROGRESS_NAME, "test-000000.tar"}


def test_folder_of_somebody_elses_tars_and_files_are_refused(tree, folder_source, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "theirs.tar").write_bytes(b"x")
    with pytest.raises(BcosError, match="already holds other shards"):
        pack(folder_source(tree), "t", tmp_path / "s", workers=1)
    (tmp_path / "f").write_text("x")
    with pytest.raises(BcosError, match="is a file; give a folder for the shards"):
        pack(folder_source(tree), "t", tmp_path / "f", workers=1)


def test_second_process_is_refused_while_one_packs(tree, folder_source, tmp_path, files):
    source = folder_source(tree)

    def pack_again(done, total):
        with pytest.raises(BcosError, match="another process is packing into"):
            pack(source, "t", tmp_path / "s", workers=1)

    pack(source, "t", tmp_path / "s", workers=1, on_progress=pack_again)
    assert LOCK_NAME not in files(tmp_path / "s")
    assert pack(source, "t", tmp_path / "s", workers=1).shards


def test_interrupted_packing_goes_on_where_it_stopped(tree, folder_source, tmp_path, files):
    source = folder_source(tree)
    pack(source, "t", tmp_path / "whole", samples_per_shard=2, workers=1)

    def stop(done, total):
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(source, "t", tmp_path / "s", samples_per_shard=2, workers=1, on_progress=stop)
    finished = {f["record"]["name"] for f in json.loads((tmp_path / "s" / PROGRESS_NAME).read_text())["finished"]}
    assert len(finished) == 2
    kept = {name: (tmp_path / "s" / name).stat().st_mtime_ns for name in finished}
    (tmp_path / "s" / f".{PROGRESS_NAME}.1.tmp").write_text("half")
    (tmp_path / "s" / sorted(finished)[0]).write_bytes(b"half")  # recorded, but damaged since
    pack(source, "t", tmp_path / "s", samples_per_shard=2, workers=1)
    assert files(tmp_path / "s") == files(tmp_path / "whole")
    name = sorted(finished)[1]
    assert (tmp_path / "s" / name).stat().st_mtime_ns == kept[name]


@pytest.fixture
def interrupted(tree, folder_source, tmp_path):
    """A folder with two of ten shards, and what was noted of them."""

    def stop(done, total):
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(folder_source(tree), "t", tmp_path / "s", samples_per_shard=2, workers=1, on_progress=stop)
    return tmp_path / "s"


def remove_unnoted(folder):
    noted = [f["record"]["name"] for f in json.loads((folder / PROGRESS_NAME).read_text())["finished"]]
    for path in folder.glob("*.tar"):
        if path.name not in noted:
            path.unlink()
    assert len(noted) == 2


def test_other_packing_replaces_what_an_interrupted_one_noted_and_nothing_else(
    interrupted, tree, folder_source, tmp_path, files
):
    remove_unnoted(interrupted)
    (interrupted / "notes.txt").write_text("mine")
    (interrupted / ".train-000000.tar.backup.tmp").write_text("mine")
    (interrupted / f".train-000003.tar.{'0a' * 4}.tmp").write_text("half")
    pack(folder_source(tree), "t", interrupted, samples_per_shard=4, workers=1)
    pack(folder_source(tree), "t", tmp_path / "fresh", samples_per_shard=4, workers=1)
    mine = {"notes.txt": b"mine", ".train-000000.tar.backup.tmp": b"mine"}
    assert files(interrupted) == files(tmp_path / "fresh") | mine


@pytest.mark.parametrize("change", ["content", "link"])
def test_shard_that_is_not_what_was_noted_stays(change, interrupted, tree, folder_source, tmp_path):
    remove_unnoted(interrupted)
    path, other = sorted(interrupted.glob("*.tar"))
    if change == "content":
        path.write_bytes(bytes(path.stat().st_size))
    else:
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
    before = path.read_bytes()
    with pytest.raises(BcosError, match="already holds other shards or files"):
        pack(folder_source(tree), "t", interrupted, samples_per_shard=4, workers=1)
    assert path.read_bytes() == before
    assert other.exists()


def test_shard_that_was_not_noted_keeps_another_packing_away_and_all_stay(interrupted, tree, folder_source, files):
    before = files(interrupted)
    with pytest.raises(BcosError, match="already holds other shards or files"):
        pack(folder_source(tree), "t", interrupted, samples_per_shard=4, workers=1)
    assert files(interrupted) == before


@pytest.mark.parametrize("name", ["../victim.txt", "victim.txt", "../victim-000000.tar", "/tmp/x-000000.tar", ""])
@pytest.mark.parametrize("same", [False, True])
def test_note_that_names_what_no_packing_writes_removes_nothing(name, same, interrupted, tree, folder_source, tmp_path):
    for victim in (tmp_path / "victim.txt", interrupted / "victim.txt", tmp_path / "victim-000000.tar"):
        victim.write_bytes(b"")
    note = interrupted / PROGRESS_NAME
    progress = json.loads(note.read_text())
    empty = hashlib.sha256(b"").hexdigest()
    record = {"name": name, "split": "train", "samples": 1, "bytes": 0, "sha256": empty}
    progress["finished"] = [{"record": record, "skipped": []}]
    note.write_text(json.dumps(progress if same else {**progress, "fingerprint": "another"}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BcosError, match=r"\.packing\.json' is not what an interrupted packing leaves there"):
        pack(folder_source(tree), "t", interrupted, samples_per_shard=2, workers=1)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", [b"", b"no JSON", b"\xff\xfe", b"[" * 100_000, b'{"fingerprint": 1}', b"{}", None])
def test_note_that_cannot_be_read_is_one_line(content, tree, folder_source, tmp_path):
    (tmp_path / "s").mkdir()
    note = tmp_path / "s" / PROGRESS_NAME
    note.symlink_to(tmp_path / "elsewhere") if content is None else note.write_bytes(content)
    with pytest.raises(BcosError, match=r"give another folder, or remove that file$"):
        pack(folder_source(tree), "t", tmp_path / "s", workers=1)
    assert not (tmp_path / "elsewhere").exists()


def test_folder_without_a_note_keeps_its_files(tree, folder_source, tmp_path):
    (tmp_path / "s").mkdir()
    theirs = tmp_path / "s" / ".theirs-000000.tar.1.tmp"
    theirs.write_text("theirs")
    pack(folder_source(tree), "t", tmp_path / "s", workers=1)
    assert theirs.read_text() == "theirs"


@pytest.mark.parametrize("split", ["../x", "a/b", "a\\b", ""])
def test_split_that_would_name_a_file_elsewhere_is_refused(split, tree, folder_source, tmp_path):
    source = folder_source(tree)
    source.items[:] = [replace(item, split=split) for item in source.items]
    with pytest.raises(BcosError, match="the images cannot be packed: the split "):
        pack(source, "t", tmp_path / "s", workers=1)
    assert not (tmp_path / "s").exists()


UNGUARDED = """
import sys
from pathlib import Path
from bcos_cli.data.pack import pack
from bcos_cli.data.sources import open_source

print(pack(open_source(sys.argv[1]), "t", Path(sys.argv[2]), samples_per_shard=2, workers=2).samples("train"))
"""


@pytest.mark.slow
def test_script_may_pack_in_several_processes_without_a_guard(tree, tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    command = [sys.executable, str(tmp_path / "script.py"), str(tree), str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")


SLOW_PACK = """
import sys, time
from pathlib import Path
from bcos_cli.data import pack as module
from bcos_cli.data.sources import open_source
from bcos_cli.data.sources.folder import FolderSource

class Slow(FolderSource):
    def read(self, item):
        time.sleep(0.02)
        return super().read(item)

if __name__ == "__main__":
    s = open_source(sys.argv[1])
    slow, out = Slow(s.root, s.classes, s.items), Path(sys.argv[2])
    module.pack(slow, "t", out, samples_per_shard=2, workers=int(sys.argv[3]))
"""


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_packing_leaves_whole_shards_only_and_is_resumed(workers, tree, tmp_path, files):
    source = open_source(str(tree))
    pack(source, "t", tmp_path / "whole", samples_per_shard=2, workers=1)
    whole = files(tmp_path / "whole")
    script, out = tmp_path / "slow_pack.py", tmp_path / "s"
    script.write_text(SLOW_PACK)
    process = subprocess.Popen([sys.executable, str(script), str(tree), str(out), str(workers)], start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.tar"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    written = {p.name: p.read_bytes() for p in out.glob("*.tar")}
    assert 2 <= len(written) < 10
    assert not (out / "index.json").exists()
    assert all(whole[name] == content for name, content in written.items())
    index = pack(source, "t", out, samples_per_shard=2, workers=1)
    assert files(out) == whole
    assert verify(out, index) == []
