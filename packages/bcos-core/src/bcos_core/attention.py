"""Multi-head self-attention as a dynamic linear map of its values."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_core.linear import BcosLinear
from bcos_core.mode_state import freeze


class SelfAttention(nn.Module):
    """``y = U · softmax(Q Kᵀ / √d) V`` with Q, K, V linear in x, without biases.

    In explanation mode Q and K, and with them the attention matrix, are constants, so the layer is linear in
    x through V alone.

    Args:
        dim: features of a token.
        num_heads: number of heads.
        head_dim: features of a head; None for ``dim / num_heads``.
        project: builds U from its input and output features; None for a linear layer without bias.

    Shapes: (N, tokens, dim) → (N, tokens, dim).

    Raises:
        BcosError: `num_heads` does not divide `dim` (and no `head_dim` is given).

    Source: Vaswani et al., 2017.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        project: Callable[[int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or (head_dim is None and dim % num_heads):
            raise BcosError(f"num_heads must divide dim, got dim={dim} and num_heads={num_heads}; or give head_dim")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads if head_dim is None else head_dim
        inner = self.num_heads * self.head_dim
        self.qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.out = nn.Linear(inner, dim, bias=False) if project is None else project(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of `x`."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, tokens, head_dim)
        mixed = F.scaled_dot_product_attention(freeze(q), freeze(k), v)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class BcosSelfAttention(SelfAttention):
    """Self-attention whose output projection U is a B-cos layer.

    Args:
        dim, num_heads, head_dim: as of :class:`SelfAttention`.
        b: exponent B of the output projection.
        max_out: MaxOut units of the output projection.

    Source: Böhle et al., TPAMI 2024, section 3.5 (B-cos ViTs).
    """

    def __init__(
        self, dim: int, num_heads: int, *, head_dim: int | None = None, b: float = 2.0, max_out: int = 1
    ) -> None:
        super().__init__(dim, num_heads, head_dim=head_dim, project=partial(BcosLinear, b=b, max_out=max_out))
