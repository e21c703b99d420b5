"""What recipes ask of the trainer, each option in a run of its own."""

import json
import random
import shutil

import pytest
import safetensors.torch
import torch
from accelerate.state import AcceleratorState, GradientState
from damaging import replace_members

from bcos_cli.data.index import load_index
from bcos_cli.file_names import INDEX_NAME
from bcos_cli.runs.evaluation import evaluate_run
from bcos_cli.train import trainer
from bcos_cli.train.trainer import train
from bcos_core import BcosError

TIMING = ("images_per_second", "seconds")


@pytest.fixture
def run(tmp_path):
    """Train; the process starts anew each time. Returns the folder of the run."""

    def start(recipe, name="run", **options):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        train(recipe, tmp_path / name, **options)
        return tmp_path / name

    return start


def weights(folder, name="model"):
    return safetensors.torch.load_file(folder / f"{name}.safetensors")


def lines(folder):
    found = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in found]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_average_of_weights_follows_its_definition_and_is_what_is_saved(run, recipe):
    """ema ← d · ema + (1 - d) · weights, after every second step."""
    wanted = recipe(ema={"decay": 0.8, "every": 2}, train={"epochs": 3, "checkpoint_steps": 1, "keep_checkpoints": 100})
    folder = run(wanted)
    steps = sorted((folder / "checkpoints").glob("step-*"))
    assert len(steps) == 9
    before = weights(steps[0], "ema")
    for number, step in enumerate(steps[1:], start=2):
        now, average = weights(step), weights(step, "ema")
        for key, value in average.items():
            expected = before[key]
            if number % 2 == 0:
                expected = torch.lerp(before[key], now[key], 1 - 0.8) if value.is_floating_point() else now[key]
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7, msg=f"{key} at step {number}")
        before = average
    assert equal(weights(folder), weights(steps[-1], "ema"))
    assert not equal(weights(folder), weights(steps[-1]))
    assert {"test_top1", "test_loss", "ema_top1", "ema_loss"} <= lines(folder)[-1].keys()
    AcceleratorState._reset_state(reset_partial_state=True)
    scored = evaluate_run(str(folder), {"metrics": ("top1", "loss")})
    assert scored.metrics["loss"] == pytest.approx(lines(folder)[-1]["ema_loss"], rel=1e-6)


def test_nothing_is_averaged_before_the_warm_up_is_over(run, recipe):
    kept = {"epochs": 2, "checkpoint_steps": 1, "keep_checkpoints": 100}
    folder = run(recipe(ema={"decay": 0.8}, schedule={"warmup_steps": 3}, train=kept))
    for number, step in enumerate(sorted((folder / "checkpoints").glob("step-*")), start=1):
        assert equal(weights(step), weights(step, "ema")) is (number <= 4)  # the fourth begins the average


def test_run_that_does_not_become_better_ends_early_with_its_best_weights(run, recipe):
    wanted = recipe(
        optimizer={"name": "sgd", "lr": 1e-9, "momentum": 0.0},
        early_stopping={"patience": 2},
        train={"epochs": 9, "restore_best": True},
    )
    folder = run(wanted)
    found = lines(folder)
    assert len(found) == 3
    assert [line.get("best", False) for line in found] == [True, False, False]
    assert equal(weights(folder), weights(folder / "checkpoints" / "best"))
    again = run(wanted, resume=True)
    assert lines(again) == found


def test_recalibrated_norms_are_those_of_training_batches_and_are_scored(run, recipe):
    folder = run(recipe(train={"recalibrate_batches": 3}))
    last = weights(sorted((folder / "checkpoints").glob("step-*"))[-1])
    final = weights(folder)
    changed = {key for key in final if not torch.equal(final[key], last[key])}
    assert changed
    assert all("running" in key or "num_batches" in key for key in changed)
    assert all(int(final[key]) == 3 for key in final if key.endswith("num_batches_tracked"))


@pytest.mark.parametrize(
    ("section", "exact"),
    [
        ({"gradient_checkpointing": True}, True),
        ({"compile": "whole", "compile_backend": "eager"}, False),  # without the kernels of our own
        pytest.param({"compile": "regional", "compile_backend": "eager"}, False, marks=pytest.mark.slow),
        ({"channels_last": True}, False),
    ],
    ids=["gradient checkpointing", "compiled", "regionally compiled", "channels last"],
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # looked at by the compiler
def test_same_numbers_sooner_or_in_less_memory(section, exact, run, recipe):
    model = {"name": "cifar10_resnet20", "options": {"depths": [2], "width": 8, "drop_path": 0.3}}
    plain = run(recipe(model=model, ema={"decay": 0.9}), "plain")
    other = run(recipe(model=model, ema={"decay": 0.9}, train=section), "other")
    assert {p.name for p in (other / "explanations").iterdir()} == {"epoch-0001.png", "epoch-0002.png"}
    if exact:
        assert lines(plain) == lines(other)
        assert equal(weights(plain), weights(other))
    for key, value in weights(plain).items():
        torch.testing.assert_close(weights(other)[key], value, rtol=1e-3, atol=1e-4)


LOSS = """
import torch
from torch import nn

class Loss(nn.Module):
    calls = 0

    def __init__(self, bad):
        super().__init__()
        self.bad = bad

    def forward(self, logits, targets):
        Loss.calls += self.bad is not None
        value = nn.functional.cross_entropy(logits, targets)
        return value * float("nan") if Loss.calls == self.bad else value

def at_the_fifth(options):
    return Loss(None if options.evaluation else 5)

def always(options):
    return Loss(None) if options.evaluation else Always()

class Always(nn.Module):
    def forward(self, logits, targets):
        return logits.sum() * float("inf")
"""


@pytest.fixture
def own_loss(tmp_path, monkeypatch):
    """A module in the current folder."""
    name = f"own_loss_{random.randrange(10**9)}"
    (tmp_path / f"{name}.py").write_text(LOSS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_step_with_a_loss_that_is_not_finite_can_be_left_out(run, recipe, own_loss):
    wanted = recipe(train={"loss": f"{own_loss}:at_the_fifth", "on_not_finite": "skip", "checkpoint_steps": 1})
    folder = run(wanted)
    assert [line.get("steps_left_out") for line in lines(folder)] == [None, 1]
    kept = list((folder / "not-finite").iterdir())
    assert [path.name for path in kept] == ["epoch-0002-batch-000001-process-0.safetensors"]
    batch = safetensors.torch.load_file(kept[0])
    assert batch["images"].shape == (8, 1, 8, 8)
    assert all(torch.isfinite(value).all() for value in weights(folder).values())


def test_too_many_such_steps_end_the_run(run, recipe, own_loss, tmp_path):
    section = {"loss": f"{own_loss}:always", "on_not_finite": "skip", "max_not_finite": 2}
    with pytest.raises(BcosError, match=r"not finite in 3 steps, the last at epoch 1, step 3; .* train.max_not_finite"):
        run(recipe(train=section))


def test_batch_whose_loss_was_not_finite_is_kept(run, recipe, own_loss, tmp_path):
    with pytest.raises(
        BcosError, match=r"not finite at epoch 2, step 5, .*; the batch is kept in .*process-0"
    ) as error:
        run(recipe(train={"loss": f"{own_loss}:at_the_fifth"}))
    path = tmp_path / str(error.value).rpartition("kept in ")[2]
    batch = safetensors.torch.load_file(path)
    assert batch["positions"].shape == batch["labels"].shape == (8,)
    assert set(batch["positions"].tolist()) <= set(range(24))
    checkpoints = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert [p.name for p in checkpoints] == ["step-00000003"]
    assert all(torch.isfinite(value).all() for value in weights(checkpoints[0]).values())


@pytest.fixture
def damaged(shards, tmp_path):
    """The synthetic shards; of the training images one is no image any more, and the last shard is cut off."""
    folder = tmp_path / "damaged"
    shutil.copytree(shards, folder)
    index = load_index(str(folder))
    names = [record.name for record in index.of("train")]
    replace_members(folder / names[0], {0: b"no image"}, ".png")
    last = folder / names[-1]
    last.write_bytes(last.read_bytes()[: 512 * 9])
    assert (folder / INDEX_NAME).exists()
    return str(folder)


def test_damaged_data_end_the_run_or_are_left_out_and_counted(damaged, run, recipe, capsys, monkeypatch):
    def kill(*_, **__):
        raise KeyboardInterrupt

    with pytest.raises(BcosError, match=r"bcos shards verify|cannot be read"):
        run(recipe(data={"path": damaged}), "stopped")
    made = recipe(data={"path": damaged, "on_error": "skip"})
    folder = run(made)
    out = capsys.readouterr()
    assert all(line["skipped"] >= 2 for line in lines(folder))
    assert [line["step"] for line in lines(folder)] == [3, 6]
    assert "images could not be read and were left out" in out.err
    assert "bcos: left out" in out.err

    with monkeypatch.context() as patched:  # killed before the first epoch has its line
        patched.setattr(trainer, "classify", kill)
        with pytest.raises(KeyboardInterrupt):
            run(made, "killed")
    assert lines(run(made, "killed", resume=True)) == lines(folder)


def test_classes_can_be_drawn_equally_and_images_repeated(run, recipe):
    for name, section in (("balanced", {"balanced": True}), ("repeats", {"repeats": 4})):
        folder = run(recipe(data={**section, "augment": {"pad_crop": 1}}), name)
        assert [line["step"] for line in lines(folder)] == [3, 6]


def test_network_learns_from_mixed_and_smoothed_labels(run, recipe):
    wanted = recipe(
        mixing={"mixup": 0.2, "cutmix": 1.0, "probability": 0.5},
        clipping={"adaptive": 0.05, "norm": 5.0},
        train={"epochs": 12, "label_smoothing": 0.1, "loss": "cross_entropy"},
        optimizer={"name": "adamw", "lr": 0.02, "weight_decay": 0.01},
        schedule={"name": "linear", "warmup_steps": 3},
        data={"augment": {"rand_augment": {"num_ops": 1, "magnitude": 3}, "random_erasing": 0.1}},
    )
    assert lines(run(wanted))[-1]["test_top1"] > 0.7


def test_images_of_training_may_be_smaller(run, recipe):
    folder = run(recipe(data={"train_image_size": 6, "image_size": 8, "augment": {"random_resized_crop": [0.5, 1]}}))
    assert lines(folder)[-1]["step"] == 6


def test_explanations_of_the_same_images_are_logged_every_epoch(run, recipe):
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(recipe(train={"explained_images": 3}))
    for epoch in (1, 2):
        with Image.open(folder / "explanations" / f"epoch-000{epoch}.png") as picture:
            assert picture.size == (3 * 10 * 12, 3 * 10 * 12)  # 8 + 2 pixels, enlarged 12 times
    events = EventAccumulator(str(next((folder / "tensorboard").rglob("events*")).parent), size_guidance={"images": 0})
    events.Reload()
    assert "explanations" in events.Tags()["images"]
    assert [event.step for event in events.Images("explanations")] == [3, 6]
    assert [event.step for event in events.Scalars("test_top1")] == [3, 6]


def test_tracker_that_is_not_there_is_told(run, recipe):
    with pytest.raises(BcosError, match=r"train.trackers=comet_ml is not installed; install it, or leave it out"):
        run(recipe(train={"trackers": ["comet_ml"]}))
    with pytest.raises(BcosError, match=r"there is no train.trackers='nothing'; choose from aim, "):
        run(recipe(train={"trackers": ["nothing"]}))


def test_without_trackers_there_is_none(run, recipe):
    folder = run(recipe(train={"trackers": [], "explained_images": 0}))
    assert not (folder / "tensorboard").exists()
    assert not (folder / "explanations").exists()


@pytest.mark.parametrize(
    ("changed", "ends"),
    [
        ({"train": {"keep_checkpoints": 1}}, None),
        ({"train": {"epochs": 3}}, "has another recipe .train.epochs: 2 there"),
    ],
)
def test_what_may_change_in_a_resumed_run(changed, ends, run, recipe):
    run(recipe())
    if ends is None:
        run(recipe(**changed), resume=True)
    else:
        with pytest.raises(BcosError, match=ends):
            run(recipe(**changed), resume=True)


def test_other_data_than_the_run_was_started_with_are_refused(run, recipe, shards, tmp_path):
    run(recipe())
    shutil.copytree(shards, tmp_path / "moved")
    run(recipe(data={"path": str(tmp_path / "moved")}), resume=True)
    index = load_index(str(tmp_path / "moved"))
    (tmp_path / "moved" / INDEX_NAME).write_text(index.model_copy(update={"fingerprint": "other"}).model_dump_json())
    run(recipe(), resume=True)
    before = (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    with pytest.raises(BcosError, match=r"the shards at .* are not those the run was started with"):
        run(recipe(data={"path": str(tmp_path / "moved")}), resume=True)
    assert (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8") == before
