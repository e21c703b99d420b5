"""``bcos predict``, and the predictions that ``bcos eval --out`` writes."""

import contextlib
import csv
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from stripes import striped

from bcos_cli import console, main
from bcos_cli.data.index import load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.data.sources import encode_png
from bcos_cli.data.stream import Place
from bcos_cli.evaluate.predictions import SplitPredictions
from bcos_cli.messages import say
from bcos_cli.train.model import build

CLASSES = ["rows", "[/INST] col,umns", "corner"]


@pytest.fixture
def trained(recipe):
    torch.manual_seed(3)
    trained = build(recipe(), CLASSES)
    trained.model.eval()
    return trained


@pytest.fixture
def network(trained, tmp_path):
    trained.save(tmp_path / "model.safetensors")
    return "model.safetensors"


@pytest.fixture
def photos(make_tree):
    return make_tree({f"{'ab'[i % 2]}/{i}.png": encode_png(striped(i % 3, i)) for i in range(5)}, "photos")


def expected(trained, paths):
    """File, classes and probabilities, most likely first, one image at a time."""
    found = {}
    for path in paths:
        pixels = torch.frombuffer(bytearray(Image.open(path).convert("L").tobytes()), dtype=torch.uint8)
        side = trained.input.size
        with torch.no_grad():
            logits = trained.model(trained.encode(pixels.reshape(1, 1, side, side)))[0]
        order = logits.argsort(descending=True)
        found[str(path)] = [(CLASSES[k], float(logits[k].sigmoid())) for k in order]
    return found


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def rows_of(path):
    return rows(path.read_text())


def test_files_folders_and_patterns_give_a_line_of_csv_each(bcos, trained, network, photos):
    status, out, err = bcos("predict", network, "photos/a", "photos/b/*.png", "--batch-size", 2)
    assert status == 0, err
    paths = [*sorted(photos.glob("a/*.png")), *sorted(photos.glob("b/*.png"))]
    assert out.splitlines()[0] == "file,class,probability"
    names = {
        str(path.relative_to(photos.parent)): values
        for path, values in zip(paths, expected(trained, paths).values(), strict=True)
    }
    assert [row["file"] for row in rows(out)] == list(names)
    for row in rows(out):
        assert (row["class"], float(row["probability"])) == (
            names[row["file"]][0][0],
            pytest.approx(names[row["file"]][0][1], rel=1e-4),
        )


def test_top_k_and_json_lines(bcos, trained, network, photos):
    status, out, err = bcos("predict", network, "photos", "--top-k", 3, "--json")
    assert status == 0, err
    want = expected(trained, sorted(photos.rglob("*.png")))
    for line, values in zip(out.splitlines(), want.values(), strict=True):
        got = json.loads(line)
        assert list(got) == ["file", "class", "probability", "class_2", "probability_2", "class_3", "probability_3"]
        for end, (name, probability) in zip(("", "_2", "_3"), values, strict=True):
            assert (got[f"class{end}"], got[f"probability{end}"]) == (name, pytest.approx(probability, rel=1e-5))
    assert bcos("predict", network, "photos", "--top-k", 3, "--out", "o/p.jsonl")[0] == 0
    assert (photos.parent / "o/p.jsonl").read_text() == out


def test_what_cannot_be_read_is_named_and_the_rest_predicted(bcos, network, photos):
    (photos / "a" / "bad.png").write_bytes(b"junk")
    status, out, err = bcos("predict", network, "photos")
    assert status == 1
    assert len(rows(out)) == 5
    assert "bcos: photos/a/bad.png: cannot be read" in err


def test_a_clip_is_predicted_by_its_mean_and_that_is_said(bcos, trained, network, tmp_path):
    frames = [Image.fromarray(striped(k, k)).convert("L") for k in (0, 1, 2)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    status, out, err = bcos("predict", network, "clip.gif")
    assert status == 0, err
    assert "clip.gif: the mean over 3 frames" in err
    assert [row["file"] for row in rows(out)] == ["clip.gif"]


def test_images_of_shards_have_their_names(bcos, trained, network, shards):
    status, out, err = bcos("predict", network, shards, "--split", "train", "--workers", 0)
    assert status == 0, err
    found = {row["file"]: row for row in rows(out)}
    assert set(found) == {f"train/{i % 3}/{i:03d}.png" for i in range(24)}
    images, labels, places = next(
        iter(make_batches(shards, load_index(shards), "train", trained.input, batch_size=24, named=True).epoch(0))
    )
    assert places.position.tolist() == list(range(24))
    assert [int(name.split("/")[1]) for name in places.name] == labels.tolist()
    with torch.no_grad():
        logits = trained.model(trained.encode(images))
    assert [found[name]["class"] for name in places.name] == [CLASSES[k] for k in logits.argmax(1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--top-k", 4], "top-k must be from 1 to the 3 classes of the network, got 4"),
        (["photos", "--split", "test"], "--split is one of shards, and these are images"),
        (["photos", "--out", "p.txt"], "--out takes a file ending in .csv or .jsonl, got 'p.txt'"),
        (["nosuch.png"], "there is no image or folder 'nosuch.png'"),
    ],
)
def test_mistakes_are_one_line(arguments, message, bcos, network, photos, line):
    assert message in line(bcos("predict", network, *arguments))


@pytest.mark.parametrize("metric", ["top1", "sparseness"])
def test_an_evaluation_writes_the_prediction_of_every_image(metric, bcos, recipe, shards, tmp_path):
    torch.manual_seed(3)
    trained = build(recipe(), ["rows", "columns", "corner"])
    trained.save(tmp_path / "model.safetensors")
    arguments = ("--data", shards, "--workers", 0, "--metric", metric, "--images", 2, "--out", "scores")
    status, _, err = bcos("eval", "model.safetensors", *arguments, "--batch-size", 3)
    assert status == 0, err
    table = rows((tmp_path / "scores/predictions.csv").read_text())
    assert list(table[0]) == ["file", "label", "class", "probability"]
    assert {row["file"] for row in table} == {f"test/{i % 3}/{i:03d}.png" for i in range(7)}
    assert all(row["label"] == trained.classes[int(row["file"].split("/")[1])] for row in table)
    again = rows(bcos("predict", "model.safetensors", shards, "--workers", 0)[1])
    assert [{k: v for k, v in row.items() if k != "label"} for row in table] == again


def test_an_evaluation_without_a_folder_keeps_no_predictions(bcos, network, recipe, shards, tmp_path):
    before = set(tmp_path.rglob("*"))
    build(recipe(), ["rows", "columns", "corner"]).save(tmp_path / "model.safetensors")
    status, out, err = bcos("eval", network, "--data", shards, "--workers", 0, "--metric", "top1", "--json")
    assert status == 0, err
    assert json.loads(out)["metrics"].keys() == {"top1"}
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("named", [False, True])
def test_predictions_of_all_processes_are_there_once_in_order_of_the_split(named, tmp_path):
    one, other = SplitPredictions(CLASSES), SplitPredictions(CLASSES)
    rows = torch.tensor([[0, 1, 2, 0.5], [1, 0, 0, 0.25], [2, 1, 1, 0.75]], dtype=torch.float64)
    for predictions, part in ((one, rows[[2, 0]]), (other, rows[[1]])):
        positions = part[:, 0].long()
        places = Place(positions, [f"{k}.png" for k in positions.tolist()]) if named else positions
        predictions.update(part[:, 1].long(), part[:, 2].long(), part[:, 3].float(), places)
    states = [one.state(), other.state()]
    for predictions in (one, other):
        for state in states:
            predictions.merge(state)
        assert torch.equal(predictions.rows(), rows)
        predictions.save(tmp_path / "p.csv")
        table = [tuple(row.values()) for row in rows_of(tmp_path / "p.csv")]
        names = [f"{k}.png" if named else "" for k in range(3)]
        assert table == [
            (names[0], CLASSES[1], CLASSES[2], "0.5"),
            (names[1], CLASSES[0], CLASSES[0], "0.25"),
            (names[2], CLASSES[1], CLASSES[1], "0.75"),
        ]


def test_predictions_of_several_labels_count_as_right_if_one_of_them_is(tmp_path):
    predictions = SplitPredictions(CLASSES)
    labels = torch.tensor([[1, 0, 1], [0, 1, 1], [0, 0, 0]])
    predictions.update(labels, torch.tensor([2, 0, 1]), torch.tensor([0.5, 0.5, 0.5]), Place(torch.arange(3), "abc"))
    assert predictions.rows()[:, 1].tolist() == [2, 1, 0]
    predictions.save(tmp_path / "p.csv")
    assert [row["label"] for row in rows_of(tmp_path / "p.csv")] == ["rows;corner", "[/INST] col,umns;corner", ""]


def test_no_predictions_are_rows_too():
    assert SplitPredictions(CLASSES).rows().shape == (0, 4)


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_on_a_terminal_stand_alone_and_a_bar_beside_those_in_a_file(network, photos, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for source in (photos, photos.parent / "s"):
        if source != photos:
            assert main.run(["shards", "pack", "photos", "s", "--split", "test", "--workers", "1"]) == 0
        for stdout, has_bar in ((_Terminal(), False), (io.StringIO(), True)):
            stderr = _Terminal()
            with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
                assert main.run(["predict", network, str(source), "--workers", "0"]) == 0
            assert ("predicting" in stderr.getvalue()) == has_bar
            assert stdout.getvalue().startswith("file,")
            assert len(rows(stdout.getvalue())) == 5


def test_what_is_printed_beside_a_bar_goes_where_it_was_sent(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stdout, stderr = io.StringIO(), _Terminal()
    with (
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        console.counted("counting", 1) as counter,
    ):
        say("a row")
        counter.advance()
    assert stdout.getvalue() == "a row\n"
    assert "a row" not in stderr.getvalue()


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_files_of_a_folder_that_are_left_out_are_named(command, bcos, network, photos):
    for name in ("notes.txt", "IMG_9.HEIC", "b/IMG_10.heic"):
        (photos / name).write_bytes(b"x")
    status, out, err = bcos(command, network, "photos", *([] if command == "predict" else ["--out", "o"]))
    assert status == 0, err
    assert "photos: left out 2: an image of a format that is not read (.heic): IMG_9.HEIC, b/IMG_10.heic\n" in err
    assert "photos: left out 1: no image, by its name (.txt): notes.txt\n" in err
    assert "left out" not in out


def test_probabilities_are_explained_where_they_are_asked_for(bcos):
    status, out, _ = bcos("predict", "--help")
    assert status == 0
    assert "those of several classes need not add up to 1" in " ".join(out.split())


def test_weights_that_come_with_the_package_predict_and_explain(bcos, tmp_path):
    cat = Path(__file__).parents[2] / "docs/tutorials/cat.png"
    status, out, err = bcos("predict", "cifar10_resnet20", cat)
    assert status == 0, err
    assert ",cat," in out.splitlines()[-1]
    status, _, err = bcos("explain", "cifar10_resnet20", cat, "--out", tmp_path / "explained")
    assert status == 0, err
    (record,) = json.loads((tmp_path / "explained/explanations.json").read_text())["explanations"]
    assert record["receipt"]["passed"]
