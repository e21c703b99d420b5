"""``bcos explain``."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(explain)


def explain(
    run_or_model: Annotated[
        str, typer.Argument(help="Folder of a run, weights file of one, or a model with --weights.")
    ],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and explanations.json.")],
    target: Annotated[
        list[str] | None, typer.Option(help="Class name or number; repeatable. By default what is predicted.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="An explainer that bcos explainers lists; repeatable. bcos by default."),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="A .safetensors file, for a model by name.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images explained at a time.", min=1)] = 16,
) -> None:
    """Explain what a network sees in images.

    Pictures, and numbers as JSON. Exit status 1 if a file could not be read.
    """
    from bcos_cli import console
    from bcos_cli.explaining import explain_files

    written = explain_files(
        run_or_model,
        images,
        out,
        targets=target or [],
        methods=method or ["bcos"],
        weights=weights,
        batch_size=batch_size,
    )
    rows = [
        (
            Path(e.file).name,
            e.predicted,
            f"{e.confidence:.1%}",
            e.target,
            e.method,
            f"{e.logit:.3f}",
        )
        for e in written.explanations
    ]
    columns = ["image", "predicted", "confidence", "explained", "method", "logit"]
    console.table(f"explanations in {out}", columns, rows)
    for failure in written.failures:
        typer.echo(f"bcos: {failure.file}: {failure.reason}", err=True)
    if written.failures:
        raise typer.Exit(1)
