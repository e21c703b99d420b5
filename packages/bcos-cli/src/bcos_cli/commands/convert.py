"""``bcos convert``."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from bcos_cli.config.network import takes_images
from bcos_cli.config.trust import TrustRun, trust_runs
from bcos_cli.data.data_set import packed_data_set
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say_json
from bcos_core.errors import BcosError
from bcos_core.plugin_guard import diverted_output

bcos_cli_commands = hookimpl(lambda app: app.command()(convert))


@takes_images
def convert(
    model: Annotated[
        str, typer.Argument(help="timm/NAME, torchvision/NAME, bcosified/NAME, or the folder of a plain run.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the converted network: weights, configuration, model card.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Weights of the original network: a file or URL. By default those of its library."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="File with the names of the outputs, one in each line, or their number; by default that of the "
            "weights."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("-o", "--override", help="option=value, such as b=1 or keep_bias=true; repeatable."),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(help="Shards: kernels are fitted to images of their split train, and make up for biases."),
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(help="Shards: print what each step of the conversion costs on images of their split train."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what each layer would become, and why; needs no weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    trust_run: TrustRun = False,
) -> None:
    """Convert a trained network into a B-cos network, to be fine-tuned."""
    trust_runs(trust_run)
    if dry_run and (fit is not None or probe is not None):
        raise BcosError("--dry-run runs no network, which --fit and --probe need; leave one of them out")
    if out is None and probe is None and not dry_run:
        raise BcosError(
            "there is nowhere to write the converted network; give a folder with --out, or --probe, or --dry-run"
        )
    from bcos_cli import console
    from bcos_cli.convert.report import next_step, print_probe, print_report
    from bcos_cli.convert.task import ConversionTask

    with diverted_output() if as_json else nullcontext():  # the network may print
        task = ConversionTask(model, weights, classes, overrides or [], out, dry_run)
        made = task.convert()
        if fit is not None:
            task.fit(str(packed_data_set(fit)), made)
        steps = [] if probe is None else task.probe(str(packed_data_set(probe)), made if fit else None)
        if out is not None and not dry_run:
            task.save(made, out)
    if as_json:
        say_json(made.conversion.to_dict() | ({} if probe is None else {"probe": [vars(step) for step in steps]}))
        return
    print_report(task.name, made.conversion, every_layer=dry_run)
    if out is not None and not dry_run:
        teacher = model if weights is None else "RUN"  # weights in a file have no name by which they are loaded
        console.out.print(next_step(out, fit or probe or "SHARDS", teacher), soft_wrap=True)
    print_probe(steps)
