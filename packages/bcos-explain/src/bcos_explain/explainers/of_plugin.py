"""Explainers of plugins, held to what every explainer promises."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bcos_core import Explanation
from bcos_core.plugin_guard import PluginError, plugin_errors
from bcos_core.plugins import checked
from bcos_core.targets import Target as OutputTarget
from bcos_core.targets import with_indices
from bcos_explain.explainers.contract import Explainer, LinearMapExplainer, Target


def of_plugin(explainer: object, what: str) -> Explainer:
    """Return the explainer, whose failures and wrong results name it; `what` it is and whose.

    Raises:
        PluginError: it is nothing that can be called.
    """
    if not callable(explainer):
        raise PluginError(f"{what}: its builder gave {type(explainer).__name__}, needed explainer(model, x, target)")
    is_linear = isinstance(explainer, LinearMapExplainer)
    return (_LinearMapOfPlugin if is_linear else _OfPlugin)(explainer, what)


@dataclass(frozen=True, repr=False)
class _OfPlugin:
    explainer: Explainer
    what: str

    def __call__(self, model: nn.Module, x: Tensor, target: Target = None) -> Tensor:
        """Explain, as :class:`Explainer`; names of classes are looked up for it."""
        target = with_indices(model, target)
        with plugin_errors(self.what, ours=False):
            maps = checked(self.explainer(model, x, target), Tensor, self.what)
        several = target.shape[1:] if isinstance(target, Tensor) else ()
        leading, image = (len(x), *several), tuple(x.shape[2:])
        sides, rank = (*maps.shape[: len(leading)], *maps.shape[-2:]), maps.ndim - len(leading)
        if sides != (*leading, *image) or rank not in (2, 3):
            needed = ", ".join(map(str, (*leading, "[C]", *image)))
            raise PluginError(f"{self.what} gave a map of shape {tuple(maps.shape)}, needed ({needed})")
        return maps

    def __getattr__(self, name: str) -> Any:
        return getattr(self.explainer, name)

    def __repr__(self) -> str:
        return repr(self.explainer)


class _LinearMapOfPlugin(_OfPlugin):
    explainer: LinearMapExplainer

    def explanation(
        self, model: nn.Module, x: Tensor, target: OutputTarget = None, *, probe: bool | None = None
    ) -> Explanation:
        """Explain, as :class:`LinearMapExplainer`."""
        with plugin_errors(self.what, ours=False):
            return checked(self.explainer.explanation(model, x, target, probe=probe), Explanation, self.what)
