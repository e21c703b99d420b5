"""Names do nothing to a terminal."""

import sys
import unicodedata

import pytest

from bcos_core.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü 猫 🐈 'a' \\x1b", "plain äöü 猫 🐈 'a' \\x1b"),
        ("\x1b]0;title\x07\x1b[31mred", r"\x1b]0;title\x07\x1b[31mred"),
        ("a\nb\r\tc\x00", r"a\nb\r\tc\x00"),
        ("\x7f\x80\x9b2J", r"\x7f\x80\x9b2J"),
        ("exe.\u202egnp", r"exe.\u202egnp"),
        ("\u2066a\u2069\u200e\u200f\u061c", r"\u2066a\u2069\u200e\u200f\u061c"),
        ("a\u2028b\u2029c\x85", r"a\u2028b\u2029c\x85"),
        ("\udcff.png", r"\udcff.png"),
    ],
)
def test_controls_are_escaped_and_nothing_else(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


def test_every_control_character_and_lone_surrogate_is_escaped():
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp"):
            assert printable(chr(code)).isascii(), hex(code)
            assert printable(chr(code)).isprintable(), hex(code)


def test_lines_stay_where_they_are_wanted():
    assert printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"
