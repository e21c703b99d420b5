"""What an index may name: files of its folder, addresses of its host; never a command."""

import json
import os
import shutil

import pytest

from bcos_cli.data.address import shard_address
from bcos_cli.data.index import load_index
from bcos_cli.data.pack import pack
from bcos_cli.data.remote import open_url
from bcos_cli.data.sources import ArraySource, ImageItem
from bcos_cli.evaluate.evaluation import evaluate_shards
from bcos_cli.evaluate.options import EvaluationOptions
from bcos_cli.explain.shard_maps import MapOptions, explain_shards
from bcos_cli.train.model import build
from bcos_core import BcosError
from bcos_core.address import is_address


@pytest.mark.parametrize(
    ("index", "name", "address"),
    [
        ("d/index.json", "a.tar", "d/a.tar"),
        ("d/index.json", "./deep//a.tar", "d/deep/a.tar"),
        ("/index.json", "a.tar", "/a.tar"),
        ("file:/x%20y/index.json", "a%2e.tar", "/x y/a%2e.tar"),
        ("d/index.json", "a{1,2}[3]*?$(touch x);`b`.tar", "d/a{1,2}[3]*?$(touch x);`b`.tar"),
        ("http://h/d/index.json", "a b.tar", "http://h/d/a%20b.tar"),
        ("http://h/d/index.json", "%2e%2e/a{1,2}?x#y.tar", "http://h/d/%252e%252e/a%7B1%2C2%7D%3Fx%23y.tar"),
        ("http://h/d/index.json", "HTTP://H/e/a.tar", "HTTP://H/e/a.tar"),
        ("s3://b/d/index.json", "s3://b/a.tar", "s3://b/a.tar"),
        ("s3://b/d/index.json", "$(touch x) 'y'.tar", "s3://b/d/$(touch x) 'y'.tar"),
        ("gs://b/d/index.json", "ä b.tar", "gs://b/d/ä b.tar"),
        ("pipe:cat d/index.json", "a-0_1.tar", "pipe:cat d/a-0_1.tar"),
    ],
)
def test_each_character_of_a_name_stands_for_itself(index, name, address):
    assert shard_address(index, name) == address


@pytest.mark.parametrize(
    "index", ["d/index.json", "http://h/d/index.json", "s3://b/index.json", "pipe:cat d/index.json"]
)
@pytest.mark.parametrize(
    "name",
    [
        "pipe:touch x; cat a.tar",
        "PIPE:touch x",
        " pipe:touch x",
        "pi\npe:touch x",
        "file:/etc/passwd",
        "file:a.tar",
        "/etc/passwd",
        "../a.tar",
        "a/../../b.tar",
        "a/..",
        "C:/a.tar",
        "C:a.tar",
        "a\\..\\b.tar",
        "\\\\host\\share\\a.tar",
        "http://other/a.tar",
        "http://h:8080/a.tar",
        "http://user@h/a.tar",
        "http://[",
        "http://h/d/../../a.tar",
        "s3://b/../a.tar",
        "https://h/a.tar",
        "ftp://h/a.tar",
        "gs://b/a.tar",
        "s3://other/a.tar",
        "s3:a.tar",
        "hf://datasets/a/b/c.tar",
        "zip::x.tar",
        "a\x00.tar",
        "a\x1b[2J.tar",
        "a" * 1001,
        "",
    ],
)
def test_a_name_cannot_lead_elsewhere(index, name):
    with pytest.raises(BcosError, match=r"names the shard .*; an index may name files in its own folder or") as error:
        shard_address(index, name)
    assert len(str(error.value)) < 600
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "name", ["a;touch x", "a b", "$(touch x)", "a|b", "a&b", "`x`", "a>b", "~x", "a@b", "a*", "{a,b}"]
)
def test_a_name_is_no_part_of_a_command(name):
    with pytest.raises(BcosError, match="which a command or a pattern could be hidden in"):
        shard_address("pipe:cat d/index.json", name)


@pytest.mark.parametrize("name", ["*", "a?.tar", "a[1].tar", "a.tar#12", "gs://b/*", "{a,b}"])
def test_a_name_is_no_pattern_where_the_program_would_expand_it(name):
    with pytest.raises(BcosError, match="could be a pattern for several files"):
        shard_address("gs://b/d/index.json", name)


def test_paths_are_told_from_addresses():
    assert [is_address(x) for x in ("s3://b", "pipe:cat x", "http://h")] == [True] * 3
    assert not any(map(is_address, ("a/b.tar", "C:/a", "./pipe:x", "-", "")))


@pytest.fixture
def copied(shards, tmp_path):
    folder = tmp_path / "d"
    shutil.copytree(shards, folder)
    return folder


def named(folder, name, number=0):
    """Let the index of a folder call a shard `name`."""
    index = json.loads((folder / "index.json").read_text())
    index["shards"][number]["name"] = name
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "command",
    [
        ["shards", "info", "d"],
        ["shards", "verify", "d"],
        ["shards", "index", "d"],
        ["train", "cifar10_resnet20", "--data", "d", "--out", "run"],
        ["doctor", "cifar10_resnet20", "--data", "d"],
    ],
)
def test_an_index_cannot_run_a_command(command, copied, tmp_path, bcos):
    named(copied, "pipe:touch x; cat d/train-000000.tar")
    status, out, err = bcos(*command)
    assert status == 2, (out, err)
    assert "names the shard 'pipe:touch x; cat d/train-000000.tar', which is a command" in err + out
    assert not (tmp_path / "x").exists()


def test_scores_and_maps_run_no_command_either(copied, recipe, tmp_path):
    named(copied, "pipe:touch x; cat d/test-000000.tar", -1)
    trained = build(recipe(), ["rows", "columns", "corner"])
    for use in (
        lambda: evaluate_shards(trained, "d", EvaluationOptions(metrics=("top1",), workers=0)),
        lambda: evaluate_shards(trained, "d", EvaluationOptions(metrics=("completeness",), workers=0)),
        lambda: explain_shards(trained, "d", tmp_path / "maps", MapOptions(), workers=0),
    ):
        with pytest.raises(BcosError, match="which is a command"):
            use()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d"]


def test_a_bucket_is_asked_without_a_shell(tmp_path, monkeypatch):
    aws = tmp_path / "bin" / "aws"
    aws.parent.mkdir()
    aws.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > "{tmp_path}/asked"\nprintf content\n')
    aws.chmod(0o755)
    monkeypatch.setenv("PATH", f"{aws.parent}:/usr/bin:/bin")
    address = shard_address("s3://b/index.json", "$(touch x) 'y;touch z'.tar")
    with open_url(address) as stream:
        assert stream.read() == b"content"
    assert (tmp_path / "asked").read_text().splitlines() == ["s3", "cp", address, "-"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["asked", "bin"]


def test_an_index_finds_its_shards_where_the_user_says(copied, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (copied / "index.json").rename(tmp_path / "here" / "index.json")
    monkeypatch.setenv("GOPEN_REWRITE", f"file:{copied}/index.json={tmp_path}/here/index.json")
    assert load_index(f"file:{copied}").splits() == ["train", "test"]


def test_a_shard_listed_twice_is_refused(copied):
    index = load_index(str(copied))
    first, second = index.shards[:2]
    for name in (second.name, f"./{second.name}", f".//./{second.name}"):
        named(copied, name)
        with pytest.raises(BcosError, match=f"the split 'train' has the shard '{copied}/{second.name}' twice"):
            load_index(str(copied))
    named(copied, first.name)
    assert load_index(str(copied)) == index


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_what_is_not_a_regular_file_is_refused_and_not_waited_for(kind, copied, bcos, line):
    for name in ("train-000000.tar", "index.json"):
        path = copied / name
        path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
        with pytest.raises(OSError, match="is not a regular file"):
            open_url(str(path))
        status, _, err = bcos("shards", "verify", copied)
        assert "is not a regular file" in err
        assert status == (1 if name != "index.json" else 2)


def test_a_table_cannot_name_a_split_outside(tmp_path):
    source = ArraySource(["a"], [ImageItem("0.png", "../out", 0)], {"0.png": b""})
    with pytest.raises(BcosError, match=r"cannot be packed: the split '../out' has a slash; name it otherwise"):
        pack(source, "s", tmp_path / "s", workers=1)
    assert not (tmp_path / "s").exists()
    twice = ArraySource(["crane", "crane"], [ImageItem("0.png", "train", 0)], {"0.png": b""})
    with pytest.raises(BcosError, match=r"cannot be packed: .*two classes are called 'crane'"):
        pack(twice, "s", tmp_path / "s", workers=1)
