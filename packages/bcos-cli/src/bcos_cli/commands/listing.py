"""``bcos models``, ``explainers``, ``metrics`` and ``plugins``, which list what is installed. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say_json
from bcos_core.errors import BcosError

if TYPE_CHECKING:
    from bcos_models import ModelSpec


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@hookimpl
def bcos_cli_commands(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (models, explainers, metrics, plugins):
        app.command()(command)


def models(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, such as 'cifar10_*'.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List models with parameters, input size and the published accuracy of their weights."""
    from bcos_models import get_spec, list_models

    describe = _model_values if as_json else _model_cells
    names = list_models(pattern)
    if not names and not as_json:
        wider = f"*{pattern}*"
        remedy = f"{wider!r} matches {len(list_models(wider))}" if list_models(wider) else "bcos models lists all"
        raise BcosError(f"no model matches {pattern!r}; {remedy} (timm/NAME and torchvision/NAME are models too)")
    _show("models", [describe(get_spec(name)) for name in names], as_json)


def _model_cells(spec: "ModelSpec") -> dict[str, Any]:
    accuracy = spec.checkpoint and spec.checkpoint.top1
    return {
        "name": spec.name,
        "params": "not given" if spec.params is None else f"{spec.params / 1e6:.2f} M",
        "input": f"{spec.input.encoded_channels}×{spec.input.size}×{spec.input.size}",
        "classes": spec.num_classes,
        "top-1": "" if accuracy is None else f"{accuracy:.1f} %",
        "summary": spec.summary,
    }


def _model_values(spec: "ModelSpec") -> dict[str, Any]:
    published = spec.checkpoint
    return {
        "name": spec.name,
        "family": spec.family,
        "params": spec.params,
        "input_size": spec.input.size,
        "input_channels": spec.input.encoded_channels,
        "classes": spec.num_classes,
        "top1": published and published.top1,
        "top5": published and published.top5,
        "weights": published and published.url,
        "weights_license": published and published.license,
        "summary": spec.summary,
    }


def explainers(as_json: AsJson = False) -> None:
    """List methods of explanation."""
    from bcos_explain import explainer_specs

    _show("explainers", [{"name": spec.name, "summary": spec.summary} for spec in explainer_specs()], as_json)


def metrics(as_json: AsJson = False) -> None:
    """List metrics that bcos eval takes."""
    from bcos_cli.evaluate.metrics import all_metrics

    _show("metrics", [{"name": metric.name, "summary": metric.summary} for metric in all_metrics().values()], as_json)


def plugins(as_json: AsJson = False) -> None:
    """List all plugins; broken ones with the reason."""
    from bcos_cli.evaluate.metrics import explanation_metrics
    from bcos_cli.plugins import all_plugins

    explanation_metrics()  # marks those whose names are taken
    found = all_plugins()
    rows = [
        {
            "plugin": info.name,
            "group": info.group,
            "module": info.value,
            "ms": round(1000 * info.seconds),
            "status": f"broken: {info.error}" if info.error else "ok",
        }
        for info in found
    ]
    _show("plugins", [asdict(info) for info in found] if as_json else rows, as_json)


def _show(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        say_json(rows)
        return
    from bcos_cli import console

    columns = rows[0] if rows else ["name"]
    console.table(title, columns, [list(row.values()) for row in rows], prose=["summary", "status"])
