"""Tar files: whatever loaders cannot read, checks do not agree with, and neither waits nor fills the memory."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
import time
from pathlib import Path

import pytest
from webdataset.tariterators import group_by_keys, tar_file_expander

from bcos_cli.data import samples as samples_module
from bcos_cli.data.index import load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.data.samples import read_samples
from bcos_cli.data.sources import encode_png
from bcos_cli.data.verify import scan_shard, verify
from bcos_core import BcosError
from bcos_models import InputSpec

PNG = encode_png([[100] * 8] * 8)


def header(name, size, kind=tarfile.REGTYPE, **values):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in values.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name, data):
    return header(name, len(data)) + data + bytes(-len(data) % 512)


def tar(*members, end=bytes(1024)):
    return b"".join(members) + end


def sample(key, label=b"0", image=PNG):
    return member(f"{key}.png", image) + member(f"{key}.cls", label)


TWO = (sample("a"), sample("b", b"1"))


@pytest.fixture
def shard(tmp_path):
    """A folder whose index says that the only shard has these bytes and two samples."""

    def make(content, samples=2):
        (tmp_path / "t.tar").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        record = {"name": "t.tar", "split": "s", "samples": samples, "bytes": len(content), "sha256": digest}
        index = {"source": "", "fingerprint": "", "classes": ["x", "y"], "shards": [record]}
        (tmp_path / "index.json").write_text(json.dumps(index))
        return str(tmp_path)

    return make


def load(folder):
    batches = make_batches(folder, load_index(folder), "s", InputSpec(size=8, resize=None), batch_size=2)
    return [label for _, labels, _ in batches.epoch(0) for label in labels.tolist()]


GOOD = {
    "plain": tar(*TWO),
    "gzip": gzip.compress(tar(*TWO)),
    "bzip2": bz2.compress(tar(*TWO)),
    "xz": lzma.compress(tar(*TWO)),
    "no end": tar(*TWO, end=b""),
    "folders, links and notes": tar(
        header("d", 0, tarfile.DIRTYPE),
        header("l", 0, tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("__index__", b"x"),
        member("README", b"no suffix"),
        *TWO,
    ),
    "other suffixes": tar(member("a.PNG", PNG), member("a.cls", b" 0\n"), *TWO[1:]),
}


@pytest.mark.parametrize("kind", GOOD)
def test_what_loaders_read_is_agreed_with(kind, shard):
    folder = shard(GOOD[kind])
    assert load(folder) == [0, 1]
    assert verify(folder, load_index(folder)) == []


BAD = {
    "no image": (tar(member("a.cls", b"0"), TWO[1]), "the sample 'a': it needs an image and a .cls file, has ['cls']"),
    "no label": (tar(member("a.png", PNG), TWO[1]), "the sample 'a': it needs an image and a .cls file, has ['png']"),
    "no sample": (tar(member("z.txt", b"0"), *TWO), "the sample 'z': it needs an image and a .cls file, has ['txt']"),
    "no picture": (tar(sample("a", image=b"no image"), TWO[1]), "cannot be read"),
    "half a picture": (tar(sample("a", image=PNG[:45]), TWO[1]), "cannot be read"),
    "twice": (tar(sample("a"), *TWO), "is damaged after 0 samples (a.png: duplicate file name in tar file png"),
    "no tar": (b"hello" * 1000, "is damaged after 0 samples (invalid header)"),
    "cut off": (tar(*TWO)[:2100], "is damaged after 0 samples (truncated header)"),
    "bad header": (tar(TWO[0], b"x" * 512, TWO[1]), "is damaged after 0 samples (invalid header)"),
    "half a header": (tar(*TWO, end=b"x" * 100), "is damaged after 1 samples (truncated header)"),
    "a terabyte": (tar(TWO[0], header("c.png", 1 << 40), TWO[1]), "'c.png' claims 1,099,511,627,776 bytes"),
    "a terabyte skipped": (tar(TWO[0], header("__c__", 1 << 40), TWO[1]), "'__c__' claims 1,099,511,627,776 bytes"),
    "a terabyte unknown": (tar(TWO[0], header("c", 1 << 40, b"Q"), TWO[1]), "'c' claims 1,099,511,627,776 bytes"),
    "a terabyte of name": (tar(TWO[0], header("c", 1 << 40, b"L"), TWO[1]), "'c' claims 1,099,511,627,776 bytes"),
    "less than nothing": (tar(TWO[0], header("c.png", -1024), TWO[1]), "'c.png' claims -1,024 bytes"),
    "label of 5,000 digits": (tar(sample("a", b"1" * 5000), TWO[1]), "a .cls file must hold class indices, got b'111"),
    "label of spaces": (tar(sample("a", b" " * 10**6 + b"x"), TWO[1]), "a .cls file must hold class indices, got b'"),
    "label that is not a class": (tar(sample("a", b"2"), TWO[1]), "class index 2, there are 2 classes"),
    "gzip cut off": (gzip.compress(tar(*TWO))[:-30], "is damaged after "),
    "gzip changed": (gzip.compress(tar(*TWO))[:30] + bytes(50), "is damaged after 0 samples ("),
    "one more": (tar(*TWO, sample("c")), "has 3 samples, the index says 2"),
    "one less": (tar(TWO[0]), "has 1 samples, the index says 2"),
}


def pax(size):
    """A sample whose size stands in an extended header."""
    record = f"{len(f'00 size={size}') + 1} size={size}\n".encode()
    return header("x", len(record), tarfile.XHDTYPE) + record + bytes(-len(record) % 512) + header("c.png", 0)


def sparse(size):
    """A file of holes alone."""
    info = bytearray(header("c.png", 0, tarfile.GNUTYPE_SPARSE))
    info[483:495] = (0o200 << 88 | size).to_bytes(12, "big")
    info[148:156] = b" " * 8
    info[148:156] = b"%06o\0 " % sum(info)
    return bytes(info)


BAD["a terabyte in an extension"] = (tar(TWO[0], pax(1 << 40), TWO[1]), "'c.png' claims 1,099,511,627,776 bytes")
BAD["a terabyte of holes"] = (tar(TWO[0], sparse(1 << 40), TWO[1]), "'c.png' claims 1,099,511,627,776 bytes")
BAD["names of names"] = (tar(*[header("x", 0, b"L")] * 5000, *TWO), "is damaged after 0 samples (maximum recursion")


@pytest.mark.parametrize("kind", BAD)
def test_what_loaders_cannot_read_is_not_agreed_with(kind, shard):
    content, message = BAD[kind]
    folder = shard(content)
    begun = time.monotonic()
    with pytest.raises(BcosError, match=r"check it with: bcos shards verify|cannot be read") as error:
        load(folder)
    (problem,) = verify(folder, load_index(folder))
    assert message in problem
    assert time.monotonic() - begun < 5
    assert len(str(error.value)) < 700
    assert len(problem) < 700


def test_a_bomb_is_bounded(shard, monkeypatch):
    monkeypatch.setattr(samples_module, "LARGEST", 1 << 20)
    endless = bz2.compress(tar(TWO[0], *[header(f"d{i}", 0, tarfile.DIRTYPE) for i in range(3000)], TWO[1]))
    folder = shard(endless)
    (problem,) = verify(folder, load_index(folder))
    assert problem == "t.tar: is damaged after 0 samples (more than 1,048,576 bytes follow the sample 'a')"
    large = bz2.compress(tar(TWO[0], *[member(f"b.{i}", bytes(1 << 18)) for i in range(5)]))
    (problem,) = verify(shard(large), load_index(folder))
    assert "more than 1,048,576 bytes follow the sample 'b'" in problem


def test_more_samples_than_bytes_end(shard):
    one = header("a.png", 0) + header("b.png", 0)
    content = bz2.compress(one * 5000)
    assert len(content) < 1000
    found = scan_shard(f"{shard(content)}/t.tar")
    assert found.samples == len(content) + 1
    assert found.sha256 == hashlib.sha256(content).hexdigest()


def test_images_are_decoded_where_wanted(shard, bcos):
    folder = shard(tar(sample("a", image=b"no image"), TWO[1]))
    assert bcos("shards", "verify", folder)[0] == 1
    assert bcos("shards", "verify", folder, "--no-images")[0] == 0


def test_samples_are_those_of_webdataset(shards):
    content = Path(shards, "train-000000.tar").read_bytes()
    expected = group_by_keys(tar_file_expander([{"url": "u", "stream": io.BytesIO(content)}]))
    assert list(read_samples("u", io.BytesIO(content))) == list(expected)
