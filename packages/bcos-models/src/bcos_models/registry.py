"""Models by name."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bcos_core.errors import BcosError
from bcos_core.plugins import check_options, resolve, takes
from bcos_models import plugins
from bcos_models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn


def list_models(pattern: str = "*") -> list[str]:
    """Names of all models, of every plugin, that match a shell pattern such as ``"cifar10_*"``, sorted."""
    return [name for name in plugins.registry().names() if fnmatchcase(name, pattern)]


def model_specs() -> list[ModelSpec]:
    """Descriptions of all models, sorted by name."""
    return sorted(plugins.registry(), key=lambda spec: spec.name)


def get_spec(name: str) -> ModelSpec:
    """Description of one model.

    Raises:
        BcosError: no such model; the message suggests one.
    """
    return plugins.registry()[name]


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> "nn.Module":
    """Build a model by name.

    Args:
        name: one of :func:`list_models`.
        pretrained: load the weights that the model's description names.
        weights: a ``.safetensors`` file to load, written by :func:`bcos_models.save_weights` or in a format
            that a plugin converts.
        num_classes: outputs; None for the model's own number.
        options: arguments of the model's builder, such as ``b``, ``max_out``, ``norm`` or ``in_chans``.

    Returns:
        The model, in train mode as PyTorch builds modules; call ``.eval()`` before explaining.

    Raises:
        BcosError: an unknown model or option, or weights that cannot be loaded.

    >>> model = create_model("cifar10_resnet20", num_classes=5, b=1.5)
    """
    from bcos_models.weights import load_weights

    spec = get_spec(name)
    if pretrained:
        raise BcosError(
            f"no pretrained weights are registered for {name!r}; give weights=FILE with a safetensors file instead"
        )
    builder = resolve(spec.builder)
    classes = spec.num_classes if num_classes is None else num_classes
    if not isinstance(classes, int) or classes < 1:
        raise BcosError(f"num_classes must be at least 1, got {classes!r}")
    defaults = {"in_chans": spec.input.encoded_channels} if takes(builder, "in_chans") else {}
    arguments: dict[str, Any] = {**defaults, **spec.options, **options, "num_classes": classes}
    check_options(f"the model {name!r}", builder, arguments)
    model: nn.Module = builder(**arguments)
    if weights is not None:
        load_weights(model, weights, name=name)
    return model
