"""Which blocks a network repeats, and that it can be made as it was."""

import pytest
import torch
from torch import nn

from bcos_cli.train.forward_pass import as_written, checkpoint_activations, compile_network, repeated_blocks, undo
from bcos_core import BcosError
from bcos_models import create_model


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
