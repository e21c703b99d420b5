"""The network that a run ends with."""

from torch import nn

from bcos_cli.config.trust import trusts_runs
from bcos_cli.evaluate.classification import Scores
from bcos_cli.processes.group import total
from bcos_cli.train import efficiency, state
from bcos_cli.train.checkpoint import EMA, MODEL, load_tensors
from bcos_cli.train.distillation import Agreement
from bcos_cli.train.evaluation import scores_of, share_buffers
from bcos_cli.train.loaders import final_batches
from bcos_cli.train.setup import Setup
from bcos_models import load_trained
from bcos_models.convert.annealing import recalibrate_norms
from bcos_models.finite import check_finite


def finish(setup: Setup, scores: Scores | Agreement | None) -> Scores | Agreement | None:
    """Save the network, as it was written and in float32, in ``setup.trained`` and its file.

    Args:
        setup: of the run.
        scores: of the last epoch.

    Returns:
        Scores on the images of the end, where epochs were scored on them too; where others choose, they are left to the
        one evaluation of the finished run, but for a network without classes, which has none.

    Raises:
        BcosError: weights that are not finite, which are not saved.
    """
    if setup.sharded:
        return _finish_sharded(setup, scores)
    accelerator, train = setup.accelerator, setup.recipe.train
    network = setup.network
    efficiency.undo(network)
    if setup.ema is not None:
        network.load_state_dict(setup.ema.module.state_dict())
    best = setup.checkpoints.best()
    if train.restore_best and best is not None:
        state.load_weights_into(network, load_tensors(best, EMA if setup.ema is not None else MODEL), False)
    if train.recalibrate_batches:
        _recalibrate(setup, network)
    setup.annealer.finish(network)
    network.float()  # also where it was trained in float64
    # without Accelerate's autocast: scores and explanations are those of the saved weights
    setup.trained.model = accelerator.unwrap_model(setup.model, keep_fp32_wrapper=False).eval()
    check_finite(network)
    scores = _final_scores(setup, None if train.restore_best or train.recalibrate_batches else scores)
    if accelerator.is_main_process:
        setup.trained.save(setup.folder.weights, network)
    accelerator.wait_for_everyone()
    return scores


def _final_scores(setup: Setup, scores: Scores | Agreement | None) -> Scores | Agreement | None:
    """What :func:`finish` returns; `scores` are those of the last epoch, if they are of this network."""
    if setup.splits.role == "val" and not setup.learns_embedding:
        return None
    if scores is not None and setup.splits.role == "test" and not setup.learns_embedding:
        return scores
    model = setup.model if setup.sharded else setup.trained.model
    batches = final_batches(setup.recipe, setup.index, setup.trained.input, setup.accelerator)
    return scores_of(setup, model, batches)


def _finish_sharded(setup: Setup, scores: Scores | Agreement | None) -> Scores | Agreement | None:
    """The same where every process holds a part: put together in a file, and read from there."""
    check_finite(setup.network, agree=lambda count: total(count, setup.accelerator.device))
    scores = _final_scores(setup, scores)
    weights = state.weights_of(setup.model, sharded=True)
    if setup.accelerator.is_main_process:
        setup.trained.save_state(setup.folder.weights, weights)
    setup.accelerator.wait_for_everyone()
    setup.trained = load_trained(str(setup.folder.weights), trust=trusts_runs())
    return scores


def _recalibrate(setup: Setup, network: nn.Module) -> None:
    """Measure batch norms anew, on the first batches of an epoch that never was."""
    count, device, dtype = setup.recipe.train.recalibrate_batches, setup.accelerator.device, setup.stepper.dtype
    batches = zip(range(count), setup.batches.epoch(setup.recipe.train.epochs), strict=False)
    recalibrate_norms(network, (setup.trained.encode(b[0].to(device)).to(dtype) for _, b in batches))
    share_buffers(setup)
