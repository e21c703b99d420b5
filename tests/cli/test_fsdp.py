"""State of networks that are spread over processes, as FSDP does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from bcos_cli.train import fsdp
from bcos_core import BcosError


@pytest.mark.slow
def test_spread_network_is_gathered_given_back_and_trained_as_a_whole_one(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).with_name("fsdp_processes.py")
    done = subprocess.run(
        [*launcher, script, tmp_path / "fsdp.pt"], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "equal 4" in done.stdout


def test_whole_network_is_its_state_dict():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    weights = {key: value.clone() for key, value in fsdp.weights_of(model, sharded=False).items()}
    saved = fsdp.optimizer_state(model, optimizer, sharded=False)
    with torch.no_grad():
        model.weight.zero_()
    fsdp.load_weights_into(model, weights, sharded=False)
    fsdp.load_optimizer_state(model, optimizer, saved, sharded=False)
    assert torch.equal(model.weight, weights["weight"])
    with pytest.raises(BcosError, match=r"the weights do not fit the network: .*size mismatch"):
        fsdp.load_weights_into(model, weights | {"weight": torch.zeros(3, 2)}, sharded=False)


def test_state_of_another_optimizer_or_network_is_refused():
    model, larger = nn.Linear(2, 2), nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    other = torch.optim.Adam(larger.parameters())
    larger(torch.ones(1, 3)).sum().backward()
    other.step()
    for wrong in (
        torch.optim.SGD([model.weight]).state_dict(),
        other.state_dict(),
        {"param_groups": 3},
        {"state": {}, "param_groups": [{}]},
    ):
        with pytest.raises(BcosError, match="the checkpoint's optimizer state does not fit Adam and this network"):
            fsdp.load_optimizer_state(model, optimizer, wrong, sharded=False)


@pytest.mark.parametrize(("kind", "sharded"), [("NO", False), ("MULTI_GPU", False), ("FSDP", True)])
def test_kind_of_processes(kind, sharded, monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType[kind])
    assert fsdp.is_sharded(Accelerator(cpu=True)) is sharded


def test_deepspeed_is_refused(monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.DEEPSPEED)
    with pytest.raises(BcosError, match=r"DeepSpeed is not supported; use DDP or FSDP"):
        fsdp.is_sharded(Accelerator(cpu=True))
