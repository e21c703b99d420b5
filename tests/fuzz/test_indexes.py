"""``index.json``, from anybody."""

import pytest
from mutations import json_files

from bcos_cli.data.index import load_index
from bcos_cli.data.verify import verify

SHARD = {
    "name": "train-000000.tar",
    "split": "train",
    "samples": 2,
    "bytes": 10240,
    "sha256": "0" * 64,
    "class_counts": {"0": 1, "1": 1},
}
INDEX = {
    "format_version": 1,
    "source": "photos",
    "fingerprint": "0" * 64,
    "classes": ["cat", "dog"],
    "multi_label": False,
    "shards": [SHARD, {**SHARD, "name": "test-000000.tar", "split": "test"}],
    "skipped": [{"path": "a.png", "reason": "damaged"}],
}


@pytest.fixture(scope="module", autouse=True)
def tars(folder):
    for shard in INDEX["shards"]:
        (folder / shard["name"]).write_bytes(bytes(10240))


def test_an_index_is_read_or_refused_in_one_line(fuzz, folder):
    def read(content):
        (folder / "index.json").write_bytes(content)
        index = load_index(str(folder))
        for split in index.splits():
            assert index.samples(split) > 0
            index.class_counts(split)
        for problem in verify(folder, index):
            assert "\n" not in problem

    fuzz(read, json_files(INDEX), examples=250)
