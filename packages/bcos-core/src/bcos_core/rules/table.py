"""The table: which rule explanation mode applies to which function of PyTorch."""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import resolve_name

from bcos_core.additive_terms import current_terms, named_like
from bcos_core.dependence import depends, map_tensors, mark_dependent, tensors
from bcos_core.errors import BcosError
from bcos_core.one_call import FORMULAS
from bcos_core.plugins import Plugins, load_entry_points

Function = Callable[..., Any]
Rule = Callable[..., Any]
"""Called with the function and its arguments, at least one of which depends on the input; returns the same value.

Its result must be linear in what depends on the input, and constants must be added with
:func:`bcos_core.additive_terms.shift`.
"""

RULES: dict[Function, Rule] = {}
"""What is called instead of a function."""
COMPOSITIONS: dict[Function, Function] = {}
"""Formulas that are computed instead of a function; to each of their steps, its own rule applies."""
IN_PLACE_COMPOSITIONS: dict[Function, Function] = {}
"""Formulas whose result then replaces the first argument."""
LINEAR: set[Function] = set()
"""Functions that are called as they are.

They are linear in their tensor argument.
"""
SELECTING: set[Function] = set()
"""Functions that select elements of their tensor argument, or multiply each with one of a few numbers by its sign."""
THIRD_PARTY: set[Function] = set()
"""Functions whose rule another package has given: nothing but a probe vouches for it."""

_NAMESPACES = (torch, torch.Tensor, F, torch.linalg, torch.special, torch.fft)


def functions(name: str) -> list[Function]:
    """All functions and tensor methods of a name; of properties, their getter."""
    found = [getattr(namespace, name) for namespace in _NAMESPACES if hasattr(namespace, name)]
    return [f if callable(f) else f.__get__ for f in found if callable(f) or hasattr(f, "__get__")]


@functools.cache
def public_function(operator: Any) -> Function:
    """Function of PyTorch's that an operator of ``torch.ops.aten`` is behind, which takes the same arguments."""
    packet = getattr(operator, "overloadpacket", operator)
    namespace, _, name = packet._qualified_op_name.partition("::")
    found = functions(name) if namespace == "aten" else []
    return found[0] if found else operator


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for all functions of these names, and for those that do the same in place."""

    def register(function: Rule) -> Rule:
        for name in names:
            for original in functions(name):
                RULES[original] = function
            augmented = f"__i{name.strip('_')}__" if name.startswith("__") else f"{name}_"
            for in_place in functions(augmented):
                RULES[in_place] = functools.partial(_in_place, function, functions(name)[0])
        return function

    return register


def method(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for tensor methods that change the tensor."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys((getattr(torch.Tensor, name) for name in names), function))
        return function

    return register


def composition(*names: str) -> Callable[[Function], Function]:
    """Register a formula for all functions of these names, and for those that do the same in place."""

    def register(formula: Function) -> Function:
        for name in names:
            COMPOSITIONS.update(dict.fromkeys(functions(name), formula))
            IN_PLACE_COMPOSITIONS.update(dict.fromkeys(functions(f"{name}_"), formula))
        return formula

    return register


def register_rules(rules: Mapping[Function, Rule]) -> None:
    """Add rules to explanation mode, for every model of this process.

    Args:
        rules: for each function (as :class:`torch.overrides.TorchFunctionMode` sees it, such as
            ``torch.erfc`` or ``torch.Tensor.erfc``, which are two) what is called instead:
            ``rule(function, *args, **kwargs)``. It is called where an argument depends on the input, must
            return the function's value, and must be linear in such arguments: detach what is a dynamic factor.
            :data:`AS_IT_IS` is the rule of what is linear already.

    Raises:
        BcosError: a function or a rule is not callable.
    """
    if not isinstance(rules, Mapping):
        raise BcosError(f"rules are a mapping of functions to functions, got {type(rules).__name__}")
    for function, replacement in rules.items():
        if not callable(function) or not callable(replacement):
            raise BcosError(f"a rule maps a function to a function, got {function!r}: {replacement!r}")
    RULES.update(rules)
    THIRD_PARTY.update(rules)


@functools.cache
def load_rules() -> Plugins:
    """Register the rules of every installed package, once; called when a network is first explained.

    A package names a mapping, as :func:`register_rules` takes it, in its ``pyproject.toml``; one whose rules cannot be
    loaded, or are of a function that has one, is named in a warning, and the others keep working.

    .. code-block:: toml

        [project.entry-points.bcos_core]
        mine = "my_package.rules:RULES"
    """
    plugins = load_entry_points("bcos_core", _register_new)
    for info in plugins.infos:
        if info.error is not None:
            warnings.warn(f"the rules of {info.described} are not used: {info.error}", stacklevel=2)
    return plugins


def _register_new(rules: Mapping[Function, Rule], _plugin: str) -> None:
    """Register rules of a package; refuse functions that have a rule, which nobody would know was replaced."""
    tables = (RULES, COMPOSITIONS, IN_PLACE_COMPOSITIONS, LINEAR, FORMULAS, SELECTING)
    if taken := [function for function in rules if any(function in table for table in tables)]:
        raise BcosError(f"{resolve_name(taken[0]) or taken[0]} has a rule already; leave it out")
    register_rules(rules)


def AS_IT_IS(function: Function, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - reason: a constant of the API
    """Call the function: the rule of functions that are linear in their tensor arguments."""
    return function(*args, **kwargs)


def overwrite(x: Tensor, result: Tensor) -> Tensor:
    """Give `x` the values, the dependence on the input, and the name of `result`."""
    if depends(result):
        measure_base(x, result)
        mark_dependent(x)
        return x.copy_(result)
    if x.requires_grad and x._is_view():  # a part of a tensor whose other parts may depend on the input
        terms = current_terms()
        return x.copy_(result.detach() if terms is None else terms.leaf(result, x, broadcast=False))
    with torch.no_grad():
        x.copy_(result)
    return named_like(result, x.detach_())  # type: ignore[no-any-return] # reason: it is x


def measure_base(x: Tensor, beside: Tensor) -> None:
    """Measure the constant of which `x` is a part, before that is overwritten: the other parts stay as they are."""
    base, terms = x._base, current_terms()
    if base is None or terms is None or depends(base) or not torch.is_grad_enabled() or not bool(base.any()):
        return
    mark_dependent(base)
    base.copy_(terms.leaf(named_like(base, base.clone()), beside, broadcast=False))
    _ = x.grad_fn  # autograd notices only now that x is a part of what depends on the input


def split_inplace(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any, Any]:
    """Take the flag ``inplace`` out of the arguments of `function`."""
    kwargs = dict(kwargs)
    inplace = bool(kwargs.pop("inplace", False))
    position = _position_of_inplace(function)
    if position is not None and len(args) > position:
        inplace = bool(args[position])
        args = (*args[:position], False, *args[position + 1 :])
    return inplace, args, kwargs


@functools.cache
def _position_of_inplace(function: Function) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:  # a builtin, which has no such flag
        return None
    return names.index("inplace") if "inplace" in names else None


def _in_place(replacement: Rule, functional: Function, _func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    # Autograd needs the values from before the change, also where an argument is a view of x (x.add_(x.T)): the rule
    # works on copies, and its result is written into x by copy_, which autograd and the views of x follow.
    (before, *others), kwargs = copied_beside(x, (x, *args), kwargs)
    return overwrite(x, replacement(functional, before, *others, **kwargs))


def copied_beside(x: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Arguments in which whatever shares memory with `x`, which is about to be changed, is a copy."""
    memory = x.untyped_storage().data_ptr()

    def copied(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() != memory:
            return tensor
        return named_like(tensor, tensor.clone())  # type: ignore[no-any-return] # reason: a tensor

    return map_tensors(copied, list(args)), map_tensors(copied, kwargs)


def count_dependent(*values: Any) -> int:
    """How many tensors in `values` depend on the input."""
    return sum(depends(t) for t in tensors(values))


def is_in_place(function: Function) -> bool:
    """Whether a function changes its first argument, by its name."""
    name = function.__name__.partition(".")[0]  # operators end in that of an overload
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and hasattr(torch.Tensor, f"__{name[3:]}"))
    return name.endswith("_")
