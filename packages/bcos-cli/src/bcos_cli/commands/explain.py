"""``bcos explain``."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bcos_cli.commands.listing import AsJson
from bcos_cli.config.network import ClassFile, RunOrModel, Weights, takes_images
from bcos_cli.config.trust import TrustRun, trust_runs
from bcos_cli.data.pixels import AllowTruncated, RangeOption
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say_json, tell
from bcos_cli.processes.device import Device, use_device

if TYPE_CHECKING:
    from bcos_cli.explain.writer import ExplainedFiles, ExplanationRecord

_ROWS = 40
"""Explanations listed in the terminal; all are in the JSON file."""

bcos_cli_commands = hookimpl(lambda app: app.command()(explain))


@takes_images
def explain(
    run_or_model: RunOrModel,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images, videos and animated images; folders, searched recursively; patterns such as 'photos/*.jpg'."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and explanations.json.")],
    target: Annotated[
        list[str] | None, typer.Option(help="Class name or number; repeatable. By default the predicted class.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Number of most likely classes to explain.", min=1)] = None,
    contrast: Annotated[
        list[str] | None,
        typer.Option(help="A:B for why A and not B, or B for why the predicted class and not B; repeatable."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="An explainer that bcos explainers lists; repeatable. bcos by default.")
    ] = None,
    weights: Weights = None,
    classes: ClassFile = None,
    batch_size: Annotated[int, typer.Option(help="Images explained at a time.", min=1)] = 16,
    layout: Annotated[
        list[str] | None,
        typer.Option(help="side-by-side, overlay or separate; repeatable. side-by-side and separate by default."),
    ] = None,
    contact_sheet: Annotated[
        bool, typer.Option("--contact-sheet", help="Also sheets of all images as a grid, not overlaid.")
    ] = False,
    format: Annotated[Literal["png", "svg", "webp"], typer.Option(help="Format of the pictures.")] = "png",
    scale: Annotated[
        Literal["own", "shared"], typer.Option(help="Scale of colours and opacity: one for each image, or one for all.")
    ] = "own",
    colorbar: Annotated[bool, typer.Option(help="Draw colour bars in units of the logit.")] = True,
    background: Annotated[
        Literal["white", "black", "checker", "none"] | None,
        typer.Option(help="Colour behind transparent parts. By default white; none in separate pictures."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of each picture that is written, in pixels, up to 4096, about 224 by default. What the network "
            "sees has the side --image-size."
        ),
    ] = None,
    raw_weight: Annotated[bool, typer.Option("--raw-weight", help="Also write W as an array.")] = False,
    smooth: Annotated[
        int | None,
        typer.Option(
            help="Side of the mean filter over the opacity of W in pictures, odd; 1 for none. By default 15 for images "
            "of 224 pixels, and in proportion.",
            min=1,
        ),
    ] = None,
    animation: Annotated[Literal["gif", "webp"], typer.Option(help="Format of explained clips.")] = "gif",
    max_frames: Annotated[int, typer.Option(help="Largest number of frames to explain in a clip.", min=1)] = 300,
    every: Annotated[int, typer.Option(help="Explain every N-th frame of a clip.", min=1)] = 1,
    range: RangeOption = None,
    allow_truncated: AllowTruncated = False,
    trust_run: TrustRun = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Explain what a network sees in images.

    Writes pictures, and numbers as JSON. Exit status 1 if a file could not be read.
    """
    trust_runs(trust_run)
    use_device(device)
    from bcos_cli.explain.arguments import check_arguments
    from bcos_cli.explain.image_files import find_images

    files, empty = find_images(images)
    check_arguments(run_or_model, method or ())

    from bcos_cli.config.section import parse_range
    from bcos_cli.explain.files import explain_files
    from bcos_cli.explain.options import ClipOptions, PictureOptions

    written = explain_files(
        run_or_model,
        files,
        out,
        empty=empty,
        targets=target or [],
        top_k=top_k,
        contrasts=contrast or [],
        methods=method or ["bcos"],
        weights=weights,
        classes=classes,
        batch_size=batch_size,
        range=parse_range(range),
        truncated=allow_truncated,
        pictures=PictureOptions(
            layouts=tuple(layout or PictureOptions.layouts),  # type: ignore[arg-type] # reason: they are checked there
            contact_sheet=contact_sheet,
            format=format,
            scale=scale,
            colorbar=colorbar,
            background=background,
            side=size,
            raw_weight=raw_weight,
            smooth=smooth,
        ),
        clips=ClipOptions(format=animation, max_frames=max_frames, every=every),
    )
    if as_json:
        say_json(asdict(written))
    else:
        _print(written, out)
    for failure in written.failures:
        tell(f"{failure.file}: {failure.reason}")
    if written.failures:
        raise typer.Exit(1)


def _print(written: "ExplainedFiles", out: Path) -> None:
    from bcos_cli import console

    columns = ["image", "predicted", "confidence", "explained", "method", "logit", "adds up"]
    shown = written.explanations[:_ROWS]
    names = console.short_paths([Path(e.file) for e in shown])  # photographs of several folders may be called alike
    rows = [_row(name, e) for name, e in zip(names, shown, strict=True)]
    console.table(f"explanations in {out}", columns, rows)
    for (explainer, remark), count in Counter((e.method, line) for e in shown for line in e.remarks).items():
        console.out.print(f"{explainer}: {remark}" + (f" ({count} maps)" if count > 1 else ""))
    if len(written.explanations) > _ROWS:
        console.out.print(f"… and {len(written.explanations) - _ROWS:,} more in {out / 'explanations.json'}")


def _row(image: str, explained: "ExplanationRecord") -> tuple[str, ...]:
    from bcos_cli.explain.sheets import percent

    against = f", not {explained.against}" if explained.against is not None else ""
    receipt = explained.receipt
    return (
        image,
        explained.predicted,
        percent(explained.confidence).replace(" ", ""),
        f"{explained.target}{against}",
        explained.method,
        f"{explained.logit:z.3f}",
        "" if receipt is None else "yes" if receipt["passed"] else f"no, {receipt['residual']:.1e}",
    )
