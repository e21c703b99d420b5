"""Packing that is repeated, interrupted, killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from bcos_cli.data.pack import PROGRESS_NAME, pack
from bcos_cli.data.sources import open_source
from bcos_cli.data.verify import verify
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


def test_folder_of_somebody_elses_tars_and_files_are_refused(tree, folder_source, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "theirs.tar").write_bytes(b"x")
    with pytest.raises(BcosError, match="already holds other shards"):
        pack(folder_source(tree), "t", tmp_path / "s", workers=1)
    (tmp_path / "f").write_text("x")
    with pytest.raises(BcosError, match="is a file; give a folder for the shards"):
        pack(folder_source(tree), "t", tmp_path / "f", workers=1)


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


SLOW_PACK = """
import sys, time
from pathlib import Path
from bcos_cli.data import pack as module
from bcos_cli.data.sources import FolderSource, open_source

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
