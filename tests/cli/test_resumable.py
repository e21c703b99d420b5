import json

import pytest

from bcos_cli.evaluate.resumable import PartialResults
from bcos_core import BcosError

PART = {"scores": [0.1, float("inf"), 1 / 3]}


def test_parts_come_back_exactly(tmp_path):
    PartialResults(tmp_path / "p", "f", 0).add("gridpg.bcos", 3, PART)
    assert PartialResults(tmp_path / "p", "f", 0).load("gridpg.bcos") == {3: PART}


def test_parts_of_every_process_are_read(tmp_path):
    for rank in range(3):
        PartialResults(tmp_path, "f", rank).add("t", rank, PART)
    assert sorted(PartialResults(tmp_path, "f", 1).load("t")) == [0, 1, 2]


def test_tasks_and_fingerprints_are_kept_apart(tmp_path):
    PartialResults(tmp_path, "f", 0).add("t", 0, PART)
    assert PartialResults(tmp_path, "f", 0).load("u") == {}
    assert PartialResults(tmp_path, "g", 0).load("t") == {}


def test_a_line_that_a_kill_cut_off_does_not_count_and_spoils_nothing(tmp_path):
    partial = PartialResults(tmp_path, "f", 0)
    partial.add("t", 0, PART)
    partial.add("t", 1, PART)
    (file,) = (tmp_path / "f").iterdir()
    whole = file.read_bytes()
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        before = set(partial.load("t"))
        assert before <= {0, 1}
        partial.add("t", 2, PART)
        assert partial.load("t") == dict.fromkeys([*before, 2], PART)


def test_clearing_leaves_what_another_evaluation_keeps(tmp_path):
    other = PartialResults(tmp_path / "p", "other", 0)
    other.add("t", 0, PART)
    partial = PartialResults(tmp_path / "p", "f", 0)
    partial.add("t", 0, PART)
    partial.clear()
    assert other.load("t") == {0: PART}
    other.clear()
    assert not (tmp_path / "p").exists()
    partial.clear()


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "p").write_text("a file")
    partial = PartialResults(tmp_path / "p", "f", 0)
    partial.add("t", 0, PART)
    assert partial.load("t") == {}


def test_without_a_folder_nothing_is_kept(tmp_path):
    partial = PartialResults(None, "f", 0)
    partial.add("t", 0, PART)
    assert partial.load("t") == {}
    partial.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        5,
        "text",
        [1],
        [1, 2],
        [-1, PART],
        ["1", PART],
        [1, {}],
        [1, {"scores": "x"}],
        [1, {"scores": [None]}],
        [1, {"scores": [], "evil": 1}],
        [1, {"scores": [], "cluster": -1}],
        [1, {"scores": [[1]]}],
    ],
    ids=str,
)
def test_line_that_is_no_part_is_refused_before_anything_is_measured(line, tmp_path):
    PartialResults(tmp_path, "f", 0).add("t", 0, PART)
    with (tmp_path / "f" / "t.0.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(
        BcosError, match=r"line 2 of .*t.0.jsonl is not a part of a measurement, got .*; remove the file"
    ):
        PartialResults(tmp_path, "f", 0)


@pytest.mark.parametrize("line", [b"\xff\xfe", b"\x00" * 99, b"[" * 99_999, b"{"])
def test_what_a_power_failure_left_is_measured_again(line, tmp_path):
    PartialResults(tmp_path, "f", 0).add("t", 0, PART)
    with (tmp_path / "f" / "t.0.jsonl").open("ab") as file:
        file.write(line + b"\n")
    assert PartialResults(tmp_path, "f", 0).load("t") == {0: PART}
