import os

import pytest

from bcos_core import BcosError
from bcos_core.errors import first_line, shortened, shown
from bcos_core.text import parse_json, read_text


def test_json_is_read():
    assert parse_json('{"a": [1, 2.5, null, {"a": "b"}]}') == {"a": [1, 2.5, None, {"a": "b"}]}
    assert parse_json("NaN", finite=False) != parse_json("0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("9" * 5000, "it is not JSON"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "the key 'b' is given twice"),
        ("[NaN]", "NaN is not a finite number"),
        ("[-Infinity]", "-Infinity is not a finite number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_not_json_is_refused_in_one_line(text, message):
    with pytest.raises(BcosError, match=message) as error:
        parse_json(text)
    assert len(str(error.value)) < 300


def test_text_is_read_up_to_a_size_and_only_from_files(tmp_path):
    (tmp_path / "text").write_text("äöü")
    assert read_text(tmp_path / "text", 6) == "äöü"
    with pytest.raises(BcosError, match="has more than 5 bytes"):
        read_text(tmp_path / "text", 5)
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(BcosError, match="is not text in UTF-8"):
        read_text(tmp_path / "bytes")
    os.mkfifo(tmp_path / "pipe")
    for other in ("pipe", "."):
        with pytest.raises(BcosError, match="is not a regular file"):
            read_text(tmp_path / other)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nothing")


def test_messages_quote_a_bounded_part():
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"
    assert shown("x" * 1000, 5) == "'xxx…"
    assert shown(10**5000) == "a large int"
    assert len(first_line(ValueError("x" * 1000))) == 300
