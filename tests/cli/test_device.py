"""``--device``, and what is told before torch is imported."""

import json
import subprocess
import sys

import pytest
import torch
from accelerate import PartialState

from bcos_cli.processes.device import use_device
from bcos_cli.processes.group import default_device, process_state
from bcos_cli.train.model import build
from bcos_core import BcosError


@pytest.fixture
def accelerators(monkeypatch):
    """Make it look as if there were two GPUs."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


def test_the_cpu_is_used_where_it_is_named(accelerators):
    use_device("cpu")
    assert default_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_is_used_where_it_is_named(name, accelerators):
    use_device(name)
    assert PartialState().device == torch.device(name)  # what Accelerate makes of it


def test_a_device_that_is_not_there_is_refused_with_those_that_are(accelerators):
    use_device("cuda:2")
    with pytest.raises(BcosError, match="there is no device 'cuda:2'; choose from cpu, cuda, cuda:0, cuda:1"):
        process_state()


def test_one_gpu_for_several_processes_is_refused(accelerators, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    use_device("cuda:1")
    with pytest.raises(BcosError, match="several processes cannot share --device cuda:1"):
        process_state()


def test_the_option_is_that_of_the_command(bcos, recipe, shards, tmp_path, line):
    build(recipe(), ["rows", "columns", "corner"]).save(tmp_path / "model.safetensors")
    arguments = ("eval", "model.safetensors", "--data", shards, "--metric", "top1", "--workers", 0, "--device")
    assert "there is no device 'gpu'; choose from cpu" in line(bcos(*arguments, "gpu"))
    status, _, err = bcos(*arguments, "cpu")
    assert status == 0, err


COMMANDS = [
    (["explain", "digits-run", "x.png", "--out", "o"], "there is no image or folder 'x.png'"),
    (["explain", "nosuch", "here", "--out", "o"], "'nosuch' is neither a run's folder, nor a .safetensors file"),
    (["explain", "cifar10_resnet20", "here", "--out", "o", "--method", "gradcan"], "did you mean 'gradcam'?"),
    (["predict", "nosuch", "here"], "'nosuch' is neither a run's folder"),
    (["eval", "cifar10_resnet20", "--data", "SHARDS", "--split", "tset"], "no split 'tset'"),
    (["eval", "cifar10_resnet20", "--data", "nowhere"], "there are no shards at 'nowhere'"),
    (["maps", "cifar10_resnet20", "--data", "SHARDS", "--split", "tset", "--out", "o"], "no split 'tset'"),
    (["neurons", "cifar10_resnet20", "--data", "SHARDS", "--split", "tset", "--out", "o"], "no split 'tset'"),
    (["train", "cifar10_resnet20", "--data", "SHARDS", "-o", "data.train_split=tset"], "no split 'tset'"),
    (["serve", "nosuch"], "'nosuch' is neither a run's folder"),
    (["models", "nosuch"], "no model matches 'nosuch'"),
]


def test_mistakes_are_told_before_torch_is_imported(shards, make_tree, tmp_path):
    make_tree(["a.png"], "here")
    commands = [[shards if argument == "SHARDS" else argument for argument in command] for command, _ in COMMANDS]
    script = (
        "import json, sys\nfrom bcos_cli.main import run\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    print(run(command), 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == ["2 False"] * len(COMMANDS), done.stderr
    for told, (_, message) in zip(done.stderr.splitlines(), COMMANDS, strict=True):
        assert message in told
