"""Explaining a batch of images of a trained network: :func:`bcos_explain.explain_batch` with its input and device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bcos_cli.explain.targets import TargetChoice
from bcos_cli.processes.group import default_device
from bcos_explain import ExplainedImage, explain_batch
from bcos_explain.batch import Targets
from bcos_models import TrainedModel


def explain_images(
    trained: TrainedModel, images: Tensor, targets: Targets = None, methods: Sequence[str] = ("bcos",), **options: Any
) -> list[ExplainedImage]:
    """Explain 8-bit images (N, C, H, W), as :func:`bcos_explain.explain_batch`, which takes the `options`.

    The network must be on the device of this process.
    """
    return explain_batch(
        trained.model,
        images.to(default_device()),
        targets,
        methods,
        encode=trained.encode,
        probabilities=trained.confidences,
        **options,
    )


@dataclass(frozen=True)
class Request:
    """What a user asks of every image: which classes of a network to explain, and by which methods."""

    trained: TrainedModel
    choice: TargetChoice
    methods: Sequence[str]
    batch_size: int
    keep_weight: bool = False
    smooth: int | None = None
    """Side of the mean filter over the opacity of W; None for one in proportion to the image."""

    def explain(self, images: Tensor, targets: Targets = None) -> list[ExplainedImage]:
        """Explain 8-bit images (N, C, H, W), for other targets than those of the request if they are given."""
        return explain_images(
            self.trained,
            images,
            self.choice if targets is None else targets,
            self.methods,
            probe=True,
            keep_weight=self.keep_weight,
            colours=True,
            smooth=self.smooth,
        )
