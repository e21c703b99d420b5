"""Explanations of the same few images after every epoch, which show how the network learns to see."""

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from numpy.typing import NDArray
from torch import Tensor

from bcos_cli import console
from bcos_cli.train.forward_pass import as_written
from bcos_cli.train.run_folder import RunFolder
from bcos_core.errors import BcosError, first_line
from bcos_explain import ExplainedImage, explain_batch
from bcos_explain.render import contribution_rgb, laid_on, on_ground, save_png
from bcos_models import TrainedModel

_GAP = 2
"""White pixels between pictures."""
_SIDE = 96
"""Smaller pictures are enlarged to about this many pixels."""


class SampleExplanations:
    """Explains a few 8-bit images (N, C, H, W), and writes ``explanations/epoch-NNNN.png``.

    Columns are images; rows the image, W(x) as a colour image, and the contributions to the predicted class.
    """

    def __init__(self, trained: TrainedModel, folder: RunFolder, images: Tensor) -> None:
        self.trained = trained
        self.folder = folder
        self.images = images

    def write(self, model: torch.nn.Module, epoch: int, step: int, accelerator: Accelerator) -> bool:
        """Explain the images with the network as it is; where that is impossible, say why and return False."""
        was_training = model.training
        model.eval()
        try:
            with as_written(model):
                picture = self._picture(model, accelerator.device)
        except BcosError as reason:
            console.err.print(f"test images are not explained while it trains: {reason}")
            return False
        finally:
            model.train(was_training)
        scale = max(1, _SIDE // self.images.shape[-1])
        save_png(picture, self.folder.explanations / f"epoch-{epoch:04d}.png", scale)
        for tracker in accelerator.trackers:
            if hasattr(tracker, "log_images"):
                _log(tracker, (picture * 255).astype(np.uint8), step)
        return True

    def _picture(self, model: torch.nn.Module, device: torch.device) -> NDArray[np.float64]:
        dtype = next(model.parameters()).dtype
        explained = explain_batch(
            model,
            self.images.to(device),
            encode=lambda images: self.trained.encode(images).to(dtype),
            keep_weight=False,
            colours=True,
        )
        return np.concatenate([_column(image) for image in explained], axis=1)


def _column(image: ExplainedImage) -> NDArray[np.float64]:
    """Image, W and contributions below each other, each with white pixels above and at its left."""
    (explanation,) = image.explanations
    assert explanation.picture is not None
    weight = laid_on(on_ground(explanation.picture.rgba(explanation.picture.own_scale)), "white")
    pictures = (image.image / 255, weight / 255, contribution_rgb(explanation.map))
    return np.concatenate([np.pad(p, ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=1.0) for p in pictures])


def _log(tracker: GeneralTracker, picture: NDArray[np.uint8], step: int) -> None:
    """Hand a picture (H, W, C) to a tracker; the run does not depend on it."""
    several = {"explanations": picture if tracker.name == "aim" else picture[None]}  # Aim takes one alone
    layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
    try:
        tracker.log_images(several, step=step, **layout)
    except Exception as reason:  # another library's, perhaps about a connection
        console.err.print(f"explanations are not logged to {tracker.name}: {first_line(reason)}")
