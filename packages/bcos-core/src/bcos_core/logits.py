"""The last, affine step of a B-cos network."""

from torch import Tensor, nn

from bcos_core.additive_terms import LOGIT_BIAS, name_as
from bcos_core.errors import BcosError
from bcos_core.mode_state import is_explaining
from bcos_core.precision import widened


class LogitLayer(nn.Module):
    """``logits = x / T + b``.

    Args:
        logit_temperature: T; None leaves it out. Above 1 it shrinks the logits, below 1 it makes the network
            align more to reach the same confidence.
        logit_bias: b; None leaves it out. The usual ``-ln(K-1)`` makes an untrained network give every one of
            K classes the probability 1/K.

    Shapes: any. Half precisions come out as float32: beside the usual bias of -6.9, bfloat16 could not tell
    logits apart that differ by 0.03.

    Raises:
        BcosError: a temperature of 0.

    Source: Böhle et al., TPAMI 2024, section 3.4.
    """

    def __init__(self, logit_temperature: float | None = None, logit_bias: float | None = None) -> None:
        super().__init__()
        if logit_temperature == 0:
            raise BcosError("logit_temperature must not be 0; use None for no temperature")
        self.logit_temperature = logit_temperature
        self.logit_bias = logit_bias

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift."""
        x = widened(x)
        if self.logit_temperature is not None:
            x = x / self.logit_temperature
        if self.logit_bias is not None:
            x = x + (name_as(x.new_full((), self.logit_bias), LOGIT_BIAS) if is_explaining() else self.logit_bias)
        return x

    def extra_repr(self) -> str:
        """Show both constants."""
        return f"logit_temperature={self.logit_temperature}, logit_bias={self.logit_bias}"
