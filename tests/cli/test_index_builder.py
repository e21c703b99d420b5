"""Shards that another program has made."""

import io
import shutil
import tarfile

import pytest
from http_server import serving

from bcos_cli.config.network import read_classes
from bcos_cli.data.index import load_index
from bcos_cli.data.index_builder import expand
from bcos_cli.data.loader import make_batches
from bcos_cli.data.sources import encode_png
from bcos_cli.data.verify import verify
from bcos_core import BcosError
from bcos_models import InputSpec

PNG = encode_png([[10] * 8] * 8)


def write(path, labels, first=0):
    """A tar as WebDataset's own writer makes it: a JSON, an image and a label for each sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for i, label in enumerate(labels, start=first):
            png = encode_png([[10 * i] * 8] * 8)
            for suffix, data in (("cls", str(label).encode()), ("png", png)):
                info = tarfile.TarInfo(f"{i:06d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def made(tmp_path):
    write(tmp_path / "here" / "a-00.tar", [0, 1, 2])
    write(tmp_path / "here" / "a-01.tar", [2, 2], first=3)
    write(tmp_path / "there" / "b.tar", [1], first=5)
    (tmp_path / "names.txt").write_text("cat\ndog\n\nfox\n")
    return tmp_path


def test_shards_of_another_program_are_indexed_where_they_lie(made, bcos):
    given = ["--split", "train=here/a-{00..01}.tar", "--split", f"test={made}/there/*.tar", "--classes", "names.txt"]
    status, out, err = bcos("shards", "index", ".", *given)
    assert status == 0, err
    assert "3 classes: cat, dog, fox" in out
    index = load_index(".")
    assert [record.name for record in index.shards] == ["here/a-00.tar", "here/a-01.tar", "there/b.tar"]
    assert index.class_counts("train") == [1, 1, 3]
    assert verify(".", index) == []
    for split, count in (("train", 5), ("test", 1)):
        batches = make_batches(".", index, split, InputSpec(size=8, resize=None), batch_size=2)
        assert sum(len(labels) for _, labels, _ in batches.epoch(0)) == count
    assert bcos("shards", "verify", ".")[0] == 0


def test_index_is_written_above_its_shards(made, bcos, line):
    given = ["--split", "train=here/a-00.tar", "--split", f"test={made}/there/*.tar"]
    told = line(bcos("shards", "index", "here", *given))
    assert f"the shard '{made}/there/b.tar' lies outside of '{made}/here/'" in told.replace("here'", "here/'")
    assert f"such as '{made}'" in told
    assert not (made / "here" / "index.json").exists()
    (made / "here" / "b.tar").symlink_to(made / "there" / "b.tar")  # what lies there, wherever its bytes are
    assert bcos("shards", "index", "here", "--split", "test=here/b.tar")[0] == 0
    assert verify("here", load_index("here")) == []


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz"])
def test_image_is_found_among_notes_in_compressed_shards_too(suffix, made, bcos):
    with tarfile.open(made / f"x.{suffix}", "w" if suffix == "tar" else "w:gz") as tar:
        for name, data in (("a.json", b"{}"), ("a.txt", b"a cat"), ("a.png", PNG), ("a.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    status, _, err = bcos("shards", "index", ".", "--split", f"train=x.{suffix}")
    assert status == 0, err
    assert verify(".", load_index(".")) == []
    batches = make_batches(".", load_index("."), "train", InputSpec(size=8, resize=None), batch_size=1)
    assert [labels.tolist() for _, labels, _ in batches.epoch(0)] == [[0]]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"png": PNG, "mask.png": PNG, "cls": b"0"}, "the sample 'a': it may have one image, has png and mask.png"),
        ({"png": PNG, "cls": b"cat"}, "must hold class indices, got b'cat'; names of classes go to --classes"),
        ({"png": PNG, "json": b'{"label": 1}'}, "it needs an image and a .cls file, has ["),
        ({"json": b"{}", "cls": b"0"}, "it needs an image and a .cls file, has ["),
    ],
)
def test_samples_that_are_not_read_are_refused_by_name(members, message, made, bcos, line):
    with tarfile.open(made / "x.tar", "w") as tar:
        for suffix, data in members.items():
            info = tarfile.TarInfo(f"a.{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert message in line(bcos("shards", "index", ".", "--split", "train=x.tar"))


def test_several_labels_are_noticed_and_names_are_numbers_by_default(made, bcos):
    write(made / "m.tar", ["0 3", "", "1"])
    assert bcos("shards", "index", ".", "--split", "train=m.tar")[0] == 0
    index = load_index(".")
    assert index.multi_label
    assert index.classes == ["0", "1", "2", "3"]


def test_classes_of_an_older_index_are_counted(made, bcos):
    bcos("shards", "index", "here", "--split", "train=here/a-*.tar")
    index = load_index("here")
    old = index.model_copy(update={"shards": [r.model_copy(update={"class_counts": None}) for r in index.shards]})
    (made / "here" / "index.json").write_text(old.model_dump_json(exclude_none=True))
    with pytest.raises(BcosError, match=r"the index does not say how many .*, or count them with: bcos shards index"):
        load_index("here").class_counts("train")
    assert bcos("shards", "index", "here")[0] == 0
    assert load_index("here") == index
    write(made / "here" / "a-01.tar", [0, 0])
    message = "a-01.tar' is not what the index says; check it with: bcos shards verify"
    status, _, err = bcos("shards", "index", "here")
    assert (status, message in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "here/a-00.tar"], "a split is written SPLIT=SHARDS, such as train=data/train-*.tar"),
        (["--split", "train=here/z*.tar"], "no shard fits 'here/z*.tar'; give paths or URLs of .tar files"),
        (["--split", "train=here/z.tar"], "cannot read the shard 'here/z.tar'"),
        (["--split", "train=names.txt"], "is damaged after 0 samples"),
        (["--split", "train=here/a-00.tar", "--classes", "two.txt"], "class index 2, there are 2 classes"),
        ([], "there are no shards at '.'"),
    ],
)
def test_mistakes_are_one_line(arguments, message, made, bcos, line):
    (made / "two.txt").write_text("a\nb\n")
    assert message in line(bcos("shards", "index", ".", *arguments))
    assert not (made / "index.json").exists()


def test_shard_without_labels_is_refused(made, bcos, line):
    with tarfile.open(made / "x.tar", "w"):
        pass
    assert "has no .cls files, which say what an image is" in line(bcos("shards", "index", ".", "--split", "a=x.tar"))


def test_braces_and_patterns_are_expanded_in_order(made):
    assert expand(["s3://b/x-{0..2}.tar", "here/a-*.tar"]) == [
        *(f"s3://b/x-{i}.tar" for i in range(3)),
        "here/a-00.tar",
        "here/a-01.tar",
    ]


@pytest.mark.skipif(shutil.which("cat") is None, reason="needs a shell command")
def test_command_that_ends_with_a_path_is_the_folder_of_an_index(made, bcos):
    status, _, err = bcos("shards", "index", "here", "--split", "train=pipe:cat here/a-00.tar")
    assert status == 0, err
    assert "pipe:cat here/index.json, and read them there: --data 'pipe:cat here/'" in err
    index = load_index("pipe:cat here/")
    assert [record.name for record in index.shards] == ["a-00.tar"]
    assert verify("pipe:cat here/", index) == []
    batches = make_batches("pipe:cat here/", index, "train", InputSpec(size=8, resize=None), batch_size=2)
    assert sum(len(labels) for _, labels, _ in batches.epoch(0)) == 3
    assert verify("here", load_index("here")) == []


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (["pipe:cat here/a-00.tar | cat"], "a command or a pattern could be hidden in"),
        (["pipe:cat here/a-00.tar", "here/a-01.tar"], "have no address in common"),
        (["http://a/x.tar", "http://b/x.tar"], "have no address in common"),
        (["http://a/x.tar?token=1"], "an index cannot name the address 'http://a/x.tar?token=1'"),
        (["here/a-00.tar", "here/../here/a-00.tar"], "has the shard"),
        (["wild.tar"], "the class index 999999999, there are 1000000 classes"),
        (["none.tar"], "no image of the shards has a label; name the classes with --classes"),
        (["huge.tar"], "a .cls file must hold class indices, got b'11111111111111111111'"),
    ],
)
def test_shards_that_cannot_have_an_index_are_one_line(shards, message, made, bcos, line):
    write(made / "wild.tar", [999_999_999])
    write(made / "none.tar", [""])
    write(made / "huge.tar", ["1" * 5000])
    given = [part for shard in shards for part in ("--split", f"train={shard}")]
    assert message in line(bcos("shards", "index", ".", *given))
    assert not (made / "index.json").exists()


def test_names_of_classes_are_read_strictly(made, bcos, line):
    (made / "latin").write_bytes("h\xe9".encode("latin1"))
    (made / "twice").write_text("crane\ncat\ncrane\n")
    (made / "windows").write_bytes("\ufeffLo\u0308we\r\ncat\r\n".encode())
    assert read_classes(made / "windows") == ["L\u00f6we", "cat"]
    for name, message in (
        ("latin", "cannot read the names of classes in 'latin': 'utf-8' codec"),
        ("gone", "cannot read the names of classes in 'gone': [Errno 2]"),
        ("twice", "two classes are called 'crane'; give each a name of its own"),
    ):
        assert message in line(bcos("shards", "index", "here", "--split", "train=here/a-00.tar", "--classes", name))
        assert not (made / "here" / "index.json").exists()


def test_remote_shards_are_named_relative_to_their_common_address(made, bcos):
    write(made / "there" / "a b" / "c.tar", [0])
    with serving(made) as server:
        given = [f"train={server.url}/there/b.tar", f"test={server.url}/there/a%20b/c.tar"]
        status, _, err = bcos("shards", "index", "local", "--split", given[0], "--split", given[1])
        assert status == 0, err
        assert f"copy the index to where its shards are, {server.url}/there/index.json" in err
        (made / "local" / "index.json").rename(made / "there" / "index.json")
        index = load_index(f"{server.url}/there")
        assert [record.name for record in index.shards] == ["b.tar", "a b/c.tar"]
        assert verify(f"{server.url}/there", index) == []
    assert verify("there", load_index("there")) == []
