import os

import pytest
import yaml
from shipped_recipes import LEFT_OPEN

from bcos_cli.config import Recipe, dump_recipe, load_recipe, validate_recipe
from bcos_cli.config.recipe_layers import dump_yaml, load_yaml
from bcos_cli.plugins import recipes
from bcos_core import BcosError

MINIMAL = {"model": {"name": "m"}, "train": {"epochs": 3}}


def write(path, **values):
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.fixture
def minimal(tmp_path):
    return write(tmp_path / "minimal.yaml", **MINIMAL)


@pytest.mark.parametrize("name", recipes().names())
def test_every_shipped_recipe_is_valid_and_survives_dumping(name, tmp_path):
    recipe = load_recipe(name, LEFT_OPEN.get(name, []))
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe
    assert recipes()[name].summary


def test_dump_holds_every_value(minimal):
    def keys(values, model):
        assert list(values) == list(model.model_fields)
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                keys(values[name], field.annotation)

    keys(yaml.safe_load(dump_recipe(load_recipe(minimal))), Recipe)


def test_round_trip_keeps_values_that_are_not_the_defaults(minimal, tmp_path):
    overrides = [
        "model.options={b: 1.5, depths: [1, 2], norm: layer}",
        "data.augment.random_resized_crop=[0.25, 1]",
        "schedule.warmup_epochs=0.5",
        "clipping.norm=1",
        "evaluation.explainers=[bcos]",
    ]
    recipe = load_recipe(minimal, overrides, data="s3://bucket/shards")
    assert recipe.data.augment.random_resized_crop == (0.25, 1.0)
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "again.yaml")) == recipe


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "yes",
        "On",
        "off",
        "y",
        "010",
        "0o17",
        "0x1f",
        "1:30",
        "1e3",
        "08",
        "1_0",
        "2020-01-01",
        "~",
        "",
        "<<",
        "=",
    ],
)
def test_word_that_looks_like_a_value_is_dumped_so_that_every_reader_takes_it_for_a_word(text):
    dumped = dump_yaml({"key": text})
    assert load_yaml(dumped) == yaml.safe_load(dumped) == {"key": text}


def test_words_in_files_mean_what_they_mean_in_overrides(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        "model: {name: 1e3x}\ntrain:\n  epochs: 3\n  precision: no\n  compile: no\n  seed: 010\noptimizer: {lr: 1e-3}"
    )
    recipe = load_recipe(str(path))
    assert (recipe.train.precision, recipe.train.compile, recipe.train.seed, recipe.optimizer.lr) == (
        "no",
        "no",
        10,
        1e-3,
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", r"unknown key 'train.epoch'; did you mean 'epochs'\?"),
        ("epochs=3", r"unknown key 'epochs'; did you mean 'train.epochs'\?"),
        ("train.lr=3", r"unknown key 'train.lr'; did you mean 'optimizer.lr'\?"),
        ("weight_decay=3", r"unknown key 'weight_decay'; did you mean 'optimizer.weight_decay'\?"),
        ("trian.epochs=3", r"unknown key 'trian'; did you mean 'train'\?"),
        (
            "data.augment.horizontal_flop=1",
            r"unknown key 'data.augment.horizontal_flop'; did you mean 'horizontal_flip'\?",
        ),
        (
            "schedule.qqq=1",
            "unknown key 'schedule.qqq'; the keys are name, warmup_epochs, warmup_steps",
        ),
        ("train.epochs=many", "train.epochs='many': input should be a valid integer"),
        ("train.epochs=0", "train.epochs=0: input should be greater than or equal to 1"),
        ("train.epochs=1.5", "train.epochs=1.5: input should be a valid integer"),
        ("optimizer.lr=0", "optimizer.lr=0: input should be greater than 0"),
        ("optimizer.lr=-1e-3", "optimizer.lr=-0.001: input should be greater than 0"),
        ("optimizer.name=adan", "optimizer.name='adan': input should be 'adam', 'adamw', 'sgd' or 'lamb'"),
        ("data.image_channels=0", "data.image_channels=0: input should be greater than or equal to 1"),
        ("data.range=5:5", "data.range='5:5': black and white must be finite and differ"),
        (
            "data.augment.horizontal_flip=1.5",
            "data.augment.horizontal_flip=1.5: input should be less than or equal to 1",
        ),
        ("train.loss=mse", "there is no loss 'mse'; choose from bce, cross_entropy, uniform_off_label_bce"),
        ("train.precision=fp8", "train.precision='fp8': input should be 'no', 'bf16', 'fp16' or 'float64'"),
        ("model=5", "model=5: input should be a valid dictionary"),
        ("evaluation.gridpg_size=1", "evaluation.gridpg_size=1: input should be greater than or equal to 2"),
        ("evaluation.gridpg_smooth=4", "evaluation.gridpg_smooth=4: must be odd"),
        (
            "schedule.warmup_epochs=3",
            "schedule.warmup_epochs=3 leaves nothing of train.epochs=3; make the warm-up shorter, such as "
            r"-o schedule\.warmup_epochs=0$",
        ),
        ("train.accumulate=3", "train.accumulate=3 must divide train.batch_size=64"),
        ("optimizer.lr=.inf", "optimizer.lr=inf: input should be a finite number"),
        ("optimizer.lr=.nan", "optimizer.lr=nan: input should be"),
        ("optimizer.weight_decay=.inf", "optimizer.weight_decay=inf: input should be a finite number"),
        ("train.seed=4294967296", "train.seed=4294967296: input should be less than 4294967296"),
        ("train.epochs=1000000000000", "train.epochs=1000000000000: input should be less than or equal to"),
        ("model.options.b=.inf", "model.options: options.b must be finite"),
        ("model.options.depths=[1000000000]", "model.options: options.depths must be finite, and at most 100,000"),
        ("model.options.network.qkv_bias=no", r"model\.options\.network\.qkv_bias=no is a word, .* write true"),
        ("model.options.weights=x.pth", "model.options: weights cannot stand among the options"),
    ],
)
def test_key_or_value_that_does_not_fit_is_named_with_the_remedy(override, message, minimal):
    with pytest.raises(BcosError, match=message) as error:
        load_recipe(minimal, [override])
    assert str(error.value).startswith(f"recipe {minimal}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["data.augment.random_resized_crop=[0.9, 0.1]", "train.seed=-1"])
def test_value_that_only_fails_in_training_is_refused_at_once(override, minimal):
    with pytest.raises(BcosError, match=override.partition("=")[0]):
        load_recipe(minimal, [override])


def test_all_problems_are_counted_and_the_first_is_told(minimal):
    with pytest.raises(BcosError, match=r"optimizer.lr=0: .* \(and 2 more\)$"):
        load_recipe(minimal, ["train.epochs=0", "optimizer.lr=0", "zzz=1"])


@pytest.mark.parametrize(("missing", "key"), [("model", "model"), ("train", "train")])
def test_missing_section_is_named(missing, key):
    values = {k: v for k, v in MINIMAL.items() if k != missing}
    with pytest.raises(BcosError, match=f"recipe x: {key} is missing; give it a value"):
        validate_recipe(values, "x")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("optimizer.lr=1e-3", ("optimizer", "lr"), 1e-3),
        ("optimizer.lr=.5", ("optimizer", "lr"), 0.5),
        ("train.seed=7", ("train", "seed"), 7),
        ("clipping.norm=null", ("clipping", "norm"), None),
        ("data.augment.trivial_augment=true", ("data", "augment", "trivial_augment"), True),
        ("data.path=a=b", ("data", "path"), "a=b"),
        (" train.seed =7", ("train", "seed"), 7),
        ("data.path=infinity", ("data", "path"), "infinity"),
        ("train.precision=no", ("train", "precision"), "no"),
        ("train.compile=no", ("train", "compile"), "no"),
        ("data.path=2020-01-01", ("data", "path"), "2020-01-01"),
        ("train.seed=010", ("train", "seed"), 10),
        ("data.range=0:4095", ("data", "range"), (0, 4095)),
        ("data.range=[-1000, 400.5]", ("data", "range"), (-1000, 400.5)),
        ("data.path=0777:30", ("data", "path"), "0777:30"),
    ],
)
def test_override_is_read_as_yaml(override, path, value, minimal):
    found = load_recipe(minimal, [override])
    for name in path:
        found = getattr(found, name)
    assert found == value


def test_options_of_the_model_keep_their_types(minimal):
    overrides = ["model.options.b=1e-1", "model.options.depths=[1, 2]", "model.options.norm=batch"]
    assert load_recipe(minimal, overrides).model.options == {"b": 0.1, "depths": [1, 2], "norm": "batch"}


def test_later_override_wins_and_data_wins_over_the_recipe(minimal):
    recipe = load_recipe(minimal, ["train.seed=1", "train.seed=2", "data.path=x"], data="y")
    assert (recipe.train.seed, recipe.data.path) == (2, "y")


@pytest.mark.parametrize("override", ["train.epochs", "=3", " =3", ""])
def test_override_without_key_or_value_is_refused(override, minimal):
    with pytest.raises(BcosError, match=r"an override is written key=value, such as train.epochs=5, got"):
        load_recipe(minimal, [override])


def test_override_below_a_value_is_refused(minimal):
    with pytest.raises(BcosError, match=r"-o train.epochs.x=1: epochs=3 is a value, not a section"):
        load_recipe(minimal, ["train.epochs.x=1"])


def test_base_is_inherited_section_by_section_relative_to_the_file(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "base.yaml", model={"name": "m", "options": {"b": 2}}, train={"epochs": 3, "seed": 5})
    child = write(tmp_path / "sub" / "child.yaml", base="../base.yaml", train={"epochs": 9}, data={"workers": 0})
    recipe = load_recipe(child)
    assert (recipe.train.epochs, recipe.train.seed, recipe.data.workers) == (9, 5, 0)
    assert recipe.model.options == {"b": 2}


def test_other_model_does_not_inherit_options_but_the_same_does(tmp_path):
    write(tmp_path / "base.yaml", model={"name": "m", "options": {"b": 2}}, train={"epochs": 3})
    other = write(tmp_path / "other.yaml", base="base.yaml", model={"name": "n"})
    more = write(tmp_path / "more.yaml", base="base.yaml", model={"options": {"c": 3}})
    assert load_recipe(other).model.options == {}
    assert load_recipe(more).model.options == {"b": 2, "c": 3}


def test_baseline_inherits_a_recipe_by_name():
    ours, plain = load_recipe("cifar10_resnet20"), load_recipe("standard_cifar10_resnet20")
    assert plain.data == ours.data
    assert plain.optimizer == ours.optimizer
    assert plain.train == ours.train.model_copy(update={"loss": "cross_entropy"})
    assert "bcos" not in plain.evaluation.explainers


def test_recipe_that_is_its_own_base_is_refused(tmp_path):
    a = write(tmp_path / "a.yaml", base="b.yaml")
    write(tmp_path / "b.yaml", base="a.yaml")
    with pytest.raises(BcosError, match=r"is its own base: .*a.yaml -> .*b.yaml -> .*a.yaml"):
        load_recipe(a)


TAGGED = (b"!!timestamp 2020-99-99", b"!!bool x", b"!!float ''", b"!!int [1]", b"!!map [1]", b"!!set {a}", b"!own x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"train: [", "is not YAML: while parsing"),
        (
            b"- a\n- b\n",
            "must be a mapping with the keys model, annealing, data, mixing, optimizer, ",
        ),
        (b"", "must be a mapping"),
        (b"train: \xff\xfe", "is not text in UTF-8"),
        (b"base: 3\n", "base"),
        (b"base: [a]\n", "base"),
        (b"train: {epochs: 1}\ntrain: {epochs: 2}\n", r"'train' is given twice, also in line 1.*line 2"),
        (b"train: {epochs: 1, epochs: 2}\n", "'epochs' is given twice"),
        (b"a: &x [1]\nb: *x\n", "aliases are not read; write the value out.*line 2"),
        (b"a: &x\n  b: *x\n", "aliases are not read"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, "more than 30 levels"),
        (b"a: " + b"{b: " * 5000 + b"}" * 5000, "more than 30 levels"),
        *((b"x: " + value + b"\n", "tags are not read; leave out") for value in TAGGED),
        (b"? !!bool x\n: 1\n", "tags are not read"),
        (b"x: " + b"9" * 5000, "is not YAML"),
        (b"? [1, 2]\n: 3\n", "is not YAML"),
        (b"x: !!python/object/apply:os.system [ls]\n", "is not YAML: tags are not read"),
        (b"#" * 2**20 + b"#", "has more than 1,048,576 bytes"),
        (b"train: {epochs: 1, loss: '" + b"x" * 100_000 + b"'}\nmodel: {name: m}\n", "there is no loss"),
        (b"'" + b"k" * 1000 + b"': 1\nmodel: {name: m}\ntrain: {epochs: 1}\n", "unknown key 'kkk"),
        (b"model: {name: m, options: {b: 0x" + b"f" * 9000 + b"}}\ntrain: {epochs: 1}\n", "at most 100,000"),
        (b"train: {epochs: 0x" + b"f" * 9000 + b"}\nmodel: {name: m}\n", "train.epochs=a large int"),
        (b"1: 2\nmodel: {name: m}\ntrain: {epochs: 1}\n", "recipe"),
    ],
)
def test_file_that_is_no_recipe_is_refused_in_one_line(content, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(BcosError, match=message) as error:
        load_recipe(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_bomb_of_aliases_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 9)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(BcosError, match="aliases are not read") as error:
        load_recipe("bomb.yaml")
    assert len(str(error.value)) < 500


def test_recipe_that_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(BcosError, match="is not a regular file"):
        load_recipe("pipe.yaml")


def test_longer_and_longer_way_to_itself_is_a_circle(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "a.yaml", base="../sub/a.yaml")
    with pytest.raises(BcosError, match="is its own base"):
        load_recipe("sub/a.yaml")


def test_unknown_recipe_and_missing_file_are_named():
    with pytest.raises(BcosError, match=r"there is no recipe 'digit'; did you mean 'digits'\?"):
        load_recipe("digit")
    with pytest.raises(BcosError, match=r"cannot read the recipe 'nope.yaml': No such file.*; bcos recipes lists"):
        load_recipe("nope.yaml")


@pytest.mark.parametrize("override", [None, "data.workers=0"])
def test_section_that_is_left_empty_takes_the_defaults(override, tmp_path):
    """``data:`` with nothing below it is None in YAML."""
    path = tmp_path / "r.yaml"
    path.write_text("model: {name: m}\ntrain: {epochs: 1}\ndata:\n")
    assert load_recipe(str(path), [override] if override else [], data="shards").data.path == "shards"


def test_data_that_is_a_value_is_refused(tmp_path):
    path = write(tmp_path / "r.yaml", **MINIMAL, data=5)
    with pytest.raises(BcosError, match="data"):
        load_recipe(path, data="shards")
