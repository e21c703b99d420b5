"""The network of a recipe, before it is trained."""

import warnings
from dataclasses import replace
from typing import Any

from torch import nn

from bcos_cli import config
from bcos_cli.config import Recipe
from bcos_cli.config.trust import trusts_runs
from bcos_cli.train.anneal import before_annealing
from bcos_cli.train.frozen_layers import classifier_of
from bcos_cli.train.losses import probabilities_of
from bcos_core.errors import BcosError
from bcos_models import InputSpec, ModelConfig, TrainedModel, create_model, get_spec, is_model, load_trained
from bcos_models.registry import describe


def build(recipe: Recipe, classes: list[str]) -> TrainedModel:
    """Build the network of a recipe for `classes`, with the weights it starts from.

    Raises:
        BcosError: no such network, options it does not have, or weights that do not fit.
    """
    if recipe.model.start is None:
        return _by_name(recipe, recipe.model, classes)
    if is_model(recipe.model.start):
        named = config.Model(name=recipe.model.start, pretrained=True)
        return _by_name(recipe, named, classes)
    return _from_trained(recipe, load_trained(recipe.model.start, trust=trusts_runs()), classes)


def _by_name(recipe: Recipe, model: config.Model, classes: list[str]) -> TrainedModel:
    assert model.name is not None
    spec = get_spec(model.name)
    seen = _seen(recipe.data, spec.input)
    options = dict(model.options)
    if seen.encoded_channels != spec.input.encoded_channels:
        if "/" in model.name:  # the original network sees the images without inverse channels
            options["network"] = {"in_chans": seen.channels, **options.get("network", {})}
        else:
            options = {"in_chans": seen.encoded_channels, **options}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*new, untrained classifier")  # which is about to be trained
        network = create_model(
            model.name,
            num_classes=len(classes),
            pretrained=model.pretrained,
            weights=model.weights,
            **options | before_annealing(recipe, len(classes)),
        )
    seen = _seen(recipe.data, getattr(network, "input_spec", seen))
    return _described(recipe, network, model.name, options, seen, classes)


def _from_trained(recipe: Recipe, started: TrainedModel, classes: list[str]) -> TrainedModel:
    """The network of a run, with a new classifier where the classes are others."""
    seen = _seen(recipe.data, started.input)
    if seen.encoded_channels != started.input.encoded_channels:
        raise BcosError(
            f"{recipe.model.start!r} sees images of {started.input.channels} channels, "
            f"data.image_channels={seen.channels}; leave that out"
        )
    options = dict(started.options)
    if started.classes != classes and options.get("logit_bias", "auto") is None:
        del options["logit_bias"]  # of an embedding; a classifier has its own
    network = create_model(started.name, num_classes=len(classes), **options)
    own, state = network.state_dict(), started.model.state_dict()
    if started.classes != classes:
        head = _classifier_name(network)
        state = {key: own[key] if key == head or key.startswith(f"{head}.") else state.get(key) for key in own}
    wrong = [key for key in own if state.get(key) is None or state[key].shape != own[key].shape]
    if wrong:
        raise BcosError(f"the weights of {recipe.model.start!r} do not fit its own description: {wrong[0]}")
    network.load_state_dict(state)
    return _described(recipe, network, started.name, options, seen, classes)


def _seen(data: config.Data, spec: InputSpec) -> InputSpec:
    """What the network is to see: its own input, changed as the recipe says."""
    changes: dict[str, Any] = {}
    if data.image_size is not None:
        changes |= {"size": data.image_size, "resize": None}
    if data.image_channels is not None:
        changes["channels"] = data.image_channels
    return replace(spec, **changes)


def _described(
    recipe: Recipe, network: nn.Module, name: str, options: dict[str, Any], seen: InputSpec, classes: list[str]
) -> TrainedModel:
    model_config = ModelConfig(name, len(classes), options, seen, classes, probabilities_of(recipe.train.loss))
    describe(network, model_config)
    return TrainedModel(network, model_config)


def _classifier_name(network: nn.Module) -> str:
    classifier = classifier_of(network)
    name: str = next(name for name, module in network.named_modules() if module is classifier)
    return name
