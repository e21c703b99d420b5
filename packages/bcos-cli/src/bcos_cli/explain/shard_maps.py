"""Maps of a whole set of shards, in shards of the same names, with memory that does not grow with their number."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from numpy.typing import NDArray
from torch import Tensor

from bcos_cli import console
from bcos_cli.data.augmentation import BytesTransform
from bcos_cli.data.index import ShardIndex, ShardRecord, load_index, shard_urls
from bcos_cli.data.input_image import inference_transform
from bcos_cli.data.loader import Batches
from bcos_cli.data.reading import Reading
from bcos_cli.data.sample_order import SampleOrder
from bcos_cli.data.shards import Shards
from bcos_cli.data.stream import Labelling, ShardStream
from bcos_cli.explain.batch import explain_images
from bcos_cli.explain.inference import blank_input, for_inference
from bcos_cli.explain.maps_folder import FORMAT_VERSION, MapsFolder
from bcos_cli.explain.writer import npy_bytes
from bcos_cli.messages import tell
from bcos_cli.processes.group import process_state
from bcos_core.errors import BcosError
from bcos_explain import ExplainedImage, explainer_specs, get_explainer
from bcos_explain.explainers import remark_lines
from bcos_models import TrainedModel

_WITH_WEIGHT = "bcos"
"""The method whose W is written if none of the named methods has one."""
WEIGHT = "weight"
PREDICTED, LABEL = "predicted", "label"


@dataclass(frozen=True)
class MapOptions:
    """What is written for each image."""

    methods: tuple[str, ...] = ("bcos",)
    targets: tuple[int, ...] = ()
    """Classes to explain; empty for one that depends on the image, as `choice` says."""
    choice: str = PREDICTED
    """``"predicted"`` or ``"label"``."""
    weights: bool = False
    """Write W too, (C, H, W), not only its contributions."""


@dataclass
class WrittenMaps:
    """Counts of what was written, and of what was there already."""

    images: int
    shards: int
    resumed: int
    """Shards that an earlier, interrupted call had finished."""


def explain_shards(
    trained: TrainedModel,
    data: str,
    out: Path,
    options: MapOptions,
    *,
    split: str = "test",
    reading: Reading | None = None,
    batch_size: int = 16,
    workers: int = 2,
    name: str = "",
) -> WrittenMaps:
    """Write maps for every image of a split.

    For each shard one of the same name: for each sample ``KEY.json`` (label, prediction, target, logit, sum of
    contributions, bias, scales) and, for each method, ``KEY.METHOD.npy``, float16 (H, W), or (T, H, W) for
    several targets, to be multiplied by its ``scale``, so that neither tiny nor huge values are lost. With
    ``options.weights`` also ``KEY.weight.npy``, ([T,] C, H, W). ``maps.json`` comes last and describes all.

    A shard is written aside and renamed when it is whole; calling again continues after the last whole one.
    Shards are dealt out to the processes.

    Raises:
        BcosError: no such split, classes that do not fit, or a folder with other maps, or into which another process
            writes.
    """
    from accelerate.utils import broadcast_object_list

    state = process_state()
    index = load_index(data).aligned(trained, data, split)
    if state.is_main_process:
        for line in index.left_aside:
            tell(line)
    records = index.of(split)
    if options.choice == LABEL and index.multi_label:
        raise BcosError("--target label needs images of one class, these have several labels; use predicted")
    for method in options.methods:
        get_explainer(method)
    about = {"model": name or trained.name, "data": data, "split": split}
    folder = MapsFolder(out, _description(trained, index, records, options, about), records)
    with folder.held() if state.is_main_process else nullcontext():
        state.wait_for_everyone()
        whole = [folder.whole() if state.is_main_process else []]
        finished = set(broadcast_object_list(whole)[0])  # agreed once: another process may be writing already
        left = [record for record in records if record.name not in finished]
        own = left[state.process_index :: state.num_processes]
        trained.model.to(state.device).eval()
        if {spec.name for spec in explainer_specs() if spec.exact} >= set(options.methods):  # the same maps, faster
            trained = replace(trained, model=for_inference(trained.model, blank_input(trained, state.device)))
        with console.counted("explaining", sum(record.samples for record in own), state.is_main_process) as counter:
            for record in own:
                with (
                    _batches(trained, data, index, record, reading or Reading(), batch_size, workers) as batches,
                    folder.shard(record) as writer,
                ):
                    for batch in batches.epoch(0):
                        _write_batch(trained, batch, options, writer)
                        counter.advance(len(batch[0]), images=len(batch[0]))
        state.wait_for_everyone()
        if state.is_main_process:
            folder.write_index()
    return WrittenMaps(sum(record.samples for record in records), len(records), len(finished))


def _batches(
    trained: TrainedModel,
    data: str,
    index: ShardIndex,
    record: ShardRecord,
    reading: Reading,
    batch_size: int,
    workers: int,
) -> Batches:
    """Return the images of one shard in its order, with labels and keys."""
    pixels = index.pixels(trained.input, reading.truncated)
    transform = BytesTransform(pixels, inference_transform(trained.input), is_random=False, decoder=reading.decoder)
    order = SampleOrder(Shards(shard_urls(data, [record]), [record.samples]), batch_size=batch_size)
    stream = _KeyedStream(order, transform, Labelling.of(index), open_shard=reading.opener())
    return Batches.of(stream, batch_size, workers)


class _KeyedStream(ShardStream):
    """Samples with their keys in the shard."""

    def _decode(self, sample: dict[str, Any], epoch: int) -> Any:
        image, label, _ = super()._decode(sample, epoch)
        return image, label, sample["__key__"]


_Batch = tuple[Tensor, Tensor, Sequence[str]]


def _write_batch(trained: TrainedModel, batch: _Batch, options: MapOptions, writer: webdataset.TarWriter) -> None:
    images, labels, keys = batch
    targets: Tensor | None = labels if options.choice == LABEL else None
    if options.targets:
        targets = torch.tensor(options.targets).expand(len(images), -1)
    methods = options.methods
    if options.weights:
        methods = tuple(dict.fromkeys([*methods, _WITH_WEIGHT]))
    explained = explain_images(trained, images, targets, methods, keep_weight=options.weights)
    for image, label, key in zip(explained, labels, keys, strict=True):
        writer.write({"__key__": key, **_members(image, label, options)})


def _members(image: ExplainedImage, label: Tensor, options: MapOptions) -> dict[str, bytes]:
    """Return the files of one image, by the ends of their names."""
    several = bool(options.targets)

    def joined(values: Iterable[Any]) -> Any:
        """Join one value for each target; of a single target, return its value."""
        return list(values) if several else next(iter(values))

    by_method = {m: [e for e in image.explanations if e.method == m] for m in options.methods}
    arrays = {m: np.asarray(joined(e.map for e in found)) for m, found in by_method.items()}
    with_weight = [e for e in image.explanations if e.weight is not None]
    if options.weights:
        arrays[WEIGHT] = np.asarray(joined(e.weight for e in with_weight if e.method == with_weight[0].method))
    halves = {name: _as_half(array) for name, array in arrays.items()}
    first = next(iter(by_method.values()))
    description: dict[str, Any] = {
        "label": int(label) if label.ndim == 0 else label.nonzero()[:, 0].tolist(),
        "predicted": image.predicted,
        "confidence": image.confidence,
        "target": joined(e.target.index for e in first),
        "logit": joined(e.logit for e in first),
        "sum": {m: joined(e.contributions for e in found) for m, found in by_method.items()},
        "scale": {name: scale for name, (_, scale) in halves.items()},
    }
    remarks = {m: remark_lines(dict.fromkeys(r for e in found for r in e.remarks)) for m, found in by_method.items()}
    if said := {m: lines for m, lines in remarks.items() if lines}:
        description["remarks"] = said
    with_receipt = [e for e in image.explanations if e.receipt is not None]
    if with_receipt:
        receipts = [e.receipt for e in with_receipt if e.method == with_receipt[0].method]
        description["bias"] = joined(receipt.bias for receipt in receipts if receipt is not None)
    files = {f"{name}.npy": npy_bytes(half) for name, (half, _) in halves.items()}
    return {"json": json.dumps(description).encode(), **files}


def _as_half(values: NDArray[Any]) -> tuple[NDArray[np.float16], float]:
    """Return values divided by the largest of them, in half precision, and that largest."""
    scale = float(np.abs(values).max()) or 1.0
    return (values.astype(np.float64) / scale).astype(np.float16), scale


def _description(
    trained: TrainedModel, index: ShardIndex, records: Sequence[ShardRecord], options: MapOptions, about: dict[str, str]
) -> dict[str, Any]:
    shards = [[r.name, r.samples, r.sha256] for r in records]
    shards += [list(index.numbers)] if list(index.numbers) != [*range(len(index.classes))] else []
    digest = hashlib.sha256(json.dumps([trained.fingerprint(), shards]).encode())
    return {
        "format_version": FORMAT_VERSION,
        **about,
        "classes": index.classes,
        "options": asdict(options),
        "fingerprint": digest.hexdigest(),
    }
