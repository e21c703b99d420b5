"""Explaining a whole set of shards: shards in, shards of maps out, as much memory for a million images as for ten."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from torch import Tensor
from torch.utils.data import DataLoader

from bcos_cli import console
from bcos_cli.data.augmentation import BytesTransform
from bcos_cli.data.index import ShardIndex, ShardRecord, load_index, shard_urls
from bcos_cli.data.input_image import inference_transform
from bcos_cli.data.loader import Batches
from bcos_cli.data.sample_order import SampleOrder
from bcos_cli.data.shards import Shards
from bcos_cli.data.stream import Labelling, ShardStream
from bcos_cli.processes.group import process_state
from bcos_core import explain
from bcos_core.documents import parse_json, read_text
from bcos_core.errors import BcosError, shown
from bcos_core.files import remove_asides, replacement, write_atomically
from bcos_explain import get_explainer
from bcos_explain.explainers import Remark, attribute, collect_remarks, remark_lines
from bcos_explain.explainers.memory import in_batches
from bcos_explain.explainers.remarks import moved
from bcos_models import TrainedModel

INDEX_NAME = "maps.json"
FORMAT_VERSION = 1
EXACT = "bcos"
WEIGHT = "weight"
_FINISHED = ".finished"
PREDICTED, LABEL = "predicted", "label"


@dataclass(frozen=True)
class MapOptions:
    """What is written for each image."""

    methods: tuple[str, ...] = (EXACT,)
    targets: tuple[int, ...] = ()
    """Classes to explain; none for one that depends on the image, `choice`."""
    choice: str = PREDICTED
    """``"predicted"`` or ``"label"``."""
    weights: bool = False
    """Write W too, (C, H, W), not only its contributions."""


@dataclass
class WrittenMaps:
    """What was written, and what was there already."""

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
    batch_size: int = 16,
    workers: int = 2,
    name: str = "",
) -> WrittenMaps:
    """Write maps for every image of a split.

    For each shard one of the same name: for each sample ``KEY.json`` (label, prediction, target, logit, sum of
    contributions, bias, scales) and, for each method, ``KEY.METHOD.npy``, float16 (H, W), or (T, H, W) for
    several targets, to be multiplied by its ``scale``, so that neither tiny nor huge values are lost. With
    ``options.weights`` also ``KEY.weight.npy``, ([T,] C, H, W). ``maps.json`` comes last and describes all.

    A shard is written aside and renamed when it is whole; calling again goes on after the last whole one.
    Shards are dealt out to the processes.

    Raises:
        BcosError: no such split, classes that do not fit, or a folder with other maps.
    """
    from accelerate.utils import broadcast_object_list

    state = process_state()
    index = load_index(data)
    trained.check_classes(index.classes, data)
    records = index.of(split)
    explainers = {method: get_explainer(method) for method in options.methods}
    described = _description(trained, index, records, data, split, options, name)
    if state.is_main_process:
        _claim(out, described)
        places = [out / record.place for record in records]
        names = {place.name for place in places}
        for folder in {place.parent for place in places}:
            remove_asides(folder, names.__contains__)  # of a call that was killed
    state.wait_for_everyone()
    trained.model.to(state.device).eval()
    whole = [[record.name for record in records if _is_whole(out, record)] if state.is_main_process else []]
    finished = set(broadcast_object_list(whole)[0])  # the same for all, who may be at work already
    left = [k for k, record in enumerate(records) if record.name not in finished]
    own = left[state.process_index :: state.num_processes]
    urls = shard_urls(data, records)
    labelling = Labelling(len(index.classes), index.multi_label)
    with console.counted("explaining", sum(records[k].samples for k in own), state.is_main_process) as counter:
        for k in own:
            shards = Shards([urls[k]], [records[k].samples])
            with _aside(out, records[k]) as writer:
                for batch in _batches(shards, trained, labelling, batch_size, workers):
                    _write_batch(trained, batch, explainers, options, writer)
                    counter.advance(len(batch[0]), images=len(batch[0]))
    state.wait_for_everyone()
    if state.is_main_process:
        _write_index(out, described, records)
    return WrittenMaps(sum(r.samples for r in records), len(records), len(finished))


def _note(out: Path, record: ShardRecord) -> Path:
    """Where it is noted that the maps of a shard are finished."""
    return out / _FINISHED / f"{record.place}.json"


def _is_whole(out: Path, record: ShardRecord) -> bool:
    """Whether the maps of a shard are there, as long as they were when they were finished."""
    note, path = _note(out, record), out / record.place
    return note.is_file() and path.is_file() and path.stat().st_size == _noted(note).get("bytes")


class _KeyedStream(ShardStream):
    """Samples with the key that the shard has for them."""

    def _decode(self, sample: dict[str, Any], epoch: int) -> Any:
        image, label, _ = super()._decode(sample, epoch)
        return image, label, sample["__key__"]


_Batch = tuple[Tensor, Tensor, Sequence[str]]


def _batches(
    shards: Shards, trained: TrainedModel, labelling: Labelling, batch_size: int, workers: int
) -> Iterator[_Batch]:
    transform = BytesTransform(trained.input.channels, inference_transform(trained.input), is_random=False)
    stream = _KeyedStream(SampleOrder(shards, batch_size=batch_size), transform, labelling)
    yield from Batches(stream, DataLoader(stream, batch_size=batch_size, num_workers=workers)).epoch(0)  # type: ignore[misc] # reason: keys instead of positions


@contextmanager
def _aside(out: Path, record: ShardRecord) -> Iterator[webdataset.TarWriter]:
    """A tar file that appears whole, with a note that it is finished, or not at all."""
    with replacement(out / record.place) as aside:
        with aside.open("wb") as stream, webdataset.TarWriter(stream, mtime=0.0) as writer:
            yield writer
        with aside.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        note = {"name": record.place, "samples": record.samples, "bytes": aside.stat().st_size, "sha256": digest}
    write_atomically(_note(out, record), json.dumps(note))


def _write_batch(
    trained: TrainedModel,
    batch: _Batch,
    explainers: dict[str, Any],
    options: MapOptions,
    writer: webdataset.TarWriter,
) -> None:
    images, labels, keys = batch
    device = process_state().device
    x = trained.encode(images.to(device))
    with torch.inference_mode():
        logits = trained.model(x).float()
    target = _targets(logits, labels.to(device), options)
    arrays, bias, said = _explained(trained, x, target, explainers, options)
    probabilities = trained.confidences(logits)
    for i, key in enumerate(keys):
        halves = {array: _as_half(values[i]) for array, values in arrays.items()}
        predicted = int(logits[i].argmax())
        description: dict[str, Any] = {
            "label": int(labels[i]) if labels.ndim == 1 else labels[i].nonzero()[:, 0].tolist(),
            "predicted": predicted,
            "confidence": float(probabilities[i, predicted]),
            "target": target[i].tolist(),
            "logit": logits[i].gather(0, target[i].reshape(-1)).reshape(target[i].shape).tolist(),
            "sum": {m: arrays[m][i].flatten(target.ndim - 1).double().sum(-1).tolist() for m in explainers},
            "scale": {array: scale for array, (_, scale) in halves.items()},
        }
        if lines := {m: of_image for m in said if (of_image := _lines_about(said[m], i))}:
            description["remarks"] = lines
        if bias is not None:
            description["bias"] = bias[i].tolist()
        members = {f"{array}.npy": _npy(half) for array, (half, _) in halves.items()}
        writer.write({"__key__": key, "json": json.dumps(description).encode(), **members})


def _explained(
    trained: TrainedModel, x: Tensor, target: Tensor, explainers: dict[str, Any], options: MapOptions
) -> tuple[dict[str, Tensor], Tensor | None, dict[str, list[Remark]]]:
    """Arrays (N, ...) by name, the bias (N,) or (N, T) of the exact explanation, and what other methods say.

    Half of the images at a time if memory runs out.
    """
    others = {m: e for m, e in explainers.items() if m != EXACT}
    said: dict[str, list[Remark]] = {}

    def work(part: slice) -> dict[str, Tensor]:
        found = {}
        for m, explainer in others.items():
            with collect_remarks() as remarks:
                found[m] = attribute(explainer, trained.model, x[part], target[part])
            said.setdefault(m, []).extend(moved(remarks, first_image=part.start))
        if options.weights or EXACT in explainers:
            exact = explain(trained.model, x[part], target[part])
            found |= {EXACT: exact.map, WEIGHT: exact.weight, "bias": exact.bias}
        return found

    parts = list(in_batches(work, len(x)))
    arrays = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    bias = arrays.pop("bias", None)
    wanted = [*explainers, *([WEIGHT] if options.weights else [])]
    return {name: arrays[name] for name in wanted}, bias, said


def _lines_about(remarks: Sequence[Remark], image: int) -> list[str]:
    return remark_lines(dict.fromkeys(r for r in remarks if r.image in (None, image)))


def _targets(logits: Tensor, labels: Tensor, options: MapOptions) -> Tensor:
    if options.targets:
        return torch.tensor(options.targets, device=logits.device).expand(len(logits), -1)
    if options.choice == LABEL and labels.ndim == 2:
        raise BcosError("--target label needs images of one class, these have several labels; use predicted")
    return labels if options.choice == LABEL else logits.argmax(1)


def _as_half(values: Tensor) -> tuple[np.ndarray[Any, Any], float]:
    """Values divided by the largest of them, in half precision, and that largest."""
    scale = float(values.abs().max()) or 1.0
    return (values.double() / scale).half().cpu().numpy(), scale


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _description(
    trained: TrainedModel,
    index: ShardIndex,
    records: Sequence[ShardRecord],
    data: str,
    split: str,
    options: MapOptions,
    name: str,
) -> dict[str, Any]:
    shards = [[r.name, r.samples, r.sha256] for r in records]
    seen = hashlib.sha256(json.dumps([trained.fingerprint(), shards]).encode())
    return {
        "format_version": FORMAT_VERSION,
        "model": name or trained.name,
        "data": data,
        "split": split,
        "classes": index.classes,
        "options": asdict(options),
        "fingerprint": seen.hexdigest(),
    }


def _claim(out: Path, described: dict[str, Any]) -> None:
    """Make the folder ours, or refuse one with other maps or other things."""
    (out / _FINISHED).parent.mkdir(parents=True, exist_ok=True)
    note = out / _FINISHED / "description"
    existing = note if note.exists() else out / INDEX_NAME
    if existing.exists():
        before = {k: v for k, v in _noted(existing).items() if k != "shards"}
        here = json.loads(json.dumps(described))
        if differing := [k for k in here if k not in ("model", "data") and before.get(k) != here[k]]:
            raise BcosError(
                f"{str(out)!r} holds other maps ({', '.join(differing)} differ); choose another folder with --out"
            )
    elif any(out.iterdir()):
        raise BcosError(f"{str(out)!r} is not empty; choose another folder with --out")
    write_atomically(note, json.dumps(described))


def _noted(path: Path) -> dict[str, Any]:
    """Read what an earlier call wrote; in a folder from elsewhere it may be anything.

    Raises:
        BcosError: it is no mapping in JSON.
    """
    try:
        values = parse_json(read_text(path))
    except BcosError as reason:
        raise BcosError(f"{str(path)!r} is damaged: {reason}; choose another folder with --out") from reason
    if not isinstance(values, dict):
        raise BcosError(f"{str(path)!r} holds no notes on maps, got {shown(values)}; choose another folder with --out")
    return values


def _write_index(out: Path, described: dict[str, Any], records: Sequence[ShardRecord]) -> None:
    notes = [_noted(_note(out, record)) for record in records]
    write_atomically(out / INDEX_NAME, json.dumps({**described, "shards": notes}, indent=1) + "\n")
