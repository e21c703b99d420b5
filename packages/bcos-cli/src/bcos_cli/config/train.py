"""Sections ``train``, ``distillation``, ``early_stopping`` and ``evaluation`` of a recipe."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from bcos_cli.config.section import Count, NonNegative, Positive, Probability, Rate, Section
from bcos_core.errors import BcosError

Precision = Literal["no", "bf16", "fp16", "float64"]


class EarlyStopping(Section):
    """Early end of a run that no longer improves."""

    patience: Positive
    """Epochs without a better accuracy (mean average precision, where images have several labels)."""
    min_delta: NonNegative = 0.0
    """Smallest gain that counts as better."""


class Distillation(Section):
    """A teacher whose outputs are learned too (Hinton et al., 2015)."""

    teacher: str
    """A run's folder, or any network that ``bcos eval`` takes."""
    kind: Literal["logits", "embedding"] = "logits"
    """``logits``: the teacher's probability of each class; ``embedding``: the direction of its output vector, whatever
    it means, which the student's output, of the same size, takes on."""
    weight: Probability = 0.5
    """Weight of the teacher in the loss; the labels have the rest."""
    temperature: Rate = 1.0
    """Logits are divided by it."""

    @model_validator(mode="after")
    def _embeddings_have_no_labels(self) -> "Distillation":
        if self.kind == "embedding" and self.weight != 1:
            raise ValueError(
                f"distillation.weight={self.weight:g} leaves a share to the labels, which an embedding does not have; "
                "give distillation.weight=1"
            )
        return self


class Train(Section):
    """The course of the training."""

    epochs: Positive
    batch_size: Positive = 64
    """Images of one step, over all processes and accumulated batches."""
    max_hours: Rate | None = None
    """Hours after which the training ends with a checkpoint, to be resumed; null for none."""
    max_batch: Positive | Literal["auto"] | None = None
    """Images that a process can hold at once, from which follows how many batches are accumulated; ``auto``: the
    largest number that fits, found out when the run starts."""
    accumulate: Positive | None = None
    """Batches whose gradients make one step; null for what follows from ``max_batch``."""
    precision: Precision = "no"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    loss: str = "bce"
    """``bce``, ``uniform_off_label_bce``, ``cross_entropy``, a plugin's, or one of yours as ``module:function``."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: Literal["none", "balanced"] | list[Rate] = "none"
    """Weight of each class in the loss; ``balanced``: inverse to its share of the training images."""
    norm_statistics: Literal["batch", "keep"] = "batch"
    """``keep``: batch norms use their running statistics, as in evaluation, and do not change them, while everything
    trains: for networks whose statistics are good, and batches or images that are small."""
    recalibrate_batches: Count = 0
    """Training batches on which batch norms are measured anew at the end."""
    restore_best: bool = False
    """End with the weights of the best epoch, not of the last."""
    keep_checkpoints: Positive = 2
    """How many of the last checkpoints are kept, besides the best."""
    checkpoint_steps: Positive | None = None
    """Steps between checkpoints; null for one an epoch."""
    on_not_finite: Literal["stop", "skip"] = "stop"
    """What to do when a loss is infinite or not a number: end the run, or leave out the step."""
    max_not_finite: Positive = 10
    """Number of steps that may be left out."""
    channels_last: bool = False
    compile: Literal["no", "auto", "whole", "regional"] = "no"
    """``torch.compile`` for the network, or for each of its repeated blocks (quicker to start). ``auto``: for the
    network, on a GPU, and on a CPU where training takes long enough; decided when the run starts."""
    compile_backend: str = "inductor"
    gradient_checkpointing: bool = False
    """Compute activations of repeated blocks again in the backward pass, to save memory."""
    trackers: list[str] = ["tensorboard"]
    """Any that Accelerate knows: tensorboard, wandb, mlflow, comet_ml, aim, clearml, ..."""
    explained_images: Count = 8
    """Test images that are explained after every epoch, to see the network learn."""

    @field_validator("loss")
    @classmethod
    def _is_known(cls, loss: str) -> str:
        from bcos_cli.plugins import losses

        if ":" not in loss:
            try:
                losses()[loss]
            except BcosError as reason:
                raise ValueError(str(reason)) from reason
        return loss


class Evaluation(Section):
    """How the trained model is scored and shown in the report."""

    batch_size: Positive = 256
    explainers: list[str] = ["bcos", "input_x_gradient", "integrated_gradients", "gradcam"]
    gridpg_grids: Count = 100
    """Grids of the pointing game; 0 leaves it out."""
    gridpg_size: Annotated[int, Field(ge=2)] = 2
    gridpg_smooth: Positive = 1
    """Side of the mean filter over contribution maps, odd; 15 is usual for ImageNet."""
    gallery_per_class: Count = 3
    """Typical images of each class in the report; 0 leaves all explained images out."""
    gallery_classes: Positive = 20
    """At most this many classes have typical images, the first ones."""
    gallery_errors: Count = 24
    """At most this many wrong predictions are explained, the most confident ones."""
    gallery_uncertain: Count = 8
    """Images that the network is least certain of."""
    neurons: Count = 6
    """Channels whose most activating images the report shows, the strongest of a layer; 0 leaves them out."""
    neurons_layer: str | None = None
    """Layer of these channels; null for the last one with a map over the image."""
    metrics: list[str] = []
    """Metrics besides those of every evaluation; ``bcos metrics`` lists them."""

    @field_validator("gridpg_smooth")
    @classmethod
    def _is_odd(cls, smooth: int) -> int:
        if smooth % 2 == 0:
            raise ValueError("must be odd")
        return smooth
