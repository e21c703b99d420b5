"""Shards, from anybody: as loaders read them, and as ``bcos shards verify`` and ``index`` do."""

import gzip
import io
import random
import tarfile

import pytest
import torch
from hypothesis import strategies as st
from mutations import HOSTILE, damaged
from PIL import Image

from bcos_cli.data.augmentation import BytesTransform
from bcos_cli.data.pixels import Pixels
from bcos_cli.data.sample_order import Drawing, SampleOrder
from bcos_cli.data.shards import Shards
from bcos_cli.data.stream import Labelling, ShardStream
from bcos_cli.data.verify import scan_shard
from bcos_core.errors import BcosError


def png():
    stream = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(stream, "PNG")
    return stream.getvalue()


def tar(members, format=tarfile.PAX_FORMAT, pax=None):
    """A tar file of (name, content, changes of the header)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format, pax_headers=pax, encoding="utf-8") as file:
        for name, content, changes in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(content))
    return stream.getvalue()


PNG = png()
SAMPLES = [(f"{i}.{end}", content, {}) for i in range(3) for end, content in (("png", PNG), ("cls", b"1"))]
LONG = [(f"{'long/' * 40}{name}", content, {}) for name, content, _ in SAMPLES]
VALID = [
    tar(SAMPLES),
    tar(SAMPLES, tarfile.USTAR_FORMAT),
    tar(LONG, tarfile.GNU_FORMAT),
    tar(LONG, tarfile.PAX_FORMAT),
    gzip.compress(tar(SAMPLES)),
    tar([]),
]
_names = st.sampled_from(
    [text.replace("\x00", "?").replace("\ud800", "?") for text in HOSTILE if isinstance(text, str)]
    + ["0.png", "0.cls", "0.CLS", "a/0.jpg", "./0.png", ".png", "__a__", "0.__key__", "0.position", "a.b.c", "a/.cls"]
)
_types = st.sampled_from([tarfile.REGTYPE] * 6 + [bytes([k]) for k in b"\x00123456789SLKxgXV"])
_headers = st.fixed_dictionaries(
    {},
    optional={
        "type": _types,
        "linkname": _names,
        "mode": st.integers(0, 0o7777),
        "mtime": st.sampled_from([0, -1, 2**31, 2**40]),
        "pax_headers": st.dictionaries(
            st.sampled_from(["path", "size", "linkpath", "GNU.sparse.size", "GNU.sparse.major", "GNU.sparse.map", "a"]),
            st.sampled_from(["", "1", "-1", "99999999999", "nan", "a", "../secret.txt", "0,1,2", "a\nb"]),
            max_size=2,
        ),
    },
)
_contents = st.sampled_from([PNG, b"0", b"1", b"2", b"9", b"-1", b"1 2", b"", b"\xff", b"1" * 5000, bytes(2000)])
_members = st.lists(st.tuples(_names, _contents, _headers), max_size=6)
_built = st.builds(tar, _members, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))


def _streams(path):
    shards = Shards([str(path)], [3])
    whole = BytesTransform(Pixels(3), torch.nn.Identity(), is_random=False)
    for decoder in ("pillow", "torchvision"):
        for several in (False, True):
            for drawing in (None, Drawing(shuffle=4)):
                for skip in (False, True):
                    transform = BytesTransform(whole.pixels, _Pixels(), False, decoder)
                    order = SampleOrder(shards, batch_size=2, drawing=drawing)
                    yield ShardStream(order, transform, Labelling(3, several), skip=skip)


class _Pixels(torch.nn.Module):
    def forward(self, image):
        return torch.zeros(3, 2, 2)


def test_a_shard_is_scanned_or_refused_in_one_line(fuzz, folder):
    def read(content):
        (folder / "a.tar").write_bytes(content)
        scan = scan_shard(str(folder / "a.tar"), 3)
        assert scan.bytes == len(content)
        assert scan.problem is None or ("\n" not in scan.problem and len(scan.problem) < 2000)

    fuzz(read, damaged(VALID) | _built, examples=250)


def test_loaders_read_a_shard_or_refuse_it_in_one_line(fuzz, folder):
    chance = random.Random(0)

    def read(content):
        (folder / "a.tar").write_bytes(content)
        for stream in chance.sample(list(_streams(folder / "a.tar")), 3):
            list(stream)

    fuzz(read, damaged(VALID) | _built, examples=80)


def test_the_valid_shards_are_read(folder):
    for content in VALID[:-1]:
        (folder / "a.tar").write_bytes(content)
        assert all(len(list(stream)) >= 2 for stream in _streams(folder / "a.tar"))
    (folder / "a.tar").write_bytes(VALID[-1])
    for stream in _streams(folder / "a.tar"):
        if not stream.skip:
            with pytest.raises(BcosError, match="ends after 0 samples"):
                list(stream)
