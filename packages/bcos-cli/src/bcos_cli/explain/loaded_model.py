"""A network with all that is needed to use it: input, classes, and what its logits mean."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from bcos_cli.config import Recipe, load_recipe
from bcos_cli.config.trust import check_trusted, is_address, trusts_runs
from bcos_cli.data.reading import Reading
from bcos_cli.train.nonfinite_loss import check_finite
from bcos_core.errors import BcosError, first_line
from bcos_core.files import write_atomically
from bcos_models import (
    InputSpec,
    ModelConfig,
    create_model,
    from_pretrained,
    get_spec,
    is_model,
    save_weights,
)
from bcos_models.convert.named import original
from bcos_models.description import NetworkDescription, Probabilities
from bcos_models.hub import CONFIG_NAME
from bcos_models.reconstruction import rebuild
from bcos_models.transforms import input_encoder
from bcos_models.weights import WEIGHTS_NAME, read_state

_METADATA = "bcos"
IMAGENET_CLASSES = 1000


@dataclass
class TrainedModel:
    """A network and its description, which travels in the header of its weights file."""

    model: nn.Module
    name: str
    options: dict[str, Any]
    input: InputSpec
    classes: list[str]
    probabilities: Probabilities

    def __post_init__(self) -> None:
        """Refuse what could not be read again, and weights that are not finite, whoever is about to use them."""
        _ = self.description
        check_finite(self.model)

    @property
    def description(self) -> NetworkDescription:
        """All that is said of the network beside its weights.

        Raises:
            BcosError: values that no network has, such as two classes of one name.
        """
        return NetworkDescription(self.name, self.options, self.input, self.classes, self.probabilities)

    def check_classes(self, classes: list[str], data: str) -> None:
        """Refuse shards of other classes than the network knows.

        Raises:
            BcosError: another number of them, or the same names in another order.
        """
        if len(classes) != len(self.classes):
            raise BcosError(
                f"the network knows {len(self.classes)} classes, the shards at {data!r} have {len(classes)}; "
                "give the shards it was trained on"
            )
        if classes != self.classes and set(classes) == set(self.classes):
            first = next(k for k, (a, b) in enumerate(zip(classes, self.classes, strict=True)) if a != b)
            raise BcosError(
                f"the shards at {data!r} number the network's classes in another order (class {first} is "
                f"{classes[first]!r} there, {self.classes[first]!r} here); pack them again in its order"
            )

    def encode(self, images: Tensor) -> Tensor:
        """8-bit images, or floats in [0, 1], (N, C, H, W) → what the network sees."""
        scaled = images if images.is_floating_point() else images.float() / 255
        encoded: Tensor = input_encoder(self.input)(scaled)
        return encoded

    def confidences(self, logits: Tensor) -> Tensor:
        """Logits (N, K) → probabilities (N, K).

        A sigmoid for each class, or a softmax, as the network was trained.
        """
        wide = logits.float()
        return wide.sigmoid() if self.probabilities == "sigmoid" else wide.softmax(1)

    def fingerprint(self) -> str:
        """SHA-256 of the weights and of all else that makes the network what it is."""
        described = [self.name, self.options, asdict(self.input), self.probabilities, self.classes]
        digest = hashlib.sha256(json.dumps(described, default=str).encode())
        for name, tensor in self.model.state_dict().items():
            data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(name.encode() + data.numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: Path, model: nn.Module | None = None) -> None:
        """Write the weights (of `model` if given) with the description in their header."""
        save_weights(model or self.model, path, metadata=self.metadata())

    def save_state(self, path: Path, state: Mapping[str, Tensor]) -> None:
        """Write weights that are not in this process's network, as :meth:`save`."""
        header = {"format": "pt", **self.metadata()}
        write_atomically(path, safetensors.torch.save({k: v.contiguous() for k, v in state.items()}, header))

    def metadata(self) -> dict[str, str]:
        """Return the description for the header of a weights file."""
        return {_METADATA: self.description.to_json()}


def load_trained(run_or_model: str, weights: str | None = None) -> TrainedModel:
    """Load what a user names.

    Args:
        run_or_model: a run's folder, a run's weights file, a folder or ``hf://`` repository that
            :func:`bcos_models.save_pretrained` or ``push_to_hub`` filled, or a model's name; ``timm/NAME`` and
            ``torchvision/NAME`` are those networks as they are, not converted.
        weights: of a model that is named; None for the published ones.

    Raises:
        BcosError: nothing of that name, or no weights.
    """
    path = Path(run_or_model)
    if weights is not None and not is_model(run_or_model):
        raise BcosError(f"--weights goes with the name of a model, got {run_or_model!r}; bcos models lists them")
    if run_or_model.startswith("hf://") or (path / CONFIG_NAME).is_file():
        return _from_pretrained(run_or_model)
    if path.is_dir():
        if not (path / WEIGHTS_NAME).is_file():
            raise BcosError(
                f"{run_or_model!r} holds no {WEIGHTS_NAME}: it is no finished run; "
                f"give the folder of one, or continue it with: bcos train {run_or_model}/config.yaml "
                f"--resume --out {run_or_model}"
            )
        return _load_file(path / WEIGHTS_NAME)
    if path.suffix == ".safetensors":
        return _load_file(path)
    if not is_model(run_or_model):
        raise BcosError(
            f"{run_or_model!r} is neither a run's folder, nor a .safetensors file, nor a model; bcos models lists "
            "those, and hf://owner/repository names one on the Hugging Face hub"
        )
    spec = get_spec(run_or_model)
    if "/" in run_or_model:
        return _as_it_is(run_or_model, weights)
    if weights is None and spec.checkpoint is None:
        raise BcosError(
            f"the model {run_or_model!r} has no published weights; name a file with --weights, or give a run's folder"
        )
    model = create_model(run_or_model, weights=weights, pretrained=weights is None).eval()
    names = imagenet_classes() if weights is None else None
    return _published(model, ModelConfig(run_or_model, spec.num_classes, {}, spec.input), names)


def _as_it_is(name: str, weights: str | None) -> TrainedModel:
    """A network of another library, unconverted."""
    model, seen, num_classes = original(name, weights)
    names = imagenet_classes() if num_classes == IMAGENET_CLASSES else None
    return _published(model, ModelConfig(name, num_classes, {}, seen), names)


def _from_pretrained(source: str) -> TrainedModel:
    model = from_pretrained(source, trust=trusts_runs())
    config: ModelConfig = model.bcos_config  # type: ignore[assignment] # reason: a plain attribute of the module
    names: list[str] | None = model.class_names  # type: ignore[assignment] # reason: a plain attribute of the module
    return _published(model, config, names)


def _published(model: nn.Module, config: ModelConfig, names: list[str] | None) -> TrainedModel:
    """Describe a network that no run of ours made: B-cos networks give a sigmoid for each class, others a softmax.

    Those that were converted (``timm/NAME``) and not trained since are others.
    """
    classes = names or [str(k) for k in range(config.num_classes)]
    is_other = config.input.encoding == "standardize" or "/" in config.name
    probabilities: Probabilities = "softmax" if is_other else "sigmoid"
    return TrainedModel(model, config.name, dict(config.options), config.input, classes, probabilities)


def imagenet_classes() -> list[str]:
    """Return short, distinct names of the 1,000 classes."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    names = [info.index_to_description(k).split(",")[0] for k in range(IMAGENET_CLASSES)]
    return [
        name if names.count(name) == 1 else f"{name} ({info.index_to_label_name(k)})" for k, name in enumerate(names)
    ]


def _load_file(path: Path) -> TrainedModel:
    described = _description(path)
    model = rebuild(described.config, read_state(path), source=str(path), classifies=True, trust=trusts_runs())
    classes, options = list(described.classes), dict(described.options)
    return TrainedModel(model, described.name, options, described.input, classes, described.probabilities)


def _description(path: Path) -> NetworkDescription:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except Exception as reason:  # safetensors raises several types
        raise BcosError(f"cannot read the weights file {str(path)!r}: {first_line(reason)}") from reason
    if _METADATA not in metadata:
        raise BcosError(f"{str(path)!r} does not say which model it belongs to; name it: MODEL --weights {path}")
    try:
        return NetworkDescription.from_json(metadata[_METADATA])
    except BcosError as reason:
        raise BcosError(
            f"the header of {str(path)!r} describes no network: {reason}; if its architecture is known, name it: "
            f"MODEL --weights {path}"
        ) from reason


def recipe_of(run_or_model: str, *, data: str | None = None) -> Recipe | None:
    """Recipe of a run, for what is done with its network; None of what is not a run's folder.

    Args:
        run_or_model: as :func:`load_trained` takes it.
        data: where the user says that shards are; None for those of the run.

    Raises:
        BcosError: it is none, or its data stand where only its user's trust allows to look.
    """
    config = Path(run_or_model) / "config.yaml"
    if not config.is_file():
        return None
    recipe = load_recipe(str(config), needs=())
    needs = ["data.path"] if data is None else []
    if is_address(data or recipe.data.path or ""):  # of which copies are kept
        needs.append("data.cache")
    check_trusted(recipe, str(config), needs=needs, typed=())
    return recipe


def data_of(run_or_model: str, given: str | None = None) -> str:
    """Where the shards are that go with a run, or those that a user gives.

    Raises:
        BcosError: it is no run's folder, does not say, or names an address without its user's trust.
    """
    recipe = recipe_of(run_or_model, data=given)
    found = given or (recipe.data.path if recipe is not None else None)
    if found is None:
        raise BcosError(f"there are no data to go with {run_or_model!r}; give a folder of shards with --data")
    return found


def reading_of(run_or_model: str, data: str | None = None) -> Reading:
    """How a run reads shards; as it is by default for what is no run. Arguments as of :func:`recipe_of`."""
    recipe = recipe_of(run_or_model, data=data)
    return Reading() if recipe is None else Reading.of(recipe.data)


def default_device() -> torch.device:
    """Return the accelerator if there is one, else the CPU."""
    from bcos_cli.processes.group import process_state

    device: torch.device = process_state().device
    return device
