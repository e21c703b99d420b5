"""The network of a recipe: built for the classes of the data, frozen in part, and prepared for training."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bcos_cli import config
from bcos_cli.config import Recipe
from bcos_cli.config.trust import trusts_runs
from bcos_cli.data.index import ShardIndex
from bcos_cli.train.annealer import final_options, initial_options
from bcos_cli.train.forward_pass import checkpoint_activations, compile_network
from bcos_cli.train.losses import probabilities_of
from bcos_core.errors import BcosError
from bcos_core.norms.batch import RunningNorm
from bcos_core.plugins import suggestion
from bcos_models import InputSpec, ModelConfig, TrainedModel, create_model, get_spec, is_model, load_trained
from bcos_models.registry import describe
from bcos_models.spec import ImageChanges
from bcos_models.trained_model import first_names


def build(recipe: Recipe, classes: list[str], tell: Callable[[str], object] = lambda _: None) -> TrainedModel:
    """Build the network of a recipe for `classes`, with the weights it starts from.

    Args:
        tell: called with a line on what becomes of the classifier, where there are weights for one.

    Raises:
        BcosError: no such network, options it does not have, or weights that do not fit.
    """
    if recipe.model.start is None:
        return _by_name(recipe, recipe.model, classes, tell)
    start, weights = recipe.model.start, recipe.model.weights
    if is_model(start):
        options = {"as_is": True} if "/" in start else {}
        final_options(recipe.annealing, options, start)  # refuses to anneal it
        named = config.Model(name=start, pretrained=weights is None, weights=weights, options=options)
        return _by_name(recipe, named, classes, tell)
    if weights is not None:
        raise BcosError(f"model.weights={weights} goes with the name of a model; {start!r} has its own")
    return _from_trained(recipe, load_trained(recipe.model.start, trust=trusts_runs()), classes, tell)


def _by_name(recipe: Recipe, model: config.Model, classes: list[str], tell: Callable[[str], object]) -> TrainedModel:
    assert model.name is not None
    own = get_spec(model.name).input
    spec = _input_spec(recipe.data.model_copy(update={"mean": None, "std": None}), own)  # they are the network's below
    options = dict(model.options)
    if spec.encoded_channels != own.encoded_channels:
        if "/" in model.name:  # the original network takes images without inverse channels
            options["network"] = {"in_chans": spec.channels, **options.get("network", {})}
        else:
            options = {"in_chans": spec.encoded_channels, **options}
    if "/" in model.name and spec.size != own.size:  # a ViT is built for its size
        options["images"] = {**options.get("images", {}), "size": spec.size}
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message=".*new, untrained classifier")
        network = create_model(
            model.name,
            num_classes=len(classes),
            pretrained=model.pretrained,
            weights=model.weights,
            **options | initial_options(recipe.annealing, recipe.model.options, len(classes)),
        )
    is_new = False
    for warning in caught:
        if "new, untrained classifier" in str(warning.message):  # it is about to be trained
            tell(f"classifier: new; {warning.message}")
            is_new = True
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if model.weights is not None and not is_new:
        tell(f"classifier: that of {model.weights}; its outputs are taken to be {first_names(classes)}, in this order")
    spec = _input_spec(recipe.data, getattr(network, "input_spec", spec))
    return _trained_model(recipe, network, model.name, options, spec, classes)


def _from_trained(
    recipe: Recipe, started: TrainedModel, classes: list[str], tell: Callable[[str], object]
) -> TrainedModel:
    """Return a trained network; with a new classifier, unless it knows just `classes`, in whatever order."""
    start = str(recipe.model.start)
    spec = _input_spec(recipe.data, started.input)
    if spec.encoded_channels != started.input.encoded_channels:
        raise BcosError(
            f"{start!r} takes images of {started.input.channels} channels, "
            f"data.image_channels={spec.channels}; leave that out"
        )
    outputs = _outputs(started, classes, recipe.data.location)
    options = final_options(recipe.annealing, started.options, start)
    if outputs is None and options.get("logit_bias", "auto") is None:
        del options["logit_bias"]  # it is that of an embedding; a classifier has its own
    repeated: dict[str, Any] = {} if started.config.decisions is None else {"decisions": started.config.decisions}
    initial = initial_options(recipe.annealing, options, len(classes))
    network = create_model(started.name, num_classes=len(classes), **options | initial, **repeated)
    own, state = network.state_dict(), dict(started.model.state_dict())
    if outputs != list(range(len(started.classes))):
        head = classifier_of(network, "a network for other classes")[0]
        for key in own:
            if key == head or key.startswith(f"{head}."):
                state[key] = own[key] if outputs is None else _reordered(state[key], outputs)
    if outputs is None:
        tell(f"classifier: new; {start!r} knows {len(started.classes):,} other classes: {first_names(started.classes)}")
    elif sorted(started.classes) != sorted(classes):  # numbers on one side
        tell(f"classifier: that of {start!r}; its outputs are taken to be {first_names(classes)}, in this order")
    if wrong := [key for key in own if state.get(key) is None or state[key].shape != own[key].shape]:
        raise BcosError(f"the weights of {start!r} do not fit its own description: {wrong[0]}")
    network.load_state_dict({key: state[key] for key in own})
    return _trained_model(recipe, network, started.name, options, spec, classes)


def _outputs(started: TrainedModel, classes: list[str], data: str) -> list[int] | None:
    """Return the output of a network for each class, if it knows these classes and no others."""
    if len(classes) != len(started.classes):
        return None
    try:
        return list(started.align_classes(classes, data))
    except BcosError:
        return None


def _reordered(tensor: Tensor, outputs: list[int]) -> Tensor:
    """Return a classifier's tensor, which has one row or more for each output, or none, with its outputs in order."""
    if tensor.ndim == 0 or tensor.shape[0] % len(outputs):
        return tensor
    ordered: Tensor = tensor.unflatten(0, (len(outputs), -1))[outputs].flatten(0, 1)
    return ordered


def _input_spec(data: config.Data, spec: InputSpec) -> InputSpec:
    """Return a network's input, changed as the recipe says."""
    changes: dict[str, Any] = {}
    if data.image_channels is not None:
        if data.image_channels > len(spec.mean):
            spec = spec.with_channels(data.image_channels * spec.encoded_channels // spec.channels)
        changes["channels"] = data.image_channels
    if data.range is not None:
        changes["range"] = data.range
    try:
        return ImageChanges(data.image_size, data.resize, data.mean, data.std).apply(replace(spec, **changes))
    except BcosError as reason:
        raise BcosError(f"data.{reason}") from reason


def with_pixels(recipe: Recipe, index: ShardIndex) -> Recipe:
    """Return the recipe with ``data.range`` and ``data.image_channels`` of the shards; refuse one of others."""
    found = {"range": index.range, "image_channels": index.channels}
    found = {key: value for key, value in found.items() if value is not None}
    for key, value in found.items():
        given = getattr(recipe.data, key)
        if given not in (None, value):
            raise BcosError(f"data.{key}={given} is not that of the shards, {value}; leave it out, or pack them again")
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=found)})


def _trained_model(
    recipe: Recipe, network: nn.Module, name: str, options: dict[str, Any], spec: InputSpec, classes: list[str]
) -> TrainedModel:
    made: ModelConfig = network.bcos_config  # type: ignore[assignment] # reason: a plain attribute of the module
    model_config = ModelConfig(
        name,
        len(classes),
        options,
        spec,
        classes,
        probabilities_of(recipe.train.loss),
        decisions=made.decisions,
        package=made.package,
    )
    describe(network, model_config)
    return TrainedModel(network, model_config)


def prepare_network(network: nn.Module, model: config.Model, train: config.Train) -> None:
    """Freeze, convert, checkpoint and compile a network as the recipe says, in place, before its optimizer is made."""
    freeze(network, model)
    if train.precision == "float64":
        network.double()
    if train.channels_last:
        network.to(memory_format=torch.channels_last)
    if train.gradient_checkpointing:
        checkpoint_activations(network)
    if train.compile != "no":
        compile_network(network, train.compile, train.compile_backend)


def freeze(model: nn.Module, options: config.Model) -> None:
    """Freeze the parameters that a recipe names; refuse a pattern that fits none, or a head that is not known."""
    if options.train == "head":
        model.requires_grad_(False)
        _head(model).requires_grad_(True)
    names = dict(model.named_parameters())
    for pattern in options.freeze:
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise BcosError(f"model.freeze={pattern!r} fits no parameter; {suggestion(pattern, names)}")
        for name in matching:
            names[name].requires_grad_(False)


def train_mode(model: nn.Module, options: config.Model, norm_statistics: Literal["batch", "keep"] = "batch") -> None:
    """Put a network into train mode, and into eval mode what is frozen, and norms whose statistics stay."""
    model.train()
    if options.train == "head":
        model.eval()
        _head(model).train()
    for module in model.modules() if options.freeze else ():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
    for module in model.modules() if norm_statistics == "keep" else ():
        if isinstance(module, RunningNorm | _BatchNorm):
            module.training = False


def _head(model: nn.Module) -> nn.Module:
    return classifier_of(model, "model.train=head", remedy="name what stays with model.freeze")[1]


def classifier_of(model: nn.Module, needed_by: str, *, remedy: str = "leave it out") -> tuple[str, nn.Module]:
    """Return the classifier's name and itself; refuse a network without ``get_classifier()``, which says what it is."""
    find = getattr(model, "get_classifier", None)
    found = find() if callable(find) else None
    if isinstance(found, nn.Module):
        return next(name for name, module in model.named_modules() if module is found), found
    raise BcosError(f"{needed_by} needs a network with get_classifier(), which this one does not have; {remedy}")
