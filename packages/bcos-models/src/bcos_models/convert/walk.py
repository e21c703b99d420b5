"""The walk through the modules of a network that applies the rules to each."""

import re
from collections.abc import Collection

import torch
from torch import Tensor, nn

from bcos_core.errors import BcosError
from bcos_core.plugins import first_result
from bcos_models import plugins
from bcos_models.conversion import Conversion, ConversionOptions, ConversionReport, Decisions, Step
from bcos_models.convert.rules import MAX_POOLS, NORMS, WEIGHTED, is_activation, is_depthwise, without_bias

_QUERY_KEY_VALUE = re.compile(r"(to_|w)?(q|k|v|qk|kv|qkvs?|query|key|value|queries|keys|values)(_?(proj|conv|lin))?")
_INNERMOST = 3
"""How many of a name's last parts are compared: the three of ``attn.qkv.conv``."""
IDLE = "does not run by itself: a function of a module around it uses its weights"
GATE = "computes a frozen factor (gate, attention weight): no contribution passes through it"


class Walk:
    """Converts the modules of one network, in place.

    Args:
        called: modules that ran; None where `decisions` say which did not.
        moved: name of the classifier, if it has been replaced already.
    """

    def __init__(
        self,
        options: ConversionOptions,
        decisions: Decisions,
        called: Collection[str] | None,
        moved: str | None,
        report: ConversionReport,
    ) -> None:
        self.options = options
        self.gates, self.idle = set(decisions.gates), set(decisions.idle)
        self.called = called
        self.moved = moved
        self.report = report
        self._done: dict[int, nn.Module] = {}
        self._alive: list[nn.Module] = []  # so that ids stay their own

    def convert_children(self, parent: nn.Module, prefix: str = "") -> None:
        """Convert everything below a module, whose name and a dot are `prefix`."""
        for key, child in list(parent._modules.items()):
            name = f"{prefix}{key}"
            if child is None or name == self.moved:
                continue
            if id(child) not in self._done:
                self._alive.append(child)
                self._done[id(child)] = self._converted(child, name)
            parent._modules[key] = self._done[id(child)]

    def _converted(self, layer: nn.Module, name: str) -> nn.Module:
        if self.options.skips(name):
            return self._stays(layer, name, "skipped, as asked")
        known = isinstance(layer, (*WEIGHTED, *NORMS, *MAX_POOLS)) or is_activation(layer)
        if known and (name in self.idle if self.called is None else name not in self.called):
            return self._stays(layer, name, IDLE)
        if known and name in self.gates:
            return self._stays(layer, name, GATE)
        before = dict(layer.named_parameters()) | dict(layer.named_buffers())
        if isinstance(layer, WEIGHTED) and is_query_key_value(name):
            self._note(layer, name, without_bias(layer, self.options), "query, key and value stay linear")
            return layer
        hook = plugins.manager().hook.bcos_models_convert_layer
        conversion = first_result(hook, Conversion, layer=layer, options=self.options)
        if conversion is not None:
            _check_copied(name, before, conversion)
            self._note(layer, name, conversion, conversion.rule)
            if not conversion.is_finished:
                self.convert_children(conversion.module, f"{name}.")
            return conversion.module
        if known:
            self._stays(layer, name, _why_kept(layer, self.options))
        elif list(layer._parameters) and not list(layer.children()):
            self._stays(layer, name, "no rule for it")
        self.convert_children(layer, f"{name}.")
        return layer

    def _stays(self, layer: nn.Module, name: str, reason: str) -> nn.Module:
        self.report.steps.append(Step(name, type(layer).__name__, type(layer).__name__, reason, False))
        return layer

    def _note(self, layer: nn.Module, name: str, conversion: Conversion | None, reason: str) -> None:
        after = layer if conversion is None else conversion.module
        dropped = () if conversion is None else conversion.dropped
        replaced = after is not layer or bool(dropped)
        self.report.steps.append(Step(name, type(layer).__name__, type(after).__name__, reason, replaced, dropped))


def is_query_key_value(name: str) -> bool:
    """Whether a module's name says that it projects to queries, keys or values."""
    return any(_QUERY_KEY_VALUE.fullmatch(part) for part in name.split(".")[-_INNERMOST:])


def _why_kept(layer: nn.Module, options: ConversionOptions) -> str:
    if is_depthwise(layer) and not options.convert_depthwise:
        return "a depthwise convolution stays linear"
    if isinstance(layer, WEIGHTED) and "weight" not in layer._parameters:
        return "its weight is computed by a parametrization"
    if isinstance(layer, WEIGHTED):
        return f"no rule for {type(layer).__module__}.{type(layer).__name__}"
    if isinstance(layer, NORMS):
        return "norms are kept" if options.keep_norms else "has no mean or bias that could go"
    if isinstance(layer, MAX_POOLS):
        return "pooling is kept" if options.keep_pooling else "no average pooling has its dilation or indices"
    return "activations are kept"


def _check_copied(name: str, before: dict[str, Tensor], conversion: Conversion) -> None:
    """Refuse a conversion that lost a parameter or a buffer, or changed one."""
    after = dict(conversion.module.named_parameters()) | dict(conversion.module.named_buffers())
    for key, tensor in before.items():
        if key in conversion.dropped:
            continue
        candidates = [after[key]] if key in after else list(after.values())  # a rule may give it another name
        if not any(new is tensor for new in candidates) and not any(
            torch.equal(new.detach(), tensor.detach()) for new in candidates
        ):
            made = type(conversion.module).__name__
            kind = "is not in" if key not in after else "is another in"
            raise BcosError(
                f"the conversion of {name!r} loses a weight: its {key} {kind} the {made} that "
                f"the rule {conversion.rule!r} returned; let the rule copy it, or name it among what it drops"
            )
