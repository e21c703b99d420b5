"""``bcos convert``."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from bcos_cli.terminal import say_json
from bcos_cli.trust import TrustRun, trust_runs
from bcos_core.foreign import diverted_output


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(convert)


def convert(
    model: Annotated[
        str,
        typer.Argument(help="timm/NAME, torchvision/NAME, bcosified/NAME, or the folder of a plain run."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the converted network: weights, configuration, model card.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights of the original: a file or URL. By default its library's own.")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Outputs; by default those of the original.", min=1)] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("-o", "--override", help="option=value, such as b=1 or keep_bias=true; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what becomes what, and what stays and why; needs no weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    trust_run: TrustRun = False,
) -> None:
    """Convert a trained network into a B-cos network, to be fine-tuned."""
    trust_runs(trust_run)
    from bcos_cli.converting import convert_network, print_conversion

    with diverted_output() if as_json else nullcontext():  # the network may print
        converted = convert_network(
            model, weights=weights, num_classes=classes, overrides=overrides or [], out=out, dry_run=dry_run
        )
    if as_json:
        say_json(converted.report.to_dict())
        return
    print_conversion(converted, None if dry_run else out, every_layer=dry_run)
