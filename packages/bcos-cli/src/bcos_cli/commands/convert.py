"""``bcos convert``."""

import math
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from bcos_cli.config.trust import TrustRun, trust_runs, trusts_runs
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say_json
from bcos_core.errors import BcosError
from bcos_core.plugin_guard import diverted_output

if TYPE_CHECKING:
    from bcos_models import ConversionReport, ModelConfig, TrainedModel
    from bcos_models.conversion import Step

bcos_cli_commands = hookimpl(lambda app: app.command()(convert))


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
        int | None, typer.Option(help="Number of outputs; by default that of the original.", min=1)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("-o", "--override", help="option=value, such as b=1 or keep_bias=true; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what each layer would become, and why; needs no weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    trust_run: TrustRun = False,
) -> None:
    """Convert a trained network into a B-cos network, to be fine-tuned."""
    trust_runs(trust_run)
    with diverted_output() if as_json else nullcontext():  # the network may print
        name, report = _convert(model, weights, classes, overrides or [], out, dry_run)
    if as_json:
        say_json(report.to_dict())
    else:
        _print(name, report, None if dry_run else out, every_layer=dry_run)


def _convert(
    model: str, weights: str | None, num_classes: int | None, overrides: list[str], out: Path | None, dry_run: bool
) -> "tuple[str, ConversionReport]":
    """Convert a network, write it to a folder, and return its name and a report."""
    from bcos_cli.config import override
    from bcos_models import create_model, get_spec, imagenet, load_trained, save_pretrained
    from bcos_models.registry import describe
    from bcos_models.weights import WEIGHTS_NAME

    if not dry_run:
        _check_folder(out)
    options: dict[str, Any] = {}
    for text in overrides:
        override(options, text)
    run = load_trained(model, trust=trusts_runs()) if Path(model).is_dir() else None
    names: list[str] | None = None
    if run is not None:
        if weights is not None or num_classes is not None:
            raise BcosError(f"--weights and --classes go with the name of a model; {model!r} has its own")
        weights, num_classes, names = str(Path(model) / WEIGHTS_NAME), len(run.classes), run.classes
        model, options = _run_options(run, options)
    get_spec(model)  # a wrong name fails here
    if "/" not in model:
        raise BcosError(
            f"{model!r} is one of our models; bcos convert takes timm/NAME, torchvision/NAME, bcosified/{model} if it "
            "is a plain one, or the folder of a run"
        )
    pretrained = weights is None and not dry_run
    made = create_model(
        model, pretrained=pretrained, weights=None if dry_run else weights, num_classes=num_classes, **options
    )
    config: ModelConfig = made.bcos_config  # type: ignore[assignment] # reason: a plain attribute of the module
    if run is not None:
        own = replace(config.input, size=run.input.size, resize=run.input.resize, range=run.input.range)
        describe(made, replace(config, input=own))
    if run is None and num_classes is None and config.num_classes == imagenet.CLASSES:
        names = imagenet.class_names()
    if out is not None and not dry_run:
        save_pretrained(made, out, class_names=names)
    return model, cast("ConversionReport", made.conversion)


def _check_folder(out: Path | None) -> None:
    from bcos_cli.config.output_path import check_writable

    if out is None:
        raise BcosError("there is nowhere to write the converted network; give a folder with --out, or --dry-run")
    check_writable(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise BcosError(f"{str(out)!r} is not empty; choose another folder with --out")


def _run_options(run: "TrainedModel", options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and options to convert the network of a run with."""
    from bcos_models import get_spec

    if run.options.get("as_is"):
        return run.name, {**{k: v for k, v in run.options.items() if k != "as_is"}, **options}
    if "/" in run.name:
        shown = ", ".join(f"{key}={value}" for key, value in run.options.items()) or "b=2"
        raise BcosError(
            f"the network of the run is {run.name} converted already ({shown}); continue with bcos train RECIPE --from "
            "the run, where annealing.exponent_to and annealing.bias_epochs take it further"
        )
    name = f"bcosified/{run.name}"
    spec = get_spec(name)
    if run.input.channels != spec.input.channels:
        raise BcosError(f"the run's images have {run.input.channels} channels, {run.name} has {spec.input.channels}")
    return name, {**({"network": run.options} if run.options else {}), **options}


def _print(name: str, report: "ConversionReport", out: Path | None, *, every_layer: bool) -> None:
    """Print what each kind of layer became, and why; before that, the same of every layer."""
    from bcos_cli import console
    from bcos_core.image_share import percent

    line = partial(console.out.print, soft_wrap=True)
    for step in report.steps if every_layer else ():
        without = f"; without {', '.join(step.dropped)}" if step.dropped else ""
        line(f"{step.name}: {_change(step)} ({step.reason}{without})")
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for step in report.steps:
        kinds[_change(step), step.reason].append(step.name)
    console.table(
        f"{name}: {len(report.replaced)} layers replaced, {len(report.kept)} stay",
        ["what", "count", "rule", "first"],
        [(what, len(names), reason, names[0]) for (what, reason), names in kinds.items()],
        prose=["rule"],
    )
    for note in report.notes:
        line(f"· {note}")
    constants = sorted(report.constants.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {share:.1%}" for name, share in constants[:6] if share > 0)
    line(f"· constants that remain, as shares of a logit's size: {shown or 'none'}")
    share, cancelled = (percent(math.nan if v is None else v) for v in (report.image_share, report.cancellation))
    line(f"· for a random image: image share {share}, cancellation {cancelled}")
    if out is not None:
        line(f"written to {out}; bcos explain {out} IMAGE shows what it sees; bcos train fine-tunes {name}")


def _change(step: "Step") -> str:
    return step.before if step.after == step.before else f"{step.before} → {step.after}"
