"""State of a network and its optimizer, which FSDP may have sharded over processes: gathered, and given back."""

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

from bcos_cli.config import Recipe
from bcos_core.errors import BcosError, first_line

# Every process must call the functions below, for each has a part of every tensor that the others wait for. Whole
# tensors are put together on the main process's CPU alone: no device need have room for all of them.
_GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SPREAD = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether processes hold parts of the weights (FSDP), not all; refuse DeepSpeed, which is not supported."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise BcosError("DeepSpeed is not supported; use DDP or FSDP in Accelerate's configuration")
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def check_sharded(recipe: Recipe) -> None:
    """Refuse a recipe that asks for what needs all weights in every process."""
    asked = {
        "ema": recipe.ema is not None,
        "train.restore_best": recipe.train.restore_best,
        "train.recalibrate_batches": bool(recipe.train.recalibrate_batches),
        "annealing.bias_epochs": bool(recipe.annealing.bias_epochs),
        "clipping.adaptive": recipe.clipping.adaptive is not None,
    }
    for key, is_asked in asked.items():
        if is_asked:
            raise BcosError(f"{key} does not work with FSDP, whose processes hold parts of the weights; leave it out")


def weights_of(model: nn.Module, sharded: bool) -> dict[str, Tensor]:
    """Return the whole state dict; where it is sharded, the main process gets it, the others nothing."""
    if sharded:
        gathered: Any = get_model_state_dict(model, options=_GATHERED)
        return dict(gathered)
    return dict(model.state_dict())


def load_weights_into(model: nn.Module, tensors: dict[str, Tensor], sharded: bool) -> None:
    """Load weights that fit the network, or refuse them; where it is sharded, the `tensors` of the main process."""
    try:
        if sharded:
            set_model_state_dict(model, dict[str, Any](tensors), options=_SPREAD)
        else:
            model.load_state_dict(tensors)
    except RuntimeError as reason:
        raise BcosError(f"the weights do not fit the network: {' '.join(str(reason).split())[:300]}") from reason


def optimizer_state(model: nn.Module, optimizer: Optimizer, sharded: bool) -> dict[str, Any]:
    """Return the optimizer's whole state, as :func:`weights_of` does."""
    if sharded:
        return dict(get_optimizer_state_dict(model, optimizer, options=_GATHERED))
    return dict(optimizer.state_dict())


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, state: dict[str, Any], sharded: bool) -> None:
    """Load the optimizer's state; refuse that of another optimizer or network."""
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
