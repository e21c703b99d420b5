"""Section ``evaluation`` of a recipe."""

from typing import Annotated

from pydantic import Field, field_validator

from bcos_cli.config.section import Count, Positive, Section


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
    gallery_classes: Positive = 20
    """At most this many classes are shown, the first ones."""
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
