"""``bcos convert``."""

import math
import shlex
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from bcos_cli.config.network import given_images, read_classes, takes_images, tell_images
from bcos_cli.config.trust import TrustRun, trust_runs, trusts_runs
from bcos_cli.data.data_set import packed_data_set
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say_json
from bcos_cli.processes.memory import keep_freed_memory
from bcos_core.errors import BcosError
from bcos_core.plugin_guard import diverted_output

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bcos_models import ConversionReport, InputSpec, ModelConfig, TrainedModel
    from bcos_models.conversion import Step
    from bcos_models.convert.network import BcosifiedNetwork
    from bcos_models.convert.probe import ProbeStep

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
    with diverted_output() if as_json else nullcontext():  # the network may print
        task = _Task(model, weights, classes, overrides or [], out, dry_run)
        made = task.convert()
        if fit is not None:
            task.fit(str(packed_data_set(fit)), made)
        steps = [] if probe is None else task.probe(str(packed_data_set(probe)), made if fit else None)
        if out is not None and not dry_run:
            task.save(made)
    report = cast("ConversionReport", made.conversion)
    if as_json:
        say_json(report.to_dict() | ({} if probe is None else {"probe": [vars(step) for step in steps]}))
    else:
        teacher = model if weights is None else "RUN"  # weights in a file have no name by which they are loaded
        next_step = None if out is None or dry_run else _training(out, fit or probe or "SHARDS", teacher)
        _print(task.name, report, next_step, every_layer=dry_run)
        _print_probe(steps)


_OF_ORIGINAL = ("network", "images")
"""Options of the network as it was."""
_RECIPE = "bcosify_photographs"
"""What fine-tunes a converted network."""
_FITTED, _PROBED = 256, 128
"""Images that kernels are fitted to, and others on which a conversion is tried."""


class _Task:
    """One conversion: the network as it was, and what it becomes."""

    def __init__(
        self,
        model: str,
        weights: str | None,
        classes: str | None,
        overrides: list[str],
        out: Path | None,
        dry_run: bool,
    ) -> None:
        from bcos_cli.config import override
        from bcos_models import get_spec, load_trained
        from bcos_models.convert.origins import classes_of_weights
        from bcos_models.file_names import WEIGHTS_NAME
        from bcos_models.registry import check_named

        if out is not None and not dry_run:
            _check_folder(out)
        self.out, self.dry_run = out, dry_run
        self.options: dict[str, Any] = {}
        for text in overrides:
            override(self.options, text)
        self.run = load_trained(model, trust=trusts_runs()) if Path(model).is_dir() else None
        num_classes, names = _parse_classes(classes)
        images = {name: value for name, value in asdict(given_images()).items() if value is not None}
        if self.run is not None:
            if weights is not None or classes is not None or images:
                raise BcosError(
                    "--weights, --classes, --image-size, --resize, --mean and --std go with the name of a model; "
                    f"{model!r} has its own"
                )
            weights, names = str(Path(model) / WEIGHTS_NAME), self.run.classes
            model, self.options = _run_options(self.run, self.options)
        else:
            check_named(model)
            self.options |= {"images": images} if images else {}
        self.name, self.weights, self.classes = model, weights, names
        get_spec(model)  # a wrong name fails here
        if "/" not in model:
            raise BcosError(
                f"{model!r} is one of our models; bcos convert takes timm/NAME, torchvision/NAME, bcosified/{model} if "
                "it is a plain one, or the folder of a run"
            )
        self.own_classes = num_classes is None and names is None
        known = self.run is not None or num_classes is not None or weights is None
        of_weights = None if known else classes_of_weights(model, str(weights))
        if names is not None and of_weights not in (None, len(names)):
            raise BcosError(f"--classes {classes} has {len(names):,} names, the weights are for {of_weights:,} classes")
        self.num_classes = num_classes or of_weights or (None if names is None else len(names))

    def convert(self) -> "nn.Module":
        """Convert the network, with the description that is saved with it."""
        from bcos_models import imagenet
        from bcos_models.registry import describe

        made = self._create(self.options)
        config: ModelConfig = made.bcos_config  # type: ignore[assignment] # reason: a plain attribute of the module
        if self.run is not None:
            own = replace(
                config.input, size=self.run.input.size, resize=self.run.input.resize, range=self.run.input.range
            )
            describe(made, replace(config, input=own))
        else:
            if self.own_classes and config.num_classes == imagenet.CLASSES:
                self.classes = imagenet.class_names()
            if self.weights is not None or "images" in self.options:
                tell_images(self.name, replace(config.input, encoding="standardize"), given_images())
        return made

    def fit(self, data: str, made: "nn.Module") -> None:
        """Fit the kernels of the converted network to images."""
        from bcos_models.convert.bcosify import fit_conversion

        keep_freed_memory()
        plain = self.plain()
        images, _ = self._images(data, plain, 0, _FITTED)
        spec = plain.input
        network = cast("BcosifiedNetwork", made.eval())
        if not fit_conversion(network, plain.model, images, mean=spec.mean, std=spec.std):
            raise BcosError("there is no layer to fit: they are while biases are removed and norms uncentred")

    def probe(self, data: str, fitted: "nn.Module | None") -> "list[ProbeStep]":
        """Return what each step of the conversion costs, on images to which kernels are not fitted."""
        from bcos_models.convert.probe import probe_conversion

        keep_freed_memory()
        plain = self.plain()
        images, labels = self._images(data, plain, 1, _PROBED)
        made = cast("BcosifiedNetwork | None", fitted)
        options = {key: value for key, value in self.options.items() if key not in _OF_ORIGINAL}
        spec = plain.input
        return list(
            probe_conversion(plain.model, images, labels=labels, fitted=made, mean=spec.mean, std=spec.std, **options)
        )

    def plain(self) -> "TrainedModel":
        """Return the network as it was."""
        from bcos_models import TrainedModel

        made = self._create({"as_is": True} | {k: v for k, v in self.options.items() if k in _OF_ORIGINAL}).eval()
        config: ModelConfig = made.bcos_config  # type: ignore[assignment] # reason: a plain attribute of the module
        return TrainedModel(made, replace(config, input=self._input(config.input), classes=self.classes))

    def _input(self, spec: "InputSpec") -> "InputSpec":
        """Return a network's input, for images of the run's size."""
        if self.run is None:
            return spec
        own = self.run.input
        return replace(spec, size=own.size, resize=own.resize, range=own.range)

    def save(self, made: "nn.Module") -> None:
        """Write the converted network."""
        from bcos_models import save_pretrained

        assert self.out is not None
        save_pretrained(made, self.out, class_names=self.classes)

    def _create(self, options: dict[str, Any]) -> "nn.Module":
        from bcos_models import create_model

        return create_model(
            self.name,
            pretrained=self.weights is None and not self.dry_run,
            weights=None if self.dry_run else self.weights,
            num_classes=self.num_classes,
            **options,
        )

    @staticmethod
    def _images(data: str, plain: "TrainedModel", part: int, number: int) -> "tuple[Tensor, Tensor | None]":
        """Return images in [0, 1] of the split train, evenly spaced, and their labels, if the network knows them."""
        from bcos_cli import console
        from bcos_cli.data.index import load_index
        from bcos_cli.data.loader import sampled_images

        index = load_index(data)
        images, labels = sampled_images(data, index, "train", plain.input, number, part, of=2)
        try:
            columns = plain.align_classes(index.classes, data)
        except BcosError as reason:
            console.err.print(f"there is no accuracy: {reason}")
            return images, None
        return images, None if index.multi_label else labels.new_tensor([columns[k] for k in labels.tolist()])


def _check_folder(out: Path) -> None:
    from bcos_cli.config.output_path import check_writable

    check_writable(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise BcosError(f"{str(out)!r} is not empty; choose another folder with --out")


def _parse_classes(text: str | None) -> tuple[int | None, list[str] | None]:
    """Return the number of classes, or their names from a file."""
    if text is None:
        return None, None
    if not (text.isascii() and text.isdecimal()):
        return None, read_classes(Path(text))
    if not int(text):
        raise BcosError("--classes must be at least 1, or a file with the names of the classes, got 0")
    return int(text), None


def _run_options(run: "TrainedModel", options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and options to convert the network of a run with."""
    from bcos_models import get_spec

    def with_images(name: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        own, library = run.input, get_spec(name).input
        if (own.mean, own.std) != (library.mean, library.std):
            statistics = {"mean": own.mean[: own.channels], "std": own.std[: own.channels]}
            options = {**options, "images": statistics | options.get("images", {})}
        return name, options

    if run.options.get("as_is"):
        return with_images(run.name, {**{k: v for k, v in run.options.items() if k != "as_is"}, **options})
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
    return with_images(name, {**({"network": run.options} if run.options else {}), **options})


def _training(out: Path, data: str, teacher: str) -> str:
    """Say what is written, and the command that trains it."""
    command = [_RECIPE, "--from", str(out), "--data", data, "-o", f"distillation.teacher={teacher}"]
    return (
        f"written to {out}; it is to be fine-tuned, with the network as it was for a teacher: bcos train "
        + shlex.join(command)
    )


def _print(name: str, report: "ConversionReport", next_step: str | None, *, every_layer: bool) -> None:
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
    if not every_layer:  # of a network that has weights
        constants = sorted(report.constants.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{name} {share:.1%}" for name, share in constants[:6] if share > 0)
        line(f"· constants that remain, as shares of a logit's size: {shown or 'none'}")
        share, cancelled = (percent(math.nan if v is None else v) for v in (report.image_share, report.cancellation))
        line(f"· for {report.measured_on}: image share {share}, cancellation {cancelled}")
    if next_step is not None:
        line(next_step)


def _print_probe(steps: "Sequence[ProbeStep]") -> None:
    from bcos_cli import console
    from bcos_core.image_share import percent

    if not steps:
        return
    rows = [
        (
            s.name,
            f"{s.agreement:.1%}",
            "" if s.accuracy is None else f"{s.accuracy:.1%}",
            f"{s.spread:.2f}",
            percent(s.image_share),
        )
        for s in steps
    ]
    console.table(
        "what each step costs, norms measured anew",
        ["step", "as the original", "top-1", "spread of logits", "image share"],
        rows,
    )


def _change(step: "Step") -> str:
    return step.before if step.after == step.before else f"{step.before} → {step.after}"
