"""What ``bcos train`` is asked for."""

import shutil
from pathlib import Path

import pytest

from bcos_cli.config import dump_recipe
from bcos_cli.data import data_set
from bcos_cli.data.index import load_index
from bcos_cli.train.arguments import resolve_arguments, with_accelerate
from bcos_cli.train.model import build
from bcos_core import BcosError


def resolve(recipe=None, **given):
    values = {"data": None, "overrides": [], "start": None, "head_only": False, "classes": None, "out": None}
    return resolve_arguments(recipe, **{**values, **given})


def test_recipe_by_name_goes_to_a_folder_of_its_name(shards):
    found = resolve("cifar10_resnet20", data=shards, overrides=["train.epochs=3"])
    assert (found.folder, found.resume) == (Path("runs/cifar10_resnet20"), False)
    assert (found.recipe.train.epochs, found.recipe.data.path) == (3, shards)


def test_network_to_start_from_takes_the_recipe_for_it(shards):
    found = resolve(start="resnet18", head_only=True, data=shards, classes=3)
    assert found.folder == Path("runs/finetune")
    assert (found.recipe.model.start, found.recipe.model.train, found.recipe.model.name) == ("resnet18", "head", None)


@pytest.mark.parametrize("typed", ["runs/my run #2", "20240101", "1e3", "~", "runs/a: b", "[a]", "null"])
def test_a_network_to_start_from_is_what_was_typed(typed, shards):
    found = resolve(start=typed, weights=typed, data=shards).recipe.model
    assert (found.start, found.weights) == (typed, typed)


def test_run_is_continued_with_its_own_recipe(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(dump_recipe(recipe(train={"epochs": 7})))
    for asked in ("resume", "auto_resume"):
        found = resolve(out=tmp_path / "run", **{asked: True})
        assert (found.recipe.train.epochs, found.resume) == (7, True)
    assert resolve("cifar10_resnet20", out=tmp_path / "run").resume is False


def test_run_that_may_be_there_is_started_if_it_is_not(tmp_path):
    assert resolve("cifar10_resnet20", out=tmp_path / "run", auto_resume=True).resume is False
    assert resolve("cifar10_resnet20", out=tmp_path / "run", resume=True).resume is True  # the folder refuses it later


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "there is no recipe; give one that bcos recipes lists, a network with --from, or a run with --resume"),
        ({"out": Path("nowhere")}, "there is no run in 'nowhere' to resume; give a recipe"),
        ({"out": Path("nowhere"), "resume": True}, "there is no run in 'nowhere' to resume"),
        ({"start": "resnet18", "classes": 3}, "there are no data to train on"),
    ],
)
def test_too_little_is_refused(given, message):
    with pytest.raises(BcosError, match=message):
        resolve(**given)


def with_precision(recipe, own, asked, backend="no"):
    environment = {"ACCELERATE_MIXED_PRECISION": asked, "ACCELERATE_DYNAMO_BACKEND": backend}
    return with_accelerate(recipe(train={"precision": own}).train, environment).precision


@pytest.mark.parametrize(
    ("own", "asked", "used"),
    [("no", "no", "no"), ("bf16", "no", "bf16"), ("no", "bf16", "bf16"), ("fp16", "fp16", "fp16")],
)
def test_precision_of_accelerates_configuration_counts_where_the_recipe_has_none(own, asked, used, recipe):
    assert with_precision(recipe, own, asked) == used
    assert with_accelerate(recipe().train, {}) == recipe().train


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("fp16", "bf16"),
            "Accelerate's configuration has mixed_precision=bf16, the recipe train.precision=fp16;",
        ),
        (("no", "fp8"), "Accelerate's configuration has mixed_precision=fp8, the recipe train.precision=no; make"),
        (("no", "no", "INDUCTOR"), "Accelerate's configuration has the dynamo backend INDUCTOR; .* use train.compile"),
    ],
)
def test_settings_of_accelerate_that_would_not_count_are_refused(given, message, recipe):
    with pytest.raises(BcosError, match=message):
        with_precision(recipe, *given)


def test_other_number_of_classes_than_expected_is_refused(shards):
    with pytest.raises(BcosError, match=r"--classes 5 was given, the shards at .* have 3; give other shards"):
        resolve(start="resnet18", data=shards, classes=5)


def test_registered_data_set_is_packed_when_it_is_asked_for(tmp_path, monkeypatch, capsys):
    packed = []
    monkeypatch.setattr(
        "bcos_cli.data.pack.pack", lambda source, *given, **_: packed.append((len(source.items), *given))
    )
    assert data_set.packed_data_set("digits") == str(Path("shards/digits"))
    assert packed == [(1797, "digits", Path("shards/digits"))]
    assert "the data set 'digits' is packed in 'shards/digits'" in capsys.readouterr().err
    for other in ("s3://b/digits", "digitz"):
        assert data_set.packed_data_set(other) == other
    (tmp_path / "digits").mkdir()
    assert data_set.packed_data_set("digits") == "digits"
    assert len(packed) == 1


def test_one_of_several_processes_packs_and_the_others_take_what_is_there(tmp_path, monkeypatch):
    packed = []
    monkeypatch.setattr("bcos_cli.data.pack.pack", lambda *_, wait: packed.append(wait))
    monkeypatch.setenv("RANK", "1")
    data_set.packed_data_set("digits")
    (tmp_path / "shards/digits").mkdir(parents=True)
    (tmp_path / "shards/digits/index.json").touch()
    data_set.packed_data_set("digits")
    assert packed == [True]


def test_nothing_is_packed_for_a_command_that_is_refused(tmp_path, bcos, line):
    for command in ("train", "doctor"):
        assert "nosuch" in line(bcos(command, "nosuch", "--data", "digits", "--out", "run"))
    for command in (["eval", "nosuch"], ["maps", "nosuch", "--out", "o"], ["neurons", "nosuch", "--out", "o"]):
        assert "nosuch" in line(bcos(*command, "--data", "digits"))
    assert list(tmp_path.iterdir()) == []


def test_every_command_with_data_takes_a_registered_data_set(bcos, recipe, tmp_path):
    trained = build(recipe(), [str(digit) for digit in range(10)])
    trained.model.eval()
    trained.save(tmp_path / "run" / "model.safetensors")
    small = ["-o", "data.workers=0", "-o", "train.batch_size=64"]
    for command in (
        ["doctor", "digits", *small],
        ["eval", "run", "--metric", "top1", "--workers", "0"],
        ["maps", "run", "--out", "maps", "--workers", "0", "--batch-size", "360"],
        ["neurons", "run", "--out", "neurons", "--workers", "0", "--scanned", "8", "--strongest", "1"],
    ):
        status, _, err = bcos(*command, "--data", "digits")
        assert (status, "the data set 'digits' is packed in 'shards/digits'" in err) == (0, True), (command, err)
        assert load_index("shards/digits").samples("test") == 359
        shutil.rmtree("shards")


def test_command_trains_on_a_registered_data_set(bcos):
    small = ["-o", "train.epochs=1", "-o", "data.workers=0", "-o", "evaluation.gridpg_grids=1"]
    status, _, err = bcos("train", "digits", "--data", "digits", "--out", "run", *small)
    assert status == 0, err
    assert f"path: {Path('shards/digits').resolve()}" in Path("run/config.yaml").read_text(encoding="utf-8")
