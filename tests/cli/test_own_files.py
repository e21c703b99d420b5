"""People's own files: nothing of them is lost, overwritten or passed over without a word."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file

import bcos_cli.explain.files
from bcos_cli.data.pack import pack
from bcos_cli.data.sources import encode_png, open_source
from bcos_cli.data.sources.source import split_off_test, warnings_of
from bcos_cli.data.sources.table import LabelTable
from bcos_cli.data.verify import scan_shard
from bcos_cli.explain.image_files import find_images
from bcos_cli.explain.shard_maps import MapOptions, explain_shards
from bcos_cli.explain.targets import slugs
from bcos_cli.folder_lock import LOCK_NAME
from bcos_cli.train.model import build
from bcos_core import BcosError
from bcos_models import load_trained


@pytest.fixture
def network(recipe, tmp_path):
    build(recipe(), ["rows", "columns", "corner"]).save(tmp_path / "model.safetensors")
    return "model.safetensors"


@pytest.fixture
def photo(tmp_path):
    Image.new("L", (8, 8), 90).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


# Names


def test_names_of_files_fit_into_what_file_systems_allow(network, bcos, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("猫" * 80, "猫" * 80 + "2"):
        Image.new("L", (8, 8), 90).save(folder / f"{name[-80:]}.png")
    assert bcos("explain", network, folder, "--out", "out")[0] == 0
    files, _ = find_images([str(folder)])
    assert len({file.name for file in files}) == 2
    assert max(len(file.name.encode()) for file in files) <= 82  # with the number of the second
    long = slugs(["犬" * 100 + "a", "犬" * 100 + "b"])
    assert len(set(long)) == 2
    assert max(len(slug.encode()) for slug in long) < 50


def test_names_that_are_no_text_have_a_split_too(make_tree):
    root = make_tree([f"{c}/{i}.png" for c in "ab" for i in range(4)])
    (root / "a" / "0.png").rename(os.fsdecode(os.fsencode(root) + b"/a/na\xffme.png"))
    items = open_source(str(root)).items
    assert {item.split for item in split_off_test(items, 0.5)} == {"train", "test"}


# What was begun goes on


def test_failed_explaining_leaves_records_of_what_there_is_and_goes_on(network, photo, tmp_path, monkeypatch):
    Image.new("L", (8, 8), 30).save(tmp_path / "second.png")
    files, _ = find_images([str(photo), str(tmp_path / "second.png")])
    write = bcos_cli.explain.files.Writer.write
    calls = []

    def full_disk(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", "out")
        return write(*arguments)

    monkeypatch.setattr(bcos_cli.explain.files.Writer, "write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        bcos_cli.explain.files.explain_files(network, files, tmp_path / "out")
    records = json.loads((tmp_path / "out/explanations.json").read_text())
    assert (records["finished"], len(records["explanations"])) == (False, 1)
    bcos_cli.explain.files.explain_files(network, files, tmp_path / "out")
    records = json.loads((tmp_path / "out/explanations.json").read_text())
    assert (records["finished"], len(records["explanations"])) == (True, 2)


def test_explaining_that_fails_at_once_leaves_no_folder(network, photo, bcos, line, tmp_path):
    assert "attention rollout" in line(bcos("explain", network, photo, "--method", "attention_rollout", "--out", "out"))
    assert not (tmp_path / "out").exists()


def test_maps_that_were_killed_in_their_first_shard_go_on(network, shards, tmp_path):
    trained, out = load_trained(network), tmp_path / "maps"
    with pytest.raises(BcosError, match="attention rollout"):
        explain_shards(trained, shards, out, MapOptions(methods=("attention_rollout",)), split="test", workers=0)
    (out / ".test-000000.tar.7121c6c4.tmp").write_bytes(b"half")
    explain_shards(trained, shards, out, MapOptions(), split="test", workers=0)
    assert not list(out.glob(".*.tmp"))
    assert (out / "maps.json").is_file()


def test_a_second_call_for_the_same_maps_is_refused(network, shards, tmp_path):
    trained, out = load_trained(network), tmp_path / "maps"
    explain_shards(trained, shards, out, MapOptions(), split="test", workers=0)
    aside = out / ".test-000000.tar.7121c6c4.tmp"
    aside.write_bytes(b"of the other call")
    with (
        FileLock(out / ".finished" / LOCK_NAME),
        pytest.raises(BcosError, match="another process is writing maps into"),
    ):
        explain_shards(trained, shards, out, MapOptions(), split="test", workers=0)
    assert aside.exists()


def test_a_refused_call_for_other_maps_does_not_claim_those_that_are_being_written(network, shards, tmp_path):
    trained, out = load_trained(network), tmp_path / "maps"
    (out / ".finished").mkdir(parents=True)
    note = out / ".finished/description"
    note.write_text('{"of": "the other call"}')  # which has no whole shard yet
    with (
        FileLock(out / ".finished" / LOCK_NAME),
        pytest.raises(BcosError, match="another process is writing maps into"),
    ):
        explain_shards(trained, shards, out, MapOptions(), split="test", workers=0)
    assert note.read_text() == '{"of": "the other call"}'


def test_two_calls_do_not_explain_into_the_same_folder(network, photo, bcos, line, tmp_path):
    out = tmp_path / "out"
    assert bcos("explain", network, photo, "--out", out)[0] == 0
    before = (out / "explanations.json").read_bytes()
    with FileLock(out / LOCK_NAME):
        refused = line(bcos("explain", network, photo, "--out", out, "--top-k", 2))
    assert f"another process is explaining into '{out}'" in refused
    assert (out / "explanations.json").read_bytes() == before
    assert bcos("explain", network, photo, "--out", out)[0] == 0  # a lock that a killed call left is in nobody's way
    assert not (out / LOCK_NAME).exists()


def test_two_demos_do_not_write_into_the_same_folder(bcos, line, tmp_path):
    out = tmp_path / "demo"
    (out / "run").mkdir(parents=True)
    (out / ".bcos-demo").touch()
    (out / "run/config.yaml").write_text("of the other call")
    with FileLock(out / LOCK_NAME):
        refused = line(bcos("demo", "--out", out))
    assert f"another process is writing the demo into '{out}'" in refused
    assert (out / "run/config.yaml").read_text() == "of the other call"


SLOW = """
import sys, time
from bcos_cli.data import pack as module
from bcos_cli.data.pack import pack
from bcos_cli.data.sources import open_source

class Slow:
    def __init__(self, source):
        self.source, self.classes, self.items = source, source.classes, source.items

    def read(self, item):
        time.sleep(1)
        return self.source.read(item)

if __name__ == "__main__":
    print("ready", flush=True)
    pack(Slow(open_source(sys.argv[1])), "t", module.Path(sys.argv[2]), samples_per_shard=1, workers=2)
"""


def test_packing_that_is_interrupted_before_its_first_shard_goes_on(make_tree, tmp_path, files):
    root = make_tree([f"{c}/{i}.png" for c in "ab" for i in range(4)])
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "slow.py", str(root), "s"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    until = time.monotonic() + 60
    while not list(tmp_path.glob("s/.*.tmp")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    left = {path.name for path in (tmp_path / "s").iterdir()}
    assert ".packing.json" in left  # beside the shards that were begun and are whole
    assert not any(name.endswith(".tmp") for name in left)
    source = open_source(str(root))
    assert len(pack(source, "t", tmp_path / "s", samples_per_shard=1, workers=1).shards) == 8
    pack(source, "t", tmp_path / "fresh", samples_per_shard=1, workers=1)
    assert files(tmp_path / "s") == files(tmp_path / "fresh")


# Nothing that is read is replaced


def test_what_a_command_reads_is_not_replaced_by_what_it_writes(network, shards, bcos, line, tmp_path):
    index = Path(shards) / "index.json"
    before = index.read_bytes(), (tmp_path / network).read_bytes()
    assert "is read by this command" in line(bcos("eval", network, "--data", shards, "--json", index))
    assert "is read by this command" in line(bcos("eval", network, "--data", shards, "--json", network))
    assert (index.read_bytes(), (tmp_path / network).read_bytes()) == before
    (tmp_path / "labels.csv").write_text("my labels")
    options = ("--data", shards, "--metric", "top1")
    for name in ("predictions.csv", "scores.csv"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_text("image,mine\n")
        assert f"{name}' is there, and is no table" in line(bcos("eval", network, *options, "--out", "mine"))
        assert (tmp_path / "mine" / name).read_text() == "image,mine\n"
        (tmp_path / "mine" / name).unlink()
    assert bcos("eval", network, *options, "--out", "mine", "--json", "mine.json")[0] == 0
    assert bcos("eval", network, *options, "--out", "mine", "--json", "mine.json")[0] == 0  # its own it may replace


# Tables


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,labels\na.png,cat,dog\n", "line 2 of the table 't.csv' has 3 fields, its first line 2; several labels"),
        ("image,labels,labels\na.png,cat,dog\n", "has two columns 'labels'; rename or remove one"),
        ("image,labels,Labels\na.png,cat,dog\n", "has two columns 'labels'; rename or remove one"),
        ("image,labels,set\na.png,cat,train\nb.png,dog,test\n", "the column 'set' of the table 't.csv' holds names of"),
        ("image;labels\na.png;cat\n", "has image;labels, one column: fields are separated by commas"),
    ],
)
def test_tables_that_would_be_read_in_part_are_refused(table, message, tmp_path):
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(BcosError) as caught:
        LabelTable(Path("t.csv")).rows()
    assert message in str(caught.value)


def test_headings_are_known_in_any_case_and_ends_of_lines_may_be_missing(tmp_path):
    (tmp_path / "t.csv").write_text("Image,Labels,Split\na.png,cat,train\nb.png,dog,test\n\nc.png,dog\n")
    rows = LabelTable(Path("t.csv")).rows()
    assert [(row.image, row.labels, row.split) for row in rows] == [
        ("a.png", ("cat",), "train"),
        ("b.png", ("dog",), "test"),
        ("c.png", ("dog",), None),
    ]


def test_table_in_another_encoding_says_what_to_do(tmp_path):
    (tmp_path / "t.csv").write_bytes("image,labels\nä.png,cat\n".encode("latin-1"))
    with pytest.raises(BcosError, match="save it as UTF-8"):
        LabelTable(Path("t.csv")).rows()


# Samples


def test_images_in_two_classes_of_a_split_are_told(make_tree):
    one, other = (encode_png(torch.full((6, 6), value).byte().numpy()).ljust(200, b"0") for value in range(2))
    root = make_tree({"a/1.png": one, "a/2.png": other, "b/3.png": other})
    (told,) = warnings_of(open_source(str(root)))
    assert told.startswith("1 images are in several classes, byte for byte ('a/2.png and b/3.png'); keep one copy")
    (root / "b/3.png").rename(root / "a/3.png")
    (root / "a/1.png").rename(root / "b/1.png")
    assert warnings_of(open_source(str(root))) == []  # twice in a class does no harm


def shard(path, names):
    with tarfile.open(path, "w") as tar:
        for name in names:
            for suffix, data in (("png", encode_png(torch.zeros(6, 6).byte().numpy())), ("cls", b"0")):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return str(path)


def test_samples_that_come_twice_or_are_left_out_are_problems(tmp_path):
    assert scan_shard(shard(tmp_path / "good.tar", ["x", "y"])).problem is None
    assert scan_shard(shard(tmp_path / "twice.tar", ["x", "y", "x"])).problem == (
        "has two samples 'x'; give each a name of its own"
    )
    assert "has 1 images under names that WebDataset reserves and leaves out, such as '__x__/x.png'" in str(
        scan_shard(shard(tmp_path / "reserved.tar", ["y", "__x__/x"])).problem
    )


# Weights


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.int8, torch.float8_e4m3fn])
def test_weights_of_another_kind_of_number_are_refused(dtype, network, recipe, tmp_path):
    trained = build(recipe(), ["rows", "columns", "corner"])
    trained.save(tmp_path / "run.safetensors")
    from safetensors import safe_open

    with safe_open(tmp_path / "run.safetensors", framework="pt") as file:
        header = file.metadata()
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in load_file(tmp_path / "run.safetensors").items()}
    save_file(state, tmp_path / "other.safetensors", header)
    with pytest.raises(BcosError, match="are of another type than the network's"):
        load_trained("other.safetensors")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_weights_that_may_not_be_read_say_so(network, tmp_path):
    (tmp_path / network).chmod(0)
    with pytest.raises(BcosError, match="Permission denied"):
        load_trained(network)


def test_weights_that_were_cut_off_say_what_to_do(network, tmp_path):
    (tmp_path / network).write_bytes((tmp_path / network).read_bytes()[:-100])
    with pytest.raises(BcosError, match="copy it again"):
        load_trained(network)


# Streams


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_mistake(redirection):
    command = f"exec {sys.executable} -m bcos_cli recipes {redirection}"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) in ((0, "recipes\n"), (0, ""))  # the title of a table


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_standard_output_is_one_line():
    finished = subprocess.run(["bash", "-c", f"{sys.executable} -m bcos_cli recipes >/dev/full"], capture_output=True)
    assert finished.returncode == 2
    assert finished.stderr == b"recipes\nbcos: cannot write to standard output: no space is left there\n"
