"""``bcos train``."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from bcos_cli.commands.listing import AsJson
from bcos_cli.config.trust import TrustRun, trust_runs
from bcos_cli.data.data_set import DataPath
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say_json
from bcos_cli.processes.device import Device, use_device
from bcos_core.plugin_guard import diverted_output

RecipeName = Annotated[
    str | None,
    typer.Argument(
        help="A YAML file, or a name that bcos recipes lists; finetune by default with --from, the run's own with "
        "--resume."
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("-o", "--override", help="key=value, such as train.epochs=5; repeatable.")
]
Start = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Start from this network: a run, a .safetensors file, hf://owner/repository, or a model's name; "
        "timm/NAME and torchvision/NAME as they are, not converted.",
    ),
]
StartWeights = Annotated[
    str | None, typer.Option("--weights", help="File or URL of weights for the model that is named.")
]
HeadOnly = Annotated[bool, typer.Option("--head-only", help="Train the classifier alone, and leave the rest as it is.")]
Classes = Annotated[int | None, typer.Option(help="Expected number of classes; the data must have as many.", min=2)]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; runs/RECIPE by default.")]

bcos_cli_commands = hookimpl(lambda app: app.command()(train))


def train(
    recipe: RecipeName = None,
    data: DataPath = None,
    overrides: Overrides = None,
    start: Start = None,
    weights: StartWeights = None,
    head_only: HeadOnly = False,
    classes: Classes = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="Continue the run in --out if there is one, else start it.")
    ] = False,
    trust_run: TrustRun = False,
    device: Device = None,
    as_json: AsJson = False,
    num_processes: Annotated[int, typer.Option(help="Processes on this machine; one per GPU.", min=1)] = 1,
) -> None:
    """Train a network and write its folder: weights, metrics, checkpoints, evaluation, report.html.

    Ended by SIGTERM or SIGUSR1, it writes a checkpoint and exits with status 75.
    """
    trust_runs(trust_run)
    use_device(device)
    from bcos_cli.train.arguments import resolve_arguments

    run = resolve_arguments(
        recipe,
        data,
        overrides,
        start,
        head_only,
        classes,
        out,
        weights=weights,
        resume=resume,
        auto_resume=auto_resume,
    )
    from bcos_cli.data.index import load_index
    from bcos_cli.train.validation_split import Splits

    Splits.of(run.recipe.data, load_index(run.recipe.data.location))  # a split that is missing costs no time
    if num_processes > 1:
        from bcos_cli.processes.launcher import launch
        from bcos_cli.train.batch_size import plan_batches

        plan_batches(run.recipe.train, num_processes)  # report a mistake before processes are started
        launch(num_processes)
        return

    from bcos_cli.processes.group import leave, process_state
    from bcos_cli.runs.evaluation import finish_run
    from bcos_cli.train.trainer import trained

    try:
        with (
            diverted_output() if as_json else nullcontext(),
            trained(run.recipe, run.folder, resume=run.resume) as result,
        ):
            evaluation = finish_run(result, run.folder)
        if as_json and process_state().is_main_process:
            say_json(None if evaluation is None else evaluation.to_dict())
    finally:
        leave()
