"""What is printed: names of strangers are text, and JSON is JSON."""

import json

import pytest
from PIL import Image
from rich.color import ColorSystem

from bcos_cli import console
from bcos_cli.messages import say, say_json, tell, tell_traceback
from bcos_cli.train.model import build

EVIL = "a\x1b]0;owned\x07\x1b[2J\x7f\x9b1m\u202egnp"
SHOWN = r"a\x1b]0;owned\x07\x1b[2J\x7f\x9b1m\u202egnp"
MARKUP = "[/INST] [red]x :smile: [link=http://evil.example]y"


def test_every_way_to_print_shows_control_characters(capsys):
    console.out.print(f"one {EVIL}\ntwo", soft_wrap=True)
    console.err.print(EVIL, soft_wrap=True)
    console.table(EVIL, [EVIL], [[EVIL]])
    with console.counted(EVIL, 1) as counter:
        counter.advance(note=EVIL)
    say(f"{EVIL}\nnext")
    tell(EVIL)
    tell_traceback(ValueError(EVIL))
    out, err = capsys.readouterr()
    assert not any(c in out + err for c in "\x1b\x07\x7f\x9b\u202e")
    assert out.startswith(f"one {SHOWN}\ntwo\n")
    assert f"{SHOWN}\nnext\n" in out
    assert f"bcos: {SHOWN}\n" in err
    assert f"ValueError: {SHOWN}\n" in err


def test_our_own_colours_stay(monkeypatch):
    monkeypatch.setattr(console.out, "_color_system", ColorSystem.STANDARD)
    with console.out.capture() as captured:
        console.out.print(EVIL, style="bold", soft_wrap=True)
    assert captured.get() == f"\x1b[1m{SHOWN}\x1b[0m\n"


def test_a_cell_is_as_wide_as_what_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(console.out, "width", 200)
    console.table("names", ["name", "next"], [["a\nb\x1b", "c"]])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert len({len(row) for row in rows}) == 1
    assert sum(r"a\nb\x1b" in row for row in rows) == 1


def test_names_are_no_markup(capsys, monkeypatch):
    monkeypatch.setattr(console.out, "width", 200)
    console.out.print(MARKUP, soft_wrap=True)
    console.table(MARKUP, [MARKUP], [[MARKUP]])
    with console.counted(MARKUP, 1) as counter:
        counter.advance(note=MARKUP)
    assert capsys.readouterr().out.count(MARKUP) == 4


def test_a_name_cannot_look_like_a_message(capsys):
    tell("cannot read 'a\nbcos: all is well': no\n  an indented\n  list\n")
    assert capsys.readouterr().err == ("bcos: cannot read 'a\\nbcos: all is well': no\n  an indented\n  list\\n\n")


def test_json_is_ascii_and_says_the_same(capsys):
    say_json({"name": EVIL, "lone": "\udcff"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert out.replace("\n", "").isprintable()
    assert json.loads(out) == {"name": EVIL, "lone": "\udcff"}


@pytest.fixture
def network(recipe, tmp_path):
    build(recipe(), ["rows", "columns", EVIL + MARKUP]).save(tmp_path / "model.safetensors")
    return "model.safetensors"


@pytest.mark.parametrize("name", ["\x1b[2J.png", "[INST].png", "a\nbcos: b.png", "\udcff.png"])
def test_images_of_any_name_are_explained_or_refused(name, bcos, network, tmp_path):
    """Names are bytes to the system, also those that are no text."""
    Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / f"bad{name}").write_bytes(b"junk")
    status, out, err = bcos("explain", network, name, f"bad{name}", "--out", "o", "--target", 2)
    assert status == 1, err
    assert "internal error" not in err
    assert "\x1b" not in out + err
    assert err.count("\nbcos: ") + err.startswith("bcos: ") == 1, err
    out.encode()  # as a terminal gets it
    err.encode()
