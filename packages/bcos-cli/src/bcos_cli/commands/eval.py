"""``bcos eval``."""

from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from bcos_cli.config.network import ClassFile, RunOrModel, Weights, takes_images
from bcos_cli.config.trust import TrustRun, trust_runs
from bcos_cli.data.data_set import DataPath, packed_data_set
from bcos_cli.data.pixels import AllowTruncated, RangeOption
from bcos_cli.evaluate.metrics import DEFAULT
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say_json, tell
from bcos_cli.processes.device import Device, use_device
from bcos_core.errors import BcosError
from bcos_core.plugin_guard import diverted_output

STDOUT = Path("-")


class _EvalCommand(TyperCommand):
    """Takes ``--json`` without a path too, as every other command does; options of typer always have a value."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        followed = pairwise([*arguments, "--"])
        is_option = [after.startswith("-") and after != str(STDOUT) for _, after in followed]
        whole = [
            [a, str(STDOUT)] if a == "--json" and ends else [a] for a, ends in zip(arguments, is_option, strict=True)
        ]
        return super().parse_args(context, [argument for part in whole for argument in part])


bcos_cli_commands = hookimpl(lambda app: app.command("eval", cls=_EvalCommand)(evaluate))


@takes_images
def evaluate(
    run_or_model: RunOrModel,
    data: DataPath = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help=f"A metric that bcos metrics lists; repeatable. By default {', '.join(DEFAULT)}."),
    ] = None,
    explainer: Annotated[
        list[str] | None,
        typer.Option(help="Explainer to score; repeatable. By default those of the run, or bcos; with --boxes bcos."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Option of a metric or explainer: NAME.KEY=VALUE, such as rise.n_masks=1000; repeatable."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="METRIC>=VALUE, such as gridpg/bcos>=0.8; exit status 1 if it does not hold; repeatable."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split to score on; test by default, val without one.")] = None,
    weights: Weights = None,
    classes: ClassFile = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="Annotations of photographs, a COCO file or VOC files, instead of shards; for the metric epg."
        ),
    ] = None,
    photos: Annotated[Path | None, typer.Option(help="Folder of the annotated photographs.")] = None,
    range: RangeOption = None,
    allow_truncated: AllowTruncated = False,
    images: Annotated[
        int | None, typer.Option(help="Number of images for metrics of single images, spread over the split.", min=1)
    ] = None,
    grids: Annotated[int | None, typer.Option(help="Grids of the pointing games.", min=1)] = None,
    grid_size: Annotated[int | None, typer.Option(help="Images along a side of a grid.", min=2)] = None,
    smooth: Annotated[int | None, typer.Option(help="Side of the mean filter over maps, odd.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images classified at a time.", min=1)] = None,
    explain_batch: Annotated[
        int | None, typer.Option(help="Images, or grids, explained at a time; halved if memory runs out.", min=1)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Loader processes; by default as in the run, or 2.", min=0)
    ] = None,
    on_error: Annotated[
        Literal["stop", "skip"] | None,
        typer.Option(help="What to do at a damaged image or shard. By default as in the run, or stop."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Print JSON; with a path, write all values to this file instead.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for scores.csv, scores.json, the predictions of all images (predictions.csv), and partial "
            "results, from which a killed evaluation continues."
        ),
    ] = None,
    trust_run: TrustRun = False,
    device: Device = None,
    num_processes: Annotated[int, typer.Option(help="Processes on this machine.", min=1)] = 1,
) -> None:
    """Score a network and its explanations on a split.

    For a run's folder, evaluation.json and report.html are rewritten. A killed evaluation continues where it stopped.
    Exit status 1 if contributions do not add up to the logits, or a --require does not hold.
    """
    from bcos_cli.config.section import parse_range
    from bcos_cli.data.splits import shards_of
    from bcos_cli.explain.arguments import check_arguments

    trust_runs(trust_run)
    use_device(device)
    if (boxes is None) != (photos is None):
        raise BcosError("--boxes and --photos go together: annotations, and the folder of their images")
    given = _given(
        metric or [],
        option or [],
        require or [],
        explainers=tuple(explainer or ()),
        split=split,
        images=images,
        grids=grids,
        grid_size=grid_size,
        smooth=smooth,
        batch_size=batch_size,
        explain_batch=explain_batch,
        workers=workers,
    )
    if boxes is not None:
        of_shards = {"data": data, "split": split, "images": images, "grids": grids, "grid-size": grid_size}
        of_shards |= {"batch-size": batch_size, "workers": workers}
        unused = [f"--{name}" for name, value in {**of_shards, "on-error": on_error}.items() if value is not None]
        if unused:
            raise BcosError(f"{', '.join(unused)} cannot go with --boxes, which scores all annotated photographs")
    elif range is not None or allow_truncated:
        raise BcosError(
            "--range and --allow-truncated go with --boxes: shards say themselves how they are read, or the run does "
            "(data.range, data.truncated)"
        )
    black_and_white = parse_range(range)
    check_arguments(run_or_model, explainer or ())
    shards = None if boxes is not None else shards_of(run_or_model, packed_data_set(data), split)
    if num_processes > 1:
        from bcos_cli.processes.launcher import launch

        launch(num_processes)
        return

    from bcos_cli.data.reading import Reading
    from bcos_cli.evaluate.photos import evaluate_photos
    from bcos_cli.evaluate.result import ScoreFiles
    from bcos_cli.processes.group import leave, process_state
    from bcos_cli.runs.evaluation import evaluate_run

    as_json = json_file == STDOUT
    files = ScoreFiles(None if as_json else json_file, out)
    if shards is not None and on_error is not None:
        given["reading"] = replace(shards.reading, skip=on_error == "skip")
    with diverted_output() if as_json else nullcontext():
        if boxes is not None and photos is not None:
            given["reading"] = Reading(truncated=allow_truncated)
            evaluation = evaluate_photos(
                run_or_model,
                boxes,
                photos,
                given,
                weights=weights,
                classes=classes,
                range=black_and_white,
                files=files,
            )
        else:
            evaluation = evaluate_run(run_or_model, given, shards=shards, weights=weights, classes=classes, files=files)
    state = process_state()
    if as_json and state.is_main_process:
        say_json(evaluation.to_dict())
    reasons = evaluation.failures(given.get("require", ()), metric or []) if state.is_main_process else []
    state.wait_for_everyone()  # the launcher ends all processes when one has ended
    leave()
    for reason in reasons:
        tell(reason)
    if reasons:
        raise typer.Exit(1)


def _given(metrics: list[str], options: list[str], require: list[str], **values: Any) -> dict[str, Any]:
    """Return the fields of ``EvaluationOptions`` that the user gives; None and empty values are not given."""
    from bcos_cli.evaluate.metrics import check_metrics
    from bcos_cli.evaluate.requirements import Condition

    conditions = tuple(Condition.parse(text) for text in require)
    check_metrics([condition.name for condition in conditions])
    asked = {
        "metrics": tuple(check_metrics(metrics)) if metrics else (),
        "options": _options_by_name(options),
        "require": conditions,
        **values,
    }
    return {name: value for name, value in asked.items() if value not in (None, (), {})}


def _options_by_name(given: list[str]) -> dict[str, dict[str, Any]]:
    """Read options of metrics and explainers, written ``NAME.KEY=VALUE``, into values by name and key."""
    from bcos_cli.config import override
    from bcos_cli.evaluate.metrics import all_metrics
    from bcos_core.plugins import suggestion
    from bcos_explain import list_explainers

    options: dict[str, Any] = {}
    for text in given:
        name, dot, _ = text.partition("=")[0].partition(".")
        if not dot or "=" not in text:
            raise BcosError(f"an option is written NAME.KEY=VALUE, such as rise.n_masks=1000, got {text!r}")
        known = [*list_explainers(), *all_metrics()]
        if name not in known:
            raise BcosError(f"there is no metric or explainer {name!r}; {suggestion(name, known)}")
        override(options, text)
    return options
