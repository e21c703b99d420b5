"""Guided backpropagation."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bcos_core.mode import eager_mode
from bcos_core.rules.table import functions
from bcos_explain.explainers.contract import Target, like_target
from bcos_explain.explainers.gradient import image_signs, input_gradients
from bcos_explain.explainers.remarks import remark


@dataclass(frozen=True)
class GuidedBackprop:
    """The gradient, with negative parts set to zero at every ReLU on the way back.

    Every function that cuts at zero is a ReLU here, whether a module or the network's own code calls it: ReLU,
    ReLU6, a clamp from zero on, the maximum with zero. Where none ran, as in most B-cos networks, there is nothing
    to guide: the result is the gradient, with a remark. A remark also says if other activations, such as GELU, ran
    beside ReLUs, and if parts of the network are TorchScript, where ReLUs are not seen.

    Returns (N, [T,] C, H, W), in units of the logit per unit of the input; with inverse channels the two parts of
    the derivative by the image, as :class:`~bcos_explain.explainers.Gradient`.

    Source: Springenberg et al., *Striving for Simplicity*, ICLR workshop 2015, arXiv 1412.6806.
    """

    several_targets: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with eager_mode(), _GuidedReLUs() as guided:
            gradients, indices = input_gradients(model, x, target)
        guided.add_remarks()
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            remark("parts of this network are TorchScript, where ReLUs are not seen: they pass the plain gradient")
        return like_target(gradients * image_signs(x.detach()).unsqueeze(1), indices)


class _GuidedReLUs(TorchFunctionMode):
    """Cuts negative parts of the gradient of what ReLUs return, while it is active in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.relus = 0
        self.others: Counter[str] = Counter()
        """Other activations that ran, by name."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _ACTIVATIONS and isinstance(result, Tensor) and result.requires_grad:
            if _cuts_at_zero(func, args, kwargs):
                self.relus += 1
                # of an in-place ReLU: of its result, which is what it changed
                result.register_hook(lambda gradient: gradient.clamp_min(0))
            elif _name(func) not in (*_BOUNDS, "max"):  # a bound elsewhere than at zero is not an activation
                self.others[_name(func)] += 1
        return result

    def add_remarks(self) -> None:
        named = ", ".join(sorted(self.others))
        if not self.relus:
            remark(f"this is the plain gradient: no ReLU was seen in this network{f', but {named}' if named else ''}")
        elif self.others:
            count = self.others.total()
            remark(f"guided at ReLUs alone: {count} other activations ({named}) pass the plain gradient")


_BOUNDS = ("clamp", "clip", "clamp_min", "threshold")
_MAXIMA = ("maximum", "fmax", "max")
_RELUS = ("relu", "relu6", "hardtanh", *_BOUNDS, *_MAXIMA)
"""Functions that are a ReLU, or may be one, depending on their bounds."""
_OTHERS = (
    *("gelu", "silu", "mish", "hardswish", "elu", "selu", "celu"),
    *("leaky_relu", "prelu", "rrelu", "softplus", "tanh"),
)
_ACTIVATIONS = {f for name in (*_RELUS, *_OTHERS) for f in (*functions(name), *functions(f"{name}_"))}


def _name(func: Callable[..., Any]) -> str:
    return str(func.__name__).strip("_")


def _cuts_at_zero(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a call sets what is negative to zero, and leaves what is positive, up to a bound."""
    name = _name(func)
    if name in ("relu", "relu6"):
        return True
    if name not in _RELUS:
        return False
    if name in _MAXIMA:
        others = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and not v.requires_grad]
        return len(others) == 1 and not bool(others[0].any())
    names = {"hardtanh": ("min_val", "max_val"), "threshold": ("threshold", "value")}.get(name, ("min", "max"))
    given = dict(zip(names, args[1:], strict=False)) | kwargs
    low = given.get(names[0], -1.0 if name == "hardtanh" else None)
    value = given.get(names[1]) if name == "threshold" else 0
    return all(isinstance(v, int | float) and v == 0 for v in (low, value))
