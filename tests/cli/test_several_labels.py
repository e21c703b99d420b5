"""Images with several labels, or with labels in a table: packed, trained, scored, explained."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from bcos_cli.data.index import load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.data.verify import verify
from bcos_cli.evaluate.classification import classify
from bcos_cli.train.losses import make_loss
from bcos_cli.train.model import build
from bcos_models import load_trained

SIDE = 8


def picture(rng, corner, rows):
    """A dark image with a bright corner, bright rows, both, or neither."""
    image = rng.integers(0, 40, (SIDE, SIDE)).astype(np.uint8)
    if corner:
        image[:3, :3] = 255
    if rows:
        image[5::2] = 200
    return Image.fromarray(image)


@pytest.fixture
def photos(tmp_path):
    """Folder of images and a table of their labels: 48 for training, 16 for testing."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = ["image,labels,split"]
    for i in range(64):
        corner, rows = bool(i & 1), bool(i & 2)
        picture(rng, corner, rows).save(folder / f"{i:02d}.png")
        names = ";".join(name for name, there in (("corner", corner), ("rows", rows)) if there)
        lines.append(f"{i:02d}.png,{names},{'train' if i < 48 else 'test'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def packed(photos, bcos, tmp_path):
    status, _, err = bcos("shards", "pack", photos, "shards", "--labels", "labels.csv", "--samples-per-shard", 20)
    assert status == 0, err
    return tmp_path / "shards"


def test_labels_travel_through_shards(packed, recipe):
    index = load_index(str(packed))
    assert index.multi_label
    assert index.classes == ["corner", "rows"]
    assert index.class_counts("train") == [24, 24]
    assert verify(packed, index) == []
    spec = load_trained_input(recipe)
    batches = make_batches(str(packed), index, "test", spec, batch_size=5)
    labels = torch.cat([labels for _, labels, _ in batches.epoch(0)])
    assert labels.shape == (16, 2)
    assert sorted(map(tuple, labels.tolist())) == sorted([(0, 0), (1, 0), (0, 1), (1, 1)] * 4)


def test_processes_without_images_know_the_scores_too(packed, recipe, in_processes):
    """Five processes for four images: one has nothing to say to the others but that."""
    index = load_index(str(packed))
    record = index.of("test")[0]
    index.shards = [record.model_copy(update={"samples": 4})]
    with tarfile.open(packed / record.name) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar][:8]
    with tarfile.open(packed / record.name, "w") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    trained = build(recipe(), index.classes)

    def scores(rank=0, world=1):
        batches = make_batches(str(packed), index, "test", trained.input, batch_size=5, rank=rank, world=world)
        loss = make_loss("bce")
        return classify(trained, trained.model, batches, loss, device=torch.device("cpu"), show_progress=False)

    one = scores()
    for other in in_processes(5, scores):
        assert other.samples == one.samples == 4
        for name in ("mean_average_precision", "f1", "top1", "loss", "calibration_error"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), abs=1e-6)


def load_trained_input(recipe):
    return build(recipe(), ["a", "b"]).input


def test_one_label_each_in_a_table_is_plain_classification(photos, bcos, tmp_path):
    (tmp_path / "one.csv").write_text("image,labels\n00.png,dark\n01.png,corner\n05.png,corner\n")
    assert bcos("shards", "pack", photos, "one", "--labels", "one.csv")[0] == 0
    index = load_index(str(tmp_path / "one"))
    assert not index.multi_label
    assert (index.classes, index.samples("train"), index.class_counts("train")) == (["corner", "dark"], 3, [2, 1])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("picture,labels\na,b\n", "has no column 'image', has picture, labels; its first line must be: image,labels"),
        ("image,labels\n", "has no rows"),
        ("image,labels\n00.png,\n", "has no labels"),
        ("image,labels\n0.png,a\n", "the image '0.png' of the table 't.csv' is not there; did you mean '"),
        ("image,labels\n00.png,a\n./00.png,b\n", "has the image './00.png' twice; give its labels in one row"),
        ("image,labels\n00.png,a\n01.png,\n", "1 of 2 images of the table 't.csv' have no label, such as '01.png'"),
        ("image,labels\n00.png,a\n,b\n", "line 3 of the table 't.csv' has no image; remove or fill it"),
        ("image,labels\nx,a\n", "the image 'x' of the table 't.csv' may be x.jpg or x.png; write its suffix"),
    ],
)
def test_table_that_does_not_fit_is_refused_in_one_line(table, message, photos, bcos, line, tmp_path):
    (tmp_path / "t.csv").write_text(table)
    for suffix in ("jpg", "png", "json"):
        (photos / f"x.{suffix}").touch()
    assert message in line(bcos("shards", "pack", photos, "out", "--labels", "t.csv"))
    assert not (tmp_path / "out").exists()


KAGGLE = {
    "no suffix": ("id,label\n00,dark\n01,corner\n", ["--image-column", "id", "--label-column", "label"]),
    "one-hot": (
        "image,dark,corner,split\n00,1.0,0.0,train\n01,0,1,train\n",
        ["--label-column", "dark", "--label-column", "corner"],
    ),
    "all other columns": ("image,dark,corner\n00,1,0\n01,False,True\n", ["--label-column", "*"]),
    "dots and backslashes": ("image,labels\n./00.png,dark\n.\\01.png,corner\n", []),
    "from the root": ("image,labels\n{folder}/00.png,dark\n{folder}/01.png,corner\n", []),
}


@pytest.mark.parametrize("kind", KAGGLE)
def test_tables_of_other_programs_are_read(kind, photos, bcos, tmp_path):
    content, options = KAGGLE[kind]
    (tmp_path / "t.csv").write_text(content.format(folder=photos))
    status, out, err = bcos("shards", "pack", photos, "one", "--labels", "t.csv", *options)
    assert status == 0, err
    index = load_index(str(tmp_path / "one"))
    assert (index.classes, index.multi_label) == (["corner", "dark"], False)
    assert index.class_counts("train") == [1, 1]
    assert "left out 62: not in the table: 02.png, " in out


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("id,label\n00,a\n", [], "has no column 'image', has id, label; its first line must be"),
        ("image,label\n00,a\n", ["--label-column", "lable"], "has no column 'lable', has image, label"),
        ("image,a,b\n00,1,0.3\n", ["--label-column", "*"], "line 2 of the table 't.csv' has '0.3' in a class's column"),
    ],
)
def test_columns_that_are_not_there_or_hold_something_else_are_refused(content, options, message, photos, bcos, line):
    (photos.parent / "t.csv").write_text(content)
    assert message in line(bcos("shards", "pack", photos, "one", "--labels", "t.csv", *options))
    assert "go with a table; give it with --labels" in line(bcos("shards", "pack", photos, "x", "--image-column", "id"))


@pytest.fixture
def run(packed, bcos, recipe, tmp_path):
    from bcos_cli.config import dump_recipe

    made = recipe(
        data={"path": str(packed)},
        train={"epochs": 12, "class_weights": "balanced"},
        optimizer={"lr": 0.02},
        mixing={"mixup": 0.1},
    )
    (tmp_path / "r.yaml").write_text(dump_recipe(made))
    status, out, err = bcos("train", "r.yaml", "--out", "run")
    assert status == 0, err
    return tmp_path / "run", out


@pytest.mark.slow
def test_network_learns_several_labels_and_is_scored_by_mean_average_precision(run, packed, bcos):
    folder, out = run
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["test_map"] > 0.9
    assert not any(line.get("best") for line in lines)  # test images choose nothing
    assert "mean_average_precision" in out
    assert "it needs images of one class, but these have several labels" in out
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["metrics"]["completeness"] < 1e-5
    assert "gridpg" in evaluation["skipped"]
    report = (folder / "report.html").read_text()
    assert "mean average precision" in report

    trained = load_trained(str(folder))
    index = load_index(str(packed))
    batches = make_batches(str(packed), index, "test", trained.input, batch_size=5)
    scores = classify(trained, trained.model, batches, make_loss("bce"), device=torch.device("cpu"))
    images, labels = zip(*((i, k) for i, k, _ in batches.epoch(0)), strict=True)
    with torch.no_grad():
        confidences = trained.confidences(trained.model(trained.encode(torch.cat(images))))
    wanted = torch.cat(labels)
    expected = average_precision_score(wanted.numpy(), confidences.numpy(), average="macro")
    assert scores.mean_average_precision == pytest.approx(expected, abs=1e-6)
    assert scores.samples == 16
    predicted = confidences > 0.5
    hits = (predicted & (wanted > 0)).sum() / (predicted.sum() + wanted.sum()) * 2
    assert scores.f1 == pytest.approx(float(hits), abs=1e-6)
    assert scores.top1 == pytest.approx(float(wanted.gather(1, confidences.argmax(1, keepdim=True)).mean()))

    status, _, err = bcos("maps", folder, "--data", packed, "--out", "maps", "--split", "test")
    assert status == 0, err


def test_balanced_drawing_of_several_labels_is_refused(packed, bcos, recipe, line, tmp_path):
    from bcos_cli.config import dump_recipe

    made = recipe(data={"path": str(packed), "balanced": True}, train={"epochs": 1})
    (tmp_path / "r.yaml").write_text(dump_recipe(made))
    message = line(bcos("train", "r.yaml", "--out", "run"))
    assert "data.balanced draws classes equally often, these images have several labels; leave it out" in message
