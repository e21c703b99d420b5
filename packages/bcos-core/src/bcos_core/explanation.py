"""The result of explaining a batch."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bcos_core.completeness import Balance, balance, rounding
from bcos_core.display import html_of

_ROWS_SHOWN = 12
"""Images and targets in a notebook's table."""


@dataclass(frozen=True)
class Explanation:
    """``score = Σ weight · input + bias``, exactly, for every image and target.

    All tensors are owned by this object: detached, on the device of the input, sharing memory with nothing.

    ``T`` stands for the targets of an image; the dimension is missing where each image has one target.
    """

    input: Tensor
    """(N, C, *spatial): what was explained, as the network saw it."""
    logits: Tensor
    """(N, K): the outputs among which targets were chosen."""
    target: Tensor
    """(N,) or (N, T): indices of the explained outputs."""
    score: Tensor
    """(N,) or (N, T).

    The explained values: the targets' logits, or their distance to the mean logit if relative.
    """
    weight: Tensor
    """(N, [T,] C, *spatial): the dynamic linear map W(x) of each score, in score units per input unit."""
    bias: Tensor
    """(N,) or (N, T): b(x), what does not come from the input; the sum of `bias_terms`."""
    bias_terms: dict[str, Tensor] = field(default_factory=dict)
    """What `bias` is made of.

    For each parameter or buffer that the network adds, by its name, and for ``"constant"``, (N,) or (N, T). Names
    that end in ``(frozen)`` are not constants: they depend on the input, and the network holds them constant.
    """
    largest: Tensor | None = None
    """(N,) or (N, T): absolute value of an input's largest output, whose rounding differences of outputs have."""
    dtypes: frozenset[torch.dtype] | None = None
    """Floating types that values had anywhere in the network; None for that of the score."""
    probe: Tensor | None = None
    """(N,) or (N, T): share by which the network, its dynamic factors held, misses the map at another point.

    None if no probe was asked for or needed.
    """

    @property
    def contributions(self) -> Tensor:
        """(N, [T,] C, *spatial): ``weight · input``, what each input element adds to the score."""
        extra = self.target.ndim - 1
        return self.weight * (self.input.unsqueeze(1) if extra else self.input)

    @property
    def map(self) -> Tensor:
        """(N, [T,] *spatial): contributions summed over channels (for inputs (N, F): the contributions)."""
        contributions = self.contributions
        if self.input.ndim < 3:
            return contributions
        return contributions.sum(dim=self.target.ndim)

    @property
    def balance(self) -> Balance:
        """The parts of the scores, added up."""
        contributions = self.contributions.flatten(self.target.ndim)
        return balance(contributions, self.bias_terms.values(), self.score, bias=self.bias, largest=self.largest)

    @property
    def residual(self) -> Tensor:
        """(N,) or (N, T), float64: ``score - Σ contributions - bias``, which is rounding error."""
        return self.balance.residual

    @property
    def allowed_residual(self) -> Tensor:
        """(N,) or (N, T), float64: largest residual that rounding explains."""
        return rounding([self.score.dtype] if self.dtypes is None else self.dtypes) * self.balance.size

    def _repr_html_(self) -> str:
        """What a notebook shows: pictures and receipts if bcos_explain was imported, else a table of numbers."""
        return html_of(self) or self._table()

    def _table(self) -> str:
        """Score, contributions, bias and residual of the first images and targets."""
        n, parts = len(self.target), self.balance
        columns = [self.target, self.score, parts.contributions, self.bias, parts.residual]
        rows = list(zip(*(column.reshape(n, -1).tolist() for column in columns), strict=True))
        cells = [(i, *values) for i, row in enumerate(rows) for values in zip(*row, strict=True)]
        names = ("image", "target", "score", "contributions", "bias", "residual")
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join(
            f"<tr><td>{i}</td><td>{target}</td>{''.join(f'<td>{value:.4g}</td>' for value in values)}</tr>"
            for i, target, *values in cells[:_ROWS_SHOWN]
        )
        more = f"<p>… and {len(cells) - _ROWS_SHOWN} more</p>" if len(cells) > _ROWS_SHOWN else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
