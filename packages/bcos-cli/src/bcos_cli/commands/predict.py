"""``bcos predict``."""

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bcos_cli.config.network import ClassFile, RunOrModel, Weights, load_network, takes_images
from bcos_cli.config.trust import TrustRun, trust_runs
from bcos_cli.data.pixels import AllowTruncated, RangeOption
from bcos_cli.file_names import INDEX_NAME
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import tell
from bcos_cli.processes.device import Device, use_device
from bcos_core.errors import BcosError

_SUFFIXES = {".csv": False, ".jsonl": True}
"""Endings of files, and whether they hold JSON lines."""

bcos_cli_commands = hookimpl(lambda app: app.command()(predict))


@takes_images
def predict(
    run_or_model: RunOrModel,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images, videos and animated images; folders, searched recursively; patterns such as 'photos/*.jpg'; "
            "folders and URLs of shards."
        ),
    ],
    top_k: Annotated[int, typer.Option(help="Number of most likely classes of each image.", min=1)] = 1,
    out: Annotated[
        Path | None, typer.Option(help="File to write, ending in .csv or .jsonl; standard output by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object a line, instead of CSV.")] = False,
    split: Annotated[str | None, typer.Option(help="Split of shards; test by default, val without one.")] = None,
    weights: Weights = None,
    classes: ClassFile = None,
    range: RangeOption = None,
    allow_truncated: AllowTruncated = False,
    batch_size: Annotated[int, typer.Option(help="Images classified at a time.", min=1)] = 64,
    workers: Annotated[int, typer.Option(help="Loader processes for shards.", min=0)] = 2,
    trust_run: TrustRun = False,
    device: Device = None,
) -> None:
    """Predict the classes of images: a line for each, as CSV or JSON, with file, class and probability.

    In B-cos networks, and all that were trained with a binary cross entropy, the probability is a sigmoid of each
    class alone: those of several classes need not add up to 1. In others it is a softmax over all classes.

    Exit status 1 if a file could not be read.
    """
    trust_runs(trust_run)
    use_device(device)
    from bcos_cli.config.output_path import check_apart, check_writable
    from bcos_cli.config.section import parse_range
    from bcos_cli.data.splits import shards_of
    from bcos_cli.explain.arguments import check_arguments
    from bcos_cli.explain.image_files import find_images
    from bcos_core.address import is_address

    if out is not None:
        if out.suffix not in _SUFFIXES:
            raise BcosError(f"--out takes a file ending in {' or '.join(_SUFFIXES)}, got {str(out)!r}")
        check_writable(out)
    folders = [path for path in images if not is_address(path) and Path(path).is_dir()]
    sharded = [p for p in images if is_address(p) or (p in folders and (Path(p) / INDEX_NAME).is_file())]
    paths = [path for path in images if path not in sharded]
    files, empty = find_images(paths) if paths else ([], [])
    if split is not None and not sharded:
        raise BcosError("--split is one of shards, and these are images; leave it out")
    if sharded and (range is not None or allow_truncated):
        raise BcosError(
            "--range and --allow-truncated are for image files: shards say themselves how they are read; predict the "
            "images and the shards one after the other"
        )
    shards = [shards_of(run_or_model, path, split) for path in sharded]
    check_arguments(run_or_model)
    if out is not None:
        check_apart(out, [run_or_model, weights, classes, *sharded, *paths])

    from bcos_cli.evaluate.predictions import Predictor, csv_writer, json_writer
    from bcos_core.files import replacement

    trained = load_network(run_or_model, weights, classes, range=parse_range(range))
    with ExitStack() as stack:
        file = sys.stdout
        if out is not None:
            file = stack.enter_context(stack.enter_context(replacement(out)).open("w", encoding="utf-8", newline=""))
        write = json_writer(file) if as_json or (out is not None and _SUFFIXES[out.suffix]) else csv_writer(file)
        bar = out is not None or not sys.stdout.isatty()  # lines that appear show how far it is
        predictor = Predictor(trained, write, top_k, batch_size, truncated=allow_truncated, show_progress=bar)
        failures = [*empty, *predictor.predict_files(files)] if files else []
        unread = 0
        for found in shards:
            if found.split.note is not None:
                tell(found.split.note)
            reading = replace(found.reading, skip=True)
            unread += predictor.predict_shards(found.location, found.index, found.split.name, reading, workers)
    for failure in failures:
        tell(f"{failure.file}: {failure.reason}")
    if failures or unread:
        raise typer.Exit(1)
