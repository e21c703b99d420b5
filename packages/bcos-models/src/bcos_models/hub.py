"""Folders and repositories that hold a model whole: weights, configuration, model card.

The format is timm's, so ``timm.create_model("hf-hub:owner/repository")`` opens them too (after ``import
bcos_models``).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from bcos_core.errors import BcosError, first_line
from bcos_core.files import write_atomically
from bcos_core.text import parse_json, read_text
from bcos_models.download import hub_file
from bcos_models.file_names import CONFIG_NAME, WEIGHTS_NAME
from bcos_models.model_config import ModelConfig, check_name, check_outputs, read_input, section, usual_probabilities
from bcos_models.reconstruction import rebuild
from bcos_models.timm_models import PREFIX, pretrained_cfg
from bcos_models.weights import read_state, save_weights, uncompiled

CARD_NAME = "README.md"
_KEY = "bcos_models"


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    description: str = "",
    license: str | None = None,
) -> Path:
    """Write a model that :func:`bcos_models.create_model` made to a folder, for :func:`from_pretrained`.

    Args:
        model: the model, with weights worth keeping.
        folder: is created; holds ``model.safetensors``, ``config.json`` and, unless it has one, ``README.md`` (a
            model card).
        class_names: of the outputs, in their order; None for those that :func:`from_pretrained` found, if any.
        description: text for the model card: data, training, results.
        license: of the weights, as the hub's identifiers name it, such as ``"apache-2.0"``.

    Returns:
        The folder.

    Raises:
        BcosError: a model from elsewhere, options that JSON does not know, or names for another number of
            classes.
    """
    model = uncompiled(model)
    config = _config_of(model, class_names)
    try:
        text = json.dumps(_hub_config(model, config), indent=2)
    except TypeError as reason:
        raise BcosError(f"cannot write the options of {config.name!r} as JSON: {reason}") from reason
    folder = Path(folder)
    save_weights(model, folder / WEIGHTS_NAME)
    write_atomically(folder / CONFIG_NAME, f"{text}\n")
    if not (folder / CARD_NAME).exists():
        write_atomically(folder / CARD_NAME, _card(model, config, description, license))
    return folder


def from_pretrained(source: str | Path, *, trust: bool = False) -> nn.Module:
    """Build the model that a folder or a repository holds.

    Args:
        source: a folder written by :func:`save_pretrained`, or ``owner/repository[@revision]`` on the hub.
        trust: take options of its network that name files or addresses, which are then read or fetched.

    Returns:
        The model, in eval mode; its attribute ``class_names`` names the classes, or is None.

    Raises:
        BcosError: nothing there, or not a model of this package.
    """
    config_path, weights = (_file(source, name) for name in (CONFIG_NAME, WEIGHTS_NAME))
    config = _read_config(config_path, str(source))
    return rebuild(config, read_state(weights), source=str(source), trust=trust)


def _read_config(path: Path, source: str) -> ModelConfig:
    try:
        values = section(parse_json(read_text(path)), "it")
        ours = section(values.get(_KEY), _KEY)
        name, options = ours.get("name", ""), section(ours.get("options"), "options")
        spec = read_input(ours.get("input"))
        check_name(name)
        probabilities = ours.get("probabilities", usual_probabilities(name, spec))  # earlier files do not say
        number = check_outputs(values.get("num_classes"))
        names, more = values.get("label_names"), {key: ours.get(key) for key in ("decisions", "package")}
        config = ModelConfig(name, number, options, spec, names, probabilities, **more)
        config.check()
    except BcosError as reason:
        raise BcosError(
            f"{source!r} holds no model that save_pretrained wrote: {CONFIG_NAME} lacks or garbles it: {reason}"
        ) from reason
    return config


def push_to_hub(
    model: nn.Module,
    repository: str,
    *,
    class_names: Sequence[str] | None = None,
    description: str = "",
    license: str | None = None,
    private: bool = False,
    token: str | None = None,
    message: str = "Add model",
) -> str:
    """Upload a model to the Hugging Face hub; the repository is created if it is not there, and its card is kept.

    Args:
        model: made by :func:`bcos_models.create_model`.
        repository: ``owner/repository``.
        class_names: as for :func:`save_pretrained`; so are `description` and `license`.
        private: whether a new repository is.
        token: of the user; None for the one that ``huggingface-cli login`` stored.
        message: of the commit.

    Returns:
        Its URL.

    Raises:
        BcosError: what :func:`save_pretrained` refuses, or what the hub answers.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, class_names=class_names, description=description, license=license)
        try:
            url = str(api.create_repo(repository, private=private, exist_ok=True))
            kept = [CARD_NAME] if api.file_exists(repository, CARD_NAME) else []  # somebody may have edited it
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message, ignore_patterns=kept)
        except Exception as reason:  # the library raises many types, of its HTTP client too
            raise BcosError(
                f"cannot upload to {repository!r}: {first_line(reason)}; check its name, your token and the network"
            ) from reason
    return url


def _file(source: str | Path, name: str) -> Path:
    folder = Path(source)
    if folder.is_dir():
        if not (folder / name).is_file():
            raise BcosError(f"{str(source)!r} holds no {name}; give a folder that save_pretrained wrote")
        return folder / name
    return hub_file(str(source).removeprefix("hf://"), name)


def _config_of(model: nn.Module, class_names: Sequence[str] | None) -> ModelConfig:
    """Description of a model with its present number of classes, and with names of them where there are any."""
    config = getattr(model, "bcos_config", None)
    if not isinstance(config, ModelConfig):
        raise BcosError(f"the model ({type(model).__name__}) was not made by bcos_models.create_model")
    number = getattr(model, "num_classes", config.num_classes)
    if class_names is not None and len(class_names) != number:
        raise BcosError(f"class_names must name the {number} outputs, got {len(class_names)}")
    known = getattr(model, "class_names", None) or config.classes
    if class_names is None and known is not None and len(known) == number:
        class_names = known
    return replace(config, num_classes=number, classes=class_names)


def _hub_config(model: nn.Module, config: ModelConfig) -> Mapping[str, Any]:
    classifier = getattr(model, "classifier_name", None)
    return {
        "architecture": PREFIX + config.name,
        "num_classes": config.num_classes,
        "num_features": getattr(model, "num_features", None),
        "model_args": dict(config.options),
        **({} if config.classes is None else {"label_names": list(config.classes)}),
        "pretrained_cfg": pretrained_cfg(config.input) | {"num_classes": config.num_classes, "classifier": classifier},
        _KEY: {
            "version": version("bcos-models"),
            "name": config.name,
            "options": dict(config.options),
            "input": config.input.to_dict(),
            "probabilities": config.probabilities,
            **config.optional(),
        },
    }


def _option_rows(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield options by their dotted keys, with their values in JSON."""
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from _option_rows(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _card(model: nn.Module, config: ModelConfig, description: str, license: str | None) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        license=license,
        library_name="timm",  # the hub shows its snippet, which works after `import bcos_models`
        pipeline_tag="image-classification",
        tags=["b-cos", "interpretability", "image-classification"],
    )
    card = ModelCard.from_template(
        data,
        template_str=resources.files("bcos_models").joinpath("card.md.jinja").read_text(encoding="utf-8"),
        name=config.name,
        params=f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M",
        classes=config.num_classes,
        input=config.input,
        options=dict(_option_rows(config.options)),
        description=description,
    )
    return f"{card}\n"
