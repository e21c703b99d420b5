"""The B-cos counterpart of :class:`torch.nn.Linear`."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from bcos_core import functional
from bcos_core.errors import BcosError


class BcosLinear(nn.Module):
    """B-cos transform of vectors: ``y_o = |cos(x, ŵ_o)|^(B-1) · ŵ_oᵀ x``.

    Args:
        in_features: length of the input vectors.
        out_features: length of the output vectors.
        b: exponent B ≥ 1.
        max_out: units per output feature, of which the largest ``ŵᵀx`` counts; 1 for no MaxOut.
        normalize_weight: use ŵ; False uses w, so that a pretrained linear layer is unchanged at B = 1.
        bias: add a learned bias, which B-cos networks do without (converted ones may start with it).
        device: of the weight.
        dtype: of the weight.

    Shapes: (..., in_features) → (..., out_features).

    Raises:
        BcosError: a size below 1, B < 1 or max_out < 1.

    >>> import torch
    >>> layer = BcosLinear(4, 3)
    >>> layer(torch.randn(2, 4)).shape
    torch.Size([2, 3])

    Source: Böhle et al., TPAMI 2024, equation 3; MaxOut: section 3.3.
    """

    folds: ClassVar[bool] = True
    """As of a B-cos convolution."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        b: float = 2.0,
        max_out: int = 1,
        normalize_weight: bool = True,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        functional.check_options(b, max_out, normalize_weight)
        if in_features < 1 or out_features < 1:
            raise BcosError(f"BcosLinear needs at least 1 feature in and out, got {in_features} and {out_features}")
        self.in_features = in_features
        self.out_features = out_features
        self.b = b
        self.max_out = max_out
        self.normalize_weight: bool | None = normalize_weight
        self.weight = nn.Parameter(torch.empty(out_features * max_out, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight as :class:`torch.nn.Linear` does; a bias starts at 0."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (..., in_features) to (..., out_features)."""
        y = functional.bcos_linear(
            x, self.weight, b=self.b, max_out=self.max_out, normalize_weight=self.normalize_weight
        )
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Sizes, B, and what differs from the defaults."""
        max_out = f", max_out={self.max_out}" if self.max_out > 1 else ""
        weight = "" if self.normalize_weight else ", normalize_weight=False"
        bias = "" if self.bias is None else ", bias=True"
        return f"{self.in_features}, {self.out_features}, b={self.b:g}{max_out}{weight}{bias}"
