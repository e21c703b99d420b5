"""DeepLIFT."""

import copy
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import captum.attr
import torch
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR, nonlinear
from torch import Tensor, nn

from bcos_core import BcosError
from bcos_core.errors import first_line
from bcos_core.layers import shared_copy
from bcos_explain.explainers.contract import Target, as_columns, class_indices, differentiable, like_target
from bcos_explain.explainers.gradient import target_gradients
from bcos_explain.explainers.remarks import remark, remark_on_gap

_filters = threading.RLock()


@dataclass(frozen=True)
class DeepLift:
    """``x · m``, m the multipliers ``Δf/Δx`` of the rescale rule, against the all-zero input.

    The rule is applied at PyTorch's modules of element-wise activation (ReLU, ReLU6, GELU, SiLU, sigmoid, ...),
    max pooling and softmax; everywhere else, in functions that a network's own code calls and in dynamic factors
    of B-cos layers, the multipliers are gradients.
    Where no such module runs, as in most B-cos networks, the result is input times gradient, with a remark.
    Where that leaves the sum more than 1 % away from ``f_k(x) - f_k(0)``, as on most transformers, a remark says
    how far. With inverse channels the attributions are a decomposition over the encoded input, as those of
    :class:`~bcos_explain.explainers.InputXGradient`.

    Returns (N, [T,] C, H, W), in units of the logit.

    Raises:
        BcosError: a network that Captum's implementation cannot take.

    Source: Shrikumar et al., *Learning Important Features Through Propagating Activation Differences*, ICML
    2017.
    """

    several_targets: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain the logits of `target`."""
        with differentiable(model, x) as leaf:
            copied = _hookable(model)
            output, ran = _one_module_a_call(copied, tuple(_RULES), leaf)
            if not ran:
                remark("this is input times gradient: no module that DeepLIFT has a rule for ran in this network")
            indices = class_indices(model, output, target)
            method = _DeepLift(copied, multiply_by_inputs=False)
            method.gradient_func = shared = _Multipliers(as_columns(indices))
            try:
                with _without_captums_warnings():
                    multipliers = method.attribute(leaf, baselines=0)
            except (AssertionError, RuntimeError, AttributeError) as reason:
                if isinstance(reason, torch.OutOfMemoryError):
                    raise
                raise BcosError(
                    f"Captum's DeepLIFT cannot explain this network ({first_line(reason)}); use another method, such "
                    "as integrated_gradients"
                ) from reason
            attribution = leaf.detach().unsqueeze(1) * multipliers
            remark_on_gap(attribution, shared.difference, "there is no rule for some of what this network computes")
            return like_target(attribution, indices)


_ELEMENTWISE = (nn.ReLU6, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.SELU, nn.CELU)
"""Activations that Captum's table lacks; its rule for ReLU is right for every element-wise function."""
_RULES = {**dict.fromkeys(_ELEMENTWISE, nonlinear), **SUPPORTED_NON_LINEAR}


class _DeepLift(captum.attr.DeepLift):  # type: ignore[misc] # reason: captum has no types
    """Captum's DeepLIFT, but activations keep their values for more than one backward pass: one for each target."""

    def _is_non_linear(self, module: nn.Module) -> bool:
        return type(module) in _RULES

    def _backward_hook(self, module: nn.Module, grad_input: Any, grad_output: Any) -> Any:
        rule = _RULES[type(module)]
        return rule(module, module.input, module.output, grad_input, grad_output, eps=self.eps)


class _Multipliers:
    """Captum's gradient function for DeepLIFT: outputs (2·N, K) hold those of the input and of the baseline.

    After a call ``difference`` holds that of the two, (N, T).
    """

    def __init__(self, indices: Tensor) -> None:
        self.indices = indices
        self.difference = torch.empty(0)

    def __call__(self, forward_fn: Callable[[], Tensor], inputs: tuple[Tensor, ...], *_: Any) -> tuple[Tensor]:
        outputs = forward_fn()
        multipliers = target_gradients(outputs, self.indices.repeat(2, 1), inputs[0])
        assert multipliers is not None  # the outputs depend on the input
        of_input, of_baseline = outputs.detach().chunk(2)
        self.difference = (of_input - of_baseline).gather(1, self.indices)
        return (multipliers,)


def _hookable(model: nn.Module) -> nn.Module:
    """Copy whose activations do not work in place, since hooks on inputs and outputs cannot handle that."""
    copied = shared_copy(model)
    for module in copied.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment] # reason: an attribute of activations
    return copied


def _one_module_a_call(model: nn.Module, kinds: tuple[type[nn.Module], ...], x: Tensor) -> tuple[Tensor, int]:
    """Give every call of a module of some `kinds` a module of its own, in place.

    Many networks call one ReLU in several places, which Captum's DeepLIFT cannot tell apart. The `kinds` have no
    parameters. Returns the network's output for x, and the number of calls.
    """
    calls: Counter[nn.Module] = Counter()
    counted = [module for module in model.modules() if type(module) in kinds]
    handles = [module.register_forward_pre_hook(lambda m, _: calls.update([m])) for module in counted]
    with torch.no_grad():
        output: Tensor = model(x)
    for handle in handles:
        handle.remove()
    replaced = {module: _InTurn(module, count) for module, count in calls.items() if count > 1}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in replaced:
                parent._modules[name] = replaced[child]
    return output, calls.total()


class _InTurn(nn.Module):
    """Copies of a module, called one after the other in every forward pass."""

    def __init__(self, module: nn.Module, count: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(module) for _ in range(count))
        self.calls = 0

    def forward(self, *args: Any) -> Any:
        self.calls += 1
        return self.copies[(self.calls - 1) % len(self.copies)](*args)


@contextmanager
def _without_captums_warnings() -> Iterator[None]:
    """Drop the notices that Captum sets hooks, which it does on a copy here.

    Python's filters belong to the process: one thread at a time.
    """
    with _filters, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks", UserWarning)
        warnings.filterwarnings("ignore", r"\s*Setting forward, backward hooks", UserWarning)
        yield
