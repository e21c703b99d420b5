"""The recipes that come with the package: what they say, and that it can be done."""

import inspect
import json
import re
from pathlib import Path

import pytest
import timm
import yaml

from bcos_cli.config import load_recipe, validate_recipe
from bcos_cli.plugins import recipes
from bcos_cli.train.ema import decay_of
from bcos_core.norms import norm_names
from bcos_core.plugins import resolve
from bcos_models import get_spec, list_models
from bcos_models.published import checkpoint

NAMES = [spec.name for spec in recipes()]
DOCUMENT = Path(__file__).parents[2] / "docs" / "recipes.md"


def loaded(name):
    return load_recipe(name, ["model.start=x"] if name == "finetune" else [])


@pytest.mark.parametrize("name", NAMES)
def test_recipe_names_a_network_with_options_it_has(name):
    recipe = loaded(name)
    assert recipes()[name].summary
    if recipe.model.name is None:
        return
    library, slash, inner = recipe.model.name.partition("/")
    if slash:
        known = timm.is_model(inner) if library == "timm" else True
        assert known
        return
    assert recipe.model.name in list_models()
    accepted = inspect.signature(resolve(get_spec(recipe.model.name).builder)).parameters
    assert set(recipe.model.options) <= set(accepted)


def test_every_norm_with_and_without_maxout_has_its_cifar_recipe():
    found = {}
    for name in NAMES:
        if re.match("cifar10_resnet20", name):
            options = loaded(name).model.options
            found[options["norm"], options.get("max_out", 1)] = name
    assert set(found) == {(norm, units) for norm in (*norm_names(), "none") for units in (1, 2)}
    for depth in (20, 32, 44, 56):
        for name in (f"cifar10_resnet{depth}", f"standard_cifar10_resnet{depth}"):
            recipe = loaded(name)
            assert (recipe.train.epochs, recipe.train.batch_size, recipe.optimizer.name) == (100, 64, "adam")
            assert (recipe.optimizer.lr, recipe.schedule.name, recipe.data.augment.pad_crop) == (0.001, "cosine", 4)


def published():
    """Models with published weights, by the recipe's name."""
    return [name for name in list_models() if checkpoint(name) is not None]


@pytest.mark.parametrize("model", published())
def test_every_published_network_has_the_recipe_it_was_trained_with(model):
    """Transcribed from the description of the reference's experiments."""
    recipe = loaded(f"imagenet_{model}")
    assert recipe.model.name == model
    long, vit, plain = model.endswith("_long") or "convnext" in model, "vit" in model, model.startswith("standard")
    epochs = 600 if long else 100 if model.startswith("resnext") else 90
    assert (recipe.train.epochs, recipe.train.batch_size) == (epochs, 1024 if long or vit else 256)
    assert recipe.train.loss == ("cross_entropy" if plain else "uniform_off_label_bce")
    assert (recipe.optimizer.name, recipe.optimizer.lr) == ("adamw" if plain else "adam", 0.001)
    if not plain:
        assert (recipe.clipping.adaptive, recipe.clipping.adaptive_eps) == (0.01, 0.001)
    if not vit:
        assert (recipe.schedule.warmup_epochs, recipe.schedule.warmup_factor) == (5, 0.01)
    else:
        slow = "_l_" in model or "simple_vit_b" in model
        assert recipe.schedule.warmup_steps == (50_000 if slow else 10_000)
        assert recipe.mixing.mixup == 0.2
        assert recipe.data.augment.rand_augment.magnitude == 10
        assert recipe.clipping.norm == (1.0 if plain else None)
        assert recipe.clipping.adaptive == (None if plain else 0.01)
        assert recipe.optimizer.weight_decay == (0.0001 if plain else 0)
    if long:
        assert (recipe.ema.decay, recipe.ema.every, recipe.data.train_image_size) == (0.99998, 32, 176)
        assert decay_of(recipe.ema, recipe.train) == pytest.approx(1 - 2e-5 * 1024 * 32 / 600, abs=1e-9)
        assert get_spec(model).input.resize == 232
        assert recipe.data.repeats == (1 if "densenet" in model else 4)
        assert (recipe.mixing.mixup, recipe.mixing.cutmix, recipe.data.augment.random_erasing) == (0.2, 1.0, 0.1)
        assert recipe.data.augment.trivial_augment
        assert recipe.model.options.get("drop_path", 0) == (0.1 if "resnet" in model else 0)


def test_fine_tuning_into_a_bcos_network_is_as_published():
    recipe = loaded("imagenet_bcosify")
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.optimizer.lr) == (90, 256, 0.0001)
    assert (recipe.optimizer.name, recipe.clipping.adaptive, recipe.schedule.warmup_epochs) == ("adam", 0.01, 0)
    assert recipe.model.pretrained


@pytest.mark.parametrize("name", ["cifar10_resnet20", "imagenet_bcos_final_long", "imagenet_bcosify", "bcosify_clip"])
def test_what_is_shown_is_the_recipe_with_every_key_explained(name, bcos):
    status, out, err = bcos("recipes", "show", name, "-o", "train.seed=7")
    assert status == 0, err
    values = yaml.safe_load(out)
    assert validate_recipe(values, "shown") == load_recipe(name, ["train.seed=7"])
    assert "# Images of one step, over all processes and accumulated batches." in out
    assert json.loads(bcos("recipes", "show", name, "--json")[1]) == loaded(name).model_dump(mode="json")


def test_recipe_for_any_network_is_shown_without_one(bcos):
    status, out, _ = bcos("recipes", "show", "finetune")
    assert status == 0
    assert yaml.safe_load(out)["model"]["start"] is None


def test_difference_is_what_differs_and_nothing_else(bcos):
    status, out, _ = bcos("recipes", "diff", "imagenet_resnext50_32x4d", "imagenet_resnet50", "--json")
    assert status == 0
    assert {row["key"]: (row["imagenet_resnext50_32x4d"], row["imagenet_resnet50"]) for row in json.loads(out)} == {
        "model.name": ("resnext50_32x4d", "resnet50"),
        "train.epochs": (100, 90),
    }
    status, out, _ = bcos("recipes", "diff", "imagenet_resnet50", "imagenet_bcos_final")
    assert (status, out) == (0, "the recipes are the same\n")
    status, out, _ = bcos("recipes", "diff", "imagenet_bcos_final", "imagenet_bcos_final_long")
    assert status == 0
    assert "ema.decay" in out


def test_unknown_recipe_is_one_line(bcos, line):
    assert "there is no recipe 'imagenet_resnet5'; did you mean" in line(bcos("recipes", "show", "imagenet_resnet5"))


def test_document_names_every_recipe():
    text = DOCUMENT.read_text()
    missing = [name for name in NAMES if f"`{name}`" not in text]
    assert not missing
