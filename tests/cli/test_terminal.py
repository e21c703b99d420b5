"""What is printed: names of strangers are text, and JSON is JSON."""

import json
from pathlib import Path

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


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Print a table in a terminal of 80 columns: its lines below the title."""

    def show(*arguments, width=80, **options):
        monkeypatch.setattr(console.out, "_force_terminal", True)
        monkeypatch.setattr(console.out, "width", width)
        console.table("title", *arguments, **options)
        title, *lines = capsys.readouterr().out.splitlines()
        assert title == "title"
        assert all(len(text) <= width for text in lines)
        return [text.rstrip() for text in lines]

    return show


def test_a_cell_is_as_wide_as_what_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(console.out, "width", 200)
    monkeypatch.setattr(console.out, "_force_terminal", True)
    console.table("names", ["name", "next"], [["a\nb\x1b", "c"]])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert len({len(row) for row in rows}) == 1
    assert sum(r"a\nb\x1b" in row for row in rows) == 1


LONG = "x" * 31 + "y" * 32
COLUMNS = ["image", "predicted", "confidence", "explained", "method", "logit", "adds up"]


def test_one_long_name_is_shortened_in_the_middle_and_the_rest_stays_readable(terminal):
    rows = [
        [f"photo_{i}.jpg", LONG if i else "school bus", f"9{i}.{i}%", "school bus", method, f"-1{i}.345", "yes"]
        for i, method in enumerate(["bcos", "integrated_gradients", "gradcam"])
    ]
    constant, headings, _, first, second, _ = terminal(COLUMNS, rows)
    assert constant == "explained: school bus · adds up: yes"
    assert headings.split() == ["image", "predicted", "confidence", "method", "logit"]
    assert first.split() == ["photo_0.jpg", "school", "bus", "90.0%", "bcos", "-10.345"]
    image, name, *others = second.split()
    assert (image, others) == ("photo_1.jpg", ["91.1%", "integrated_gradients", "-11.345"])
    start, end = name.split("…")
    assert LONG.startswith(start)
    assert LONG.endswith(end)
    assert 0 <= len(start) - len(end) <= 1


@pytest.mark.parametrize(
    "names",
    [
        [f"gridpg/{name}" for name in ("input_x_gradient", "integrated_gradients", "gradcam")],
        [f"{'a' * 40}{k}{'b' * 20}" for k in range(3)],
    ],
    ids=["explainers", "long"],
)
def test_rows_are_not_shortened_until_they_cannot_be_told_apart(names, terminal):
    numbers = [[name, *(f"{k}{k}.{k}{i} to {k}{k}.{k}{i}" for k in range(1, 6))] for i, name in enumerate(names)]
    lines = terminal(["metric", *"abcde"], numbers)
    shown = [line.split()[0] for line in lines if " to " in line]
    assert len(shown) in (6, 9)  # in two blocks, or three
    assert {len(set(shown[i : i + 3])) for i in range(0, len(shown), 3)} == {3}
    assert max(map(len, names)) > 30 or set(shown) == set(names)
    assert {cell for row in numbers for cell in row[1:] if cell not in " ".join(lines)} == set()


def test_numbers_and_headings_stay_on_one_line_and_what_does_not_fit_continues_below(terminal):
    columns = ["epoch", *(f"measure_number_{i}" for i in range(7))]
    rows = [[e, *(f"{e + i}.248e-08" for i in range(7))] for e in (1, 2)]
    lines = terminal(columns, rows)
    assert [text.split()[0] for text in lines if "─" not in text] == ["epoch", "1", "2"] * 2
    words = " ".join(lines).split()
    assert set(columns) <= set(words)
    assert {cell for row in rows for cell in map(str, row)} <= set(words)


def test_sentences_are_wrapped_between_words(terminal):
    sentence = " ".join(f"word{i}" for i in range(40))
    lines = terminal(["name", "summary"], [["a_model_of_thirty_letters_12345", sentence]], prose=["summary"])
    assert " ".join(lines[2:]).split() == ["a_model_of_thirty_letters_12345", *sentence.split()]


def test_a_table_that_fits_shows_all_its_columns(terminal):
    assert terminal(["key", "a", "b"], [["x", "true", "1"], ["y", "true", "2"]])[0].split() == ["key", "a", "b"]


def test_in_a_pipe_cells_are_whole_between_tabs_without_title(capsys):
    console.table(
        "title", COLUMNS, [[LONG, "a\tb", "1", "", "same", "2", "yes"], [LONG, "c", "1", "", "same", "3", "yes"]]
    )
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "\t".join(COLUMNS),
        f"{LONG}\ta\\tb\t1\t\tsame\t2\tyes",
        f"{LONG}\tc\t1\t\tsame\t3\tyes",
    ]
    assert err == "title\n"


def test_paths_are_named_by_what_tells_them_apart(tmp_path, monkeypatch):
    for name in ("a", "b", "c/a"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "b")
    assert console.short_paths([Path("../a"), Path()]) == ["a", "b"]
    first = f"{tmp_path.name}/a"
    assert console.short_paths([Path("../a"), Path("../c/a"), Path("../c/../a")]) == [first, "c/a", first]
    assert console.short_paths([Path("../link")]) == ["link"]
    assert console.short_paths([Path("/x"), Path("/y/x")]) == ["/x", "y/x"]
    assert console.short_paths([]) == []


def test_a_slow_rate_is_not_zero():
    assert [console.rate(r) for r in (0.04, 0.5, 9.96, 1234.5)] == ["0.04", "0.5", "10", "1,234"]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_names_are_no_markup(is_terminal, capsys, monkeypatch):
    monkeypatch.setattr(console.out, "_force_terminal", is_terminal)
    monkeypatch.setattr(console.out, "width", 200)
    console.out.print(MARKUP, soft_wrap=True)
    console.table(MARKUP, [MARKUP], [[MARKUP]])
    with console.counted(MARKUP, 1) as counter:
        counter.advance(note=MARKUP)
    out, err = capsys.readouterr()
    assert (out + err.split("\n")[0] * (not is_terminal)).count(MARKUP) == 4


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


@pytest.mark.parametrize("is_terminal", [True, False])
def test_classes_of_any_name_are_packed_and_shown(is_terminal, bcos, make_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(console.out, "_force_terminal", is_terminal)
    make_tree(["0.png", "1.png"], "photos")
    (tmp_path / "labels.csv").write_text("image,labels\n0.png,[/INST]\n1.png,[red]x\n")
    status, out, err = bcos("shards", "pack", "photos", "s", "--labels", "labels.csv", "--workers", 1)
    assert status == 0, err
    assert "2 classes: [/INST], [red]x" in out
    assert "2 classes: [/INST], [red]x" in bcos("shards", "info", "s")[1]
    assert json.loads(bcos("shards", "info", "s", "--json")[1])["classes"] == ["[/INST]", "[red]x"]


def test_progress_is_written_to_a_file_from_time_to_time(capsys, monkeypatch):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    with console.counted("epoch 1/2", 5) as counter:
        for _ in range(5):
            counter.advance(images=4, note="loss 0.5")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert [line.split(",")[0] for line in lines] == ["epoch 1/2 2 of 5", "epoch 1/2 4 of 5"]
    assert all(line.endswith(", loss 0.5") and "images/s" in line for line in lines)


def test_quick_work_writes_no_lines(capsys):
    with console.counted("packing", 3) as counter:
        counter.set(2, 3)
        counter.advance()
    assert "packing 2 of 3" not in capsys.readouterr().err
