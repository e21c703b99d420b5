"""Run by torchrun in two processes: a network spread over them, its state gathered, given back, and trained on."""

import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from bcos_cli.train import fsdp
from bcos_models import create_model


def build(spread):
    torch.manual_seed(0)
    model = create_model("cifar10_resnet20", depths=[1], width=8, norm="none").double()
    if spread is not None:
        fully_shard(model.layer1, mesh=spread)
        fully_shard(model, mesh=spread)
    return model, torch.optim.Adam(model.parameters(), lr=0.01)


def step(model, optimizer, images):
    loss = model(images).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(1)
    batches = torch.rand(4, 8, 6, 8, 8, dtype=torch.float64)
    whole, whole_optimizer = build(None)
    mesh = init_device_mesh("cpu", (2,))
    model, optimizer = build(mesh)
    for images in batches[:2]:
        step(whole, whole_optimizer, images)
        step(model, optimizer, images[4 * rank : 4 * rank + 4])
    weights = fsdp.weights_of(model, sharded=True)
    optimizer_state = fsdp.optimizer_state(model, optimizer, sharded=True)
    if rank == 0:
        expected = whole.state_dict()
        assert weights.keys() == expected.keys(), sorted(weights.keys() ^ expected.keys())
        for key, value in weights.items():
            torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-12)
        torch.save({"weights": weights, "optimizer": optimizer_state}, sys.argv[1])
    dist.barrier()

    again, again_optimizer = build(mesh)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    loaded = torch.load(sys.argv[1], weights_only=True)
    fsdp.load_weights_into(again, loaded["weights"] if rank == 0 else {}, sharded=True)
    fsdp.load_optimizer_state(again, again_optimizer, loaded["optimizer"], sharded=True)
    for images in batches[2:]:
        step(whole, whole_optimizer, images)
        step(again, again_optimizer, images[4 * rank : 4 * rank + 4])
    resumed = fsdp.weights_of(again, sharded=True)
    if rank == 0:
        for key, value in resumed.items():
            torch.testing.assert_close(value, whole.state_dict()[key], rtol=1e-9, atol=1e-12)
        sys.stdout.write(f"equal {len(resumed)}\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
