"""Multi-head self- and cross-attention as dynamic linear maps of their values."""

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
        self.num_heads = num_heads
        self.head_dim = _head_dim(dim, num_heads, head_dim)
        inner = self.num_heads * self.head_dim
        self.qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.out = nn.Linear(inner, dim, bias=False) if project is None else project(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of `x`."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        y: Tensor = self.out(_mixed(q, k, v, self.num_heads))
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


class CrossAttention(nn.Module):
    """``y = U · softmax(Q Kᵀ / √d) V`` with Q linear in x, and K and V linear in a context, without biases.

    In explanation mode the attention matrix is a constant: the layer is linear in the context, through V alone. What
    x contributes is where to look, which is held constant; a residual connection, ``x + layer(x, context)``, adds
    its own contributions. So an explanation over both, given to the network as one tensor, is exact and adds up over
    both; one over the context alone adds up too; one over x alone has no path but such a connection.

    Args:
        dim: features of a token of x, and of the result.
        num_heads: number of heads.
        context_dim: features of a token of the context; None for `dim`.
        head_dim: features of a head; None for ``dim / num_heads``.
        project: builds U from its input and output features; None for a linear layer without bias.

    Shapes: (N, tokens, dim), (N, context tokens, context_dim) → (N, tokens, dim).

    Raises:
        BcosError: `num_heads` does not divide `dim` (and no `head_dim` is given).

    Source: Vaswani et al., 2017.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        context_dim: int | None = None,
        head_dim: int | None = None,
        project: Callable[[int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = _head_dim(dim, num_heads, head_dim)
        inner = self.num_heads * self.head_dim
        self.q = nn.Linear(dim, inner, bias=False)
        self.kv = nn.Linear(dim if context_dim is None else context_dim, 2 * inner, bias=False)
        self.out = nn.Linear(inner, dim, bias=False) if project is None else project(inner, dim)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let the tokens of `x` look at those of `context`; where `mask` (N, context tokens) is False, none does."""
        k, v = self.kv(context).chunk(2, dim=-1)
        attn_mask = None if mask is None else mask[:, None, None]  # for all heads and queries
        y: Tensor = self.out(_mixed(self.q(x), k, v, self.num_heads, attn_mask))
        return y


class BcosCrossAttention(CrossAttention):
    """Cross-attention whose output projection U is a B-cos layer.

    Args:
        dim, num_heads, context_dim, head_dim: as of :class:`CrossAttention`.
        b: exponent B of the output projection.
        max_out: MaxOut units of the output projection.

    Source: Böhle et al., TPAMI 2024, section 3.5, for attention to other tokens.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        context_dim: int | None = None,
        head_dim: int | None = None,
        b: float = 2.0,
        max_out: int = 1,
    ) -> None:
        project = partial(BcosLinear, b=b, max_out=max_out)
        super().__init__(dim, num_heads, context_dim=context_dim, head_dim=head_dim, project=project)


def _head_dim(dim: int, num_heads: int, head_dim: int | None) -> int:
    if num_heads < 1 or (head_dim is None and dim % num_heads):
        raise BcosError(f"num_heads must divide dim, got dim={dim} and num_heads={num_heads}; or give head_dim")
    return dim // num_heads if head_dim is None else head_dim


def _mixed(q: Tensor, k: Tensor, v: Tensor, num_heads: int, mask: Tensor | None = None) -> Tensor:
    """Values (N, tokens, heads · head_dim), mixed by a frozen attention matrix."""
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))  # (N, heads, tokens, head_dim)
    return F.scaled_dot_product_attention(freeze(q), freeze(k), v, mask).transpose(1, 2).flatten(2)
