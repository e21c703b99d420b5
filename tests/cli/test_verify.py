import io
import tarfile

import pytest

from bcos_cli.data.index import ShardIndex, load_index, shard_urls
from bcos_cli.data.pack import pack
from bcos_cli.data.verify import verify
from bcos_core import BcosError


@pytest.fixture
def packed(make_tree, folder_source, tmp_path):
    root = make_tree([f"{c}/{i}.png" for c in "ab" for i in range(4)])
    return tmp_path / "s", pack(folder_source(root), "t", tmp_path / "s", samples_per_shard=3, workers=1)


def test_whole_shards_have_no_problems(packed):
    seen = []
    assert verify(*packed, on_shard=lambda: seen.append(1)) == []
    assert len(seen) == 3


def test_changed_byte_is_found_wherever_it_is(packed):
    folder, index = packed
    path = folder / index.shards[1].name
    content = path.read_bytes()
    for position in (0, 600, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        (problem,) = verify(folder, index)
        assert problem == f"{path.name}: its SHA-256 differs from the index: the content was changed or damaged"


def test_missing_and_truncated_files_are_told_apart(packed):
    folder, index = packed
    first, _, last = (folder / s.name for s in index.shards)
    first.unlink()
    last.write_bytes(last.read_bytes()[:-1])
    size = index.shards[2].bytes
    assert verify(folder, index) == [
        f"{first.name}: missing",
        f"{last.name}: has {size - 1} bytes, the index says {size}",
    ]


def altered(index, **values):
    shards = [index.shards[0].model_copy(update=values), *index.shards[1:]]
    return index.model_copy(update={"shards": shards})


def test_wrong_count_is_found(packed):
    folder, index = packed
    assert verify(folder, altered(index, samples=4)) == ["train-000000.tar: has 3 samples, the index says 4"]


def test_labels_out_of_range_are_found(packed):
    folder, index = packed
    problems = verify(folder, index.model_copy(update={"classes": ["a"]}))
    assert problems
    assert all("there are 1 classes" in p for p in problems)


def test_label_that_is_no_number_is_a_problem_and_no_crash(packed):
    import hashlib

    folder, index = packed
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("x.cls")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"cat"))
    data = buffer.getvalue()
    (folder / "train-000000.tar").write_bytes(data)
    told = altered(index, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), samples=1)
    (problem,) = verify(folder, told)
    assert problem.startswith("train-000000.tar: ")


def test_command_fails_with_a_line_for_each_problem(packed, bcos):
    folder, index = packed
    (folder / index.shards[0].name).unlink()
    status, out, err = bcos("shards", "verify", folder)
    assert status == 1
    assert out == ""
    assert "bcos: train-000000.tar: missing\nbcos: 1 of 3 shards differ from the index\n" in err


def test_index_that_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(
        BcosError, match=r"there are no shards at '.*' \(cannot read .*index.json: No such file.*\); make"
    ):
        load_index(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no index of shards: it is no"),
        ("{}", "is no index of shards: source: Field required"),
        ("[]", "is no index of shards: file: "),
    ],
)
def test_damaged_index_is_refused(content, message, tmp_path):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(BcosError, match=message):
        load_index(str(tmp_path))


def test_newer_format_is_refused(packed):
    folder, index = packed
    newer = index.model_copy(update={"format_version": 2})
    (folder / "index.json").write_text(newer.model_dump_json())
    with pytest.raises(BcosError, match="has format version 2, this program knows 1; install a newer bcos-cli"):
        load_index(str(folder))


def test_newer_format_is_named_even_if_it_has_other_keys(packed):
    folder, index = packed
    text = index.model_copy(update={"format_version": 2}).model_dump_json()
    (folder / "index.json").write_text(text.replace('{"format_version"', '{"novelty":1,"format_version"', 1))
    with pytest.raises(BcosError, match="has format version 2"):
        load_index(str(folder))


def test_unknown_split_is_refused_with_a_suggestion(packed):
    with pytest.raises(BcosError, match=r"the shards have no split 'trian'; did you mean 'train'\?"):
        packed[1].of("trian")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("x/y", "x/y/a.tar"),
        ("x/y/", "x/y/a.tar"),
        ("x/index.json", "x/a.tar"),
        ("index.json", "./a.tar"),
        ("https://h/d", "https://h/d/a.tar"),
        ("s3://b/d/index.json", "s3://b/d/a.tar"),
    ],
)
def test_shards_lie_beside_their_index(data, expected):
    record = {"name": "a.tar", "split": "train", "samples": 1, "bytes": 1, "sha256": "0" * 64}
    index = ShardIndex(source="", fingerprint="", classes=["a"], shards=[record])
    assert shard_urls(data, index.shards) == [expected]


def test_remote_index_and_shards_are_read_as_webdataset_does(packed):
    folder, index = packed
    assert load_index(f"file:{folder}/index.json") == index
    assert load_index(str(folder / "index.json")) == index
