"""Explanations of the same few images after every epoch: how the network comes to see."""

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from numpy.typing import NDArray
from torch import Tensor

from bcos_cli import console
from bcos_cli.explain.loaded_model import TrainedModel
from bcos_cli.explain.pictures import as_floats, smoothing
from bcos_cli.train.compilation import as_written
from bcos_cli.train.run_folder import RunFolder
from bcos_core import explain
from bcos_core.errors import BcosError, first_line
from bcos_explain.render import contribution_rgb, explanation_image, on_background, save_png

_GAP = 2
"""White pixels between pictures."""
_SIDE = 96
"""Smaller pictures are enlarged to about this many pixels."""


class Watcher:
    """Explains a few images, and writes ``explanations/epoch-NNNN.png``.

    Columns are images; rows the image, W(x) as a colour image, and the contributions to the class predicted.

    Args:
        trained: what the network sees.
        folder: of the run.
        images: 8-bit (N, C, H, W).
    """

    def __init__(self, trained: TrainedModel, folder: RunFolder, images: Tensor) -> None:
        self.trained = trained
        self.folder = folder
        self.images = images

    def look(self, model: torch.nn.Module, epoch: int, step: int, accelerator: Accelerator) -> bool:
        """Explain the images with the network as it is; return False, with a word, where that is not possible."""
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
        x = self.trained.encode(self.images.to(device)).to(dtype)
        explanation = explain(model, x)
        maps = explanation.map.float().cpu().numpy()
        columns = []
        for i, image in enumerate(self.images):
            coloured = explanation_image(x[i].float(), explanation.weight[i].float(), smooth=smoothing(x.shape[-1]))
            rows = (
                as_floats(image.permute(1, 2, 0).numpy()),
                on_background(coloured),
                contribution_rgb(maps[i]),
            )
            columns.append(np.concatenate([_framed(row) for row in rows]))
        return np.concatenate(columns, axis=1)


def _log(tracker: GeneralTracker, picture: NDArray[np.uint8], step: int) -> None:
    """Hand a picture (H, W, C) to a tracker; the run does not depend on it."""
    several = {"explanations": picture if tracker.name == "aim" else picture[None]}  # Aim takes one alone
    layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
    try:
        tracker.log_images(several, step=step, **layout)
    except Exception as reason:  # of a library of somebody else's, perhaps over a network
        console.err.print(f"explanations are not logged to {tracker.name}: {first_line(reason)}")


def _framed(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.pad(picture[..., :3], ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=1.0)
