"""One conversion of a network: from its name or run to the folder of the converted one."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from bcos_cli import console
from bcos_cli.config import override
from bcos_cli.config.network import given_images, read_classes, tell_images
from bcos_cli.config.output_path import check_writable
from bcos_cli.config.trust import trusts_runs
from bcos_cli.data.index import load_index
from bcos_cli.data.loader import sampled_images
from bcos_cli.processes.memory import keep_freed_memory
from bcos_core.errors import BcosError
from bcos_models import (
    InputSpec,
    ModelConfig,
    TrainedModel,
    create_model,
    get_spec,
    imagenet,
    load_trained,
    save_pretrained,
)
from bcos_models.convert.bcosify import fit_conversion
from bcos_models.convert.network import BcosifiedNetwork
from bcos_models.convert.origins import classes_of_weights
from bcos_models.convert.probe import ProbeStep, probe_conversion
from bcos_models.file_names import WEIGHTS_NAME
from bcos_models.registry import check_named, describe

_OF_ORIGINAL = ("network", "images")
"""Options of the network as it was."""
_FITTED, _PROBED = 256, 128
"""Images that kernels are fitted to, and others on which a conversion is tried."""


class ConversionTask:
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
        if out is not None and not dry_run:
            _check_folder(out)
        self.dry_run = dry_run
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

    def convert(self) -> BcosifiedNetwork:
        """Convert the network, with the description that is saved with it."""
        made = cast("BcosifiedNetwork", self._create(self.options))
        config: ModelConfig = made.bcos_config  # type: ignore[assignment] # reason: a plain attribute of the module
        if self.run is not None:
            describe(made, replace(config, input=self._input(config.input)))
        else:
            if self.own_classes and config.num_classes == imagenet.CLASSES:
                self.classes = imagenet.class_names()
            if self.weights is not None or "images" in self.options:
                tell_images(self.name, replace(config.input, encoding="standardize"), given_images())
        return made

    def fit(self, data: str, made: BcosifiedNetwork) -> None:
        """Fit the kernels of the converted network to images."""
        keep_freed_memory()
        plain = self.plain()
        images, _ = self._images(data, plain, 0, _FITTED)
        spec = plain.input
        made.eval()
        if not fit_conversion(made, plain.model, images, mean=spec.mean, std=spec.std):
            raise BcosError("there is no layer to fit: they are while biases are removed and norms uncentred")

    def probe(self, data: str, fitted: BcosifiedNetwork | None) -> list[ProbeStep]:
        """Return what each step of the conversion costs, on images to which kernels are not fitted."""
        keep_freed_memory()
        plain = self.plain()
        images, labels = self._images(data, plain, 1, _PROBED)
        options = {key: value for key, value in self.options.items() if key not in _OF_ORIGINAL}
        spec = plain.input
        return list(
            probe_conversion(plain.model, images, labels=labels, fitted=fitted, mean=spec.mean, std=spec.std, **options)
        )

    def plain(self) -> TrainedModel:
        """Return the network as it was."""
        made = self._create({"as_is": True} | {k: v for k, v in self.options.items() if k in _OF_ORIGINAL}).eval()
        config: ModelConfig = made.bcos_config  # type: ignore[assignment] # reason: a plain attribute of the module
        return TrainedModel(made, replace(config, input=self._input(config.input), classes=self.classes))

    def _input(self, spec: InputSpec) -> InputSpec:
        """Return a network's input, for images of the run's size."""
        if self.run is None:
            return spec
        own = self.run.input
        return replace(spec, size=own.size, resize=own.resize, range=own.range)

    def save(self, made: nn.Module, out: Path) -> None:
        """Write the converted network."""
        save_pretrained(made, out, class_names=self.classes)

    def _create(self, options: dict[str, Any]) -> nn.Module:
        return create_model(
            self.name,
            pretrained=self.weights is None and not self.dry_run,
            weights=None if self.dry_run else self.weights,
            num_classes=self.num_classes,
            **options,
        )

    @staticmethod
    def _images(data: str, plain: TrainedModel, part: int, number: int) -> tuple[Tensor, Tensor | None]:
        """Return images in [0, 1] of the split train, evenly spaced, and their labels, if the network knows them."""
        index = load_index(data)
        images, labels = sampled_images(data, index, "train", plain.input, number, part, of=2)
        try:
            columns = plain.align_classes(index.classes, data)
        except BcosError as reason:
            console.err.print(f"there is no accuracy: {reason}")
            return images, None
        return images, None if index.multi_label else labels.new_tensor([columns[k] for k in labels.tolist()])


def _check_folder(out: Path) -> None:
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


def _run_options(run: TrainedModel, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and options to convert the network of a run with."""

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
