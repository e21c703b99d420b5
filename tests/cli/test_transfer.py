"""Networks that start from others: other classes, the head alone, a teacher."""

import json

import pytest
import safetensors.torch
import timm
import torch
from accelerate.state import AcceleratorState, GradientState
from stripes import SIDE, striped

from bcos_cli.config import dump_recipe, validate_recipe
from bcos_cli.data.pack import pack
from bcos_cli.data.sources import ArraySource, ImageItem, encode_png
from bcos_cli.train.distillation import Agreement
from bcos_cli.train.model import build
from bcos_cli.train.trainer import train
from bcos_core import BcosConv2d, BcosError, explain
from bcos_models import create_model, load_trained, save_pretrained, save_weights


def again():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory):
    """Shards of two of the three classes, under other names."""
    items, pngs = [], {}
    for split, count in (("train", 16), ("test", 8)):
        for i in range(count):
            path = f"{split}/{i % 2}/{i:03d}.png"
            items.append(ImageItem(path, split, i % 2))
            pngs[path] = encode_png(striped(i % 2, i + 5000))
    folder = tmp_path_factory.mktemp("two") / "shards"
    pack(ArraySource(["flat", "upright"], items, pngs), "two", folder, samples_per_shard=10, workers=1)
    return str(folder)


@pytest.fixture
def first(recipe, tmp_path):
    """A run on three classes."""
    train(recipe(train={"epochs": 15}, optimizer={"lr": 0.02}), tmp_path / "first")
    again()
    return tmp_path / "first"


def from_it(first, shards, **sections):
    values = {
        "model": {"start": str(first), **sections.pop("model", {})},
        "data": {"path": shards, "workers": 0, "shuffle_buffer": 8},
        "train": {"epochs": 2, "batch_size": 8, **sections.pop("train", {})},
        "evaluation": {
            "batch_size": 4,
            "gridpg_grids": 2,
            "gallery_per_class": 1,
            "neurons": 0,
            "explainers": ["bcos"],
        },
        **sections,
    }
    return validate_recipe(values, "of the test")


def state(run):
    return safetensors.torch.load_file(run / "model.safetensors")


def test_all_but_the_classifier_is_taken_over(first, two_classes):
    started = build(from_it(first, two_classes), ["flat", "upright"])
    before = state(first)
    own = started.model.state_dict()
    same = {key for key in own if own[key].shape == before[key].shape and torch.equal(own[key], before[key])}
    assert own.keys() - same == {"fc.linear.weight"} or own.keys() - same == {"fc.weight"}
    assert started.classes == ["flat", "upright"]
    assert (started.input.size, started.input.channels) == (SIDE, 1)
    assert started.options == load_trained(str(first)).options


def test_same_classes_keep_the_classifier(first, shards):
    started = build(from_it(first, shards), ["rows", "columns", "corner"])
    before, own = state(first), started.model.state_dict()
    assert all(torch.equal(own[key], before[key]) for key in own)


@pytest.fixture
def saved(tmp_path):
    """Write a network of three classes; return it and its folder."""

    def write(**options):
        torch.manual_seed(0)
        model = create_model("cifar10_resnet20", num_classes=3, depths=[1], width=4, **options)
        return model.eval(), save_pretrained(model, tmp_path / "net", class_names=["columns", "corner", "rows"])

    return write


@pytest.mark.parametrize("max_out", [1, 2])
def test_same_classes_in_another_order_keep_the_classifier_too(max_out, saved, shards):
    model, folder = saved(max_out=max_out)
    told = []
    started = build(from_it(folder, shards), ["rows", "columns", "corner"], told.append)
    x = torch.rand(2, 6, 8, 8)
    torch.testing.assert_close(started.model.eval()(x), model(x)[:, [2, 0, 1]])
    assert (started.classes, told) == (["rows", "columns", "corner"], [])


def test_what_becomes_of_the_classifier_is_said(saved, two_classes, tmp_path):
    told, (_, folder) = [], saved()
    build(from_it(folder, two_classes), ["flat", "upright"], told.append)
    assert told == [f"classifier: new; {str(folder)!r} knows 3 other classes: 'columns', 'corner', 'rows'"]
    save_weights(timm.create_model("test_resnet", num_classes=2), tmp_path / "mine.safetensors")
    model = {"start": "timm/test_resnet", "weights": str(tmp_path / "mine.safetensors")}
    told.clear()
    for classes in (["flat", "upright"], ["rows", "columns", "corner"]):
        build(from_it(folder, two_classes, model=model), classes, told.append)
    assert told[0].endswith("mine.safetensors; its outputs are taken to be 'flat', 'upright', in this order")
    assert told[1].startswith("classifier: new; 'timm/test_resnet' has a new, untrained classifier of 3 classes")


@pytest.mark.slow
def test_head_alone_is_trained_and_all_else_stays_bit_identical(first, two_classes, tmp_path):
    wanted = from_it(first, two_classes, model={"train": "head"}, train={"epochs": 20}, optimizer={"lr": 0.05})
    result = train(wanted, tmp_path / "head")
    before, after = state(first), state(tmp_path / "head")
    moved = {key for key in after if after[key].shape != before[key].shape or not torch.equal(after[key], before[key])}
    assert len(moved) == 1
    assert result.scores.top1 > 0.8
    x = result.trained.encode(torch.rand(2, 1, SIDE, SIDE))
    explanation = explain(result.trained.model, x)
    total = explanation.map.sum((1, 2)) + explanation.bias
    torch.testing.assert_close(total, explanation.score, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_command_starts_from_a_run(first, two_classes, bcos, tmp_path):
    options = [
        "-o",
        "data.workers=0",
        "-o",
        "train.epochs=2",
        "-o",
        "train.batch_size=8",
        "-o",
        "data.shuffle_buffer=8",
    ]
    quick = ["-o", "evaluation.gridpg_grids=1", "-o", "evaluation.neurons=0", "-o", "evaluation.gallery_per_class=1"]
    given = ["train", "--from", first, "--data", two_classes, "--classes", 2, "--out", "tuned", *options, *quick]
    status, out, err = bcos(*given)
    assert status == 0, err
    assert "top1" in out
    assert load_trained("tuned").classes == ["flat", "upright"]
    again()
    status, _, err = bcos("train", "--resume", "--out", "tuned", *quick)
    assert status == 0, err


@pytest.mark.slow
def test_converted_run_is_a_start_too(two_classes, recipe, tmp_path, shards):
    model = {"name": "bcosified/standard_cifar10_resnet20", "options": {"network": {"depths": [1], "width": 8}}}
    train(recipe(model=model, train={"epochs": 1}), tmp_path / "first")
    again()
    started = build(from_it(tmp_path / "first", two_classes), ["flat", "upright"])
    assert started.model(started.encode(torch.rand(1, 1, SIDE, SIDE))).shape == (1, 2)


def test_start_that_is_nothing_is_refused(two_classes):
    with pytest.raises(BcosError, match="'nothing' is neither a run's folder, nor"):
        build(from_it("nothing", two_classes), ["a", "b"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"start": "a", "name": "resnet18"}, "model.start=a brings the name and the options of its network; leave out"),
        ({"start": "a", "pretrained": True}, "model.pretrained and model.start=a are both given; choose one"),
        ({}, "model.name is missing; give it a value, or model.start"),
    ],
)
def test_start_and_name_exclude_each_other(model, message):
    with pytest.raises(BcosError, match=message):
        validate_recipe({"model": model, "train": {"epochs": 1}}, "of the test")


def test_student_learns_from_a_teacher_without_labels(first, recipe, tmp_path):
    taught = recipe(distillation={"teacher": str(first), "weight": 1.0}, train={"epochs": 15}, optimizer={"lr": 0.02})
    result = train(taught, tmp_path / "student")
    lines = [json.loads(text) for text in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert result.scores.top1 > 0.5


@pytest.mark.slow
def test_embedding_of_a_teacher_is_learned_and_a_classifier_trained_on_it(first, recipe, bcos, two_classes, tmp_path):
    taught = recipe(distillation={"teacher": str(first), "kind": "embedding", "weight": 1.0}, train={"epochs": 4})
    (tmp_path / "r.yaml").write_text(dump_recipe(taught))
    status, out, err = bcos("train", "r.yaml", "--out", "encoder")
    assert status == 0, err
    assert "cosine of its outputs and the teacher's" in out
    lines = [json.loads(text) for text in (tmp_path / "encoder" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["test_cosine"] > lines[0]["test_cosine"]
    assert lines[-1]["test_loss"] == pytest.approx(1 - lines[-1]["test_cosine"])
    assert load_trained("encoder").classes == ["0", "1", "2"]
    again()
    result = train(from_it(tmp_path / "encoder", two_classes, model={"train": "head"}), tmp_path / "probe")
    assert not isinstance(result.scores, Agreement)
    assert result.trained.classes == ["flat", "upright"]


TINY = {"as_is": True}


@pytest.fixture
def library_weights(tmp_path):
    torch.manual_seed(1)
    network = timm.create_model("test_resnet", num_classes=5)
    save_weights(network, tmp_path / "five.safetensors")
    return network.eval()


def test_network_of_a_library_is_fine_tuned_as_it_is(library_weights, shards, tmp_path):
    recipe = from_it("timm/test_resnet", shards, data={"path": shards, "image_size": 32, "resize": 40, "workers": 0})
    recipe = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"weights": str(tmp_path / "five.safetensors")})}
    )
    trained = build(recipe, ["flat", "upright", "corner"])
    assert trained.options["as_is"] is True
    assert (trained.input.encoding, trained.input.size, trained.input.resize) == ("standardize", 32, 40)
    own = trained.model.state_dict()
    assert torch.equal(own["layer1.0.conv1.weight"], library_weights.state_dict()["layer1.0.conv1.weight"])
    assert own["fc.weight"].shape[0] == 3
    trained.save(tmp_path / "saved.safetensors")
    again = load_trained(str(tmp_path / "saved.safetensors"))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.model(x), trained.model.eval()(x))


def test_weights_go_with_a_models_name(first, shards):
    recipe = from_it(first, shards, model={"weights": "elsewhere.safetensors"})
    with pytest.raises(BcosError, match=r"model.weights=elsewhere.safetensors goes with the name of a model; .* own"):
        build(recipe, ["flat", "upright", "corner"])


def converted(tmp_path, **options):
    network = create_model("timm/test_resnet", num_classes=3, **options)
    save_pretrained(network, tmp_path / "net", class_names=["rows", "columns", "corner"])
    return tmp_path / "net"


def annealed(start, shards, **annealing):
    return from_it(start, shards, annealing=annealing, data={"path": shards, "image_size": 32, "workers": 0})


CLASSES = ["rows", "columns", "corner"]


def exponents(network):
    return {layer.b for layer in network.modules() if isinstance(layer, BcosConv2d)}


def test_converted_network_is_annealed_to_what_its_options_say(tmp_path, shards):
    start = converted(tmp_path, keep_bias=True)
    recipe = annealed(start, shards, exponent_epochs=1.0, bias_epochs=1.0)
    trained = build(recipe, CLASSES)
    assert exponents(trained.model) == {1.0}
    assert trained.model.network.bn1.bias is not None
    assert (trained.options.get("b", 2.0), trained.options["keep_bias"]) == (2.0, False)
    result = train(recipe, tmp_path / "run").trained
    assert exponents(result.model) == {2.0}
    saved = load_trained(str(tmp_path / "run"))
    assert exponents(saved.model) == {2.0}
    assert saved.model.network.bn1.bias is None


def test_exponent_grows_to_what_the_recipe_says(tmp_path, shards):
    start = converted(tmp_path, b=1.0)
    with pytest.raises(BcosError, match=r"exponent_from=1 does not grow to B = 1 of .*give a larger"):
        build(annealed(start, shards, exponent_epochs=1.0), CLASSES)
    trained = build(annealed(start, shards, exponent_epochs=1.0, exponent_to=1.5), CLASSES)
    assert trained.options["b"] == 1.5


def test_biases_that_are_not_there_do_not_shrink(tmp_path, shards):
    start = converted(tmp_path)
    with pytest.raises(BcosError, match=r"shrinks biases that .* does not have; leave it out, or convert .* keep_bias"):
        build(annealed(start, shards, bias_epochs=1.0), CLASSES)


def test_plain_network_is_not_annealed(shards):
    with pytest.raises(BcosError, match=r"annealing is for converted networks, and 'timm/test_resnet' is a plain one"):
        build(annealed("timm/test_resnet", shards, exponent_epochs=1.0), CLASSES)
    values = {"name": "timm/test_resnet", "options": TINY}
    with pytest.raises(BcosError, match=r"annealing is for converted networks .*, not timm/test_resnet"):
        validate_recipe({"model": values, "annealing": {"bias_epochs": 1.0}, "train": {"epochs": 2}}, "of the test")
