"""``bcos serve``."""

from typing import Annotated

import typer

from bcos_cli.config.network import ClassFile, Weights, takes_images
from bcos_cli.config.trust import TrustRun, trust_runs
from bcos_cli.data.pixels import AllowTruncated, RangeOption
from bcos_cli.hookspecs import hookimpl
from bcos_cli.processes.device import Device, use_device

bcos_cli_commands = hookimpl(lambda app: app.command()(serve))


@takes_images
def serve(
    run_or_model: Annotated[
        list[str],
        typer.Argument(help="Folders of runs, weights files of runs, or models by name; all are offered on the page."),
    ],
    weights: Weights = None,
    classes: ClassFile = None,
    range: RangeOption = None,
    allow_truncated: AllowTruncated = False,
    host: Annotated[
        str, typer.Option(help="Address to listen at; by default only this machine can reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any free one.", min=0, max=65535)] = 7860,
    method: Annotated[
        list[str] | None, typer.Option(help="Explainer that is ticked at the start; repeatable. bcos by default.")
    ] = None,
    example: Annotated[
        list[str] | None,
        typer.Option(
            help="Image, folder or pattern to try the page with; repeatable. Test images of a run by default."
        ),
    ] = None,
    max_megabytes: Annotated[float, typer.Option(help="Largest file that may be uploaded.", min=0.001)] = 20,
    max_megapixels: Annotated[float, typer.Option(help="Largest image that is decoded.", min=0.001)] = 64,
    max_total_megabytes: Annotated[
        float | None,
        typer.Option(help="Space for all uploads; the oldest are deleted. 25 times the largest by default.", min=0.001),
    ] = None,
    open: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    trust_run: TrustRun = False,
    device: Device = None,
) -> None:
    """Serve a local page: drop an image, and see what networks see in it.

    Needs Gradio, which the extra 'serve' of bcos-cli installs.
    """
    trust_runs(trust_run)
    use_device(device)
    from bcos_cli.config.section import parse_range
    from bcos_cli.explain.arguments import check_arguments

    black_and_white = parse_range(range)
    for name in run_or_model:
        check_arguments(name, method or ())

    from bcos_cli.serve.address import Address
    from bcos_cli.serve.server import serve
    from bcos_cli.serve.uploads import Limits

    serve(
        run_or_model,
        weights=weights,
        classes=classes,
        range=black_and_white,
        truncated=allow_truncated,
        address=Address(host, port),
        limits=Limits(megabytes=max_megabytes, megapixels=max_megapixels, total_megabytes=max_total_megabytes),
        methods=method or ["bcos"],
        examples=example or [],
        open_browser=open,
    )
