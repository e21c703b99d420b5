"""The exponential moving average of a network's weights."""

from timm.utils import ModelEmaV3  # type: ignore[attr-defined] # reason: timm exports implicitly
from torch import nn

from bcos_cli.config import Ema, Train
from bcos_cli.train.compilation import as_written


def make_average(network: nn.Module, ema: Ema | None, train: Train, warmup: int) -> ModelEmaV3 | None:
    """Return timm's moving average of the weights, if the recipe asks for one.

    Args:
        warmup: steps during which the average is a copy of the weights.
    """
    if ema is None:
        return None
    with as_written(network):
        return ModelEmaV3(network, decay=decay_of(ema, train), update_after_step=warmup)


def decay_of(ema: Ema, train: Train) -> float:
    """Share of the average of weights that an update keeps."""
    if not ema.scaled:
        return ema.decay
    return 1 - min((1 - ema.decay) * train.batch_size * ema.every / train.epochs, 1)
