import os
import resource

import pytest
import torch

from bcos_cli.train.checkpoint import MODEL, Checkpoints, Progress, load_progress, load_tensors
from bcos_core import BcosError


def weights(value=0.0, size=2):
    return {MODEL: {"weight": torch.full((size, 2), float(value)), "bias": torch.zeros(2)}}


def state(value=0.0):
    return {
        "optimizer": {"state": {0: {"exp_avg": torch.full((2,), float(value))}}, "param_groups": []},
        "scaler": None,
    }


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def progress(n):
    return Progress(epoch=n, batch=3, step=10 * n, losses=[0.5, 0.25], seconds=1.5)


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 10 to 40, of which the second was the best."""
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for n in range(1, 5):
        path = checkpoints.save(progress(n), weights(n), state(n), {"what": "a test"})
        if n <= 2:
            checkpoints.keep_best(path)
    return checkpoints


def test_last_ones_and_the_best_are_kept_and_nothing_else(saved):
    assert names(saved.folder) == ["best", "step-00000030", "step-00000040"]
    assert [p.name for p in saved.all()] == ["step-00000030", "step-00000040"]
    assert names(saved.folder / "best") == ["model.safetensors"]
    assert (load_tensors(saved.best(), MODEL)["weight"] == 2).all()


def test_last_one_comes_back_as_it_was_saved(saved):
    found, restored = load_progress(saved.last())
    assert found == progress(4)
    assert restored["optimizer"]["state"][0]["exp_avg"].tolist() == [4, 4]
    assert restored["scaler"] is None
    assert (load_tensors(saved.last(), MODEL)["weight"] == 4).all()


def test_without_checkpoints_there_is_nothing_to_load(tmp_path):
    none = Checkpoints(tmp_path / "none", 2)
    assert none.last() is None
    assert none.best() is None


def test_same_step_is_replaced(saved):
    saved.save(progress(4), weights(9), state(9))
    assert (load_tensors(saved.last(), MODEL)["weight"] == 9).all()
    assert names(saved.folder) == ["best", "step-00000030", "step-00000040"]


@pytest.mark.parametrize("fails", ["safetensors.torch.save_file", "torch.save", "os.fsync"])
def test_interrupted_saving_leaves_the_checkpoint_before(fails, saved, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fails, interrupt)
        with pytest.raises(KeyboardInterrupt):
            saved.save(progress(5), weights(5), state(5))
    assert load_progress(saved.last())[0].epoch == 4
    assert ".step-00000050.tmp" in names(saved.folder)
    saved.clean()
    assert names(saved.folder) == ["best", "step-00000030", "step-00000040"]
    saved.save(progress(5), weights(5), state(5))
    assert load_progress(saved.last())[0].epoch == 5


def test_best_that_was_being_replaced_is_still_there(saved, monkeypatch):
    real, count = os.rename, []

    def interrupt(self, target):
        count.append(target)
        if len(count) == 2:  # the old one is out of the way, the new one not yet in its place
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            saved.keep_best(saved.last())
    assert (load_tensors(saved.best(), MODEL)["weight"] == 2).all()
    saved.keep_best(saved.last())
    assert (load_tensors(saved.best(), MODEL)["weight"] == 4).all()
    assert ".best.old" not in names(saved.folder)


def test_killed_removal_and_killed_replacement_leave_nothing_and_lose_nothing(saved, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # killed before it
        saved.save(progress(5), weights(5), state(5))
    assert names(saved.folder) == [".step-00000030.tmp", "best", "step-00000040", "step-00000050"]
    (saved.folder / "step-00000050").rename(saved.folder / ".step-00000050.old")  # killed before the new one was there
    (saved.folder / ".best.old").mkdir()
    saved.clean()
    assert names(saved.folder) == ["best", "step-00000040", "step-00000050"]
    assert load_progress(saved.last())[0] == progress(5)


def test_folders_of_others_stay(saved):
    theirs = [saved.folder / name for name in (".mine.tmp", ".step-1.tmp", ".bestof.old", "step-00000001.tmp")]
    for path in theirs:
        path.mkdir()
    saved.clean()
    assert all(path.is_dir() for path in theirs)


@pytest.fixture
def full_disk():
    """A limit of the system's own on the size of files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("weight", "optimizer"), [(100_000, 2), (2, 100_000)], ids=["weights", "state"])
def test_full_disk_leaves_the_checkpoint_before_and_says_what_to_do(weight, optimizer, saved, full_disk):
    full_disk(10_000)
    large = {"optimizer": {"x": torch.zeros(optimizer)}}
    message = r"cannot write a checkpoint to .*; the last one is .*step-00000040; make room on the disk and .* --resume"
    with pytest.raises(BcosError, match=message) as error:
        saved.save(progress(5), weights(5, weight), large)
    assert "\n" not in str(error.value)
    assert names(saved.folder) == ["best", "step-00000030", "step-00000040"]
    assert load_progress(saved.last())[0] == progress(4)


def test_first_checkpoint_on_a_full_disk(tmp_path, full_disk):
    full_disk(10_000)
    with pytest.raises(BcosError, match=r"cannot write a checkpoint to .*; there is none yet; make room"):
        Checkpoints(tmp_path / "c", 2).save(progress(1), weights(1, 100_000), state())


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"junk" * 99])
def test_damaged_state_is_named_with_the_remedy_in_one_line(damage, saved):
    path = saved.last() / "state.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        BcosError, match=r"step-00000040 is damaged .*; remove it to resume from the one before"
    ) as error:
        load_progress(saved.last())
    assert "\n" not in str(error.value)


def test_damaged_weights_are_named(saved):
    path = saved.last() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BcosError, match=r"step-00000040 is damaged"):
        load_tensors(saved.last(), MODEL)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_state_is_not_unpickled_into_code(saved, tmp_path):
    torch.save({"progress": Evil()}, saved.last() / "state.pt")
    with pytest.raises(BcosError, match="is damaged") as error:
        load_progress(saved.last())
    assert not (tmp_path / "owned").exists()
    assert "\n" not in str(error.value)
