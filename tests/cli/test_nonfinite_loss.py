"""Networks whose weights or outputs are not finite are not used."""

import pytest
import safetensors.torch
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from bcos_cli.data.index import load_index
from bcos_cli.data.loader import make_batches
from bcos_cli.evaluate.classification import classify
from bcos_cli.train import learner
from bcos_cli.train.trainer import train
from bcos_core import BcosError
from bcos_models import InputSpec, ModelConfig, TrainedModel, create_model, load_trained

SPEC = InputSpec(size=8, channels=1, resize=None)


@pytest.fixture
def trained_run(recipe, tmp_path):
    train(recipe(train={"epochs": 1, "explained_images": 0, "trackers": []}), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def spoilt(trained_run):
    """A finished run, in whose weights a value is NaN and a running variance infinite."""
    path = trained_run / "model.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = safetensors.torch.load_file(path)
    tensors["conv1.weight"].flatten()[3:5] = torch.nan
    safetensors.torch.save_file(tensors, path, header)
    return trained_run


COMMANDS = {
    "eval": ("eval", "RUN", "--metric", "top1", "--workers", "0"),
    "eval of explanations alone": ("eval", "RUN", "--metric", "completeness", "--workers", "0"),
    "maps": ("maps", "RUN", "--out", "made", "--workers", "0"),
    "explain": ("explain", "RUN", "IMAGE", "--out", "made"),
    "neurons": ("neurons", "RUN", "--out", "made"),
    "serve": ("serve", "RUN", "--port", "0"),
    "export": ("export", "RUN", "--out", "made.onnx"),
    "train": ("train", "--from", "RUN", "--data", "SHARDS", "--out", "made"),
    "distillation": ("train", "RUN/config.yaml", "--out", "made", "-o", "distillation.teacher=RUN"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_command_uses_weights_that_are_not_finite(command, spoilt, shards, tree, bcos, line, tmp_path):
    if command[0] == "serve":
        pytest.importorskip("gradio", reason="gradio is not installed")
    image = next((tree / "test").rglob("*.png"))
    places = {"RUN": str(spoilt), "IMAGE": str(image), "SHARDS": shards}
    given = [part.replace("RUN", places["RUN"]) if "RUN" in part else places.get(part, part) for part in command]
    assert "parameter conv1.weight holds 2 NaN" in line(bcos(*given))
    assert not (tmp_path / "made.onnx").exists()


def test_weights_of_a_model_by_name_are_looked_at_too(tmp_path):
    tensors = create_model("cifar10_resnet20").state_dict()
    tensors["conv1.weight"].flatten()[3] = torch.inf
    safetensors.torch.save_file(tensors, tmp_path / "bare.safetensors")
    with pytest.raises(BcosError, match=r"conv1.weight holds 1 infinite"):
        load_trained("cifar10_resnet20", str(tmp_path / "bare.safetensors"))


class Overflowing(nn.Module):
    """Finite weights, infinite outputs for bright images."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3e38))

    def forward(self, x):
        bright = x[:, :1].mean((2, 3)) > 0.45
        return torch.where(bright, self.scale * 10, 0.1) * torch.ones(3)


def batches(shards, **options):
    return make_batches(shards, load_index(shards), "train", SPEC, batch_size=4, **options)


def trained_model(network):
    return TrainedModel(network, ModelConfig("m", 3, {}, SPEC, ["rows", "columns", "corner"]))


def test_outputs_that_are_not_finite_get_no_accuracy(shards):
    network = Overflowing()
    trained = trained_model(network)
    given = torch.cat([images for images, _, _ in batches(shards).epoch(0)])
    bright = int((given.float().mean((1, 2, 3)) / 255 > 0.45).sum())
    assert 0 < bright < 24
    with pytest.raises(
        BcosError, match=f"infinite or not a number for {bright} of 24 images, though its weights are finite"
    ):
        classify(trained, network, batches(shards), nn.CrossEntropyLoss(), device=torch.device("cpu"))


def test_network_that_turned_bad_after_it_was_described_is_not_scored(shards):
    network = nn.Sequential(nn.Flatten(), nn.Linear(128, 3))
    trained = trained_model(network)
    with torch.no_grad():
        network[1].bias[0] = torch.nan
    with pytest.raises(BcosError, match=r"parameter 1.bias holds 1 NaN"):
        classify(trained, network, batches(shards), nn.CrossEntropyLoss(), device=torch.device("cpu"))


def test_every_process_refuses_what_one_of_them_has(shards, in_processes):
    network = Overflowing()

    def outcome(rank, world):
        try:
            own = batches(shards, rank=rank, world=world)
            classify(trained_model(network), network, own, nn.CrossEntropyLoss(), device=torch.device("cpu"))
        except BcosError as mistake:
            return str(mistake)

    first, second = in_processes(2, outcome)
    assert first == second
    assert "of 24 images" in first


def test_statistics_that_turn_bad_in_the_end_are_not_saved(recipe, tmp_path, monkeypatch):
    def spoil(network, batches):
        next(b for b in network.buffers() if b.is_floating_point())[0] = torch.nan

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    monkeypatch.setattr(learner, "recalibrate_norms", spoil)
    with pytest.raises(BcosError, match=r"buffer .* holds 1 NaN"):
        train(recipe(train={"epochs": 1, "recalibrate_batches": 1}), tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()
