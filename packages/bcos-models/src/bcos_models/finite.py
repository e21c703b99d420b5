"""Weights that are infinite or not a number."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bcos_core.errors import BcosError


def not_finite(network: nn.Module) -> list[str]:
    """List the parameters and saved buffers with values that are infinite or not a number, and how many each has.

    Of tensors that are spread over processes, this process's part counts. Waits for the device once if all are finite.
    """
    saved = [(f"parameter {name}", parameter) for name, parameter in network.named_parameters()]
    for prefix, module in network.named_modules():
        path = f"{prefix}." if prefix else ""
        kept = (entry for entry in module._buffers.items() if entry[0] not in module._non_persistent_buffers_set)
        saved += [(f"buffer {path}{name}", buffer) for name, buffer in kept if buffer is not None]
    own = [(name, t.to_local() if isinstance(t, DTensor) else t.detach()) for name, t in saved]
    own = [(name, t) for name, t in own if t.is_floating_point() or t.is_complex()]
    if not own:
        return []
    device = own[0][1].device
    finite = torch.stack([torch.isfinite(t).all().to(device) for _, t in own]).tolist()
    return [f"{name} holds {_counted(t)}" for (name, t), is_finite in zip(own, finite, strict=True) if not is_finite]


def _counted(values: Tensor) -> str:
    counts = {"NaN": int(values.isnan().sum()), "infinite": int(values.isinf().sum())}
    return " and ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)


def some_of(found: list[str]) -> str:
    """Name the first of what :func:`not_finite` has found, and how many more there are."""
    return "; ".join([*found[:1], *([f"{len(found) - 1} more tensors"] if len(found) > 1 else [])])


def check_finite(network: nn.Module, *, agree: Callable[[int], int] | None = None) -> None:
    """Refuse a network whose weights are not all finite, naming a parameter or buffer: its outputs mean nothing.

    Args:
        agree: sums a number over all processes, where each may hold another part of the network.
    """
    found = not_finite(network)
    if found or (agree is not None and agree(len(found))):
        raise BcosError(
            f"the weights of the network are not finite: {some_of(found) or 'those of another process'}; give other "
            "weights, or train it again"
        )
