"""Arguments of ``bcos eval``, from text to the options of an evaluation. Imports no torch."""

from typing import Any

from bcos_cli.evaluate.metrics import all_metrics, check_metrics
from bcos_cli.evaluate.requirements import Condition
from bcos_core.errors import BcosError
from bcos_core.plugins import suggestion


def parse_arguments(
    *, metrics: list[str] | None, options: list[str] | None, require: list[str] | None, **values: Any
) -> dict[str, Any]:
    """Return the fields of ``EvaluationOptions`` that a user gives.

    Args:
        metrics: names.
        options: options of metrics and explainers, as :func:`parse_options` takes them.
        require: conditions, as :meth:`Condition.parse` takes them.
        values: other fields; None and empty lists count as not given.

    Raises:
        BcosError: an unknown metric, or an option or condition that cannot be read.
    """
    conditions = tuple(Condition.parse(text) for text in require or ())
    check_metrics([condition.name for condition in conditions])
    parsed = {
        "metrics": tuple(check_metrics(metrics)) if metrics else None,
        "options": parse_options(options or []),
        "require": conditions,
        **values,
    }
    return {name: value for name, value in parsed.items() if value not in (None, (), [], {})}


def parse_options(given: list[str]) -> dict[str, dict[str, Any]]:
    """Read options of metrics and explainers, written ``NAME.KEY=VALUE``, into values by name and key.

    Raises:
        BcosError: another form, or no metric or explainer of that name.
    """
    from bcos_cli.config import override
    from bcos_explain import list_explainers

    options: dict[str, Any] = {}
    for text in given:
        name, dot, _ = text.partition("=")[0].partition(".")
        if not dot or "=" not in text:
            raise BcosError(f"an option is written NAME.KEY=VALUE, such as rise.n_masks=1000, got {text!r}")
        known = [*list_explainers(), *all_metrics()]
        if name not in known:
            raise BcosError(f"there is no metric or explainer {name!r}; {suggestion(name, known)}")
        override(options, text)
    return options


def refuse_with_photos(**options: Any) -> None:
    """Refuse options of the command that do not apply to annotated photographs.

    Raises:
        BcosError: one of them is given.
    """
    if unused := [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]:
        raise BcosError(f"{', '.join(unused)} cannot go with --boxes, which scores all annotated photographs")
