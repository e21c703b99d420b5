"""From a trained network to a file that holds it with its explanation."""

import json
from dataclasses import asdict
from pathlib import Path

import torch

from bcos_cli.outputs import check_writable
from bcos_cli.trained import load_trained
from bcos_core.errors import BcosError
from bcos_explain.export import SavedExplainer, save_explainer
from bcos_explain.export.exporting import SUFFIXES
from bcos_models.transforms import input_encoder

_EXAMPLES = 2
"""Images that a graph for any number of them is recorded with."""


def export_network(
    run_or_model: str, out: Path, *, weights: str | None = None, batch: int | None = None
) -> SavedExplainer:
    """Write a network with its explanation; the graph takes images in [0, 1] of the size that it was trained for.

    Args:
        run_or_model: as :func:`bcos_cli.trained.load_trained` takes it.
        out: ending in ``.onnx`` or ``.pt2``.
        weights: of a model that is named.
        batch: number of images at a time; None for any.

    Raises:
        BcosError: nothing of that name, another suffix, or a network that cannot be exported.
    """
    if out.suffix not in SUFFIXES:  # before anything is loaded
        raise BcosError(f"--out takes a file ending in {' or '.join(SUFFIXES)}, got {str(out)!r}")
    check_writable(out)
    trained = load_trained(run_or_model, weights)
    seen = trained.input
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((batch or _EXAMPLES, seen.channels, seen.size, seen.size), generator=generator)
    return save_explainer(
        out,
        trained.model.eval(),
        images,
        encode=input_encoder(seen),
        dynamic_batch=batch is None,
        class_names=trained.classes,
        metadata={
            "model": trained.name,
            "input": json.dumps(asdict(seen)),
            "probabilities": trained.probabilities,
        },
    )
