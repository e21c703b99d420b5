"""Training on tiny shards, in this process."""

import json
import math
import shutil

import pytest
import safetensors.torch
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

from bcos_cli.config import load_recipe
from bcos_cli.config.locations import with_absolute_paths
from bcos_cli.data.index import load_index
from bcos_cli.processes.device import DEVICE
from bcos_cli.train import accelerator, fsdp, losses, trainer
from bcos_cli.train.coarse_images import coarse_images
from bcos_cli.train.history import History
from bcos_cli.train.model import build
from bcos_cli.train.trainer import train
from bcos_cli.train.validation_split import with_validation
from bcos_core import BcosError
from bcos_models import load_trained


@pytest.fixture
def run(tmp_path):
    """Train; the process starts anew each time."""

    def start(recipe, name="run", **options):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        torch.manual_seed(len(name))
        return train(recipe, tmp_path / name, **options)

    return start


def weights(path):
    return safetensors.torch.load_file(path / "model.safetensors")


def metrics(path):
    timing = ("images_per_second", "seconds")
    lines = [json.loads(text) for text in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in m.items() if k not in timing} for m in lines]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_training_learns_and_fills_its_folder(run, recipe, tmp_path):
    wanted = recipe(train={"epochs": 8}, optimizer={"lr": 0.02})
    result = run(wanted)
    found = metrics(tmp_path / "run")
    assert found[-1]["train_loss"] < 0.7 * found[0]["train_loss"]
    assert result.scores.top1 == found[-1]["test_top1"] > 0.8
    assert [(m["epoch"], m["step"]) for m in found] == [(i, 3 * i) for i in range(1, 9)]
    assert found[-1]["lr"] == pytest.approx(0, abs=1e-12)
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "model.safetensors", "tensorboard"} <= names
    checkpoints = {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert checkpoints == {"step-00000021", "step-00000024"}  # test images choose no best epoch
    assert {p.name for p in (tmp_path / "run" / "explanations").iterdir()} == {f"epoch-000{i}.png" for i in range(1, 9)}
    assert list((tmp_path / "run" / "tensorboard").rglob("events*"))
    whole = with_absolute_paths(with_validation(wanted, result.index), tmp_path / "run")
    assert load_recipe(str(tmp_path / "run" / "config.yaml")) == whole == result.recipe
    assert load_trained(str(tmp_path / "run")).classes == ["rows", "columns", "corner"]


def test_same_recipe_gives_the_same_numbers_and_another_seed_others(run, recipe, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(recipe(train={"seed": seed}), name)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


class Killed(BaseException):
    pass


def kill_after(monkeypatch, where, is_time):
    """Let a method of the run do its work, and then end the process, once `is_time`."""
    real = getattr(trainer.Trainer, where)

    def stop(self, *args):
        result = real(self, *args)
        if is_time(self.progress):
            raise Killed
        return result

    monkeypatch.setattr(trainer.Trainer, where, stop)


RANDOM = {"drop_path": 0.5}
EVERYTHING = {
    "mixing": {"mixup": 0.2, "cutmix": 1.0},
    "ema": {"decay": 0.9, "every": 2},
    "clipping": {"adaptive": 0.1},
    "optimizer": {"name": "lamb", "lr": 0.01, "weight_decay": 0.01},
}


@pytest.mark.parametrize(
    ("workers", "options", "sections"),
    [
        (0, {}, {}),
        (0, RANDOM, EVERYTHING),
        pytest.param(2, RANDOM, {}, marks=pytest.mark.slow),
    ],
    ids=["plain", "all that is random", "stochastic depth and workers"],
)
@pytest.mark.parametrize("step", [9, 10], ids=["before an evaluation", "in the middle of an epoch"])
def test_interrupted_run_ends_bit_identical_to_the_uninterrupted_one(
    step, workers, options, sections, run, recipe, tmp_path, monkeypatch
):
    wanted = recipe(
        **sections,
        train={"epochs": 4, "checkpoint_steps": 1},
        data={"workers": workers, "augment": {"pad_crop": 1, "horizontal_flip": 0.5}},
        model={"name": "cifar10_resnet20", "options": {"depths": [2], "width": 8, **options}},
        schedule={"warmup_epochs": 1},
    )
    run(wanted, "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, "train_epoch" if step == 9 else "after_step", lambda progress: progress.step == step)
        with pytest.raises(Killed):
            run(wanted, "killed")
    assert len(metrics(tmp_path / "killed")) == (2 if step == 9 else 3)
    run(wanted, "killed", resume=True)
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert equal(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("killed_after", [0, 1])
def test_epoch_whose_line_was_not_written_is_noted_once(killed_after, run, recipe, tmp_path, monkeypatch):
    """The line of an epoch comes after its checkpoint."""
    with monkeypatch.context() as patch:
        real = History.add

        def add(self, values):
            if values["epoch"] > killed_after:
                raise Killed
            return real(self, values)

        patch.setattr(History, "add", add)
        with pytest.raises(Killed):
            run(recipe(), "killed")
    run(recipe(), "killed", resume=True)
    assert [m["epoch"] for m in metrics(tmp_path / "killed")] == [1, 2]


def test_finished_run_can_be_resumed_and_stays_as_it_is(run, recipe, tmp_path):
    first = run(recipe())
    before = weights(tmp_path / "run"), metrics(tmp_path / "run")
    again = run(recipe(), resume=True)
    assert equal(before[0], weights(tmp_path / "run"))
    assert metrics(tmp_path / "run") == before[1]
    assert (again.scores.top1, again.scores.loss) == (first.scores.top1, first.scores.loss)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_gradients_are_those_of_one_large_batch(accumulate, run, recipe, tmp_path):
    model = {"name": "cifar10_resnet20", "options": {"depths": [1], "width": 8, "norm": "layer_uncentered"}}
    common = {"model": model, "optimizer": {"name": "sgd", "lr": 0.05}}
    run(recipe(**common), "whole")
    run(recipe(**common, train={"accumulate": accumulate}), "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert parts.keys() == whole.keys()
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")
    assert [m["step"] for m in metrics(tmp_path / "parts")] == [3, 6]
    for a, b in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "parts"), strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["lr"] == b["lr"]


def test_clip_norm_bounds_the_step(run, recipe, tmp_path):
    sgd = {"name": "sgd", "lr": 1.0, "momentum": 0.5}
    clipped = recipe(train={"epochs": 1, "batch_size": 24}, clipping={"norm": 1e-4}, optimizer=sgd)
    run(clipped)
    trainer.set_seed(clipped.train.seed)
    model = build(clipped, ["a", "b", "c"]).model
    after = weights(tmp_path / "run")
    moved = sum(float((after[k] - p.detach()).pow(2).sum()) for k, p in model.named_parameters()) ** 0.5
    assert moved == pytest.approx(1e-4, rel=0.02)


def test_sgd_without_momentum_trains(run, recipe):
    assert math.isfinite(run(recipe(optimizer={"name": "sgd", "momentum": 0.0})).scores.loss)


class NeverFinite(torch.nn.Module):
    def forward(self, logits, _):
        return logits.sum() * float("nan")


def test_loss_that_is_not_finite_ends_the_run_in_one_line(run, recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(losses, "make_loss", lambda *_: NeverFinite())
    message = "the loss is not finite at epoch 1, step 1, learning rate 0.01; lower optimizer.lr, set clipping.norm"
    with pytest.raises(BcosError, match=message):
        run(recipe())
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"train": {"batch_size": 5}, "mixing": {"cutmix": 1.0}},
            "an even number of images, a process's has 5; change",
        ),
        ({"train": {"batch_size": 48}}, "24 samples are fewer than the 48 of one step"),
        ({"data": {"train_split": "tarin"}}, r"no split 'tarin'; did you mean 'train'\?"),
        ({"data": {"path": None}}, "there are no data to train on; give a folder of shards with --data"),
        ({"data": {"path": "nowhere"}}, "there are no shards at 'nowhere'"),
        ({"model": {"name": "resnet_18"}}, r"no model 'resnet_18'; did you mean 'resnet18'\?"),
        ({"model": {"options": {"bb": 1}}}, "no option 'bb'"),
        ({"model": {"options": {"num_classes": 5}}}, "num_classes"),
        ({"model": {"options": {"b": "two"}}}, "b"),
        ({"train": {"class_weights": [1.0], "loss": "cross_entropy"}}, "class_weights has 1 weights, the data have 3"),
        ({"model": {"freeze": ["nothing"]}}, "fits no parameter"),
    ],
    ids=str,
)
def test_recipe_that_does_not_fit_is_refused_and_leaves_no_trace(sections, message, run, recipe, tmp_path):
    with pytest.raises(BcosError, match=message):
        run(recipe(**sections))
    assert not (tmp_path / "run").exists()


def test_run_that_failed_before_its_first_checkpoint_goes_on_with_a_corrected_recipe(run, recipe, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(losses, "make_loss", lambda *_: NeverFinite())
        with pytest.raises(BcosError, match="the loss is not finite"):
            run(recipe(train={"epochs": 1}, optimizer={"lr": 7.0}))
    run(recipe(train={"epochs": 1}), resume=True)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"ema": {"decay": 0.9}}, "ema"),
        ({"train": {"restore_best": True}}, r"train.restore_best"),
        ({"train": {"recalibrate_batches": 3}}, r"train.recalibrate_batches"),
        ({"clipping": {"adaptive": 0.1}}, r"clipping.adaptive"),
    ],
)
def test_what_needs_all_weights_is_refused_with_fsdp_before_it_trains(section, key, run, recipe, monkeypatch):
    monkeypatch.setattr(fsdp, "is_sharded", lambda accelerator: True)
    with pytest.raises(BcosError, match=f"{key} does not work with FSDP"):
        run(recipe(**section))


@pytest.mark.parametrize("question", [1, 2, 3, 4])
def test_request_to_end_is_heard_with_one_step_an_epoch_and_after_evaluations(
    question, run, recipe, tmp_path, monkeypatch
):
    made = recipe(train={"epochs": 3, "batch_size": 24})
    run(made, "whole")
    asked = []

    def agree(self, needed=0.0):
        asked.append(None)
        return len(asked) == question

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Stopper, "asked", agree)
        with pytest.raises(trainer.Preempted):
            run(made)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if question > 1 else []) == question // 2
    run(made, resume=True)
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_weights_that_are_not_finite_are_not_kept_in_a_checkpoint(run, recipe, tmp_path):
    with pytest.raises(
        BcosError, match=r"not finite after epoch 1, step 1 \(parameter conv1.weight holds .*checkpoint before"
    ):
        run(recipe(train={"loss": "losses_of_the_test:vertical", "checkpoint_steps": 1}))
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_weighted_cross_entropy_trains_in_float64(run, recipe):
    result = run(recipe(train={"loss": "cross_entropy", "class_weights": [1.0, 2.0, 3.0], "precision": "float64"}))
    assert math.isfinite(result.scores.loss)


def test_batch_that_cannot_be_split_over_the_processes_is_refused(run, recipe, monkeypatch):
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 3))
    message = "train.batch_size=12 cannot be split over 3 processes and 3 .*; make it a multiple of 9"
    with pytest.raises(BcosError, match=message):
        run(recipe(train={"batch_size": 12, "accumulate": 3}))
    with pytest.raises(BcosError, match=r"batch_size=8 cannot be split over 3 processes; make it a multiple of 3, or"):
        run(recipe())


def test_precision_that_the_device_does_not_have_is_told(run, recipe, monkeypatch):
    def refuse(**_):
        raise ValueError("bf16 mixed precision requires another GPU")

    monkeypatch.setattr(accelerator, "Accelerator", refuse)
    message = "train.precision=bf16 does not work on this device: bf16 .* requires another GPU; use another or no"
    with pytest.raises(BcosError, match=message):
        run(recipe(train={"precision": "bf16"}))


def test_device_that_is_not_there_is_no_fault_of_the_precision(run, recipe, monkeypatch):
    monkeypatch.setenv(DEVICE, "gpu")
    with pytest.raises(BcosError, match=r"^there is no device 'gpu'; choose from cpu"):
        run(recipe())


@pytest.mark.skipif(torch.accelerator.is_available(), reason="of a machine without a GPU")
def test_fp16_on_a_cpu_is_not_float32_without_a_word(run, recipe, tmp_path):
    with pytest.raises(BcosError, match=r"train.precision=fp16 needs a GPU, and this is a CPU; use bf16 or no"):
        run(recipe(train={"precision": "fp16"}))
    assert not (tmp_path / "run").exists()


def test_the_rate_of_an_epoch_is_that_of_the_layers_that_learn_fastest(run, recipe, tmp_path):
    run(recipe(optimizer={"layer_decay": 0.5, "lr": 0.02}, schedule={"name": "constant"}, train={"epochs": 1}))
    assert [line["lr"] for line in metrics(tmp_path / "run")] == [0.02]


def test_bf16_trains(run, recipe):
    result = run(recipe(train={"precision": "bf16", "epochs": 1}))
    assert math.isfinite(result.scores.loss)
    assert all(p.dtype == torch.float32 for p in result.trained.model.parameters())


def test_a_run_ends_with_a_line_of_its_scores(run, recipe, tmp_path, capsys):
    from bcos_cli.runs.evaluation import finish_run

    quick = {"explainers": ["bcos"], "gridpg_grids": 0, "gallery_per_class": 0, "neurons": 0}
    finished = finish_run(run(recipe(train={"epochs": 1}, evaluation=quick)), tmp_path / "run")
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("scores  top-1 accuracy on ")
    for name in ("image_share", "cancellation"):
        assert f" · median {name.replace('_', ' ')} {100 * finished.metrics[name]:.1f} %" in last
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert written["metrics"]["image_share"] == written["explanations"]["image_share"][""]["median"]
    assert written["explanations"]["image_share"][""]["lowest_tenth"] <= written["metrics"]["image_share"]


@pytest.mark.slow
def test_run_in_bf16_is_scored_and_explained_as_it_is_saved(run, recipe, tmp_path):
    from bcos_cli.runs.evaluation import evaluate_run, finish_run

    chosen = recipe(train={"precision": "bf16", "epochs": 1}, evaluation={"explainers": ["bcos"]})
    finished = finish_run(run(chosen), tmp_path / "run")
    again = evaluate_run(str(tmp_path / "run"), {})
    assert finished.metrics == again.metrics
    assert finished.metrics["completeness"] < 1e-5
    assert (tmp_path / "run" / "report.html").exists()


def test_one_class_is_refused(run, recipe, monkeypatch):
    index = trainer.load_index(recipe().data.path)
    monkeypatch.setattr(trainer, "load_index", lambda _: index.model_copy(update={"classes": ["cat"]}))
    with pytest.raises(BcosError, match="the shards have the class 'cat' alone"):
        run(recipe())


def test_plain_baseline_trains_with_softmax(run, recipe):
    model = {"name": "standard_cifar10_resnet20", "options": {"depths": [1], "width": 8}}
    result = run(recipe(model=model, train={"loss": "cross_entropy", "epochs": 1}))
    assert result.trained.probabilities == "softmax"
    assert result.trained.confidences(torch.randn(2, 3)).sum(1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("side", "size", "is_coarse"), [(100, 32, True), (96, 32, False), (8, 8, False), (300, 65, False), (193, 64, True)]
)
def test_images_far_larger_than_what_is_trained_on_are_told(side, size, is_coarse, make_tree, bcos):
    pictures = {f"train/{name}/{i}.png": Image.new("RGB", (side + 50, side)) for name in "ab" for i in range(2)}
    assert bcos("shards", "pack", make_tree(pictures), "s", "--workers", 1)[0] == 0
    line = coarse_images("s", load_index("s"), "train", size)
    assert (line is not None) == is_coarse
    if line is not None:
        assert line.startswith(f"images whose shorter side is {side} pixels are trained at {size}×{size}: maps have")


def test_training_on_coarse_images_says_so_once(recipe, make_tree, bcos, tmp_path, capsys):
    pictures = {
        f"{split}/{name}/{i}.png": Image.new("L", (40, 40), 9 * i)
        for split in ("train", "test")
        for name in "ab"
        for i in range(4)
    }
    assert bcos("shards", "pack", make_tree(pictures), "s", "--workers", 1, "--channels", 1)[0] == 0
    train(recipe(data={"path": "s"}, train={"epochs": 1}), tmp_path / "run")
    assert capsys.readouterr().err.count("40 pixels are trained at 8×8") == 1


def test_shards_that_cannot_be_read_are_left_to_training(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "s")
    min((tmp_path / "s").glob("*train*.tar")).write_bytes(b"junk" * 400)
    assert coarse_images("s", load_index("s"), "train", 2) is None
