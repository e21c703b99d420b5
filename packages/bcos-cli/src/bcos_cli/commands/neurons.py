"""``bcos neurons``."""

from pathlib import Path
from typing import Annotated

import typer

from bcos_cli.commands.listing import AsJson
from bcos_cli.config.network import ClassFile, RunOrModel, Weights, load_network, takes_images
from bcos_cli.config.trust import TrustRun, trust_runs
from bcos_cli.data.data_set import DataPath, packed_data_set
from bcos_cli.data.pixels import AllowTruncated, RangeOption
from bcos_cli.file_names import NEURONS_NAME, NEURONS_PAGE
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say_json, tell
from bcos_cli.processes.device import Device, use_device
from bcos_core.errors import BcosError

bcos_cli_commands = hookimpl(lambda app: app.command()(neurons))


@takes_images
def neurons(
    run_or_model: RunOrModel,
    out: Annotated[Path, typer.Option(help="Folder for neurons.html and neurons.json.")],
    data: DataPath = None,
    layer: Annotated[
        str | None, typer.Option(help="Name of a layer; by default the last with a map over the image.")
    ] = None,
    channel: Annotated[
        list[int] | None, typer.Option(help="A channel of the layer; repeatable. By default the strongest.", min=0)
    ] = None,
    strongest: Annotated[int, typer.Option(help="Number of channels, if none is named.", min=1)] = 8,
    images: Annotated[int, typer.Option(help="Images for each channel.", min=1)] = 6,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            help="Explain the channels named by --channel in this image, instead of searching shards; repeatable."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split to search; test by default, val without one.")] = None,
    scanned: Annotated[int | None, typer.Option(help="Search only the first N images of the split.", min=1)] = None,
    weights: Weights = None,
    classes: ClassFile = None,
    range: RangeOption = None,
    allow_truncated: AllowTruncated = False,
    workers: Annotated[int, typer.Option(help="Loader processes.", min=0)] = 2,
    trust_run: TrustRun = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Show what neurons look for: the images that activate a channel most, each explained for that channel."""
    trust_runs(trust_run)
    use_device(device)
    from bcos_cli import console
    from bcos_cli.config.output_path import check_folder
    from bcos_cli.config.section import parse_range
    from bcos_cli.data.splits import shards_of
    from bcos_cli.explain.arguments import check_arguments
    from bcos_cli.folder_lock import locked_folder

    check_arguments(run_or_model)
    for file in image or ():
        if not file.is_file():
            raise BcosError(f"there is no image {str(file)!r}")
    of_shards = {"--data": data, "--split": split, "--scanned": scanned}
    of_images = {"--range": range, "--allow-truncated": allow_truncated or None}
    if unused := [name for name, value in (of_shards if image else of_images).items() if value is not None]:
        raise BcosError(
            f"{', '.join(unused)} cannot go with --image, which searches no shards"
            if image
            else f"{' and '.join(unused)} goes with --image: shards say themselves how they are read"
        )
    data = packed_data_set(data)
    found = None if image else shards_of(run_or_model, data, split)

    from bcos_cli.explain.neurons import NeuronOptions, neuron_rows, rows_of_images, write_neurons

    check_folder(out, NEURONS_NAME, inputs=image or [])
    trained = load_network(run_or_model, weights, classes, range=parse_range(range))
    options = NeuronOptions(layer, tuple(channel or ()), strongest, images, scanned)
    if found is None:
        searched = {"files": ", ".join(map(str, image or ()))}
        rows = rows_of_images(trained, image or [], options, truncated=allow_truncated)
    else:
        if found.split.note is not None:
            tell(found.split.note)
        searched = {"data": found.location, "split": found.split.name}
        rows = neuron_rows(trained, found.location, found.split.name, options, workers=workers, reading=found.reading)
    with locked_folder(out, "writing", timeout=60):
        written = write_neurons(rows, out, options=options, model=run_or_model, searched=searched)
    if as_json:
        say_json(written)
        return
    table = [
        (
            row.channel,
            f"{row.items[0].score:z.3f}",
            f"{row.items[-1].score:z.3f}",
            ", ".join(i.label for i in row.items),
        )
        for row in rows
    ]
    console.table(
        f"neurons of {rows[0].layer}", ["channel", "strongest", "weakest shown", "images"], table, prose=["images"]
    )
    console.out.print(f"report {out / NEURONS_PAGE}")
