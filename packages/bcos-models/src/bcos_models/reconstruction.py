"""How a network is built again from the description beside its weights.

The description is not trusted. So the network is built on torch's meta device first, where tensors take no memory,
and compared with the weights; and it is given up as soon as it has many more parts than they fill.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from bcos_core.errors import BcosError, first_line, shown
from bcos_core.plugins import MAKERS
from bcos_models.classifier import remove_classifier
from bcos_models.convert.origins import BUILDER, unconverted
from bcos_models.model_config import ModelConfig, check_opens_nothing
from bcos_models.registry import create_model, describe, get_spec
from bcos_models.weights import check_fit, convert_state, load_state

_PARAMETERS = (8, 1000)
"""Bound of the parameters: so many for each tensor of the weights (a conversion makes some twice), and so many more."""
_MODULES = (40, 10_000)
"""Bound of the modules, most of which have no parameters, likewise."""
_ELEMENTS = (4, 10_000_000)
"""Bound of the numbers in a network before its conversion: so many for each in the weights, and so many more."""


def rebuild(
    config: ModelConfig, state: Mapping[str, Tensor], *, source: str, classifies: bool = False, trust: bool = False
) -> nn.Module:
    """Build the network that a file describes, in eval mode, and load the weights beside it.

    Args:
        config: what the file says; with 0 classes the network has no classifier.
        classifies: refuse a network that does not give a number for each class.
        trust: take options with which a builder reads files or fetches addresses.
    """
    with _naming(config, source):
        config.check()
        if config.package is not None:
            MAKERS["model", config.name] = shown(config.package)
        if not trust:
            check_opens_nothing(config.options)
        with _bounded(state):
            plan = _on_meta(config, state)
    if plan is not None:
        check_fit(plan.state_dict(), convert_state(plan.state_dict(), state, config.name), config.name, source)
    with _naming(config, source), _bounded(state):
        model = _built(config).eval()
        _check_input(model, config)
    load_state(model, state, name=config.name, source=source)
    if classifies:
        with _naming(config, source):
            _check_outputs(plan, model, config)
    describe(model, config)
    return model


@contextmanager
def _naming(config: ModelConfig, source: str) -> Iterator[None]:
    """Name the source of the description in what is raised."""
    start = f"cannot build the network that {source!r} describes"
    try:
        yield
    except BcosError as reason:
        raise BcosError(f"{start}: {reason}") from reason
    except Exception as reason:  # builders, of plugins too, raise many types for values that cannot make a network
        raise BcosError(
            f"{start}: {config.name} with {shown(dict(config.options))}: {type(reason).__name__}: {first_line(reason)}"
        ) from reason


def _built(config: ModelConfig) -> nn.Module:
    repeated: dict[str, Any] = {} if config.decisions is None else {"decisions": config.decisions}
    if config.decisions is None and get_spec(config.name).builder == BUILDER and not config.options.get("as_is"):
        # It was written when decisions were not stored yet, and converted by the first rules.
        made: Any = create_model(config.name, num_classes=config.num_classes or None, **config.options)
        repeated["decisions"] = asdict(replace(made.decisions, rules=1))
    model = create_model(config.name, num_classes=config.num_classes or None, **config.options, **repeated)
    if config.num_classes == 0:
        remove_classifier(model, config.name)
    return model


def _on_meta(config: ModelConfig, state: Mapping[str, Tensor]) -> nn.Module | None:
    """Build the network without memory for its tensors.

    None if its conversion has to run it, or if its builder needs the memory.
    """
    spec = get_spec(config.name)
    try:
        with torch.device("meta"):
            if spec.builder == BUILDER:
                _check_unconverted(config, spec.num_classes, state)
                if config.decisions is None and not config.options.get("as_is"):
                    return None
            model = _built(config)
    except Exception as reason:
        if _needs_memory(reason) or (isinstance(reason, BcosError) and _needs_memory(reason.__cause__)):
            return None
        raise
    _check_input(model, config)
    return model


def _needs_memory(reason: BaseException | None) -> bool:
    """Whether an operation has failed because it needs the values of a tensor on the meta device."""
    return isinstance(reason, NotImplementedError) or (isinstance(reason, RuntimeError) and "meta" in str(reason))


def _check_unconverted(config: ModelConfig, num_classes: int, state: Mapping[str, Tensor]) -> None:
    """Refuse a network that is much larger before its conversion than the weights of the converted one."""
    original = unconverted(config.name, config.num_classes or num_classes, False, config.options.get("network") or {})
    size = sum(parameter.numel() for parameter in original.parameters())
    _refuse_beyond(size, sum(tensor.numel() for tensor in state.values()), _ELEMENTS, "numbers")


def _check_input(model: nn.Module, config: ModelConfig) -> None:
    built = model.bcos_config
    taken = built.input.encoded_channels if isinstance(built, ModelConfig) else None
    if taken != config.input.encoded_channels:
        raise BcosError(f"it takes {taken} channels, its input is described with {config.input.encoded_channels}")


def _check_outputs(plan: nn.Module | None, model: nn.Module, config: ModelConfig) -> None:
    """Refuse other outputs than classes; without memory where there is a `plan`: the file says how large images are."""
    try:
        outputs = _outputs(model, config, "cpu") if plan is None else _outputs(plan.eval(), config, "meta")
    except Exception as reason:
        if plan is None or not _needs_memory(reason):
            raise
        outputs = _outputs(model, config, "cpu")
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if shape != (1, config.num_classes):
        raise BcosError(f"it gives {shape} for an image, needed {(1, config.num_classes)}")


def _outputs(model: nn.Module, config: ModelConfig, device: str) -> object:
    spec = config.input
    with torch.inference_mode():
        return model(torch.zeros(1, spec.encoded_channels, spec.size, spec.size, device=device))


@contextmanager
def _bounded(state: Mapping[str, Tensor]) -> Iterator[None]:
    """Stop the construction of a network once it has many more parts than the weights fill."""

    def counter(bound: tuple[int, int], what: str) -> Callable[..., None]:
        counts = itertools.count(1)
        return lambda *_: _refuse_beyond(next(counts), len(state), bound, what)

    handles = [
        registration.register_module_parameter_registration_hook(counter(_PARAMETERS, "parameters")),
        registration.register_module_module_registration_hook(counter(_MODULES, "modules")),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _refuse_beyond(count: int, of_weights: int, bound: tuple[int, int], what: str) -> None:
    if count > bound[0] * of_weights + bound[1]:
        raise BcosError(f"it has at least {count:,} {what}, its weights only {of_weights:,} tensors or numbers in all")
