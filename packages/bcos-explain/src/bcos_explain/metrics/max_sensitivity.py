"""Max-sensitivity: how much an explanation changes under noise that is too weak to notice."""

from collections.abc import Callable

import captum.metrics
import torch
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_explain.explainers.attribute import attribute
from bcos_explain.explainers.contract import Explainer, Target, check_count
from bcos_explain.metrics.batches import Encode, Progress, each_batch
from bcos_explain.metrics.result import MetricResult


def max_sensitivity(
    model: nn.Module,
    explainer: Explainer,
    images: Tensor,
    *,
    target: Target = None,
    encode: Encode | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> MetricResult:
    """Largest relative change of the map under uniform noise on the image.

    ``score = max_δ ‖a(x + δ) - a(x)‖ / ‖a(x)‖`` with ``|δ| ≤ radius`` in each value of the image before its
    encoding, for the class of the image without noise. Computed by Captum. The noise is the same for all
    images, so a score does not depend on the other images.

    Args:
        model, explainer, images, target, encode, batch_size, progress: see :mod:`bcos_explain.metrics`;
            each image is explained 1 + `samples` times.
        radius: of the noise, in units of the images' values.
        samples: draws of the noise.
        seed: of the noise.

    Returns:
        Relative changes, lower is better; undefined for a map of zeros.

    Source: Yeh et al., *On the (In)fidelity and Sensitivity of Explanations*, NeurIPS 2019, definition 3.1.
    """
    check_count("samples", samples)
    if not radius > 0:
        raise BcosError(f"radius must be above 0, got {radius}")
    drawn = torch.rand((samples, *images.shape[1:]), generator=torch.Generator().manual_seed(seed))
    noise = (2 * drawn - 1) * radius
    scores = []
    for batch in each_batch(model, images, target, encode=encode, batch_size=batch_size, progress=progress):
        classes = batch.target

        def explain(x: Tensor, classes: Tensor = classes) -> Tensor:
            return attribute(explainer, model, x if encode is None else encode(x), classes)

        scores.append(_largest_change(explain, batch.images, noise.to(batch.images)).cpu())
    return MetricResult(scores=torch.cat(scores), higher_is_better=False)


def _largest_change(explain: Callable[[Tensor], Tensor], images: Tensor, noise: Tensor) -> Tensor:
    remaining = iter(noise)
    without_noise = explain(images)

    def explain_either(x: Tensor | tuple[Tensor]) -> Tensor | tuple[Tensor]:  # Captum asks for a tuple first
        return (without_noise,) if isinstance(x, tuple) else explain(x)

    def perturb(repeated: Tensor) -> Tensor:
        drawn: Tensor = next(remaining)
        return repeated + drawn

    change: Tensor = captum.metrics.sensitivity_max(
        explain_either, images, perturb, n_perturb_samples=len(noise), max_examples_per_batch=len(images)
    )  # with one draw at a time
    return torch.where((without_noise == 0).flatten(1).all(1), torch.nan, change.double())
