"""Weights in and out of files, and whether they are finite. Nothing untrusted is ever unpickled."""

import argparse
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from bcos_core.errors import BcosError, first_line, shortened
from bcos_core.files import write_atomically
from bcos_core.plugins import first_result
from bcos_models import plugins
from bcos_models.classifier import ImageClassifier
from bcos_models.download import PACKAGE, fetch, hub_file, packaged_file
from bcos_models.file_names import WEIGHTS_NAME
from bcos_models.spec import Checkpoint

_HUB = "hf://"
_INSIDE = ("state_dict", "model_state_dict", "model", "net", "module", "state_dict_ema", "model_ema", "ema")
"""Where training checkpoints keep the state dict of the model; moving averages last."""
_LEVELS = 3
"""How deep it may lie; a file's dictionaries may hold themselves."""
_PREFIXES = ("_orig_mod.", "module.", "model.", "net.")


def save_weights(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Write the state dict of `model` to a safetensors file, aside and then renamed.

    Args:
        model: whose parameters and buffers are written.
        path: the file; its folder is created.
        metadata: strings to store in the file's header.

    Returns:
        The path.
    """
    tensors = uncompiled(model).state_dict()
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(state, metadata={"format": "pt", **(metadata or {})}))
    return Path(path)


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the model inside of what ``torch.compile`` made of it."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def load_weights(
    model: nn.Module, source: str | Path | Checkpoint, *, name: str = "", replace_classifier: bool = False
) -> bool:
    """Load weights into `model`; every tensor must have its place and its shape.

    Args:
        model: to be filled.
        source: a ``.safetensors`` file, or a ``.pth`` file with a state dict (read with ``weights_only``), by
            path, by URL, or as ``hf://owner/repository[@revision]`` on the Hugging Face hub.
        name: the model's name, for plugins that convert state dicts of other packages.
        replace_classifier: where the weights are of another number of classes, load all but the classifier,
            and give the model a new one.

    Returns:
        Whether the classifier was replaced.

    Raises:
        BcosError: no such file, not a file of weights, or keys or shapes that do not fit.
    """
    state = read_state(find_weights(source))
    what = source.url if isinstance(source, Checkpoint) else str(source)
    return load_state(model, state, name=name, source=what, replace_classifier=replace_classifier)


def find_weights(source: str | Path | Checkpoint, *, folder: str | Path | None = None) -> Path:
    """Return the file of weights that a path, a URL or a repository names; download it if it is not here.

    Args:
        folder: where a downloaded checkpoint is kept; None for :func:`bcos_models.download.cache_folder`.
    """
    if isinstance(source, Checkpoint):
        if source.url.startswith(PACKAGE):
            return packaged_file(source.url)
        return fetch(source.url, sha256=source.sha256, folder=folder)
    text = str(source)
    if text.startswith(_HUB):
        return hub_file(text.removeprefix(_HUB), WEIGHTS_NAME)
    if "://" in text:
        return fetch(text)
    path = Path(source)
    if not path.is_file():
        raise BcosError(
            f"there is no weights file {text!r}; "
            "give the path or URL of a .safetensors or .pth file, or hf://owner/repository"
        )
    return path


def load_data(path: Path) -> Any:
    """Read a file of :func:`torch.save` that holds tensors and plain values alone; raises many types.

    Callers check what it holds, so that they need no warning of an unusual protocol.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        with torch.serialization.safe_globals([argparse.Namespace]):  # the arguments that many scripts store beside
            return torch.load(path, map_location="cpu", weights_only=True)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a file; of a training checkpoint, the one inside. Anything else is refused."""
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except Exception as reason:  # safetensors raises its own type, and Python's for types of numbers it lacks
            raise BcosError(
                f"{str(path)!r} is not a readable safetensors file ({first_line(reason)}); "
                "give a file written by save_weights"
            ) from reason
    try:
        state: Any = load_data(path)
    except Exception as reason:  # torch raises several types, for other files and for unsafe ones
        raise BcosError(
            f"{str(path)!r} is not a file of weights alone ({first_line(reason)}); "
            "give a .safetensors file, or a .pth file of a state dict"
        ) from reason
    for _ in range(_LEVELS):
        found = [key for key in _INSIDE if isinstance(state.get(key), dict)] if isinstance(state, dict) else []
        state = state[found[0]] if found else state
        if len(found) > 1:
            warnings.warn(f"{str(path)!r} holds {' and '.join(found)}; {found[0]} is what is read", stacklevel=2)
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise BcosError(f"{str(path)!r} holds no state dict; save model.state_dict(), or use save_weights")
    return state


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    name: str = "",
    source: str,
    replace_classifier: bool = False,
) -> bool:
    """Load a state dict, converted by a plugin if one knows its format; as :func:`load_weights`."""
    state = convert_state(model.state_dict(), state, name)
    classes = classes_in(model, state) if replace_classifier else None
    if not isinstance(model, ImageClassifier) or classes in (None, model.num_classes):
        _load(model, state, name, source)
        return False
    own_classes = model.num_classes
    model.reset_classifier(classes)
    _load(model, state, name, source)
    model.reset_classifier(own_classes)
    return True


def classes_in(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Count the classes of a state dict by the rows of its classifier; without one, those of the model.

    None for a model that does not say what its classifier is.
    """
    if not isinstance(model, ImageClassifier):
        return None
    key = f"{model.classifier_name}.weight"
    own = model.state_dict()[key]
    if key not in state or state[key].ndim == 0:
        return model.num_classes
    units = len(own) // model.num_classes  # MaxOut has several rows for a class
    return len(state[key]) // units or model.num_classes


def _load(model: nn.Module, state: Mapping[str, Tensor], name: str, source: str) -> None:
    check_fit(model.state_dict(), state, name, source)
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as reason:  # numbers of a kind that cannot be copied
        raise BcosError(f"the weights in {source!r} cannot be loaded: {first_line(reason)}") from reason


def check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str, source: str) -> None:
    """Refuse weights in which a tensor is missing, unknown, of another shape or of complex numbers; name the first."""
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unexpected or wrong:
        problems = [
            *(f"{shortened(key, 100)} is missing" for key in missing[:2]),
            *(f"{shortened(key, 100)} is unknown" for key in unexpected[:2]),
            *(f"{key} has shape {tuple(state[key].shape)}, needs {tuple(own[key].shape)}" for key in sorted(wrong)[:2]),
        ]
        total = len(missing) + len(unexpected) + len(wrong)
        raise BcosError(
            f"the weights in {source!r} do not fit the model{f' {name!r}' if name else ''}: {'; '.join(problems)}"
            f"{f' (and more, {total} in all)' if total > len(problems) else ''}; "
            "build the model with the options (and num_classes) that the weights were trained with"
        )
    if odd := next((key for key in own if state[key].is_complex() != own[key].is_complex()), None):
        raise BcosError(f"the weights in {source!r} have complex numbers, or lack them: {odd} is {state[odd].dtype}")
    if odd := next((key for key in own if own[key].is_floating_point() and not _is_weight(state[key])), None):
        raise BcosError(
            f"the weights in {source!r} are of another type than the network's: {odd} is {state[odd].dtype}, needs "
            f"{own[odd].dtype}; quantised weights are of no use without their scales, give those that were trained"
        )


def _is_weight(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers of 16 bits or more, as weights are trained."""
    return tensor.is_floating_point() and tensor.element_size() >= 2


def convert_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str) -> Mapping[str, Tensor]:
    """Return `state` in the keys of `own`: as it is, without the prefix of a wrapper, or converted by a plugin."""
    if own.keys() == state.keys():
        return state
    state = unwrapped(own, state)
    # Counters of batches, on which no output depends: many files lack them, PyTorch's own of before 2018 too.
    counters = {key: own[key] for key in own.keys() - state.keys() if key.endswith(".num_batches_tracked")}
    if own.keys() == state.keys() | counters.keys():
        return {**state, **counters}
    hook = plugins.manager().hook.bcos_models_convert_state_dict
    converted = first_result(hook, Mapping, name=name, state_dict=state)  # type: ignore[type-abstract] # reason: a check
    if converted is None:
        return state
    # converters leave out means that are zero: not every norm has them
    means = {key: torch.zeros(own[key].shape, dtype=own[key].dtype) for key in own if key.endswith("running_mean")}
    return {**means, **converted}


def unwrapped(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take off the prefix that compilation, data parallelism or a trainer puts before every key.

    Keys without the prefix (a trainer's moving average, the state of its loss) are left out.
    """
    for prefix in _PREFIXES:
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if inner and not any(key.startswith(prefix) for key in own):
            return unwrapped(own, inner)
    return state


def not_finite(network: nn.Module) -> list[str]:
    """List the parameters and saved buffers with values that are infinite or not a number, and how many each has.

    Of tensors that are spread over processes, this process's part counts. Waits for the device once if all are finite.
    """
    from torch.distributed.tensor import DTensor  # slow to import

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
