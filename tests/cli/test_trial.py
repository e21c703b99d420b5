"""What plugins give a run is tried before its first epoch; runs say which versions and packages they are made with."""

import json
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bcos_cli.config import load_recipe
from bcos_cli.data.sources import ArraySource, open_source
from bcos_cli.spec import DatasetSpec, LossSpec
from bcos_cli.train.trainer import train
from bcos_cli.train.trial import check_precision
from bcos_core import BcosConv2d, BcosError
from bcos_explain import ExplainerSpec, MetricSpec
from bcos_explain.metrics import MetricResult
from bcos_models import InputSpec, ModelConfig, ModelSpec, TrainedModel, create_model, load_trained


class Counted(nn.BCEWithLogitsLoss):
    """Counts its calls."""

    calls = 0

    def forward(self, logits, targets):
        self.calls += 1
        assert logits.abs().sum() > 0 or self.calls == 1, "the trial is not counted"
        return super().forward(logits, nn.functional.one_hot(targets, logits.shape[1]).to(logits.dtype))


def network(*, num_classes, in_chans, extra=0):
    return nn.Sequential(BcosConv2d(in_chans, num_classes + extra, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def per_image(model, images, *, encode, batch_size=8):
    return MetricResult(scores=model(encode(images)).mean(1).double())


def grids(model, explainer, images, labels, confidences, *, grids, n, encode):
    return MetricResult(scores=torch.zeros(len(grids)))


def whole(model, images, *, encode):
    if len(images) < 64:
        raise ValueError("as many images as in the end are needed")
    return MetricResult(scores=torch.tensor([1.0]))


GOOD = {
    "network": network,
    "loss": lambda options: Counted(),
    "explainer": lambda: lambda model, x, target: x,
    "per_image": per_image,
    "grids": grids,
    "whole": whole,
}


@pytest.fixture
def plugins(stranger, hooks):
    """Install a stranger's model, loss, explainer, metrics and data set; some of its code may be replaced."""

    def install(**code):
        model = ModelSpec("net", "stranger_code:network", "f", input=InputSpec(size=8, channels=1, resize=None))
        metrics = [
            MetricSpec("each", "stranger_code:per_image", unit="image"),
            MetricSpec(
                "gridded",
                "stranger_code:grids",
                needs=("model", "explainer", "images", "labels", "confidences"),
                unit="grid",
            ),
            MetricSpec("all", "stranger_code:whole"),
        ]
        stranger(
            code={**GOOD, **code},
            distribution="pluggy",  # one that is installed, and has a version
            bcos_models=hooks("bcos_models", bcos_models_specs=[model]),
            bcos_explain=hooks(
                "bcos_explain",
                bcos_explain_explainers=[ExplainerSpec("shadow", "stranger_code:explainer")],
                bcos_explain_metrics=metrics,
            ),
            bcos_cli=hooks(
                "bcos_cli",
                bcos_cli_losses=[LossSpec("counted", "stranger_code:loss", "softmax")],
                bcos_cli_datasets=[DatasetSpec("pictures", "stranger_code:pictures")],
            ),
        )

    return install


@pytest.fixture
def theirs(recipe):
    """A recipe in which everything is the stranger's."""

    def make(**evaluation):
        return recipe(
            model={"name": "net", "options": {}},
            train={"loss": "counted", "epochs": 1, "explained_images": 0},
            evaluation={
                "explainers": ["shadow"],
                "metrics": ["each", "gridded", "all"],
                "gridpg_grids": 0,
                **evaluation,
            },
        )

    return make


def test_run_with_everything_of_a_plugin_trains(plugins, theirs, tmp_path):
    plugins()
    result = train(theirs(), tmp_path / "run")
    assert result.scores is not None


WHOSE = "of the plugin pluggy:zoo"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ({"network": lambda **_: 1 / 0}, f"the model 'net' {WHOSE} failed: ZeroDivisionError: division by zero"),
        ({"network": lambda **_: None}, f"the model 'net' {WHOSE} gave None, needed Module"),
        (
            {"network": lambda **options: network(**options, extra=3)},
            f"the model 'net' {WHOSE} gave outputs of shape (2, 6) for 2 images, needed (2, 3)",
        ),
        ({"loss": lambda options: None}, f"the loss 'counted' {WHOSE} gave None, needed Module"),
        (
            {"loss": lambda options: nn.CrossEntropyLoss(reduction="none")},
            f"the loss 'counted' {WHOSE} gave a tensor of shape (2,), needed one number that has a gradient",
        ),
        ({"loss": lambda options: nn.NLLLoss2d}, f"the loss 'counted' {WHOSE} gave type, needed Module"),
        (
            {"loss": lambda options: nn.BCEWithLogitsLoss()},
            f"the loss 'counted' {WHOSE} failed: ValueError: Target size",
        ),
        (
            {"explainer": lambda: lambda model, x, target: x.numpy()},
            f"the explainer 'shadow' {WHOSE} gave ndarray, needed",
        ),
        ({"per_image": lambda *a, **k: 0.5}, f"the metric 'each' {WHOSE} gave float; with unit='image' it has to be a"),
        ({"whole": lambda *a, **k: 0.5}, f"the metric 'all' {WHOSE} gave float; with unit='whole' it has to be a"),
        (
            {"per_image": lambda *a, **k: [][1]},
            f"the metric 'each' {WHOSE} failed: IndexError: list index out of range",
        ),
    ],
)
def test_broken_promise_is_one_line_before_the_first_epoch(code, message, plugins, theirs, tmp_path, monkeypatch):
    plugins(**code)
    monkeypatch.setattr("bcos_cli.train.trainer.Trainer.run", lambda *_: pytest.fail("training has begun"))
    with pytest.raises(BcosError) as raised:
        train(theirs(), tmp_path / "run")
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"metrics": ["eech"]}, "there is no metric 'eech'; did you mean 'each'"),
        ({"explainers": ["shadows"]}, "there is no explainer 'shadows'; did you mean 'shadow'"),
        ({"metrics": ["epg"]}, "epg needs boxes, which shards do not have"),
    ],
)
def test_unknown_name_is_refused_before_the_first_epoch(evaluation, message, plugins, theirs, tmp_path):
    plugins()
    with pytest.raises(BcosError, match=message):
        train(theirs(**evaluation), tmp_path / "run")


def test_what_cannot_be_explained_or_measured_is_left_to_the_end(plugins, theirs, tmp_path):
    def refusing(*_, **__):
        raise BcosError("there are too few images")

    plugins(explainer=lambda: refusing, per_image=refusing)
    train(theirs(), tmp_path / "run")


def test_trial_changes_nothing_of_the_run(plugins, theirs, tmp_path):
    plugins()
    with_trial = train(theirs(), tmp_path / "a").trained.model.state_dict()
    plain = theirs(explainers=["bcos"], metrics=[])
    without = train(plain, tmp_path / "b").trained.model.state_dict()
    assert all(torch.equal(with_trial[name], without[name]) for name in without)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (lambda: None, f"the data set 'pictures' {WHOSE} gave None, needed ImageSource"),
        (lambda: {}["x"], f"the data set 'pictures' {WHOSE} failed: KeyError: 'x'"),
    ],
)
def test_data_set_that_is_none_names_the_plugin(code, message, plugins):
    plugins(pictures=code)
    with pytest.raises(BcosError) as raised:
        open_source("pictures")
    assert str(raised.value) == message
    plugins(pictures=lambda: ArraySource(["a"], [], {}))
    assert open_source("pictures").classes == ["a"]


def test_run_records_versions_and_the_packages_of_its_names(plugins, theirs, tmp_path, bcos):
    import pluggy

    plugins()
    train(theirs(), tmp_path / "run")
    written = json.loads((tmp_path / "run" / "versions.json").read_text())
    package = f"pluggy {pluggy.__version__}"
    assert written["versions"]["torch"] == version("torch")
    assert written["versions"]["pluggy"] == pluggy.__version__
    assert {"python", "timm", "bcos-core", "bcos-models", "bcos-explain", "bcos-cli"} <= written["versions"].keys()
    assert written["plugins"] == {
        "model": {"net": package},
        "loss": {"counted": package},
        "explainer": {"shadow": package},
        "metric": dict.fromkeys(["each", "gridded", "all"], package),
    }
    assert f"torch {version('torch')}" in bcos("runs", "show", tmp_path / "run")[1]
    assert json.loads(bcos("runs", "show", tmp_path / "run", "--json")[1])["versions"] == written["versions"]


def test_unknown_name_of_a_run_says_which_package_had_it(plugins, theirs, tmp_path, stranger, monkeypatch):
    import bcos_core.plugins as core

    plugins()
    monkeypatch.setattr(core, "MAKERS", {})
    monkeypatch.setattr("bcos_models.reconstruction.MAKERS", core.MAKERS)
    monkeypatch.setattr("bcos_cli.config.versions.MAKERS", core.MAKERS)
    result = train(theirs(), tmp_path / "run")
    result.trained.save(tmp_path / "elsewhere.safetensors")
    stranger()
    with pytest.raises(BcosError, match=r"there is no loss 'counted'; it came with 'pluggy [\d.]+'; install that"):
        load_recipe(str(tmp_path / "run" / "config.yaml"))
    core.MAKERS.clear()
    with pytest.raises(BcosError, match=r"there is no model 'net'; it came with 'pluggy [\d.]+'; install that"):
        load_trained(str(tmp_path / "elsewhere.safetensors"))
    with pytest.raises(BcosError, match="there is no model 'other'; choose from"):
        create_model("other")


def test_resumed_run_says_which_versions_have_changed(recipe, tmp_path, capsys):
    train(recipe(train={"epochs": 1}), tmp_path / "run")
    path = tmp_path / "run" / "versions.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"versions": values["versions"] | {"torch": "1.0", "gone": "2"}}))
    capsys.readouterr()
    train(recipe(train={"epochs": 1}), tmp_path / "run", resume=True)
    said = f"the run goes on with other versions: torch {version('torch')} (then 1.0), gone missing (then 2)"
    assert said in " ".join(capsys.readouterr().err.split())
    assert json.loads(path.read_text()) == values


@pytest.mark.parametrize("text", ["{", "[]", '{"versions": {}}', '{"versions": {"a": 3}, "plugins": {}}'])
def test_damaged_versions_are_one_line(text, recipe, tmp_path, bcos, line):
    train(recipe(train={"epochs": 1}), tmp_path / "run")
    (tmp_path / "run" / "versions.json").write_text(text)
    assert "versions.json' is damaged: " in line(bcos("runs", "show", tmp_path / "run"))
    (tmp_path / "run" / "versions.json").unlink()
    assert bcos("runs", "show", tmp_path / "run")[0] == 0


class WrongInHalf(nn.Conv2d):
    """A convolution that some library gets wrong in half precision."""

    def forward(self, x):
        y = super().forward(x)
        return y.flip(1) if y.dtype == torch.bfloat16 else y


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("layer", [nn.Conv2d, WrongInHalf])
def test_precision_in_which_a_layer_is_wrong_is_refused(precision, layer):
    model = nn.Sequential(layer(6, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    trained = TrainedModel(model, ModelConfig("m", 3, {}, InputSpec(size=8)))
    accelerator = SimpleNamespace(
        mixed_precision=precision, autocast=lambda: torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    )
    if precision == "bf16" and layer is WrongInHalf:
        with pytest.raises(BcosError, match="in bf16 this machine computes the layer '0' wrongly: it differs by"):
            check_precision(trained, accelerator)
    else:
        check_precision(trained, accelerator)
    assert model.training
    assert not model[0]._forward_hooks
