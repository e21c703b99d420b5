"""``bcos export``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bcos_cli.config.network import ClassFile, RunOrModel, Weights, load_network, takes_images
from bcos_cli.config.trust import TrustRun, trust_runs
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say
from bcos_core.errors import BcosError

EXAMPLES = 2
"""Number of images with which a graph for any number of them is traced."""

bcos_cli_commands = hookimpl(lambda app: app.command()(export))


@takes_images
def export(
    run_or_model: RunOrModel,
    out: Annotated[Path, typer.Option(help="File to write, ending in .onnx or .pt2.")],
    weights: Weights = None,
    classes: ClassFile = None,
    batch: Annotated[
        int | None, typer.Option(help="Images that the graph takes at a time. By default any number.", min=1)
    ] = None,
    trust_run: TrustRun = False,
) -> None:
    """Write a network and its explanation as one graph.

    It takes images in [0, 1] and returns logits, the predicted class, and its W(x), contribution map and bias.
    """
    trust_runs(trust_run)
    import torch

    from bcos_cli.config.output_path import check_apart, check_writable
    from bcos_explain.export import save_explainer
    from bcos_explain.export.exporter import SUFFIXES
    from bcos_models.transforms import input_encoder

    if out.suffix not in SUFFIXES:  # before anything is loaded
        raise BcosError(f"--out takes a file ending in {' or '.join(SUFFIXES)}, got {str(out)!r}")
    check_writable(out)
    check_apart(out, [run_or_model, weights, classes])
    trained = load_network(run_or_model, weights, classes)
    spec = trained.input
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((batch or EXAMPLES, spec.channels, spec.size, spec.size), generator=generator)
    saved = save_explainer(
        out,
        trained.model.eval(),
        images,
        encode=input_encoder(spec),
        dynamic_batch=batch is None,
        class_names=trained.classes,
        metadata={"model": trained.name, "input": json.dumps(spec.to_dict()), "probabilities": trained.probabilities},
    )
    what = "PyTorch program" if saved.opset is None else f"ONNX opset {saved.opset}"
    say(
        f"{saved.path}: {saved.size / 1e6:.1f} MB, {what}, for {batch or 'any number of'} images; W differs from "
        f"bcos_core.explain by at most {saved.agreement.weight:.1e} of its largest element ({saved.checked_with})"
    )
