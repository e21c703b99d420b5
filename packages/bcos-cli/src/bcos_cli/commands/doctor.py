"""``bcos doctor``."""

from contextlib import nullcontext
from dataclasses import asdict
from typing import Annotated

import typer

from bcos_cli.commands.listing import AsJson
from bcos_cli.commands.train import Classes, HeadOnly, Out, Overrides, RecipeName, Start, StartWeights
from bcos_cli.config.trust import TrustRun, trust_runs
from bcos_cli.data.data_set import DataPath
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say_json
from bcos_cli.processes.device import Device, use_device
from bcos_core.plugin_guard import diverted_output

bcos_cli_commands = hookimpl(lambda app: app.command()(doctor))


def doctor(
    recipe: RecipeName = None,
    data: DataPath = None,
    overrides: Overrides = None,
    start: Start = None,
    weights: StartWeights = None,
    head_only: HeadOnly = False,
    classes: Classes = None,
    out: Out = None,
    num_processes: Annotated[int, typer.Option(help="Processes that the run will have.", min=1)] = 1,
    hashes: Annotated[bool, typer.Option("--hashes", help="Read all shards and compare their SHA-256.")] = False,
    trust_run: TrustRun = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Check a run before it starts: data, batches, network, machine. Exit status 1 if there are problems.

    Takes the arguments of bcos train, and writes nothing but the shards of a registered data set. The network is
    trained for two steps on images of the shards, and explained.
    """
    trust_runs(trust_run)
    use_device(device)
    from bcos_cli.train.arguments import resolve_arguments

    run = resolve_arguments(recipe, data, overrides, start, head_only, classes, out, weights=weights, auto_resume=True)

    from bcos_cli import console
    from bcos_cli.doctor.checkup import examine
    from bcos_cli.processes.group import leave

    try:
        with diverted_output() if as_json else nullcontext():  # networks, losses and data sets may print
            found = list(examine(run.recipe, run.folder, processes=num_processes, hashes=hashes))
    finally:
        leave()
    problems = [finding for finding in found if finding.status == "problem"]
    if as_json:
        say_json([asdict(finding) for finding in found])
    else:
        console.table(
            "doctor", ["check", "status", "found"], [(f.check, f.status, f.text) for f in found], prose=["found"]
        )
        notes = sum(finding.status == "note" for finding in found)
        console.out.print(f"{_counted(len(problems), 'problem')}, {_counted(notes, 'note')}")
    if problems:
        raise typer.Exit(1)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
