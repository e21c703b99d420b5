"""The recipes that come with the package: what they say, and that it can be done."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import yaml
from shipped_recipes import LEFT_OPEN

from bcos_cli.config import load_recipe, validate_recipe
from bcos_cli.plugins import recipes
from bcos_cli.train.optimization import decay_of
from bcos_core import BcosError
from bcos_core.norms import norm_names
from bcos_core.plugins import options_of, resolve
from bcos_models import get_spec, list_models
from bcos_models.checkpoints import checkpoint

NAMES = [spec.name for spec in recipes()]
DOCUMENT = Path(__file__).parents[2] / "docs" / "recipes.md"


def loaded(name):
    return load_recipe(name, LEFT_OPEN.get(name, []))


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
    assert set(recipe.model.options) <= set(options_of(resolve(get_spec(recipe.model.name).builder)) or ())


ABLATIONS = [
    (f"{model}{suffix}", model, options)
    for model, norms in {
        "cifar10_resnet20": (None, *norm_names(), "none"),
        **{f"cifar10_resnet{depth}": (None,) for depth in (32, 44, 56)},
    }.items()
    for norm in norms
    for units in (None, 2)
    if (norm, units) != (None, None)
    for suffix in [("" if norm is None else f"_{norm}") + ("" if units is None else "_maxout2")]
    for options in [{key: value for key, value in (("norm", norm), ("max_out", units)) if value is not None}]
]


@pytest.mark.parametrize(("former", "model", "options"), ABLATIONS, ids=[former for former, _, _ in ABLATIONS])
def test_ablation_is_a_model_with_options_also_by_its_former_name(former, model, options):
    if options.get("norm") == "batch_uncentered":  # the one that the model has anyway; no recipe was called so
        return
    recipe = load_recipe(model, [f"model.options.{key}={value}" for key, value in options.items()])
    assert recipe == load_recipe(former)
    assert (recipe.model.name, recipe.model.options.items() >= options.items()) == (model, True)


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
@pytest.mark.parametrize("prefix", ["", "standard_"])
def test_networks_for_cifar_are_trained_as_in_the_paper(prefix, depth):
    recipe = loaded(f"{prefix}cifar10_resnet{depth}")
    assert recipe.model.name == f"{prefix}cifar10_resnet{depth}"
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.optimizer.name) == (100, 64, "adam")
    assert (recipe.optimizer.lr, recipe.schedule.name, recipe.data.augment.pad_crop) == (0.001, "cosine", 4)
    assert recipe.train.loss == ("cross_entropy" if prefix else "bce")


def published():
    """Models with weights that the authors of B-cos have published."""
    return [name for name in list_models() if (c := checkpoint(name)) is not None and c.url.startswith("https:")]


@pytest.mark.parametrize("model", published())
def test_every_published_network_has_the_recipe_it_was_trained_with(model):
    """Transcribed from the description of the reference's experiments."""
    recipe = loaded(model)
    assert recipe == loaded(f"imagenet_{model}")  # its former name
    assert recipe.model.name == model
    options = {**get_spec(model).options, **recipe.model.options}
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
        assert options.get("drop_path", 0) == (0 if "densenet" in model else 0.5 if "base" in model else 0.1)


def test_fine_tuning_into_a_bcos_network_is_as_published():
    recipe = loaded("imagenet_bcosify")
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.optimizer.lr) == (90, 256, 0.0001)
    assert (recipe.optimizer.name, recipe.clipping.adaptive, recipe.schedule.warmup_epochs) == ("adam", 0.01, 0)
    assert recipe.model.pretrained


@pytest.mark.parametrize("model", list_models())
def test_every_model_names_a_recipe_and_is_one(model):
    assert get_spec(model).recipe in NAMES
    assert loaded(model).model.name == model


@pytest.mark.parametrize(
    ("former", "model"),
    [
        ("imagenet_bcosify_deit_small", "timm/deit_small_patch16_224"),
        ("imagenet_bcosify_densenet121", "torchvision/densenet121"),
    ],
)
def test_network_of_another_library_is_fine_tuned_with_its_weights(former, model):
    recipe = loaded(model)
    assert recipe == loaded(former)
    assert (recipe.model.name, recipe.model.pretrained, recipe.model.options) == (model, True, {})
    assert recipe.optimizer == loaded("imagenet_bcosify").optimizer


def test_model_of_ours_is_converted_with_the_recipe_for_its_images():
    assert loaded("bcosified/standard_cifar10_resnet56").annealing.exponent_epochs == 1.5
    assert loaded("bcosified/standard_vitc_s_patch1_14").clipping.adaptive == 0.01


def test_model_is_the_base_of_a_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: resnet34\nmodel: {options: {b: 1.5}}\ntrain: {epochs: 30}\n")
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    assert (recipe.model.name, recipe.model.options, recipe.train.epochs) == ("resnet34", {"b": 1.5}, 30)
    assert recipe.clipping == loaded("imagenet_bcos_final").clipping


def test_model_without_a_recipe_is_one_line(monkeypatch):
    spec = replace(get_spec("resnet18"), recipe=None)
    monkeypatch.setattr("bcos_models.registry.get_spec", lambda _: spec)
    with pytest.raises(BcosError, match="'resnet18' does not name a recipe it is trained with; give one that bcos rec"):
        load_recipe("resnet18")


def test_models_are_listed_with_their_recipe(bcos):
    rows = json.loads(bcos("recipes", "--json")[1])
    assert sorted(model for row in rows for model in row["models"]) == list_models()
    assert next(row["models"] for row in rows if row["name"] == "imagenet_resnext50_32x4d") == ["resnext50_32x4d"]
    assert "wide_resnet50_2" in bcos("recipes")[1]


@pytest.mark.parametrize(
    "name", ["cifar10_resnet20", "imagenet_bcos_final_long", "imagenet_bcosify", "bcosify_clip", "resnet50"]
)
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
    status, out, _ = bcos("recipes", "diff", "resnext50_32x4d", "resnet50", "--json")
    assert status == 0
    assert {row["key"]: (row["resnext50_32x4d"], row["resnet50"]) for row in json.loads(out)} == {
        "model.name": ("resnext50_32x4d", "resnet50"),
        "train.epochs": (100, 90),
    }
    status, out, _ = bcos("recipes", "diff", "imagenet_resnet50", "resnet50")
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
