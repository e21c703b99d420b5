import os

import pytest
import torch
from torch import nn

from bcos_cli.training.checkpoint import Checkpoints, Progress
from bcos_core import BcosError


def model(value=0.0):
    made = nn.Linear(2, 2)
    nn.init.constant_(made.weight, value)
    return made


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def state(value=0.0):
    return {
        "optimizer": {"state": {0: {"exp_avg": torch.full((2,), value)}}, "param_groups": []},
        "scaler": None,
    }


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of epochs 1 to 4, of which the second was the best."""
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for epoch in range(1, 5):
        progress = Progress(epoch, 10 * epoch, 0.5)
        checkpoints.save(model(epoch), state(epoch), progress, is_best=epoch <= 2)
    return checkpoints


def test_last_ones_and_the_best_are_kept_and_nothing_else(saved):
    assert names(saved.folder) == ["best", "epoch-0003", "epoch-0004"]
    assert [p.name for p in saved.all()] == ["epoch-0003", "epoch-0004"]
    assert names(saved.folder / "best") == ["model.safetensors", "state.pt"]
    best = torch.load(saved.folder / "best" / "state.pt", weights_only=True)
    assert best["progress"]["epoch"] == 2


def test_last_one_comes_back_as_it_was_saved(saved):
    loaded = model()
    progress, restored = saved.load_last(loaded)
    assert progress == Progress(4, 40, 0.5)
    assert restored["optimizer"]["state"][0]["exp_avg"].tolist() == [4, 4]
    assert restored["scaler"] is None
    assert (loaded.weight == 4).all()


def test_without_checkpoints_there_is_nothing_to_load(tmp_path):
    assert Checkpoints(tmp_path / "none", 2).load_last(model()) is None


def test_same_epoch_is_replaced(saved):
    saved.save(model(9), state(9), Progress(4, 40, 0.5), is_best=True)
    loaded = model()
    saved.load_last(loaded)
    assert (loaded.weight == 9).all()
    assert names(saved.folder) == ["best", "epoch-0003", "epoch-0004"]


@pytest.mark.parametrize("fails", ["bcos_cli.training.checkpoint.save_weights", "torch.save"])
def test_interrupted_saving_leaves_the_checkpoint_before(fails, saved, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fails, interrupt)
    with pytest.raises(KeyboardInterrupt):
        saved.save(model(5), state(5), Progress(5, 50, 0.5), is_best=True)
    assert saved.load_last(model())[0].epoch == 4
    monkeypatch.undo()
    saved.save(model(5), state(5), Progress(5, 50, 0.5), is_best=False)
    assert saved.load_last(model())[0].epoch == 5
    assert names(saved.folder) == ["best", "epoch-0004", "epoch-0005"]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"junk" * 99])
def test_damaged_state_is_named_with_the_remedy_in_one_line(damage, saved):
    path = saved.folder / "epoch-0004" / "state.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BcosError, match=r"epoch-0004 is damaged .*; remove it to resume from the one before") as error:
        saved.load_last(model())
    assert "\n" not in str(error.value)


def test_damaged_weights_are_named(saved):
    path = saved.folder / "epoch-0004" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BcosError, match=r"epoch-0004/model.safetensors' is no readable safetensors file"):
        saved.load_last(model())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_state_is_not_unpickled_into_code(saved, tmp_path):
    torch.save({"progress": Evil()}, saved.folder / "epoch-0004" / "state.pt")
    with pytest.raises(BcosError, match="is damaged") as error:
        saved.load_last(model())
    assert not (tmp_path / "owned").exists()
    assert "\n" not in str(error.value)
