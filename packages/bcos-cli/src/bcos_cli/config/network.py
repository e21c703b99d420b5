"""The network that a user names: options of every command that uses one. Imports no torch until it is loaded."""

import inspect
import os
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from unicodedata import normalize

import typer

from bcos_cli.config.trust import trusts_runs
from bcos_core.errors import BcosError, shown
from bcos_models.spec import MAX_SIDE, ImageChanges, InputSpec

if TYPE_CHECKING:
    from bcos_models import TrainedModel

RunOrModel = Annotated[str, typer.Argument(help="Folder or weights file of a run, or a model, such as timm/resnet50.")]
Weights = Annotated[
    str | None, typer.Option(help="A .safetensors or .pth file, of any number of classes, for a model by name.")
]
ClassFile = Annotated[
    Path | None, typer.Option("--classes", help="File with the names of the network's outputs, one in each line.")
]

_images: ContextVar[ImageChanges | None] = ContextVar("bcos_images", default=None)
_OPTIONS = {
    "image_size": (
        int,
        typer.Option(
            help="Side in pixels of the images that a model by name takes, where its weights were trained with others "
            "than its library's.",
            min=1,
            max=MAX_SIDE,
        ),
    ),
    "resize": (
        str,
        typer.Option(
            help="Shorter side to which its images are resized before the middle is cut out, or squash; in proportion "
            "to --image-size by default."
        ),
    ),
    "mean": (
        str,
        typer.Option(help="Mean of its images' channels, such as 0.485,0.456,0.406, or one number for all."),
    ),
    "std": (str, typer.Option(help="Their standard deviation.")),
}


def takes_images(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that has ``--weights`` the options of the images, which :func:`given_images` returns."""

    @wraps(command)
    def wrapper(**arguments: Any) -> None:
        size, resize, mean, std = (arguments.pop(name) for name in _OPTIONS)
        images = ImageChanges(size, _parse_resize(resize), _parse_numbers("mean", mean), _parse_numbers("std", std))
        token = _images.set(images)
        try:
            command(**arguments)
        finally:
            _images.reset(token)

    signature = inspect.signature(command)
    optional = inspect.Parameter.KEYWORD_ONLY
    parameters = {name: p.replace(kind=optional) for name, p in signature.parameters.items()}
    for name, (kind, option) in _OPTIONS.items():
        parameters[name] = inspect.Parameter(name, optional, default=None, annotation=Annotated[kind | None, option])
    order = list(signature.parameters)
    after = order.index("weights") + 1
    made = [parameters[name] for name in (*order[:after], *_OPTIONS, *order[after:])]
    setattr(wrapper, "__signature__", signature.replace(parameters=made))  # noqa: B010 - reason: typer reads it
    wrapper.__annotations__ = {p.name: p.annotation for p in made}
    return wrapper


def given_images() -> ImageChanges:
    """Return what the running command was given with ``--image-size``, ``--resize``, ``--mean`` and ``--std``."""
    return _images.get() or ImageChanges()


def _parse_resize(text: str | None) -> int | Literal["squash"] | None:
    if text is None or text == "squash":
        return text  # type: ignore[return-value] # reason: a str that is compared
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise BcosError(f"--resize must be a number of pixels, or squash, got {shown(text)}")
    return int(text)


def _parse_numbers(name: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as reason:
        raise BcosError(
            f"--{name} must be numbers with commas between them, such as 0.485,0.456,0.406, got {shown(text)}"
        ) from reason


def load_network(
    run_or_model: str,
    weights: str | None = None,
    classes: Path | None = None,
    *,
    range: tuple[float, float] | None = None,
) -> "TrainedModel":
    """Load what a user names, with the names of its outputs from a file if one is given.

    Args:
        range: the values that are black and white in images of more than 8 bits; None for those of the network.

    Raises:
        BcosError: as :func:`bcos_models.load_trained`, or a file that cannot be read or has other names than outputs.
    """
    from bcos_models import load_trained

    names = None if classes is None else read_classes(classes)
    images = given_images()
    trained = load_trained(run_or_model, weights, classes=names, images=images, trust=trusts_runs())
    if weights is not None or images != ImageChanges():
        tell_images(run_or_model, trained.input, images)
    if range is not None:
        trained.config = replace(trained.config, input=replace(trained.input, range=range))
    return trained


def tell_images(name: str, spec: InputSpec, given: ImageChanges) -> None:
    """Say how images are prepared for weights that do not say it themselves."""
    from bcos_cli import console

    if os.environ.get("RANK", "0") != "0":
        return
    middle = f"{spec.size}×{spec.size}"
    parts = [f"resized to {middle}"] if spec.resize is None else [f"shorter side {spec.resize}", f"middle {middle}"]
    names = ["size", "resize"]
    if spec.encoding == "standardize":
        names += ["mean", "std"]
        for what, values in (("mean", spec.mean), ("std", spec.std)):
            own = values[: spec.channels]
            parts.append(f"{what} {','.join(f'{v:g}' for v in (own[:1] if len(set(own)) == 1 else own))}")
    options = {field: "--image-size" if field == "size" else f"--{field}" for field in names}
    as_given = [option for field, option in options.items() if getattr(given, field) is not None]
    others = [option for option in options.values() if option not in as_given]
    library, slash, _ = name.partition("/")
    whose = f"{library}'s" if slash else "the model's"
    origin = f"{', '.join(as_given)} as given" if as_given else whose
    if as_given and others:
        origin += f", the rest {whose}"
    change = f"; change with {', '.join(others)}" if others else ""
    console.err.print(f"images: {', '.join(parts)} ({origin}{change})")


def read_classes(path: Path) -> list[str]:
    """Read the names of classes, one in each line of a file; refuse one that cannot be read, or is not text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as reason:
        raise BcosError(f"cannot read the names of classes in {str(path)!r}: {reason}") from reason
    return [normalize("NFC", line.strip()) for line in lines if line.strip()]  # as class names of shards are
