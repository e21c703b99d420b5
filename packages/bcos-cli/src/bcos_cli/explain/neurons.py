"""The images that activate each channel of a layer most, explained for that channel: what ``bcos neurons`` does."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcos_cli import console
from bcos_cli.data.image_decoder import UnreadableImageError
from bcos_cli.data.index import load_index
from bcos_cli.data.input_image import read_image
from bcos_cli.data.loader import images_at, make_batches
from bcos_cli.data.reading import Reading
from bcos_cli.explain.inference import blank_input
from bcos_cli.file_names import NEURONS_NAME, NEURONS_PAGE
from bcos_cli.processes.group import process_state
from bcos_core.errors import BcosError
from bcos_core.files import write_atomically
from bcos_core.layers import layer_name
from bcos_explain.explainers.feature_map import last_feature_layer
from bcos_explain.neurons import Activation, LayerOutputs, TopActivations, explain_neuron
from bcos_explain.render import WeightPicture, input_image
from bcos_explain.report import NeuronItem, NeuronRow, ReportData, write_report
from bcos_models import TrainedModel

"""File with all numbers, which is written last."""


@dataclass(frozen=True)
class NeuronOptions:
    """Which neurons, and how many images of each."""

    layer: str | None = None
    """None for the last layer with a map over the image, before the classifier."""
    channels: tuple[int, ...] = ()
    """Empty for the `strongest` ones."""
    strongest: int = 8
    images: int = 6
    """Images of each channel."""
    scanned: int | None = None
    """Images of the split that are searched, from its start; None for all."""


def neuron_rows(
    trained: TrainedModel,
    data: str,
    split: str,
    options: NeuronOptions,
    *,
    batch_size: int = 64,
    workers: int = 0,
    reading: Reading | None = None,
) -> list[NeuronRow]:
    """Find and explain the most activating images of channels.

    Raises:
        BcosError: no such layer, channel or split.
    """
    index = load_index(data)
    device = process_state().device
    trained.model.to(device).eval()
    layer = options.layer or _default_layer(trained)
    outputs = LayerOutputs(trained.model, layer)
    top = TopActivations(options.channels or None, options.images)
    batches = make_batches(
        data, index, split, trained.input, batch_size=batch_size, most=options.scanned, workers=workers, reading=reading
    )
    with batches, console.counted(f"neurons of {layer}", len(batches)) as counter:
        for images, _, positions in batches.epoch(0):
            top.update(outputs(trained.encode(images.to(device))), positions)
            counter.advance(images=len(images))
    best = top.collected()
    found = {channel: best[channel] for channel in options.channels or top.strongest(options.strongest)}
    keys = {activation.key for activations in found.values() for activation in activations}
    images_and_labels = images_at(data, index, split, trained.input, keys, reading).items()
    named = {key: (image, ", ".join(index.classes[k] for k in labels)) for key, (image, labels) in images_and_labels}
    return _rows(trained, layer, found, named)


def rows_of_images(
    trained: TrainedModel, files: Sequence[Path], options: NeuronOptions, *, truncated: bool = False
) -> list[NeuronRow]:
    """Explain channels in images that a user names, each at the position that is activated most.

    Args:
        truncated: read JPEGs that were cut off.

    Raises:
        BcosError: an image that cannot be read, no channel named, or no such layer or channel.
    """
    if not options.channels:
        raise BcosError("which channel? name one with --channel, or leave out --image to find the strongest ones")
    trained.model.to(process_state().device).eval()
    layer = options.layer or _default_layer(trained)
    images = torch.stack([_read(file, trained, truncated) for file in files])
    activations = LayerOutputs(trained.model, layer)(trained.encode(images.to(process_state().device)))
    top = TopActivations(options.channels, count=len(files))
    top.update(activations, range(len(files)))
    named = {i: (image, file.name) for i, (image, file) in enumerate(zip(images, files, strict=True))}
    return _rows(trained, layer, top.collected(), named)


def _read(file: Path, trained: TrainedModel, truncated: bool) -> Tensor:
    try:
        loaded = read_image(file, trained.input, truncated=truncated)
    except UnreadableImageError as reason:
        raise BcosError(f"{file}: {reason}") from reason
    for note in loaded.notes:
        console.err.print(f"{file}: {note}")
    return loaded.pixels


def _rows(
    trained: TrainedModel,
    layer: str,
    found: Mapping[int, Sequence[Activation]],
    named: Mapping[Any, tuple[Tensor, str]],
) -> list[NeuronRow]:
    """Explain what activates each channel; `named` holds images and their labels by the keys of the activations."""
    rows = []
    for channel, activations in found.items():
        images = torch.stack([named[activation.key][0] for activation in activations])
        x = trained.encode(images.to(process_state().device))
        explanation = explain_neuron(trained.model, x, layer, channel, [a.position for a in activations])
        items = []
        for i, activation in enumerate(activations):
            picture = WeightPicture.of(x[i], explanation.weight[i])
            shown = {"input": input_image(images[i]), "explanation": picture.rgba(picture.own_scale)}
            map, score = explanation.map[i].cpu().numpy(), float(explanation.score[i])
            items.append(NeuronItem(**shown, map=map, score=score, label=named[activation.key][1]))
        rows.append(NeuronRow(layer=layer, channel=channel, items=items))
    return rows


def _default_layer(trained: TrainedModel) -> str:
    """Return the last layer with a map over the image, before the classifier."""
    blank = blank_input(trained, process_state().device)
    return layer_name(trained.model, last_feature_layer(trained.model, blank))


def write_neurons(
    rows: Sequence[NeuronRow], out: Path, *, options: NeuronOptions, model: str, searched: Mapping[str, str]
) -> dict[str, Any]:
    """Write ``neurons.html`` and ``neurons.json``, of at least one row, to a folder, which is made if it is missing.

    Returns what the latter holds.

    `searched` says where the images are from, such as ``{"data": ..., "split": ...}``.
    """
    summary = {"Model": {"name": model}, "Images": dict(searched)}
    write_report(out / NEURONS_PAGE, ReportData(title=f"Neurons of {rows[0].layer}", summary=summary, neurons=rows))
    neurons = []
    for row in rows:
        images = [{"label": item.label, "activation": item.score} for item in row.items]
        neurons.append({"layer": row.layer, "channel": row.channel, "images": images})
    described = {"model": model, **searched, "options": asdict(options), "neurons": neurons}
    write_atomically(out / NEURONS_NAME, json.dumps(described, indent=1) + "\n")
    return described
