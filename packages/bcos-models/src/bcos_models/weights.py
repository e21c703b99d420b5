"""Weights in and out of files. Nothing untrusted is ever unpickled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_core.files import write_atomically
from bcos_models import plugins
from bcos_models.classifier import ImageClassifier

WEIGHTS_NAME = "model.safetensors"
_HUB = "hf://"


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


def load_weights(model: nn.Module, source: str | Path, *, name: str = "") -> None:
    """Load weights into `model`; every tensor must have its place and its shape.

    Args:
        model: to be filled.
        source: a ``.safetensors`` file, or a ``.pth`` file with a state dict (read with ``weights_only``), by
            path, by URL, or as ``hf://owner/repository[@revision]`` on the Hugging Face hub.
        name: the model's name, for plugins that convert state dicts of other packages.

    Raises:
        BcosError: no such file, not a file of weights, or keys or shapes that do not fit.
    """
    load_state(model, read_state(find_weights(source)), name=name, source=str(source))


def find_weights(source: str | Path) -> Path:
    """File of weights that a path, a URL or a repository names; downloaded where it must be."""
    text = str(source)
    if text.startswith(_HUB):
        from bcos_models.hub import hub_file

        return hub_file(text.removeprefix(_HUB), WEIGHTS_NAME)
    if "://" in text:
        from bcos_models.download import fetch

        return fetch(text)
    path = Path(source)
    if not path.is_file():
        raise BcosError(
            f"there is no weights file {text!r}; "
            "give the path or URL of a .safetensors or .pth file, or hf://owner/repository"
        )
    return path


def read_state(path: Path) -> dict[str, Tensor]:
    """State dict in a file.

    Raises:
        BcosError: it cannot be read, or holds something else.
    """
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as reason:
            raise BcosError(
                f"{str(path)!r} is no readable safetensors file ({reason}); give a file written by save_weights"
            ) from reason
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as reason:  # torch raises several types, for files that are no checkpoints and for unsafe ones
        raise BcosError(
            f"{str(path)!r} is no file of weights alone ({str(reason).splitlines()[0]}); "
            "give a .safetensors file, or a .pth file of a state dict"
        ) from reason
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BcosError(f"{str(path)!r} holds no state dict; save model.state_dict(), or use save_weights")
    return state


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    name: str = "",
    source: str,
    replace_classifier: bool = False,
) -> None:
    """Load a state dict, converted by a plugin if one knows its format.

    Args:
        model: to be filled.
        state: the state dict.
        name: the model's name.
        source: where the state dict comes from, for messages.
        replace_classifier: where the state dict is of another number of classes, load all but the classifier,
            and give the model a new one.

    Raises:
        BcosError: keys or shapes that do not fit, naming the first of them.
    """
    state = convert_state(model.state_dict(), state, name)
    if replace_classifier and isinstance(model, ImageClassifier):
        wanted = model.num_classes
        model.reset_classifier(_classes(model, state))
        _load(model, state, name, source)
        if model.num_classes != wanted:
            model.reset_classifier(wanted)
    else:
        _load(model, state, name, source)


def _classes(model: ImageClassifier, state: Mapping[str, Tensor]) -> int:
    """Classes of a state dict, by the rows of its classifier; the model's own where that tells nothing."""
    key = f"{model.classifier_name}.weight"
    own = model.state_dict()[key]
    if key not in state or state[key].ndim == 0:
        return model.num_classes
    units = len(own) // model.num_classes  # MaxOut has several rows for a class
    return len(state[key]) // units or model.num_classes


def _load(model: nn.Module, state: Mapping[str, Tensor], name: str, source: str) -> None:
    own = model.state_dict()
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


def convert_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str) -> Mapping[str, Tensor]:
    """`state` in the keys of `own`, if a plugin knows its format and they differ; else as it is."""
    if own.keys() == state.keys():
        return state
    converted = plugins.manager().hook.bcos_models_convert_state_dict(name=name, state_dict=state)
    if converted is None:
        return state
    # converters leave out means that are zero: not every norm has them
    means = {key: torch.zeros(own[key].shape, dtype=own[key].dtype) for key in own if key.endswith("running_mean")}
    return {**means, **converted}
