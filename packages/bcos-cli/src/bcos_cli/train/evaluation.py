"""Scores of a network while it is trained."""

from typing import Any

from accelerate.utils import broadcast
from torch import nn

from bcos_cli.data.loader import Batches
from bcos_cli.evaluate.classification import Scores, classify
from bcos_cli.train.distillation import Agreement, agreement
from bcos_cli.train.losses import LossOptions, make_loss
from bcos_cli.train.setup import Setup


def scores_of(setup: Setup, network: nn.Module, batches: Batches, label: str = "evaluating") -> Scores | Agreement:
    """Score a network on `batches`, in all processes together; one without classes beside its teacher."""
    shown: dict[str, Any] = {
        "device": setup.accelerator.device,
        "show_progress": setup.accelerator.is_main_process,
        "label": label,
        "together": setup.sharded,
    }
    if setup.learns_embedding and setup.teacher is not None:
        return agreement(setup.teacher, network, batches, **shown)
    loss = make_loss(setup.recipe.train.loss, LossOptions(evaluation=True))
    return classify(setup.trained, network, batches, loss, **shown)


def share_buffers(setup: Setup) -> None:
    """Take over the running statistics of the main process, which are the ones that are saved."""
    for network in () if setup.sharded else setup.networks:
        for buffer in network.buffers():
            broadcast(buffer)
