"""Explaining image files: what ``bcos explain`` does."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from bcos_cli import console
from bcos_cli.data.decoding import UNREADABLE
from bcos_cli.images import ImageFile, find_images, load_image
from bcos_cli.pictures import contribution_picture, exact_pictures, save_pictures
from bcos_cli.trained import TrainedModel, default_device, load_trained
from bcos_core import Explanation
from bcos_core import explain as explain_exactly
from bcos_core.errors import BcosError
from bcos_core.files import write_atomically
from bcos_core.plugins import suggestion
from bcos_explain import get_explainer

EXACT = "bcos"


@dataclass(frozen=True)
class ExplainedImage:
    """One explanation of one image, as ``explanations.json`` holds it."""

    file: str
    predicted: str
    confidence: float
    """Probability of the predicted class."""
    target: str
    target_index: int
    logit: float
    """Of the target."""
    method: str
    contributions: float
    """Sum of the map."""
    bias: float | None
    """``logit - contributions``, measured; None for methods that are not exact."""
    pictures: dict[str, str]
    """File names by kind."""
    map: str
    """File name of the contributions (H, W) as a NumPy array."""


@dataclass(frozen=True)
class Failure:
    """A file that could not be read."""

    file: str
    reason: str


@dataclass
class Written:
    """What was written."""

    explanations: list[ExplainedImage] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def explain_files(
    run_or_model: str,
    paths: Sequence[Path],
    out: Path,
    *,
    targets: Sequence[str] = (),
    methods: Sequence[str] = (EXACT,),
    weights: str | None = None,
    batch_size: int = 16,
) -> Written:
    """Explain image files and write pictures, arrays and ``explanations.json`` to `out`.

    Args:
        run_or_model: as :func:`bcos_cli.trained.load_trained` takes it.
        paths: files and folders.
        out: folder; made if it is missing.
        targets: class names or numbers; none for the predicted class of each image.
        methods: names of explainers.
        weights: of a model by name.
        batch_size: images explained at a time.

    Raises:
        BcosError: an unknown model, class, explainer or path. A damaged file is no error but noted in the
            result.
    """
    files = find_images(paths)
    explainers = {name: get_explainer(name) for name in methods}
    trained = load_trained(run_or_model, weights)
    indices = [_class_index(name, trained.classes) for name in targets]
    trained.model.to(default_device())
    out.mkdir(parents=True, exist_ok=True)
    written = Written()
    with console.counted("explaining", len(files)) as counter:
        for start in range(0, len(files), batch_size):
            group = files[start : start + batch_size]
            loaded = list(_load(group, trained, written))
            if loaded:
                images = torch.stack([tensor for _, tensor in loaded])
                _explain_batch(trained, [f for f, _ in loaded], images, indices, explainers, out, written)
            counter.advance(len(group), images=len(loaded))
    document = {"model": run_or_model, **asdict(written)}
    write_atomically(out / "explanations.json", json.dumps(document, indent=1) + "\n")
    return written


def _load(files: Sequence[ImageFile], trained: TrainedModel, written: Written) -> Iterator[tuple[ImageFile, Tensor]]:
    for file in files:
        try:
            yield file, load_image(file.path, trained.input)
        except UnidentifiedImageError:
            written.failures.append(Failure(str(file.path), "this is no image, or of an unknown format"))
        except UNREADABLE as reason:
            written.failures.append(Failure(str(file.path), f"cannot be read: {reason}"))


def _explain_batch(
    trained: TrainedModel,
    files: list[ImageFile],
    images: Tensor,
    indices: list[int],
    explainers: dict[str, Any],
    out: Path,
    written: Written,
) -> None:
    x = trained.encode(images.to(default_device()))
    with torch.inference_mode():
        logits = trained.model(x)
    probabilities = trained.confidences(logits)
    predicted = logits.argmax(1)
    slugs = _slugs(trained.classes)
    targets = torch.tensor([indices] * len(files), device=x.device) if indices else predicted[:, None]
    for t in range(targets.shape[1]):
        target = targets[:, t]
        exact = explain_exactly(trained.model, x, target) if EXACT in explainers else None
        for method, explainer in explainers.items():
            maps = exact.map if exact is not None and method == EXACT else _as_maps(explainer(trained.model, x, target))
            for i, file in enumerate(files):
                k = int(target[i])
                stem = f"{file.name}.{slugs[k]}.{method}"
                rgb = images[i].permute(1, 2, 0).numpy()
                pictures = (
                    _exact(exact, i, rgb)
                    if exact is not None and method == EXACT
                    else contribution_picture(rgb, maps[i])
                )
                names = save_pictures(pictures, out, stem)
                np.save(out / f"{stem}.npy", maps[i].float().cpu().numpy())
                written.explanations.append(
                    ExplainedImage(
                        file=str(file.path),
                        predicted=trained.classes[int(predicted[i])],
                        confidence=float(probabilities[i, predicted[i]]),
                        target=trained.classes[k],
                        target_index=k,
                        logit=float(logits[i, k]),
                        method=method,
                        contributions=float(maps[i].sum()),
                        bias=float(exact.bias[i]) if exact is not None and method == EXACT else None,
                        pictures=names,
                        map=f"{stem}.npy",
                    )
                )


def _exact(explanation: Explanation, i: int, rgb: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    return exact_pictures(rgb, explanation.input[i], explanation.weight[i], explanation.map[i])


def _as_maps(attribution: Tensor) -> Tensor:
    """(N, C, H, W) or (N, H, W) → (N, H, W)."""
    return attribution.sum(1) if attribution.ndim == 4 else attribution


def _class_index(name: str, classes: list[str]) -> int:
    if name in classes:
        return classes.index(name)
    if name.isdigit() and int(name) < len(classes):
        return int(name)
    raise BcosError(
        f"there is no class {name!r}; {suggestion(name, classes)} (or a number from 0 to {len(classes) - 1})"
    )


def _slugs(classes: list[str]) -> list[str]:
    """Class names as parts of file names; numbered where two would be the same."""
    slugs = ["".join(c if c.isalnum() else "_" for c in name) for name in classes]
    return [slug if slugs.count(slug) == 1 else f"{slug}_{k}" for k, slug in enumerate(slugs)]
