"""Scores of a network while it is trained."""

from typing import Any

from accelerate import Accelerator
from torch import nn

from bcos_cli.data.loader import Batches
from bcos_cli.evaluate.classification import Scores, evaluate
from bcos_cli.explain.loaded_model import TrainedModel
from bcos_cli.train.distillation import Agreement, Teacher, agreement
from bcos_cli.train.losses import LossOptions, make_loss


def scores_of(
    trained: TrainedModel,
    network: nn.Module,
    batches: Batches,
    *,
    loss: str,
    embedding_teacher: Teacher | None,
    accelerator: Accelerator,
    together: bool,
    label: str = "evaluating",
) -> Scores | Agreement:
    """Score a network on `batches`, in all processes together; one without classes beside its teacher."""
    shown: dict[str, Any] = {
        "device": accelerator.device,
        "show_progress": accelerator.is_main_process,
        "label": label,
        "together": together,
    }
    if embedding_teacher is not None:
        return agreement(embedding_teacher, network, batches, **shown)
    return evaluate(trained, network, batches, make_loss(loss, LossOptions(evaluation=True)), **shown)
