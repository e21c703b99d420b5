"""Folders and repositories that hold a model whole: weights, configuration, model card.

The format is timm's, so ``timm.create_model("hf-hub:owner/repository")`` opens them too (after ``import
bcos_models``).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

import bcos_models
from bcos_core.documents import parse_json, read_text
from bcos_core.errors import BcosError, first_line
from bcos_core.files import write_atomically
from bcos_models.description import check_classes, check_outputs, read_input, section
from bcos_models.reconstruction import rebuild
from bcos_models.spec import ModelConfig
from bcos_models.timm_models import PREFIX, pretrained_cfg
from bcos_models.weights import WEIGHTS_NAME, read_state, save_weights, uncompiled

CONFIG_NAME = "config.json"
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
    """Write a model that :func:`bcos_models.create_model` made to a folder, from which it can be built again.

    Args:
        model: the model, with weights worth keeping.
        folder: is made; holds ``model.safetensors``, ``config.json`` and, unless it has one, ``README.md`` (a
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
    made = _made(model)
    known: Sequence[str] | None = getattr(model, "class_names", None)
    if class_names is None and known is not None and len(known) == made.num_classes:
        class_names = known
    if class_names is not None and len(class_names) != made.num_classes:
        raise BcosError(f"class_names must name the {made.num_classes} outputs, got {len(class_names)}")
    try:
        config = json.dumps(_config(model, made, class_names), indent=2)
    except TypeError as reason:
        raise BcosError(f"cannot write the options of {made.name!r} as JSON: {reason}") from reason
    folder = Path(folder)
    save_weights(model, folder / WEIGHTS_NAME)
    write_atomically(folder / CONFIG_NAME, f"{config}\n")
    if not (folder / CARD_NAME).exists():
        write_atomically(folder / CARD_NAME, _card(model, made, description, license))
    return folder


def from_pretrained(source: str | Path, *, trust: bool = False) -> nn.Module:
    """Build the model that a folder or a repository holds.

    Args:
        source: a folder written by :func:`save_pretrained`, or ``owner/repository[@revision]`` on the hub.
        trust: take options of its network that name files or addresses, which are then read or fetched.

    Returns:
        The model, in eval mode; its attribute ``class_names`` tells the classes, or is None.

    Raises:
        BcosError: nothing there, or no model of this package.
    """
    config_path, weights = (_file(source, name) for name in (CONFIG_NAME, WEIGHTS_NAME))
    made, class_names = _read_config(config_path, str(source))
    model = rebuild(made, read_state(weights), source=str(source), trust=trust)
    setattr(model, "class_names", class_names)  # noqa: B010 - reason: modules are typed without it
    return model


def _read_config(path: Path, source: str) -> tuple[ModelConfig, list[str] | None]:
    try:
        config = section(parse_json(read_text(path)), "it")
        described = section(config.get(_KEY), _KEY)
        options = section(described.get("options"), "options")
        number = check_outputs(config.get("num_classes"))
        made = ModelConfig(described.get("name", ""), number, options, read_input(described.get("input")))
        names = config.get("label_names")
        if names is not None:
            check_classes(names)
            if len(names) != number:
                raise BcosError(f"label_names has {len(names):,} names for {number:,} outputs")
    except BcosError as reason:
        raise BcosError(
            f"{source!r} holds no model that save_pretrained wrote: {CONFIG_NAME} lacks or garbles it: {reason}"
        ) from reason
    return made, names


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
    """Upload a model to the Hugging Face hub; the repository is made if it is not there, its card is kept.

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


def hub_file(repository: str, name: str) -> Path:
    """Download a file of ``owner/repository[@revision]``, or find it in the hub's cache.

    Raises:
        BcosError: no such repository, revision or file, or no network.
    """
    from huggingface_hub import hf_hub_download

    repo_id, _, revision = repository.partition("@")
    try:
        return Path(hf_hub_download(repo_id, name, revision=revision or None, library_name="bcos-models"))
    except Exception as reason:  # the library raises many types, of its HTTP client too
        raise BcosError(
            f"cannot get {name} of {repository!r} from the Hugging Face hub: {first_line(reason)}; "
            "check the name (owner/repository, with @revision if need be) and the network, or give a local path"
        ) from reason


def _file(source: str | Path, name: str) -> Path:
    folder = Path(source)
    if folder.is_dir():
        if not (folder / name).is_file():
            raise BcosError(f"{str(source)!r} holds no {name}; give a folder that save_pretrained wrote")
        return folder / name
    return hub_file(str(source).removeprefix("hf://"), name)


def _made(model: nn.Module) -> ModelConfig:
    made = getattr(model, "bcos_config", None)
    if not isinstance(made, ModelConfig):
        raise BcosError(f"the model ({type(model).__name__}) was not made by bcos_models.create_model")
    return replace(made, num_classes=getattr(model, "num_classes", made.num_classes))


def _config(model: nn.Module, made: ModelConfig, class_names: Sequence[str] | None) -> Mapping[str, Any]:
    classifier = getattr(model, "classifier_name", None)
    cfg = pretrained_cfg(made.input) | {"num_classes": made.num_classes, "classifier": classifier}
    return {
        "architecture": PREFIX + made.name,
        "num_classes": made.num_classes,
        "num_features": getattr(model, "num_features", None),
        "model_args": dict(made.options),
        **({} if class_names is None else {"label_names": list(class_names)}),
        "pretrained_cfg": cfg,
        _KEY: {
            "version": bcos_models.__version__,
            "name": made.name,
            "options": dict(made.options),
            "input": asdict(made.input),
        },
    }


def _card(model: nn.Module, made: ModelConfig, description: str, license: str | None) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        license=license,
        library_name="timm",  # the hub shows its snippet, which works after `import bcos_models`
        pipeline_tag="image-classification",
        tags=["b-cos", "interpretability", "image-classification"],
    )
    card = ModelCard.from_template(
        data,
        template_str=resources.files(bcos_models).joinpath("card.md.jinja").read_text(encoding="utf-8"),
        name=made.name,
        params=f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M",
        classes=made.num_classes,
        input=made.input,
        options=dict(made.options),
        description=description,
    )
    return f"{card}\n"
