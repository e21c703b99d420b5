"""Damaged test images: an error, or left out of scores, pictures and the report, and counted everywhere."""

import json
import shutil

import pytest
import torch
from damaging import replace_members

from bcos_cli.config import dump_recipe
from bcos_cli.data.index import load_index
from bcos_cli.data.loader import images_at
from bcos_cli.data.reading import Reading
from bcos_cli.evaluate.evaluation import evaluate_shards
from bcos_cli.evaluate.options import EvaluationOptions
from bcos_cli.train.model import build
from bcos_core import BcosError

SKIP = Reading(skip=True)
CLASSES = ["rows", "columns", "corner"]


@pytest.fixture
def damaged(shards, tmp_path):
    """The synthetic shards; of seven test images the second is none, and the last two are cut off."""
    folder = tmp_path / "damaged"
    shutil.copytree(shards, folder)
    first, last = (folder / record.name for record in load_index(str(folder)).of("test"))
    replace_members(first, {1: b"no image"}, ".png")
    last.write_bytes(last.read_bytes()[:512])
    return str(folder)


@pytest.fixture
def trained(recipe):
    made = build(recipe(), CLASSES)
    made.model.eval()
    return made


def test_positions_are_an_error_or_left_out(damaged, shards, trained, capsys):
    index = load_index(damaged)
    with pytest.raises(BcosError, match=r"the image '.*' of .*test-000000.tar: cannot be read"):
        images_at(damaged, index, "test", trained.input, [0, 1, 2])
    with pytest.raises(BcosError, match=r"the shard .*test-000001.tar' .*; check it with: bcos shards verify"):
        images_at(damaged, index, "test", trained.input, [5])
    found = images_at(damaged, index, "test", trained.input, range(7), SKIP)
    whole = images_at(shards, index, "test", trained.input, range(7))
    assert sorted(found) == [0, 2, 3, 4]
    assert all(torch.equal(found[p][0], whole[p][0]) and found[p][1] == whole[p][1] for p in found)
    assert "bcos: left out: the image" in capsys.readouterr().err


@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
def test_what_would_run_a_program_or_break_a_decoder_is_left_out_by_name(decoder, shards, trained, tmp_path, capsys):
    folder = tmp_path / "hostile"
    shutil.copytree(shards, folder)
    first, _ = (folder / record.name for record in load_index(str(folder)).of("test"))
    endless = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{ } loop\n"
    replace_members(first, {0: endless, 2: b"P5 100000 100000 255\n"}, ".png")
    index = load_index(str(folder))
    for position, why in ((0, "cannot be read: this is no image"), (2, "too large: 100000×100000 pixels")):
        with pytest.raises(BcosError, match=rf"^the image '.+' of .*test-000000.tar: {why}"):
            images_at(str(folder), index, "test", trained.input, [position], Reading(decoder=decoder))
    found = images_at(str(folder), index, "test", trained.input, range(7), Reading(skip=True, decoder=decoder))
    assert sorted(found) == [1, 3, 4, 5, 6]
    assert capsys.readouterr().err.count("test-000000.tar: ") == 2


@pytest.mark.parametrize("metrics", [("top1", "completeness", "gridpg"), ("completeness",)])
def test_scores_are_those_of_the_images_that_can_be_read(metrics, damaged, trained):
    with pytest.raises(BcosError, match=r"cannot be read|bcos shards verify"):
        evaluate_shards(trained, damaged, EvaluationOptions(metrics=metrics, workers=0))
    found = evaluate_shards(trained, damaged, EvaluationOptions(metrics=metrics, workers=0, reading=SKIP))
    assert "3 images could not be read and were left out" in found.notes
    assert found.samples["completeness"] == [0, 2, 3, 4]
    assert len(found.explanations["completeness"][""].scores) == 4
    if "top1" in metrics:
        assert (found.scores.samples, found.scores.unread) == (4, 3)


def test_nothing_that_can_be_read_is_an_error(damaged, trained):
    first, _ = load_index(damaged).of("test")
    replace_members(f"{damaged}/{first.name}", dict.fromkeys(range(7), b"no image"), ".png")
    options = {"workers": 0, "reading": SKIP}
    with pytest.raises(BcosError, match="none of 7 images could be read; check them with: bcos shards verify"):
        evaluate_shards(trained, damaged, EvaluationOptions(metrics=("top1",), **options))
    some = evaluate_shards(trained, damaged, EvaluationOptions(metrics=("completeness",), **options))
    assert some.skipped == {"completeness": "none of the images that were chosen could be read"}


def test_run_goes_to_its_end_and_counts_them_at_every_place(damaged, recipe, bcos, line, tmp_path):
    made = recipe(
        data={"path": damaged, "on_error": "skip"},
        train={"epochs": 1, "explained_images": 7},
        evaluation={"explainers": ["bcos"], "gridpg_grids": 0, "gallery_per_class": 9, "neurons": 1},
    )
    (tmp_path / "r.yaml").write_text(dump_recipe(made))
    status, out, err = bcos("train", "r.yaml", "--out", "run")
    assert status == 0, err
    assert "epoch 1: 3 test images could not be read and were left out" in err
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["test_skipped"] == 3
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (evaluation["scores"]["samples"], evaluation["scores"]["unread"]) == (4, 3)
    assert "3 images could not be read and were left out" in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "explanations" / "epoch-0001.png").exists()

    status, out, _ = bcos("eval", "run", "--metric", "top1", "--workers", 0)
    assert status == 0
    assert "3 images could not be read and were left out" in out
    told = line(bcos("eval", "run", "--metric", "top1", "--workers", 0, "--on-error", "stop"))
    assert "cannot be read" in told
    assert bcos("neurons", "run", "--out", "n", "--workers", 0)[0] == 0
