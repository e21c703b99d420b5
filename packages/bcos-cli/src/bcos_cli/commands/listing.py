"""``bcos models``, ``explainers``, ``metrics`` and ``plugins``.

What there is. Imports no torch.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say_json

if TYPE_CHECKING:
    from bcos_models import ModelSpec

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@hookimpl
def bcos_cli_commands(app: typer.Typer) -> None:
    """Add the command."""
    for command in (models, explainers, metrics, plugins):
        app.command()(command)


def models(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, such as 'cifar10_*'.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List models with parameters, input size and the published accuracy of their weights."""
    from bcos_models import get_spec, list_models

    specs = [get_spec(name) for name in list_models(pattern)]
    if as_json:
        return _show("models", [_described(spec) for spec in specs], as_json)
    rows = [
        {
            "name": spec.name,
            "params": "?" if spec.params is None else f"{spec.params / 1e6:.2f} M",
            "input": f"{spec.input.encoded_channels}×{spec.input.size}×{spec.input.size}",
            "classes": spec.num_classes,
            "top-1": "" if spec.checkpoint is None or spec.checkpoint.top1 is None else f"{spec.checkpoint.top1:.1f} %",
            "summary": spec.summary,
        }
        for spec in specs
    ]
    return _show("models", rows, as_json)


def _described(spec: "ModelSpec") -> dict[str, Any]:
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

    _show("explainers", [{"name": s.name, "summary": s.summary} for s in explainer_specs()], as_json)


def metrics(as_json: AsJson = False) -> None:
    """List metrics that bcos eval takes."""
    from bcos_cli.evaluate.metrics import metric_summaries

    rows = [{"name": name, "summary": summary} for name, summary in metric_summaries().items()]
    _show("metrics", rows, as_json)


def plugins(as_json: AsJson = False) -> None:
    """List plugins of every kind; a broken one with the reason."""
    from bcos_cli.plugins import all_plugins

    found = all_plugins()
    if as_json:
        say_json([asdict(info) for info in found])
        return
    rows = [
        {
            "plugin": i.name,
            "group": i.group,
            "module": i.value,
            "ms": round(1000 * i.seconds),
            "status": f"broken: {i.error}" if i.error else "ok",
        }
        for i in found
    ]
    _show("plugins", rows, as_json=False)


def _show(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        say_json(rows)
        return
    from bcos_cli import console

    columns: Iterable[str] = rows[0] if rows else ["name"]
    console.table(title, columns, [list(row.values()) for row in rows])
