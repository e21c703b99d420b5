"""Explainers and metrics by name."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from bcos_core.errors import BcosError
from bcos_core.plugins import check_options, is_ours
from bcos_explain import plugins
from bcos_explain.spec import ExplainerSpec, MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bcos_explain.explainers.contract import Explainer


def list_explainers(pattern: str = "*") -> list[str]:
    """Sorted names of all explainers, of every plugin, that match a shell pattern (``"*gradient*"``)."""
    return [name for name in plugins.explainers().names() if fnmatchcase(name, pattern)]


def explainer_specs() -> list[ExplainerSpec]:
    """Descriptions of all explainers, sorted by name."""
    return sorted(plugins.explainers(), key=lambda spec: spec.name)


def is_signed(name: str, map: "NDArray[Any]") -> bool:
    """Whether a map is drawn in the colours of both signs: if its method has a sign, or the map a negative value.

    A difference of two Grad-CAM maps has one, too.
    """
    return not any(spec.name == name and not spec.signed for spec in plugins.explainers()) or bool((map < 0).any())


def get_explainer(name: str, **options: Any) -> "Explainer":
    """Build an explainer by name.

    Args:
        name: one of :func:`list_explainers`.
        options: of the method, such as ``n_steps`` of ``"integrated_gradients"`` or ``layer`` of
            ``"gradcam"``.

    Returns:
        ``explainer(model, x, target=None) -> (N, C, H, W)`` or ``(N, H, W)``; see
        :class:`bcos_explain.explainers.Explainer`.

    Raises:
        BcosError: an unknown explainer or option, or an option's value that makes no sense.

    >>> get_explainer("integrated_gradients", n_steps=20)
    IntegratedGradients(n_steps=20, internal_batch_size=16)
    """
    registry = plugins.explainers()
    builder = registry.builder(name)
    check_options(f"the explainer {name!r}", builder, options)
    with registry.running(name):
        explainer: Explainer = builder(**options)
    if is_ours(registry.owner(name)):
        return explainer
    from bcos_explain.explainers.of_plugin import of_plugin  # here, so that listing explainers imports no torch

    return of_plugin(explainer, registry.described(name))


def is_registered(name: str, explainer: "Explainer") -> bool:
    """Whether an explainer is the one of that name, whatever its options; others may be called so in a dictionary."""
    if name not in plugins.explainers().names():
        return False
    try:
        return type(get_explainer(name)) is type(explainer)
    except BcosError:  # a builder that needs options
        return False


def list_metrics(pattern: str = "*") -> list[str]:
    """Sorted names of all metrics, of every plugin, that match a shell pattern."""
    return [name for name in plugins.metrics().names() if fnmatchcase(name, pattern)]


def metric_specs() -> list[MetricSpec]:
    """Descriptions of all metrics, sorted by name."""
    return sorted(plugins.metrics(), key=lambda spec: spec.name)


def get_metric(name: str) -> Callable[..., Any]:
    """Return the function that computes a metric; its description's ``needs`` names the arguments.

    Raises:
        BcosError: no such metric; the message suggests one.
    """
    return plugins.metrics().builder(name)
