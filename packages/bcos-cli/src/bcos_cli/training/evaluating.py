"""Scores of a network while it is trained."""

from accelerate.utils import broadcast
from torch import nn

from bcos_cli.evaluation import Scores, evaluate
from bcos_cli.training.distillation import Agreement, agreement
from bcos_cli.training.losses import LossOptions, make_loss
from bcos_cli.training.setup import Setup


def scores_of(setup: Setup, network: nn.Module) -> Scores | Agreement:
    """Score a network on the test images, in all processes together; one without classes beside its teacher."""
    main, device = setup.accelerator.is_main_process, setup.accelerator.device
    if setup.learns_embedding and setup.teacher is not None:
        return agreement(
            setup.teacher, network, setup.test_batches, device=device, show_progress=main, together=setup.sharded
        )
    loss = make_loss(setup.recipe.train.loss, LossOptions(evaluation=True))
    return evaluate(
        setup.trained,
        network,
        setup.test_batches,
        loss,
        device=device,
        show_progress=main,
        together=setup.sharded,
    )


def share_buffers(setup: Setup) -> None:
    """Take over the running statistics of the main process, which are the ones that are saved."""
    for network in () if setup.sharded else setup.networks:
        for buffer in network.buffers():
            broadcast(buffer)
