"""``bcos explain`` and ``bcos eval`` on a tiny trained run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from bcos_cli.config import dump_recipe, load_recipe
from bcos_cli.data.input_image import read_image
from bcos_cli.explain.files import explain_files
from bcos_cli.explain.image_files import find_images
from bcos_cli.serve.networks import load_networks
from bcos_cli.train.model import build
from bcos_core import BcosError, explain
from bcos_models import TrainedModel, create_model, load_trained, save_weights

CLASSES = ["rows", "columns", "corner"]


@pytest.fixture
def run_folder(recipe, tmp_path):
    """A run's folder with an untrained network."""
    trained = build(recipe(), CLASSES)
    trained.model(torch.rand(8, 2, 8, 8))
    trained.model.eval()
    trained.save(tmp_path / "run" / "model.safetensors")
    (tmp_path / "run" / "config.yaml").write_text(dump_recipe(recipe()))
    return "run"


@pytest.fixture
def pictures(make_tree):
    rng = np.random.default_rng(0)
    noise = {f"{i}.png": Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)) for i in range(3)}
    return make_tree(noise, name="pictures")


def test_numbers_are_those_of_the_exact_explanation(run_folder, pictures, tmp_path):
    written = explain_files(run_folder, find_images([pictures])[0], tmp_path / "out")
    trained = load_trained(run_folder)
    assert [e.file for e in written.explanations] == [str(pictures / f"{i}.png") for i in range(3)]
    for explained in written.explanations:
        x = trained.encode(read_image(pictures / explained.file, trained.input).pixels[None])
        e = explain(trained.model, x)
        k = int(e.target[0])
        assert (explained.predicted, explained.target, explained.target_index) == (CLASSES[k], CLASSES[k], k)
        assert explained.logit == pytest.approx(float(e.score[0]), rel=1e-4)
        assert explained.contributions + explained.bias == pytest.approx(explained.logit, rel=1e-4)
        assert explained.confidence == pytest.approx(float(e.logits[0, k].sigmoid()), rel=1e-4)
        saved = np.load(tmp_path / "out" / explained.map)
        np.testing.assert_allclose(saved, e.map[0].numpy(), rtol=1e-3, atol=1e-6)
        for name in explained.pictures.values():
            with Image.open(tmp_path / "out" / name) as image:
                assert min(image.size) >= 200
    document = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert [e["logit"] for e in document["explanations"]] == [e.logit for e in written.explanations]
    assert document["failures"] == []


def test_table_tells_images_of_one_name_apart(run_folder, make_tree, bcos):
    grey = Image.new("L", (8, 8), 99)
    make_tree({"a/x.png": grey, "b/x.png": grey, "b/y.png": grey}, name="both")
    status, out, err = bcos("explain", run_folder, "both", "--out", "out")
    assert status == 0, err
    assert [line.split("\t")[0] for line in out.splitlines()][1:4] == ["a/x.png", "b/x.png", "b/y.png"]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_make_no_difference(batch_size, run_folder, pictures, tmp_path):
    a = explain_files(run_folder, find_images([pictures])[0], tmp_path / "a").explanations
    b = explain_files(run_folder, find_images([pictures])[0], tmp_path / "b", batch_size=batch_size).explanations
    for one, other in zip(a, b, strict=True):
        assert one.logit == pytest.approx(other.logit, rel=1e-5)
        assert (one.file, one.pictures, one.map) == (other.file, other.pictures, other.map)


def test_every_target_and_method_gets_its_pictures(run_folder, pictures, tmp_path):
    methods = ["bcos", "input_x_gradient", "gradcam", "integrated_gradients"]
    written = explain_files(
        run_folder, find_images([pictures])[0], tmp_path / "out", targets=["corner", "0"], methods=methods
    )
    found = {(e.file[-5:], e.target, e.method) for e in written.explanations}
    assert len(found) == len(written.explanations) == 3 * 2 * 4
    assert {t for _, t, _ in found} == {"corner", "rows"}
    assert all((e.bias is not None) == (e.method == "bcos") for e in written.explanations)
    own = [n for e in written.explanations for kind, n in e.pictures.items() if kind != "overview"]
    own += [e.map for e in written.explanations]
    assert len(set(own)) == len(own)
    overviews = {e.pictures["overview"] for e in written.explanations}
    assert len(overviews) == 3  # one an image, with all targets and methods
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*own, *overviews, "explanations.json"}


def test_files_of_earlier_calls_are_told_and_those_of_this_one_are_not(run_folder, pictures, bcos, tmp_path):
    frames = [Image.new("L", (8, 8), value) for value in (0, 90, 200)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    everything = ["--raw-weight", "--contact-sheet", "--layout", "separate", "--layout", "overlay"]
    for _ in range(2):
        status, _, err = bcos("explain", run_folder, pictures / "0.png", "clip.gif", "--out", "out", *everything)
        assert (status, "earlier calls" in err) == (0, False), err
    before = {path.name for path in (tmp_path / "out").iterdir()}
    _, _, err = bcos("explain", run_folder, pictures / "1.png", "--out", "out")
    document = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert {Path(e["file"]).name for e in document["explanations"]} == {"1.png"}
    stay = before - {"explanations.json"}
    assert f"bcos: {len(stay)} files of earlier calls stay in out, which explanations.json no longer lists: " in err
    assert before <= {path.name for path in (tmp_path / "out").iterdir()}


def test_damaged_file_is_noted_and_the_others_explained(run_folder, pictures, tmp_path, bcos):
    (pictures / "1.png").write_bytes(b"junk")
    (pictures / "2.png").write_bytes((pictures / "2.png").read_bytes()[:50])
    status, out, err = bcos("explain", run_folder, pictures, "--out", "out")
    assert status == 1
    assert re.search(r"bcos: .*1.png: cannot be read: this is no image, or of another format; ", err)
    assert re.search(r"bcos: .*2.png: cannot be read: ", err)
    assert "Traceback" not in err
    document = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert len(document["explanations"]) == 1
    assert len(document["failures"]) == 2
    assert "0.png" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"targets": ["corners"]},
            r"there is no class 'corners'; did you mean 'corner'\? \(or a number from 0 to 2\)",
        ),
        ({"targets": ["3"]}, "there is no class '3'"),
        ({"targets": ["-1"]}, "there is no class '-1'"),
        ({"methods": ["bcoss"]}, "bcoss.*did you mean 'bcos'"),
    ],
    ids=str,
)
def test_unknown_class_or_method_is_refused_before_anything_is_written(
    options, message, run_folder, pictures, tmp_path
):
    with pytest.raises(BcosError, match=message):
        explain_files(run_folder, find_images([pictures])[0], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_classes_with_the_same_letters_do_not_overwrite_each_other(recipe, pictures, tmp_path):
    trained = build(recipe(), ["a b", "a-b", "c"])
    trained.model.eval()
    trained.save(tmp_path / "m.safetensors")
    written = explain_files(
        "m.safetensors", find_images([pictures / "0.png"])[0], tmp_path / "out", targets=["a b", "a-b"]
    )
    maps = [np.load(tmp_path / "out" / e.map) for e in written.explanations]
    for explained, saved in zip(written.explanations, maps, strict=True):
        assert explained.contributions == pytest.approx(float(saved.sum()), rel=1e-3, abs=1e-6)


def evaluation(path):
    return json.loads(path.read_text())


def test_eval_writes_every_score(run_folder, tmp_path, bcos, shards):
    status, out, err = bcos(
        "eval", run_folder, "--metric", "top1", "--metric", "loss", "--json", "e.json", "--workers", 0
    )
    assert status == 0, err
    found = evaluation(tmp_path / "e.json")
    assert set(found["metrics"]) == {"top1", "loss"}
    assert found["metrics"]["top1"] == found["scores"]["top1"]
    assert (found["data"], found["split"], found["scores"]["samples"]) == (shards, "test", 7)
    assert sum(map(sum, found["scores"]["confusion"])) == 7
    assert "top1" in out
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("given", [["--json"], ["--json", "-"]])
def test_eval_prints_json_with_and_without_a_dash(given, run_folder, bcos):
    status, out, err = bcos("eval", run_folder, "--metric", "top1", "--workers", 0, *given)
    assert status == 0, err
    assert set(json.loads(out)["metrics"]) == {"top1"}


def test_eval_takes_another_split_and_model(run_folder, tmp_path, bcos, shards):
    options = ["--data", shards, "--split", "train", "--json", "e.json", "--workers", 0, "--metric", "top1"]
    status, _, err = bcos("eval", "run/model.safetensors", *options)
    assert status == 0, err
    assert evaluation(tmp_path / "e.json")["scores"]["samples"] == 24


def test_scores_of_other_data_are_not_the_runs_and_why_is_said(run_folder, tmp_path, bcos, shards):
    shutil.copytree(shards, tmp_path / "other")
    status, _, err = bcos("eval", run_folder, "--data", "other", "--workers", 0)
    assert status == 0, err
    assert "evaluation.json and report.html stay: they are of the run's own data, these of others" in err


def test_network_that_is_sure_of_nothing_is_scored_all_the_same(run_folder, tmp_path, bcos):
    """No image for the pointing game is no reason to lose the other scores."""
    status, _, err = bcos("eval", run_folder, "--json", "e.json", "--workers", 0)
    assert status == 0, err
    assert evaluation(tmp_path / "e.json")["scores"]["samples"] == 7


def test_shards_of_other_classes_are_refused(run_folder, make_tree, bcos, line):
    assert bcos("shards", "pack", make_tree(["a/1.png", "b/1.png"]), "s", "--split", "test", "--workers", 1)[0] == 0
    text = line(bcos("eval", run_folder, "--data", "s", "--workers", 0, "--metric", "top1"))
    assert "the shards at 's' have 2 classes, of which the network does not know 'a', 'b'" in text


@pytest.fixture
def five(tmp_path):
    """Options that name a network of another library with five classes."""
    torch.save({"model": timm.create_model("test_resnet", num_classes=5).state_dict()}, tmp_path / "five.pth")
    (tmp_path / "names.txt").write_text("löwe\nb\nc\nd\ne\n", encoding="utf-8")
    return ["timm/test_resnet", "--weights", "five.pth", "--classes", "names.txt"]


def test_network_of_another_library_is_used_with_weights_and_names_of_classes(five, make_tree, bcos, tmp_path):
    tree = make_tree([f"test/{name}/{i}.png" for name in ("e", "löwe") for i in range(2)])
    assert bcos("shards", "pack", tree, "s", "--workers", 1)[0] == 0
    for command in (
        ("eval", *five, "--data", "s", "--metric", "top1", "--workers", 0, "--json", "e.json"),
        ("explain", *five, tree, "--target", "löwe", "--method", "gradcam", "--out", "seen"),
        ("maps", *five, "--data", "s", "--target", "löwe", "--method", "gradcam", "--workers", 0, "--out", "maps"),
        ("neurons", *five, "--data", "s", "--workers", 0, "--strongest", 1, "--out", "neurons"),
        ("export", *five, "--out", "net.pt2"),
    ):
        status, _, err = bcos(*command)
        assert status == 0, err
    found = evaluation(tmp_path / "e.json")
    assert found["classes"] == ["löwe", "b", "c", "d", "e"]
    assert [sum(row) for row in found["scores"]["confusion"]] == [2, 0, 0, 0, 2]
    assert evaluation(tmp_path / "maps" / "maps.json")["classes"] == found["classes"]


def test_names_that_do_not_fit_are_one_line(five, tree, bcos, line, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\n", encoding="utf-8")
    assert "there are 2 names of classes for 5 outputs" in line(bcos("explain", *five, tree, "--out", "seen"))
    assert "cannot read the names of classes in 'no.txt'" in line(
        bcos("explain", *five[:4], "no.txt", tree, "--out", "seen")
    )


def test_run_is_used_from_any_folder_and_moves_with_its_data(recipe, shards, bcos, tmp_path, monkeypatch):
    project = tmp_path / "project"
    shutil.copytree(shards, project / "shards")
    monkeypatch.chdir(project)
    other = recipe(train={"epochs": 1}, evaluation={"gridpg_grids": 1, "gallery_per_class": 0, "explainers": ["bcos"]})
    Path("r.yaml").write_text(dump_recipe(other), encoding="utf-8")
    for arguments in (["--out", "runs/a"], ["--out", "runs/b", "-o", "model={start: runs/a}"]):
        status, _, err = bcos("train", "r.yaml", "--data", "shards", *arguments)
        assert status == 0, err
    assert bcos("eval", "runs/a", "--data", "shards", "--workers", 0)[0] == 0
    stored = load_recipe("runs/b/config.yaml")
    assert (stored.data.path, stored.model.start) == (str(project / "shards"), str(project / "runs" / "a"))
    monkeypatch.chdir(tmp_path)
    for where in ("project", "moved"):
        if where == "moved":
            project.rename(tmp_path / "moved")
            (tmp_path / "moved" / "runs").rename(tmp_path / "moved" / "trained")
        run = next((tmp_path / where).glob("*/a"))
        status, _, err = bcos("eval", run, "--metric", "top1", "--workers", 0, "--json", "e.json")
        assert status == 0, err
        assert Path(evaluation(tmp_path / "e.json")["data"]) == tmp_path / where / "shards"
    status, _, err = bcos("train", "--resume", "--out", run)
    assert status == 0, err


def test_run_in_a_folder_that_cannot_be_written_is_scored_and_left_alone(run_folder, bcos, monkeypatch, tmp_path):
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    monkeypatch.setattr("bcos_cli.config.output_path.os.access", lambda *_: False)
    status, out, err = bcos("eval", run_folder, "--workers", 0)
    assert status == 0, err
    assert "top1" in out
    assert "the scores in the run's evaluation.json and report.html stay: its folder cannot be written" in err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_refused_explanation_leaves_no_folder(run_folder, make_tree, bcos, line, tmp_path):
    images = make_tree(["1.png"], "images")
    text = line(bcos("explain", run_folder, images, "--out", "seen", "--method", "attention_rollout"))
    assert "attention rollout needs a transformer" in text
    assert not (tmp_path / "seen").exists()


def test_data_set_with_fewer_classes_than_cells_gets_its_report(recipe, tmp_path, bcos):
    """Three classes make no grids of 2×2; the rest of the scores is there all the same."""
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe(train={"epochs": 8}, optimizer={"lr": 0.03})))
    status, out, err = bcos("train", "r.yaml", "--out", "run")
    assert status == 0, err
    assert evaluation(tmp_path / "run" / "evaluation.json")["scores"]["samples"] == 7
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(name in report for name in CLASSES)
    assert "report.html" in out


FAST_DEMO = ["-o", "evaluation.gridpg_grids=2", "-o", "data.workers=0", "-o", "train.epochs=4"]


def test_demo_replaces_no_image_that_is_not_its_own(bcos, tmp_path):
    (tmp_path / "demo" / "images").mkdir(parents=True)
    (tmp_path / "demo" / ".bcos-demo").touch()
    (tmp_path / "demo" / "images" / "mine.png").write_bytes(b"mine")
    status, _, err = bcos("demo", "--out", "demo", *FAST_DEMO)
    assert status == 2
    assert "holds 'mine.png', which the demo did not write" in err
    assert (tmp_path / "demo" / "images" / "mine.png").read_bytes() == b"mine"


@pytest.mark.slow
def test_demo_leaves_all_it_promises_and_can_be_repeated_and_evaluated(bcos, tmp_path):
    for _ in range(2):
        status, out, err = bcos("demo", "--out", "demo", *FAST_DEMO)
        assert status == 0, err
    demo = tmp_path / "demo"
    assert (demo / "shards" / "index.json").exists()
    assert {"report.html", "evaluation.json", "model.safetensors"} <= {p.name for p in (demo / "run").iterdir()}
    assert len(json.loads((demo / "explanations" / "explanations.json").read_text())["explanations"]) == 12
    assert "report.html" in out
    report = (demo / "run" / "report.html").read_text()
    assert "data:image/webp;base64," in report
    assert not re.search(r"(src|href)=[\"']?(?!data:|#)[^\"'>]*\.(png|css|js)", report)
    before = evaluation(demo / "run" / "evaluation.json")
    assert set(before["explanations"]["gridpg"]) == {"bcos", "input_x_gradient", "integrated_gradients", "gradcam"}
    assert all(g["chance"] == 0.25 and 0 <= g["mean"] <= 1 for g in before["explanations"]["gridpg"].values())
    status, _, err = bcos("eval", "demo/run", "--workers", 0)
    assert status == 0, err
    again = evaluation(demo / "run" / "evaluation.json")
    assert again["scores"]["confusion"] == before["scores"]["confusion"]
    for name, scores in before["explanations"]["gridpg"].items():
        assert again["explanations"]["gridpg"][name]["mean"] == pytest.approx(scores["mean"], rel=1e-4)


def test_demo_of_one_epoch_ends_well_too(bcos):
    """Sure of hardly any image after one epoch: too few classes for grids."""
    status, _, err = bcos("demo", "--out", "demo", *FAST_DEMO[:-1], "train.epochs=1")
    assert status == 0, err


def test_demo_checks_its_overrides_before_it_removes_an_earlier_one(bcos, line, tmp_path):
    (tmp_path / "demo" / "run").mkdir(parents=True)
    assert "unknown key 'train.epoch'" in line(bcos("demo", "--out", "demo", "-o", "train.epoch=1"))
    assert (tmp_path / "demo" / "run").exists()


def test_demo_removes_nothing_that_it_did_not_make(bcos, tmp_path):
    """A folder ``images`` of the user's may be where --out points to."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "holiday.jpg").write_bytes(b"dear")
    bcos("demo", "--out", ".", "-o", "model.options.b=0")
    assert (tmp_path / "images" / "holiday.jpg").exists()


IMAGES = ["--image-size", 32, "--mean", "0.485,0.456,0.406", "--std", "0.25"]


def test_every_command_takes_the_images_of_a_network_by_name(five, make_tree, bcos, tmp_path, monkeypatch):
    import bcos_cli.serve.server as server

    seen = []
    encode = TrainedModel.encode

    def noted(self, images):
        seen.append((tuple(images.shape[-2:]), self.input.size, self.input.resize, self.input.mean, self.input.std))
        return encode(self, images)

    def serve(names, *, weights, classes, **_):
        trained = next(iter(load_networks(names, weights, classes).values())).trained
        trained.encode(torch.zeros(1, 3, trained.input.size, trained.input.size))

    tree = make_tree([f"test/{name}/{i}.png" for name in ("e", "löwe") for i in range(2)])
    assert bcos("shards", "pack", tree, "s", "--workers", 1)[0] == 0
    monkeypatch.setattr(TrainedModel, "encode", noted)
    monkeypatch.setattr(server, "serve", serve)
    for command in (
        ("eval", *five, "--data", "s", "--metric", "top1", "--workers", 0),
        ("explain", *five, tree, "--method", "gradcam", "--out", "seen"),
        ("predict", *five, tree),
        ("predict", *five, "s", "--workers", 0),
        ("maps", *five, "--data", "s", "--method", "gradcam", "--workers", 0, "--out", "maps"),
        ("neurons", *five, "--data", "s", "--workers", 0, "--strongest", 1, "--out", "neurons"),
        ("serve", *five),
    ):
        seen.clear()
        status, _, err = bcos(*command, *IMAGES)
        assert status == 0, err
        assert set(seen) == {((32, 32), 32, 34, (0.485, 0.456, 0.406), (0.25, 0.25, 0.25))}, command
        line = "images: shorter side 34, middle 32×32, mean 0.485,0.456,0.406, std 0.25 (--image-size, --mean, --std as"
        assert err.count(line) == 1
    status, _, err = bcos("export", *five, *IMAGES, "--out", "net.pt2")
    assert status == 0, err
    graph = torch.export.load(tmp_path / "net.pt2")
    original = timm.create_model("test_resnet", num_classes=5).eval()
    original.load_state_dict(torch.load(tmp_path / "five.pth")["model"])
    x = torch.rand(2, 3, 32, 32)
    standardised = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / 0.25
    torch.testing.assert_close(graph.module()(x)["logits"], original(standardised), rtol=1e-4, atol=1e-5)


def test_images_that_the_library_stands_for_are_told(five, tree, bcos):
    status, out, err = bcos("predict", *five, tree)
    assert status == 0, err
    change = "change with --image-size, --resize, --mean, --std"
    assert err.startswith(f"images: shorter side 168, middle 160×160, mean 0.5, std 0.5 (timm's; {change})\n")
    assert "images:" not in out
    assert {row.split(",")[1] for row in out.splitlines()[1:]} <= {"löwe", "b", "c", "d", "e"}


def test_network_that_is_built_for_one_size_is_built_for_the_size_that_is_given(tree, bcos, tmp_path):
    torch.save(timm.create_model("test_vit", num_classes=2, img_size=64).state_dict(), tmp_path / "vit.pth")
    status, out, err = bcos("predict", "timm/test_vit", tree, "--weights", "vit.pth", "--image-size", 64)
    assert status == 0, err
    assert len(out.splitlines()) == 21


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resize", "squashed"], "--resize must be a number of pixels, or squash, got 'squashed'"),
        (["--resize", 96], "resize=96 is smaller than the 160 pixels that are cropped from it; give at least 160"),
        (["--mean", "a"], "--mean must be numbers with commas between them, such as 0.485,0.456,0.406, got 'a'"),
        (["--mean", "0.1,0.2"], "mean=0.1,0.2 must be one number, or one for each of 3 channels"),
        (["--std", "0"], "std of an input must have a finite number for each channel"),
    ],
)
def test_images_that_no_network_takes_are_refused(five, tree, bcos, line, options, message):
    assert message in line(bcos("predict", *five, tree, *options))


def test_runs_bring_their_own_images(run_folder, tree, bcos, line, tmp_path):
    text = line(bcos("predict", run_folder, tree, "--image-size", 96))
    assert f"--image-size, --resize, --mean and --std go with the name of a model; {run_folder!r} says itself" in text
    save_weights(create_model("cifar10_resnet20"), tmp_path / "bare.safetensors")
    bare = ("predict", "cifar10_resnet20", tree, "--weights", "bare.safetensors")
    assert "mean=0.5 is of standardised images, and this network takes values" in line(bcos(*bare, "--mean", 0.5))
    status, _, err = bcos(*bare)
    assert status == 0
    assert "images: resized to 32×32 (the model's; change with --image-size, --resize)" in err


@pytest.mark.parametrize("command", ["explain", "predict", "convert"])
def test_what_names_no_network_is_told_how_to_name_it(command, five, tree, bcos, line):
    rest = [] if command == "convert" else [tree]
    out = [] if command == "predict" else ["--out", "made"]
    assert "name that: timm/NAME --weights five.pth" in line(bcos(command, "five.pth", *rest, *out))
    assert "networks of libraries are named timm/NAME" in line(bcos(command, "test_resnet", *rest, *out))
    assert "timm has no model 'test_resnett'; did you mean 'test_resnet'?" in line(
        bcos(command, "timm/test_resnett", *rest, *out)
    )


def test_few_kinds_of_files_that_are_left_out_are_named(make_tree, capsys):
    make_tree(["a.png"], "many")
    for name in ["b.heic", *(f"n.k{i}" for i in range(12))]:
        Path("many", name).write_bytes(b"?")
    files, _ = find_images(["many"])
    assert [file.path.name for file in files] == ["a.png"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9
    assert "(.heic): b.heic" in lines[0]
    assert lines[-1] == "many: left out 5 more, of 5 other kinds"
