"""Maps of a whole set of shards, in shards of the same names, with memory that does not grow with their number."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from bcos_cli.explain.writer import npy_bytes
from bcos_cli.file_names import MAPS_NAME
from bcos_cli.folder_lock import LOCK_NAME, locked
from bcos_cli.messages import tell
from bcos_cli.processes.group import process_state
from bcos_core.errors import BcosError, shown
from bcos_core.files import is_aside, remove_asides, replacement, write_atomically
from bcos_core.text import parse_json, read_text
from bcos_explain import ExplainedImage, explainer_specs, get_explainer
from bcos_explain.explainers import remark_lines
from bcos_models import TrainedModel

FORMAT_VERSION = 1
_WITH_WEIGHT = "bcos"
"""The method whose W is written if none of the named methods has one."""
WEIGHT = "weight"
_FINISHED = ".finished"
_NOTE = "description"
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
    described = _description(trained, index, records, options, about)
    with ExitStack() as held:
        if state.is_main_process:
            _check_free(out, described)
            (out / _FINISHED).mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(out / _FINISHED / LOCK_NAME, "writing maps", folder=out))
            _check_free(out, described)  # another process may have ended since
            write_atomically(out / _FINISHED / _NOTE, json.dumps(described))
            places = [out / record.place for record in records]
            names = {place.name for place in places}
            for folder in {place.parent for place in places}:
                remove_asides(folder, names.__contains__)  # left by a call that was killed
        state.wait_for_everyone()
        return _write_missing(
            trained, data, out, options, index, records, described, reading or Reading(), batch_size, workers
        )


def _write_missing(
    trained: TrainedModel,
    data: str,
    out: Path,
    options: MapOptions,
    index: ShardIndex,
    records: list[ShardRecord],
    described: dict[str, Any],
    reading: Reading,
    batch_size: int,
    workers: int,
) -> WrittenMaps:
    """Write the maps of the shards that no earlier call has finished, and the index of all."""
    from accelerate.utils import broadcast_object_list

    state = process_state()
    trained.model.to(state.device).eval()
    if {spec.name for spec in explainer_specs() if spec.exact} >= set(options.methods):  # the same maps, faster
        trained = replace(trained, model=for_inference(trained.model, blank_input(trained, state.device)))
    whole = [[record.name for record in records if _is_whole(out, record)] if state.is_main_process else []]
    finished = set(broadcast_object_list(whole)[0])  # agreed once: another process may be writing already
    left = [k for k, record in enumerate(records) if record.name not in finished]
    own = left[state.process_index :: state.num_processes]
    urls = shard_urls(data, records)
    labelling = Labelling.of(index)
    pixels = index.pixels(trained.input, reading.truncated)
    transform = BytesTransform(pixels, inference_transform(trained.input), is_random=False, decoder=reading.decoder)
    opener = reading.opener()
    with console.counted("explaining", sum(records[k].samples for k in own), state.is_main_process) as counter:
        for k in own:
            shards = Shards([urls[k]], [records[k].samples])
            order = SampleOrder(shards, batch_size=batch_size)
            stream = _KeyedStream(order, transform, labelling, open_shard=opener)
            with Batches.of(stream, batch_size, workers) as batches, _aside(out, records[k]) as writer:
                for batch in batches.epoch(0):
                    _write_batch(trained, batch, options, writer)
                    counter.advance(len(batch[0]), images=len(batch[0]))
    state.wait_for_everyone()
    if state.is_main_process:
        notes = [_read_note(_note(out, record)) for record in records]
        write_atomically(out / MAPS_NAME, json.dumps({**described, "shards": notes}, indent=1) + "\n")
    return WrittenMaps(sum(r.samples for r in records), len(records), len(finished))


def _note(out: Path, record: ShardRecord) -> Path:
    """Return the path of the note that the maps of a shard are finished."""
    return out / _FINISHED / f"{record.place}.json"


def _is_whole(out: Path, record: ShardRecord) -> bool:
    """Whether the maps of a shard are there, with the size that they had when finished."""
    note, path = _note(out, record), out / record.place
    return note.is_file() and path.is_file() and path.stat().st_size == _read_note(note).get("bytes")


class _KeyedStream(ShardStream):
    """Samples with their keys in the shard."""

    def _decode(self, sample: dict[str, Any], epoch: int) -> Any:
        image, label, _ = super()._decode(sample, epoch)
        return image, label, sample["__key__"]


_Batch = tuple[Tensor, Tensor, Sequence[str]]


@contextmanager
def _aside(out: Path, record: ShardRecord) -> Iterator[webdataset.TarWriter]:
    """Write a tar file that appears whole, with a note that it is finished, or not at all."""
    with replacement(out / record.place) as aside:
        with aside.open("wb") as stream, webdataset.TarWriter(stream, mtime=0.0) as writer:
            yield writer
        with aside.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        note = {"name": record.place, "samples": record.samples, "bytes": aside.stat().st_size, "sha256": digest}
    write_atomically(_note(out, record), json.dumps(note))


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


def _check_free(out: Path, described: dict[str, Any]) -> None:
    """Refuse a folder that holds other maps or anything else; nothing is made yet."""
    note = out / _FINISHED / _NOTE
    existing = note if note.exists() else out / MAPS_NAME
    has_maps = (out / MAPS_NAME).exists() or any((out / _FINISHED).rglob("*.json"))
    if existing.exists() and has_maps:
        before = {k: v for k, v in _read_note(existing).items() if k != "shards"}
        here = json.loads(json.dumps(described))
        if differing := [k for k in here if k not in ("model", "data") and before.get(k) != here[k]]:
            raise BcosError(
                f"{str(out)!r} holds other maps ({', '.join(differing)} differ); choose another folder with --out"
            )
    elif any(not _is_begun(path, out) for path in out.rglob("*") if path.is_file()):
        raise BcosError(f"{str(out)!r} is not empty; choose another folder with --out")


def _is_begun(path: Path, out: Path) -> bool:
    """Whether a file is one that a call left that ended before its first shard was whole."""
    return path.is_relative_to(out / _FINISHED) or ((out / _FINISHED).is_dir() and is_aside(path.name))


def _read_note(path: Path) -> dict[str, Any]:
    """Read what an earlier call wrote, a mapping in JSON; in a folder from elsewhere it may be anything."""
    try:
        values = parse_json(read_text(path))
    except BcosError as reason:
        raise BcosError(f"{str(path)!r} is damaged: {reason}; choose another folder with --out") from reason
    if not isinstance(values, dict):
        raise BcosError(f"{str(path)!r} does not describe maps, got {shown(values)}; choose another folder with --out")
    return values
