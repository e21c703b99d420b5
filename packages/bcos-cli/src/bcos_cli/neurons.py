"""The images that activate each channel of a layer most, explained for that channel: what ``bcos neurons`` does."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch

from bcos_cli import console
from bcos_cli.data.index import ShardIndex, load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.data.picked import images_at
from bcos_cli.pictures import as_floats, smoothing
from bcos_cli.processes import process_state
from bcos_cli.trained import TrainedModel
from bcos_core.files import write_atomically
from bcos_explain import explanation_image
from bcos_explain.explainers.feature_map import last_feature_layer
from bcos_explain.neurons import Activation, LayerOutputs, TopActivations, explain_neuron
from bcos_explain.report import NeuronItem, NeuronRow, ReportData, write_report


@dataclass(frozen=True)
class NeuronOptions:
    """Which neurons, and how many images of each."""

    layer: str | None = None
    """None for the last layer with a map over the image, before the classifier."""
    channels: tuple[int, ...] = ()
    """None given: the `strongest` ones."""
    strongest: int = 8
    images: int = 6
    """For each channel."""
    scanned: int | None = None
    """Images of the split that are looked at, from its start; None for all."""


def neuron_rows(
    trained: TrainedModel,
    data: str,
    split: str,
    options: NeuronOptions,
    *,
    index: ShardIndex | None = None,
    batch_size: int = 64,
    workers: int = 0,
) -> list[NeuronRow]:
    """Find and explain the most activating images of channels.

    Raises:
        BcosError: no such layer, channel or split.
    """
    index = load_index(data) if index is None else index
    device = process_state().device
    trained.model.to(device).eval()
    layer = options.layer or _default_layer(trained)
    outputs = LayerOutputs(trained.model, layer)
    top = TopActivations(options.channels or None, options.images)
    batches = make_batches(data, index, split, trained.input, batch_size=batch_size, workers=workers)
    total = len(batches) if options.scanned is None else min(len(batches), -(-options.scanned // batch_size))
    with console.counted(f"neurons of {layer}", total) as counter:
        for images, _, positions in islice(batches.epoch(0), total):
            top.update(outputs(trained.encode(images.to(device))), positions)
            counter.advance(images=len(images))
    channels = options.channels or tuple(top.strongest(options.strongest))
    found = {channel: top.collected()[channel] for channel in channels}
    pictures = images_at(data, index, split, trained.input, {a.key for best in found.values() for a in best})
    rows = []
    for channel, activations in found.items():
        images = torch.stack([pictures[a.key][0] for a in activations])
        labels = [index.classes[pictures[a.key][1]] for a in activations]
        items = _items(trained, layer, channel, activations, images, labels)
        rows.append(NeuronRow(layer=layer, channel=channel, items=list(items)))
    return rows


def _items(
    trained: TrainedModel,
    layer: str,
    channel: int,
    activations: Sequence[Activation],
    images: torch.Tensor,
    labels: Sequence[str],
) -> Iterator[NeuronItem]:
    x = trained.encode(images.to(process_state().device))
    explanation = explain_neuron(trained.model, x, layer, channel, [a.position for a in activations])
    for i, label in enumerate(labels):
        yield NeuronItem(
            input=as_floats(images[i].permute(1, 2, 0).numpy()),
            explanation=explanation_image(x[i], explanation.weight[i], smooth=smoothing(x.shape[-1])),
            map=explanation.map[i].cpu().numpy(),
            score=float(explanation.score[i]),
            label=label,
        )


def _default_layer(trained: TrainedModel) -> str:
    """The last layer with a map over the image, before the classifier."""
    seen = trained.input
    blank = torch.zeros(1, seen.channels, seen.size, seen.size, device=process_state().device)
    module = last_feature_layer(trained.model, trained.encode(blank))
    names: list[str] = [name for name, candidate in trained.model.named_modules() if candidate is module]
    return names[0]


def write_neurons(
    trained: TrainedModel, data: str, split: str, options: NeuronOptions, out: Path, *, name: str, workers: int
) -> list[NeuronRow]:
    """Write ``neurons.html`` and ``neurons.json`` to `out`.

    Raises:
        BcosError: as :func:`neuron_rows`.
    """
    rows = neuron_rows(trained, data, split, options, workers=workers)
    data_name = Path(data).name
    write_report(
        out / "neurons.html",
        ReportData(
            title=f"Neurons of {rows[0].layer} in {trained.name}",
            summary={"Model": {"name": name}, "Data": {"shards": data_name, "split": split}},
            neurons=rows,
        ),
    )
    described = {
        "model": name,
        "data": data,
        "split": split,
        "options": asdict(options),
        "neurons": [
            {
                "layer": row.layer,
                "channel": row.channel,
                "images": [{"label": item.label, "activation": item.score} for item in row.items],
            }
            for row in rows
        ],
    }
    write_atomically(out / "neurons.json", json.dumps(described, indent=1) + "\n")
    return rows
