"""``bcos export``."""

from pathlib import Path
from typing import Annotated

import typer

from bcos_cli.terminal import say
from bcos_cli.trust import TrustRun, trust_runs


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    run_or_model: Annotated[
        str, typer.Argument(help="Folder of a run, weights file of one, or a model with --weights.")
    ],
    out: Annotated[Path, typer.Option(help="File to write, ending in .onnx or .pt2.")],
    weights: Annotated[str | None, typer.Option(help="A .safetensors file, for a model by name.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Images that the graph takes at a time. By default any number.", min=1)
    ] = None,
    trust_run: TrustRun = False,
) -> None:
    """Write a network and its explanation as one graph.

    It takes images in [0, 1] and returns logits, the predicted class, and its W(x), contribution map and bias.
    """
    trust_runs(trust_run)
    from bcos_cli.exporting import export_network

    saved = export_network(run_or_model, out, weights=weights, batch=batch)
    what = "PyTorch program" if saved.opset is None else f"ONNX opset {saved.opset}"
    say(
        f"{saved.path}: {saved.size / 1e6:.1f} MB, {what}, for {batch or 'any number of'} images; W differs from "
        f"bcos_core.explain by at most {saved.agreement.weight:.1e} of its largest element ({saved.checked_with})"
    )
