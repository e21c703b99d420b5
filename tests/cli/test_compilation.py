"""Which blocks a network repeats, whether and how often it is compiled, and that it can be made as it was."""

from types import SimpleNamespace

import pytest
import torch
from same_runs import assert_same
from torch import nn
from torch._dynamo.utils import counters

from bcos_cli.config import load_recipe
from bcos_cli.train import compilation
from bcos_cli.train.forward_pass import as_written, checkpoint_activations, compile_network, repeated_blocks, undo
from bcos_cli.train.trainer import train
from bcos_core import BcosError
from bcos_models import create_model, set_exponent


@pytest.mark.parametrize(
    ("name", "count", "kind"),
    [
        ("cifar10_resnet20", 9, "BasicBlock"),
        ("resnet50", 16, "Bottleneck"),
        ("densenet121", 4, "DenseBlock"),
        ("convnext_tiny", 18, "Block"),
        ("simple_vit_ti_patch16_224", 12, "Block"),
        ("standard_vitc_s_patch1_14", 11, "EncoderBlock"),
    ],
)
def test_repeated_blocks_of_families(name, count, kind):
    with torch.device("meta"):
        model = create_model(name)
    blocks = repeated_blocks(model, "this test")
    kinds = {type(block).__name__ for block in blocks}
    assert len(blocks) >= count
    assert any(kind in found for found in kinds), kinds
    inside = sum(p.numel() for block in blocks for p in block.parameters())
    assert inside > 0.8 * sum(p.numel() for p in model.parameters()) or name.startswith(("resnet", "dense", "conv"))
    ids = {id(module) for block in blocks for module in block.modules() if module is not block}
    assert not ids & {id(block) for block in blocks}


def test_network_without_repetition_has_none():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Sequential(nn.ReLU(), nn.ReLU()))
    with pytest.raises(BcosError, match=r"train.gradient_checkpointing needs a network with repeated blocks"):
        checkpoint_activations(model)
    with pytest.raises(BcosError, match=r"train.compile=regional needs a network with repeated blocks"):
        compile_network(model, "regional", "eager")


def test_unknown_backend_is_refused():
    with pytest.raises(BcosError, match=r"there is no train.compile_backend='inducter'; choose from"):
        compile_network(nn.Linear(2, 2), "whole", "inducter")


@pytest.mark.parametrize("how", ["whole", "regional", "checkpointed"])
def test_network_is_as_written_inside_and_afterwards(how):
    model = create_model("cifar10_resnet20", depths=[2], width=8)
    plain = {name: (m._compiled_call_impl, "forward" in m.__dict__) for name, m in model.named_modules()}
    if how == "checkpointed":
        checkpoint_activations(model)
    else:
        compile_network(model, how, "eager")

    def now():
        return {name: (m._compiled_call_impl, "forward" in m.__dict__) for name, m in model.named_modules()}

    changed = now()
    assert changed != plain
    with as_written(model):
        assert now() == plain
    assert now() == changed
    undo(model)
    assert now() == plain


def test_checkpointed_blocks_change_running_statistics_once_and_save_memory():
    torch.manual_seed(0)
    model = create_model("cifar10_resnet20", depths=[3], width=8).train()
    x = torch.rand(4, 6, 16, 16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    saved = []

    def step():
        model.load_state_dict(before)
        model.zero_grad()
        saved.append(0)

        def count(tensor):
            saved[-1] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(x).square().sum()
        loss.backward()
        return [p.grad.clone() for p in model.parameters()], {k: v.clone() for k, v in model.named_buffers()}

    gradients, buffers = step()
    checkpoint_activations(model)
    again, buffers_again = step()
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))
    assert all(torch.equal(buffers[key], buffers_again[key]) for key in buffers)
    assert saved[1] < saved[0] / 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # looked at by the compiler
def test_checkpointed_blocks_can_be_compiled():
    torch.manual_seed(0)
    model = create_model("cifar10_resnet20", depths=[2], width=8).train()
    x = torch.rand(4, 6, 16, 16)
    before = {key: value.clone() for key, value in model.state_dict().items()}

    def step():
        model.load_state_dict(before)
        model.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss, *(p.grad.clone() for p in model.parameters()), *(value.clone() for value in model.buffers())

    plain = step()
    checkpoint_activations(model)
    compile_network(model, "regional", "aot_eager")
    torch.testing.assert_close(step(), plain, rtol=1e-4, atol=1e-5)


def chosen(run):
    return load_recipe(str(run / "config.yaml"), needs=()).train.compile


def test_a_short_run_on_a_cpu_is_not_compiled_and_a_long_one_is(recipe, tmp_path, capsys, monkeypatch):
    auto = recipe(train={"compile": "auto", "compile_backend": "eager", "epochs": 1})
    train(auto, tmp_path / "short")
    assert chosen(tmp_path / "short") == "no"
    assert "train.compile: no (auto): about 0.0 hours uncompiled, and it pays from 0.5" in capsys.readouterr().err
    monkeypatch.setattr(compilation, "PAYS_FROM", 0)
    train(auto, tmp_path / "long")
    assert chosen(tmp_path / "long") == "whole"
    told = capsys.readouterr().err
    assert "train.compile: whole (auto)" in told
    assert "train.compile: the first batch took" in told
    train(recipe(train={"compile": "whole", "compile_backend": "eager", "epochs": 1}), tmp_path / "given")
    assert_same(tmp_path / "long", tmp_path / "given")


def test_a_resumed_run_is_compiled_as_it_was(recipe, tmp_path, monkeypatch):
    auto = recipe(train={"compile": "auto", "compile_backend": "eager", "epochs": 1})
    train(auto, tmp_path / "run")
    monkeypatch.setattr(compilation, "PAYS_FROM", 0)
    train(auto, tmp_path / "run", resume=True)
    assert chosen(tmp_path / "run") == "no"


@pytest.mark.parametrize(
    ("device", "triton", "compiler", "found", "why"),
    [
        ("cuda", True, None, "whole", "on cuda"),
        ("cuda", False, "g++", "no", "Triton is not installed"),
        ("mps", True, "g++", "no", "on mps"),
        ("cpu", True, None, "no", "there is no C++ compiler"),
    ],
)
def test_what_the_machine_can_compile_decides(monkeypatch, device, triton, compiler, found, why):
    monkeypatch.setattr(compilation, "find_spec", lambda name: triton or None)
    monkeypatch.setattr(compilation.shutil, "which", lambda name: compiler)
    accelerator = SimpleNamespace(device=torch.device(device), state=SimpleNamespace(), distributed_type="NO")
    choice, reason = compilation._choice(None, None, accelerator)
    assert (choice, why in reason) == (found, True)


@pytest.mark.parametrize(("anneals", "times"), [(False, 1), (True, compilation._ANNEALED)])
def test_a_network_is_compiled_once_and_one_whose_exponent_grows_three_times(anneals, times):
    torch._dynamo.reset()
    counters.clear()
    network = {"depths": [1], "width": 4}
    model = create_model("bcosified/standard_cifar10_resnet20", network=network, b=1.0 if anneals else 2.0).train()
    compile_network(model, "whole", "eager")
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for step in range(8):
        if anneals:
            set_exponent(model, min(2.0, 1 + step / 5))
        model(torch.rand(4, 6, 8, 8)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert counters["stats"]["unique_graphs"] == times
    assert not counters["graph_break"]
