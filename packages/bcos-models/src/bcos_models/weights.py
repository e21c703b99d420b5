"""Weights in and out of safetensors files. Nothing is ever unpickled."""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_core.files import write_atomically
from bcos_models import plugins


def save_weights(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Write the state dict of `model` to a safetensors file, aside and then renamed.

    Args:
        model: whose parameters and buffers are written.
        path: the file; its folder is created.
        metadata: strings to store in the file's header.

    Returns:
        The path.
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    write_atomically(path, safetensors.torch.save(state, metadata={"format": "pt", **(metadata or {})}))
    return Path(path)


def load_weights(model: nn.Module, path: str | Path, *, name: str = "") -> None:
    """Load a safetensors file into `model`; every tensor must have its place and its shape.

    Args:
        model: to be filled.
        path: the file.
        name: the model's name, for plugins that convert state dicts of other packages.

    Raises:
        BcosError: no such file, not a safetensors file, or keys or shapes that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise BcosError(f"there is no weights file {str(path)!r}; give the path of a .safetensors file")
    try:
        state = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as reason:
        raise BcosError(
            f"{str(path)!r} is no readable safetensors file ({reason}); give a file written by save_weights"
        ) from reason
    load_state(model, state, name=name, source=str(path))


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, name: str = "", source: str) -> None:
    """Load a state dict, converted by a plugin if one knows its format.

    Raises:
        BcosError: keys or shapes that do not fit, naming the first of them.
    """
    own = model.state_dict()
    if own.keys() != state.keys():
        converted = plugins.manager().hook.bcos_models_convert_state_dict(name=name, state_dict=state)
        if converted is not None:  # converters leave out means that are zero: not every norm has them
            means = {key: own[key].new_zeros(own[key].shape) for key in own if key.endswith("running_mean")}
            state = {**means, **converted}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unexpected or wrong:
        problems = [
            *(f"{key} is missing" for key in missing[:2]),
            *(f"{key} is unknown" for key in unexpected[:2]),
            *(f"{key} has shape {tuple(state[key].shape)}, needs {tuple(own[key].shape)}" for key in sorted(wrong)[:2]),
        ]
        total = len(missing) + len(unexpected) + len(wrong)
        raise BcosError(
            f"the weights in {source!r} do not fit the model{f' {name!r}' if name else ''}: {'; '.join(problems)}"
            f"{f' (and more, {total} in all)' if total > len(problems) else ''}; "
            "build the model with the options (and num_classes) that the weights were trained with"
        )
    model.load_state_dict(dict(state))
