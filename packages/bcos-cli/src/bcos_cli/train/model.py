"""The network of a recipe, before it is trained."""

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bcos_cli import config
from bcos_cli.config import Recipe
from bcos_cli.config.trust import trusts_runs
from bcos_cli.train.annealer import initial_options
from bcos_cli.train.classifier import classifier_of
from bcos_cli.train.compilation import compile_network
from bcos_cli.train.frozen_layers import freeze
from bcos_cli.train.gradient_checkpoint import checkpoint_activations
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
    own = get_spec(model.name).input
    spec = _input_spec(recipe.data, own)
    options = dict(model.options)
    if spec.encoded_channels != own.encoded_channels:
        if "/" in model.name:  # the original network takes images without inverse channels
            options["network"] = {"in_chans": spec.channels, **options.get("network", {})}
        else:
            options = {"in_chans": spec.encoded_channels, **options}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*new, untrained classifier")  # it is about to be trained
        network = create_model(
            model.name,
            num_classes=len(classes),
            pretrained=model.pretrained,
            weights=model.weights,
            **options | initial_options(recipe.annealing, recipe.model.options, len(classes)),
        )
    spec = _input_spec(recipe.data, getattr(network, "input_spec", spec))
    return _trained_model(recipe, network, model.name, options, spec, classes)


def _from_trained(recipe: Recipe, started: TrainedModel, classes: list[str]) -> TrainedModel:
    """Return a trained network, with a new classifier where its classes are not `classes`."""
    spec = _input_spec(recipe.data, started.input)
    if spec.encoded_channels != started.input.encoded_channels:
        raise BcosError(
            f"{recipe.model.start!r} takes images of {started.input.channels} channels, "
            f"data.image_channels={spec.channels}; leave that out"
        )
    options = dict(started.options)
    if started.classes != classes and options.get("logit_bias", "auto") is None:
        del options["logit_bias"]  # it is that of an embedding; a classifier has its own
    network = create_model(started.name, num_classes=len(classes), **options)
    own, state = network.state_dict(), started.model.state_dict()
    if started.classes != classes:
        head = classifier_of(network, "a network for other classes")[0]
        state = {key: own[key] if key == head or key.startswith(f"{head}.") else state.get(key) for key in own}
    wrong = [key for key in own if state.get(key) is None or state[key].shape != own[key].shape]
    if wrong:
        raise BcosError(f"the weights of {recipe.model.start!r} do not fit its own description: {wrong[0]}")
    network.load_state_dict(state)
    return _trained_model(recipe, network, started.name, options, spec, classes)


def _input_spec(data: config.Data, spec: InputSpec) -> InputSpec:
    """Return a network's input, changed as the recipe says."""
    changes: dict[str, Any] = {}
    if data.image_size is not None:
        changes |= {"size": data.image_size, "resize": None}
    if data.image_channels is not None:
        changes["channels"] = data.image_channels
    return replace(spec, **changes)


def _trained_model(
    recipe: Recipe, network: nn.Module, name: str, options: dict[str, Any], spec: InputSpec, classes: list[str]
) -> TrainedModel:
    model_config = ModelConfig(name, len(classes), options, spec, classes, probabilities_of(recipe.train.loss))
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
