"""The result of explaining a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import PickleError
from typing import Any

import torch
from torch import Tensor

from bcos_core.additive_terms import LOGIT_BIAS
from bcos_core.completeness import Balance, balance, rounding
from bcos_core.dependence import map_tensors
from bcos_core.display import renderer
from bcos_core.errors import BcosError, first_line
from bcos_core.files import replacement
from bcos_core.image_share import cancellation, image_share

_ROWS_SHOWN = 12
"""Images and targets in a notebook's table."""
_VALUES_SHOWN = 4
"""Inputs whose numbers stand in the text of an explanation."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """``score = Σ weight · input + bias``, exactly, for every image and target.

    All tensors are owned by this object: detached, on the device of the input, sharing memory with nothing.
    ``e[0]``, ``e[:4]`` or ``e[e.score > 0]`` is the explanation of these inputs, a batch too; two are equal if all
    their numbers are.

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
    """(N,) or (N, T): of the outputs that a score is a sum or difference of, the largest part, in absolute value.

    Its rounding is that of the score."""
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

    @property
    def image_share(self) -> Tensor:
        """(N,) or (N, T), float64: ``|Σ contributions| / (|Σ contributions| + |bias - logit bias|)``.

        The share of the score that comes from the image. The logit bias, the constant of :class:`bcos_core.LogitLayer`,
        is the same for every image and class: a network that adds nothing else has the share 1. NaN for a score of
        nothing else.
        """
        parts, constant = self.balance, self.bias_terms.get(LOGIT_BIAS)
        return image_share(parts.contributions, parts.bias if constant is None else parts.bias - constant.double())

    @property
    def cancellation(self) -> Tensor:
        """(N,) or (N, T), float64: ``|Σ contributions| / Σ |contributions|``, what is left after they cancel.

        1 where all contributions have one sign, near 0 where the map is a balance; NaN where all are zero.
        """
        parts = self.balance
        return cancellation(parts.contributions, parts.absolute)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int | slice | Sequence[int] | Sequence[bool] | Tensor) -> "Explanation":
        chosen = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index].reshape(-1)
        return self._with(lambda tensor: tensor[chosen.to(tensor.device)])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Explanation):
            return NotImplemented
        mine, others = self._parts(), other._parts()
        return mine.keys() == others.keys() and all(_equal(value, others[name]) for name, value in mine.items())

    def __hash__(self) -> int:
        return hash((self.input.shape, self.target.shape))

    def __repr__(self) -> str:
        def text(values: Tensor) -> str:
            shown = ", ".join(f"{value:.4g}" for value in values.flatten()[:_VALUES_SHOWN].tolist())
            return f"[{shown}{', ...' if values.numel() > _VALUES_SHOWN else ''}]"

        shapes = f"{len(self)} of {tuple(self.input.shape[1:])}"
        return f"Explanation({shapes}, target={text(self.target)}, score={text(self.score)}, bias={text(self.bias)})"

    def to(self, device: torch.device | str) -> "Explanation":
        """Return the explanation on another device; its numbers keep the precision in which they were computed.

        Raises:
            BcosError: a type instead of a device.
        """
        if isinstance(device, torch.dtype):
            raise BcosError(f"an explanation keeps its precision, got {device}; give Explanation.to a device")
        return self._with(lambda tensor: tensor.to(device))

    def numpy(self) -> dict[str, Any]:
        """Return `input`, `logits`, `target`, `score`, `weight`, `bias`, `contributions` and `map` as NumPy arrays.

        NumPy has no bfloat16: such numbers become float32.
        """
        names = ("input", "logits", "target", "score", "weight", "bias", "contributions", "map")
        found = {name: getattr(self, name).cpu() for name in names}
        return {name: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for name, t in found.items()}

    def save(self, path: str | Path) -> None:
        """Write everything to a file of PyTorch's, which :meth:`load` reads; it appears complete or not at all.

        Raises:
            OSError: it cannot be written.
        """
        whole = self._with(lambda tensor: tensor.clone(memory_format=torch.contiguous_format))  # no more than is shown
        with replacement(path) as aside:
            parts = {**vars(whole), "dtypes": None if self.dtypes is None else list(self.dtypes)}
            torch.save({name: value for name, value in parts.items() if value is not None}, aside)

    @classmethod
    def load(cls, path: str | Path) -> "Explanation":
        """Read what :meth:`save` has written, on the CPU. No code in the file is run.

        Raises:
            BcosError: no such file, or one that holds something else.
        """
        try:
            parts = torch.load(path, map_location="cpu", weights_only=True)
            found = cls(**{**parts, "dtypes": frozenset(parts["dtypes"]) if "dtypes" in parts else None})
            found._check()
        except OSError as reason:
            raise BcosError(f"cannot read {str(path)!r}: {first_line(reason)}") from reason
        except Exception as reason:  # a file of someone else may raise anything
            why = "it is damaged, or holds more than tensors" if isinstance(reason, PickleError) else first_line(reason)
            raise BcosError(f"{str(path)!r} is not a file that Explanation.save has written: {why}") from reason
        return found

    def plot(self) -> Any:
        """Draw inputs (N, C, H, W), W(x) and contributions with pyplot; needs the package bcos-explain.

        Returns:
            The figure, pyplot's current one: ``plt.savefig`` writes it.

        Raises:
            BcosError: bcos-explain is not installed, or the inputs are no images.
        """
        if (draw := renderer("plot")) is None:
            raise BcosError("no installed package draws explanations; install bcos-explain")
        return draw(self)

    def _with(self, function: Callable[[Tensor], Tensor]) -> "Explanation":
        return Explanation(**map_tensors(function, dict(vars(self))))

    def _parts(self) -> dict[str, object]:
        """All that there is, by name."""
        return {**vars(self), **{f"bias_terms.{name}": term for name, term in self.bias_terms.items()}}

    def _check(self) -> None:
        """Refuse parts whose types or shapes do not fit each other."""
        shape, n = self.target.shape, self.input.shape[0]
        like_target = {**self.bias_terms, "score": self.score, "bias": self.bias}
        like_target |= {name: getattr(self, name) for name in ("largest", "probe") if getattr(self, name) is not None}
        fitting = [isinstance(name, str) and value.shape == shape for name, value in like_target.items()]
        fitting += [shape[0] == n, len(shape) in (1, 2), self.logits.ndim == 2, self.logits.shape[0] == n]
        tensors = [value for value in self._parts().values() if isinstance(value, Tensor)]
        fitting += [_is_plain(value) and value.is_floating_point() != (value is self.target) for value in tensors]
        fitting += [bool(((self.target >= 0) & (self.target < self.logits.shape[-1])).all())]
        fitting += [self.weight.shape == (*shape, *self.input.shape[1:]), self.input.ndim > 1]
        fitting += [all(isinstance(dtype, torch.dtype) for dtype in self.dtypes or ())]
        if not all(fitting):
            raise BcosError("its parts do not fit each other")

    def _repr_html_(self) -> str:
        """What a notebook shows: pictures and receipts if bcos-explain is installed, else a table of numbers."""
        draw = renderer("html")
        return (draw(self) if draw else None) or self._table()

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


def _is_plain(tensor: Tensor) -> bool:
    """Whether all operations take a tensor: all values are there, and its type and layout are not for storing alone."""
    kinds = (torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in kinds:
        return False
    return tensor.nbytes <= tensor.untyped_storage().nbytes()  # else a few bytes stand for gigabytes


def _equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return False
    return isinstance(a, dict) or a == b  # terms of the bias are compared one by one
