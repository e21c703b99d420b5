"""Layer norm over the last dimension, for transformers."""

import torch.nn.functional as F
from torch import Tensor

from bcos_core.errors import BcosError
from bcos_core.norms.base import Norm, apply_affine, divide_by_std, variance


class LayerNorm(Norm):
    """Layer norm over the features of a token (Ba et al., 2016).

    Args:
        num_features: size of the last dimension.
        eps: added to the variance.
        affine: learn a weight.
        bias: learn a bias too; B-cos ViTs have none.

    Shapes: (..., num_features) → the same.

    Raises:
        BcosError: another size of the last dimension.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5, affine: bool = True, bias: bool = False) -> None:
        super().__init__(num_features, eps, affine, bias)
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each token."""
        self._check(x)
        return F.layer_norm(x, (self.num_features,), self.weight, self.bias, self.eps)

    def _check(self, x: Tensor) -> None:
        if x.ndim < 1 or x.shape[-1] != self.num_features:
            raise BcosError(
                f"{type(self).__name__} got an input of shape {tuple(x.shape)}, "
                f"needs {self.num_features} features in its last dimension"
            )


class LayerNormUncentered(LayerNorm):
    """Divide each token by its standard deviation; the mean is not subtracted."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale each token."""
        self._check(x)
        return apply_affine(divide_by_std(x, variance(x, (-1,)), self.eps), self.weight, self.bias, channel_dim=-1)
