"""Shards behind a URL, from a server of the test's own."""

import os

import numpy as np
import pytest
from http_server import serving

from bcos_cli.data.index import load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.data.pack import pack
from bcos_cli.data.sources import ArraySource, ImageItem, encode_png
from bcos_cli.data.verify import verify
from bcos_core import BcosError
from bcos_models import InputSpec


@pytest.fixture
def served(tmp_path):
    folder = tmp_path / "shards"
    items = [ImageItem(f"{i}.png", "train", i % 2) for i in range(12)]
    pngs = {item.path: encode_png(np.full((8, 8, 3), 20 * i)) for i, item in enumerate(items)}
    pack(ArraySource(["even", "odd"], items, pngs), "s", folder, samples_per_shard=5, workers=1)
    with serving(folder) as server:
        yield server.url


def test_shards_are_read_over_http(served):
    index = load_index(served)
    split = index.splits()[0]
    batches = make_batches(served, index, split, InputSpec(size=8, resize=None), batch_size=5)
    positions = [p for _, _, batch in batches.epoch(0) for p in batch.tolist()]
    assert positions == list(range(index.samples(split)))


def test_bucket_is_read_with_the_command_line_of_its_owner(tmp_path, monkeypatch):
    folder = tmp_path / "a bucket" / "shards"
    items = [ImageItem(f"{i}.png", "train", i % 2) for i in range(6)]
    pngs = {item.path: encode_png(np.full((8, 8, 3), 20 * i)) for i, item in enumerate(items)}
    pack(ArraySource(["even", "odd"], items, pngs), "s", folder, samples_per_shard=4, workers=1)
    aws = tmp_path / "bin" / "aws"
    aws.parent.mkdir()
    aws.write_text(f'#!/bin/bash\n[ "$1 $2 $4" = "s3 cp -" ] && exec cat "{tmp_path}/${{3#s3://}}"\n')
    aws.chmod(0o755)
    monkeypatch.setenv("PATH", f"{aws.parent}:{os.environ['PATH']}")
    url = "s3://a bucket/shards"
    index = load_index(url)
    batches = make_batches(url, index, "train", InputSpec(size=8, resize=None), batch_size=4)
    assert [p for _, _, batch in batches.epoch(0) for p in batch.tolist()] == list(range(6))
    assert verify(url, index) == []
    with pytest.raises(BcosError, match="there are no shards at 's3://nothing' "):
        load_index("s3://nothing")


def test_address_of_an_unknown_kind_is_one_line():
    with pytest.raises(BcosError, match=r"no shards at 'abc://x' .*abc: is not a known kind of address; use http"):
        load_index("abc://x")


def test_missing_index_is_one_line_that_says_what_to_do(served):
    with pytest.raises(BcosError, match=r"there are no shards at '.*/nothing' .*bcos shards pack SOURCE DESTINATION"):
        load_index(f"{served}/nothing")
