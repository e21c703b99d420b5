"""Down-sampling with a low-pass filter, so that strides leave no aliasing artefacts in explanations.

Sources: Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019; for B-cos networks:
arXiv 2507.16761.
"""

from typing import Any

from timm.layers.blur_pool import BlurPool2d
from torch import Tensor, nn

from bcos_core import BcosConv2d


def blur_pool(_kernel_size: int, stride: int, _padding: int = 0) -> nn.Module:
    """Low-pass filter in the place of average pooling, whatever that one's kernel."""
    return _blur(stride)


def _blur(stride: int) -> nn.Module:
    """Binomial filter of ``2 · stride - 1`` taps in each direction: ``[1, 2, 1] / 4`` for a stride of 2."""
    blur: nn.Module = BlurPool2d(filt_size=2 * stride - 1, stride=stride, pad_mode="replicate")
    return blur


class BlurredConv2d(BcosConv2d):
    """B-cos convolution at every position, low-pass filtered where it had a stride.

    Its parameters are those of the convolution without anti-aliasing, whose weights it takes. Arguments as
    for :class:`bcos_core.BcosConv2d`; the stride is one integer.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *args: Any, **options: Any
    ):
        super().__init__(in_channels, out_channels, kernel_size, 1, *args, **options)
        self.blur = nn.Identity() if stride == 1 else _blur(stride)

    def forward(self, x: Tensor) -> Tensor:
        """Transform, filter, subsample."""
        y: Tensor = self.blur(super().forward(x))
        return y
