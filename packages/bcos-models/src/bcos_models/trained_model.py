"""A trained network: weights, and all that is needed to use them. What a user names is loaded as one."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from bcos_core.errors import BcosError, first_line, shown
from bcos_core.files import write_atomically
from bcos_core.text import listed
from bcos_models import imagenet
from bcos_models.convert.origins import original
from bcos_models.file_names import CONFIG_NAME, WEIGHTS_NAME
from bcos_models.hub import from_pretrained
from bcos_models.model_config import ModelConfig, Probabilities, check_outputs, usual_probabilities
from bcos_models.reconstruction import rebuild
from bcos_models.registry import check_named, create_model, get_spec, is_model
from bcos_models.spec import ImageChanges, InputSpec
from bcos_models.transforms import input_encoder
from bcos_models.weights import (
    check_finite,
    classes_in,
    convert_state,
    find_weights,
    load_state,
    read_state,
    save_weights,
)

_HEADER_KEY = "bcos"
UNKNOWN = -1
"""In place of the output for a class that the network does not have."""


@dataclass
class TrainedModel:
    """A network and its description, which travels in the header of its weights file.

    Args:
        model: the network.
        config: its description; classes without names are called by their numbers.

    Raises:
        BcosError: a description that could not be read again, or weights that are not finite.
    """

    model: nn.Module
    config: ModelConfig

    def __post_init__(self) -> None:
        if self.config.classes is None:
            self.config = replace(self.config, classes=[str(k) for k in range(self.config.num_classes)])
        self.config.check()
        check_finite(self.model)

    @property
    def name(self) -> str:
        """Name of the architecture."""
        return self.config.name

    @property
    def options(self) -> dict[str, Any]:
        """Options of the architecture."""
        return dict(self.config.options)

    @property
    def input(self) -> InputSpec:
        """The images that the network takes."""
        return self.config.input

    @property
    def classes(self) -> list[str]:
        """Names of the outputs, in their order."""
        return list(self.config.classes or ())

    @property
    def probabilities(self) -> Probabilities:
        """What makes probabilities of the logits."""
        return self.config.probabilities

    def align_classes(self, classes: Sequence[str], data: str, absent: Collection[str] = ()) -> tuple[int, ...]:
        """Return the output of the network for each of these classes, of the shards at `data`.

        Those that are `absent`, of which there is no image, need not be known: :data:`UNKNOWN` stands for such.

        Classes are the same if their names are; ImageNet's are known by their WordNet numbers too. Where one side has
        numbers instead of names, and both as many, the numbers are the same.

        Raises:
            BcosError: a class that the network does not know, and that is not absent.
        """
        own = self.classes
        outputs = {name: k for k, name in enumerate(own)}
        if not outputs.keys() >= set(classes) and own == imagenet.class_names():
            outputs |= {name: k for k, name in enumerate(imagenet.wordnet_numbers())}
        numbers = [str(k) for k in range(len(own))]
        if not outputs.keys() >= set(classes) and len(classes) == len(own) and numbers in (own, list(classes)):
            return tuple(range(len(own)))
        if lacking := [name for name in classes if name not in outputs and name not in absent]:
            raise BcosError(
                f"the shards at {data!r} have {len(classes):,} classes, of which the network does not know "
                f"{first_names(lacking)}; it knows {first_names(own)}: give shards of these classes (bcos shards "
                "pack --exclude leaves out a folder that is none), or, if they are the same under other names, name "
                "the network's outputs with --classes"
            )
        return tuple(outputs.get(name, UNKNOWN) for name in classes)

    def encode(self, images: Tensor) -> Tensor:
        """Turn 8-bit images, or floats in [0, 1], (N, C, H, W), into the network's input."""
        scaled = images if images.is_floating_point() else images.float() / 255
        encoded: Tensor = input_encoder(self.input)(scaled)
        return encoded

    def confidences(self, logits: Tensor) -> Tensor:
        """Turn logits (N, K) into probabilities (N, K).

        A sigmoid for each class, or a softmax, as the network was trained.
        """
        wide = logits.float()
        return wide.sigmoid() if self.probabilities == "sigmoid" else wide.softmax(1)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights and of all else that makes the network what it is."""
        described = [self.name, self.options, self.input.to_dict(), self.probabilities, self.classes]
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
        return {_HEADER_KEY: self.config.to_json()}


def first_names(names: Sequence[str], most: int = 5) -> str:
    """List classes, the first of many."""
    return listed((shown(name, 60) for name in names), most)


def load_trained(
    run_or_model: str,
    weights: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    images: ImageChanges | None = None,
    trust: bool = False,
) -> TrainedModel:
    """Load what a user names.

    Args:
        run_or_model: a run's folder, a run's weights file, a folder or ``hf://`` repository that
            :func:`bcos_models.save_pretrained` or ``push_to_hub`` filled, or a model's name; ``timm/NAME`` and
            ``torchvision/NAME`` are those networks as they are, not converted.
        weights: of a model that is named, for any number of classes; None for the published ones.
        classes: names of the outputs, in place of those that are known.
        images: what the network's images are, where that differs from what the name says; for a model that is named.
        trust: take options, from a file, that name files or addresses, which are then read or fetched.

    Raises:
        BcosError: nothing of that name, or no weights.
    """
    trained = _load(run_or_model, weights, images or ImageChanges(), trust)
    return trained if classes is None else TrainedModel(trained.model, replace(trained.config, classes=list(classes)))


def _load(run_or_model: str, weights: str | None, images: ImageChanges, trust: bool) -> TrainedModel:
    path = Path(run_or_model)
    if weights is not None and not is_model(run_or_model):
        raise BcosError(f"--weights goes with the name of a model, got {run_or_model!r}; bcos models lists them")
    if images != ImageChanges() and not is_model(run_or_model):
        raise BcosError(
            "--image-size, --resize, --mean and --std go with the name of a model; "
            f"{run_or_model!r} says itself what its images are"
        )
    if run_or_model.startswith("hf://") or (path / CONFIG_NAME).is_file():
        model = from_pretrained(run_or_model, trust=trust)
        config: ModelConfig = model.bcos_config  # type: ignore[assignment] # reason: a plain attribute of the module
        return TrainedModel(model, config)
    if path.is_dir():
        if not (path / WEIGHTS_NAME).is_file():
            raise BcosError(
                f"{run_or_model!r} holds no {WEIGHTS_NAME}: it is not a finished run; "
                f"give the folder of one, or continue it with: bcos train {run_or_model}/config.yaml "
                f"--resume --out {run_or_model}"
            )
        return _load_file(path / WEIGHTS_NAME, trust)
    if path.suffix == ".safetensors":
        return _load_file(path, trust)
    check_named(run_or_model)
    return _load_named(run_or_model, weights, images)


def _load_named(name: str, weights: str | None, images: ImageChanges) -> TrainedModel:
    """Load a model of ours with published or given weights, or a network of another library, unconverted."""
    spec = get_spec(name)
    options: dict[str, Any] = {}
    classes: list[str] | None = None
    if "/" in name:
        model, input_spec, num_classes, network = original(name, weights, images)
        options |= {"as_is": True} | ({"network": network} if network else {})
        classes = imagenet.class_names() if num_classes == imagenet.CLASSES else None
    elif weights is None and spec.checkpoint is None:
        raise BcosError(
            f"the model {name!r} has no published weights; name a file with --weights, or give a run's folder"
        )
    else:
        model = create_model(name, pretrained=weights is None)
        input_spec, num_classes = images.apply(spec.input), spec.num_classes
        if weights is None:
            classes = getattr(model, "class_names", None)
        else:
            state = read_state(find_weights(weights))
            found = classes_in(model, convert_state(model.state_dict(), state, name))
            num_classes = check_outputs(found or num_classes)
            model = model if num_classes == spec.num_classes else create_model(name, num_classes=num_classes)
            load_state(model, state, name=name, source=weights)
    model.eval()
    probabilities = usual_probabilities(name, input_spec)
    return TrainedModel(model, ModelConfig(name, num_classes, options, input_spec, classes, probabilities))


def _load_file(path: Path, trust: bool) -> TrainedModel:
    config = _read_header(path)
    return TrainedModel(rebuild(config, read_state(path), source=str(path), classifies=True, trust=trust), config)


def _read_header(path: Path) -> ModelConfig:
    try:
        path.open("rb").close()  # safetensors says of any file that it cannot open that it is not there
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except OSError as reason:
        raise BcosError(f"cannot read the weights file {str(path)!r}: {reason.strerror or reason}") from reason
    except Exception as reason:  # safetensors raises several types
        raise BcosError(
            f"cannot read the weights file {str(path)!r}: {first_line(reason)}; it is damaged, or was not copied to "
            "its end: copy it again"
        ) from reason
    if _HEADER_KEY not in metadata:
        raise BcosError(f"{str(path)!r} does not say which model it belongs to; name it: MODEL --weights {path}")
    try:
        return ModelConfig.from_json(metadata[_HEADER_KEY])
    except BcosError as reason:
        raise BcosError(
            f"the header of {str(path)!r} describes no network: {reason}; if its architecture is known, name it: "
            f"MODEL --weights {path}"
        ) from reason
