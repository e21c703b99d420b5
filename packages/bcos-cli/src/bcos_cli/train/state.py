"""Weights and optimizer of a network that may be spread over processes: gathered, and given back."""

from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from bcos_core.errors import BcosError, first_line

_GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SPREAD = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether processes hold parts of the weights (FSDP), not all of them.

    Raises:
        BcosError: DeepSpeed, which this program does not know.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise BcosError("DeepSpeed is not supported; use DDP or FSDP in Accelerate's configuration")
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def weights_of(model: nn.Module, sharded: bool) -> dict[str, Tensor]:
    """Return the whole state dict; where it is sharded, all processes take part and the main one gets it."""
    if sharded:
        gathered: Any = get_model_state_dict(model, options=_GATHERED)
        return dict(gathered)
    return dict(model.state_dict())


def load_weights_into(model: nn.Module, tensors: dict[str, Tensor], sharded: bool) -> None:
    """Give the network its weights; where it is sharded, `tensors` count in the main process.

    Raises:
        BcosError: they do not fit.
    """
    try:
        if sharded:
            set_model_state_dict(model, dict[str, Any](tensors), options=_SPREAD)
        else:
            model.load_state_dict(tensors)
    except RuntimeError as reason:
        raise BcosError(f"the weights do not fit the network: {' '.join(str(reason).split())[:300]}") from reason


def optimizer_state(model: nn.Module, optimizer: Optimizer, sharded: bool) -> dict[str, Any]:
    """Return the optimizer's whole state, as :func:`weights_of`."""
    if sharded:
        return dict(get_optimizer_state_dict(model, optimizer, options=_GATHERED))
    return dict(optimizer.state_dict())


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, state: dict[str, Any], sharded: bool) -> None:
    """Give the optimizer its state.

    Raises:
        BcosError: it is that of another optimizer or network.
    """
    try:
        if sharded:
            set_optimizer_state_dict(model, optimizer, state, options=_SPREAD)
        else:
            optimizer.load_state_dict(state)
            for parameter, values in optimizer.state.items():
                for name, value in values.items():
                    if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                        raise ValueError(f"{name} is {tuple(value.shape)} for a weight of {tuple(parameter.shape)}")
    except Exception as reason:  # torch looks entries up as it goes, and raises what that raises
        raise BcosError(
            f"the checkpoint's optimizer state does not fit {type(optimizer).__name__} and this network ("
            f"{type(reason).__name__}: {first_line(reason)[:200]}); remove that checkpoint to go back to the one before"
        ) from reason
