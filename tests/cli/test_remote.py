"""Shards behind a URL, from a server of the test's own."""

import shutil

import numpy as np
import pytest
from http_server import serving

from bcos_cli.data.index import load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.data.pack import pack
from bcos_cli.data.sources import ArraySource, ImageItem, encode_png
from bcos_core import BcosError
from bcos_models import InputSpec

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads http through curl")


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


def test_missing_index_is_one_line_that_says_what_to_do(served):
    with pytest.raises(BcosError, match=r"there are no shards at '.*/nothing' .*bcos shards pack SOURCE DESTINATION"):
        load_index(f"{served}/nothing")
