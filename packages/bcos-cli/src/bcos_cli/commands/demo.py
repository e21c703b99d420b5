"""``bcos demo``."""

from pathlib import Path
from typing import Annotated

import typer

from bcos_cli.config.output_path import check_folder
from bcos_cli.file_names import DEMO_NAME
from bcos_cli.hookspecs import hookimpl
from bcos_cli.processes.device import Device, use_device
from bcos_core.errors import BcosError

RECIPE = "digits"
"""File that marks the folder of a demo, which may replace its run and images there."""
EXPLAINED = 12
"""Number of test images that are explained one by one."""

bcos_cli_commands = hookimpl(lambda app: app.command()(demo))


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo writes.")] = Path("bcos-demo"),
    overrides: Annotated[
        list[str] | None, typer.Option("-o", "--override", help="key=value for the recipe digits; repeatable.")
    ] = None,
    device: Device = None,
) -> None:
    """Run the whole pipeline on built-in digits.

    Packs shards, trains, evaluates and explains, in under two minutes on two cores.
    """
    use_device(device)
    import shutil

    from bcos_cli import console
    from bcos_cli.config import load_recipe
    from bcos_cli.data.pack import pack
    from bcos_cli.data.sources.digits import digits_source
    from bcos_cli.explain.files import explain_files
    from bcos_cli.explain.image_files import find_images
    from bcos_cli.folder_lock import locked_folder
    from bcos_cli.runs.evaluation import finish_run
    from bcos_cli.train.trainer import trained
    from bcos_core.files import write_atomically

    shards, run, images, explanations = (out / name for name in ("shards", "run", "images", "explanations"))
    recipe = load_recipe(RECIPE, overrides or [], data=str(shards))
    source = digits_source()
    tests = [item for item in source.items if item.split == recipe.data.test_split][:EXPLAINED]
    names = {f"{Path(item.path).stem}-{source.classes[int(str(item.label))]}.png": item for item in tests}
    check_folder(out, DEMO_NAME)
    others = sorted(path.name for path in images.iterdir() if path.name not in names) if images.is_dir() else []
    if others:
        raise BcosError(
            f"{str(images)!r} holds {others[0]!r}, which the demo did not write; move it, or choose another --out"
        )
    with locked_folder(out, "writing the demo"):
        (out / DEMO_NAME).touch()
        for folder in (shards, run):
            shutil.rmtree(folder, ignore_errors=True)
        index = pack(source, "digits", shards, samples_per_shard=500, workers=1)
        console.err.print(
            f"packed {len(source.items):,} images of {len(index.classes)} classes into {len(index.shards)} shards"
        )
        with trained(recipe, run) as result:
            finish_run(result, run)

        for name, item in names.items():
            write_atomically(images / name, source.read(item)[0])
        explain_files(str(run), find_images([images])[0], explanations)
    console.out.print(
        f"pictures {explanations}\n\nOpen {run / 'report.html'} in a browser to see what the network saw."
    )
