"""Arguments of commands that use a network, checked before torch is imported, which takes seconds. Imports no torch."""

from collections.abc import Iterable

from bcos_explain import plugins
from bcos_models.registry import check_named


def check_arguments(run_or_model: str, methods: Iterable[str] = ()) -> None:
    """Refuse what cannot be loaded as a network, and unknown explainers."""
    check_named(run_or_model)
    for name in methods:
        plugins.explainers()[name]  # raises, and suggests one
