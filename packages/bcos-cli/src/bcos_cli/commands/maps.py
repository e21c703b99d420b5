"""``bcos maps``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bcos_cli.commands.listing import AsJson
from bcos_cli.config.network import ClassFile, RunOrModel, Weights, load_network, takes_images
from bcos_cli.config.trust import TrustRun, trust_runs
from bcos_cli.data.data_set import DataPath, packed_data_set
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say_json, tell
from bcos_cli.processes.device import Device, use_device
from bcos_core.errors import BcosError

bcos_cli_commands = hookimpl(lambda app: app.command()(maps))


@takes_images
def maps(
    run_or_model: RunOrModel,
    out: Annotated[Path, typer.Option(help="Folder for shards of maps and maps.json.")],
    data: DataPath = None,
    split: Annotated[str | None, typer.Option(help="Split to explain; test by default, val without one.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="An explainer that bcos explainers lists; repeatable. bcos by default.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Class name or number, repeatable; or predicted (the default), or label: each image's own."),
    ] = None,
    raw_weight: Annotated[bool, typer.Option("--raw-weight", help="Also write W.")] = False,
    weights: Weights = None,
    classes: ClassFile = None,
    batch_size: Annotated[int, typer.Option(help="Images explained at a time; halved if memory runs out.", min=1)] = 16,
    workers: Annotated[int, typer.Option(help="Loader processes.", min=0)] = 2,
    trust_run: TrustRun = False,
    device: Device = None,
    as_json: AsJson = False,
    num_processes: Annotated[int, typer.Option(help="Processes on this machine.", min=1)] = 1,
) -> None:
    """Explain a whole set of shards: maps as float16 arrays in shards of the same names, numbers as JSON.

    Memory does not grow with the number of images. An interrupted call continues after the last whole shard.
    """
    trust_runs(trust_run)
    use_device(device)
    if num_processes > 1:
        from bcos_cli.processes.launcher import launch

        launch(num_processes)
        return

    from bcos_cli import console
    from bcos_cli.config.output_path import check_writable
    from bcos_cli.data.splits import shards_of
    from bcos_cli.explain.arguments import check_arguments

    check_writable(out)
    check_arguments(run_or_model, method or ())
    data = packed_data_set(data)
    shards = shards_of(run_or_model, data, split)

    from bcos_cli.explain.shard_maps import LABEL, PREDICTED, MapOptions, explain_shards
    from bcos_cli.explain.targets import class_index
    from bcos_cli.processes.group import leave, process_state

    trained = load_network(run_or_model, weights, classes)
    given = target or [PREDICTED]
    choices = [name for name in given if name in (PREDICTED, LABEL) and name not in trained.classes]
    if choices and len(given) > 1:
        raise BcosError(f"--target {choices[0]} cannot go with other targets, got {', '.join(given)}")
    options = MapOptions(
        methods=tuple(method or MapOptions.methods),
        targets=() if choices else tuple(class_index(name, trained.classes) for name in given),
        choice=choices[0] if choices else PREDICTED,
        weights=raw_weight,
    )
    if shards.split.note is not None and process_state().is_main_process:
        tell(shards.split.note)
    written = explain_shards(
        trained,
        shards.location,
        out,
        options,
        split=shards.split.name,
        reading=shards.reading,
        batch_size=batch_size,
        workers=workers,
        name=run_or_model,
    )
    if process_state().is_main_process:
        counts = {"images": written.images, "shards": written.shards, "of these already there": written.resumed}
        if as_json:
            say_json(asdict(written))
        else:
            console.table(f"maps in {out}", ["", "count"], [(what, f"{n:,}") for what, n in counts.items()])
    leave()
