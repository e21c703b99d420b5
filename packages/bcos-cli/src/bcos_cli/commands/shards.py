"""``bcos shards``: pack, inspect and check shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcos_cli.commands.listing import AsJson
from bcos_cli.data.pixels import AllowTruncated, Pixels, RangeOption
from bcos_cli.hookspecs import hookimpl
from bcos_cli.messages import say, say_json, tell

if TYPE_CHECKING:
    from bcos_cli.data.index import ShardIndex

shards = typer.Typer(no_args_is_help=True, help="Pack images into WebDataset shards; inspect and check shards.")
bcos_cli_commands = hookimpl(lambda app: app.add_typer(shards, name="shards"))


@shards.command()
def pack(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or zip laid out as CLASS/image or SPLIT/CLASS/image; torchvision:NAME; or a "
            "registered data set, such as digits."
        ),
    ],
    destination: Annotated[Path, typer.Argument(help="Folder for the shards and index.json.")],
    samples_per_shard: Annotated[int, typer.Option(help="Images in a shard at most.")] = 1000,
    megabytes_per_shard: Annotated[float, typer.Option(help="Size of a shard at most, in MB.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the order of images.")] = 0,
    on_error: Annotated[
        str,
        typer.Option(help="fail: list unreadable images and stop; skip: leave them out and list them in the index."),
    ] = "fail",
    split: Annotated[
        str | None,
        typer.Option(help="Name of the split of all images, whatever folders are called; train if there are none."),
    ] = None,
    test_share: Annotated[
        float | None,
        typer.Option(help="Share of images for the split test, if the source has no splits."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Table (CSV) of the images of a folder or zip and their classes: image,labels[,split]; several labels "
            "are separated by ;."
        ),
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Column of the table with the images, with or without suffix; image by default.")
    ] = None,
    label_column: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of the table with the class names; labels by default. Repeated, or a pattern such as '*': "
            "columns of classes, which hold 0 or 1."
        ),
    ] = None,
    range: RangeOption = None,
    channels: Annotated[
        int | None,
        typer.Option(help="Channels of every image, for a network of as many; by default grey or RGB.", min=1),
    ] = None,
    allow_truncated: AllowTruncated = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out the files, or all in the folders, that this pattern fits: paths from the source, such as "
            "'train/junk' or '**/*_mask.png'; repeatable."
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of a torchvision data set.")] = None,
    workers: Annotated[int | None, typer.Option(help="Number of processes; one per core by default.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Pack labelled images into shards. After an interruption, the same command continues where it stopped."""
    from bcos_cli import console
    from bcos_cli.config.section import parse_range
    from bcos_cli.data.pack import pack as pack_source
    from bcos_cli.data.sources import open_source
    from bcos_cli.data.sources.source import share_drawn, split_off_test, warnings_of
    from bcos_cli.data.sources.table import IMAGE, LABELS, LabelTable
    from bcos_core.errors import BcosError

    if (image_column or label_column) and labels is None:
        raise BcosError("--image-column and --label-column go with a table; give it with --labels")
    if on_error not in ("fail", "skip"):
        raise BcosError(f"--on-error must be fail or skip, got {on_error!r}")
    table = None if labels is None else LabelTable(labels, image_column or IMAGE, label_column or [LABELS])
    images = open_source(source, root=root, split=split, labels=table, exclude=exclude or [], output=destination)
    if test_share is not None:
        images.items[:] = split_off_test(images.items, test_share)
        tell(share_drawn(images, test_share))
    for warning in warnings_of(images):
        tell(warning)
    with console.counted("packing", len(images.items)) as counter:
        index = pack_source(
            images,
            source,
            destination,
            samples_per_shard=samples_per_shard,
            megabytes_per_shard=megabytes_per_shard,
            seed=seed,
            on_error="fail" if on_error == "fail" else "skip",
            pixels=Pixels(channels or 3, parse_range(range), allow_truncated),
            workers=workers,
            on_progress=counter.set,
        )
    _show(str(destination), index, as_json)


@shards.command()
def info(
    data: Annotated[str, typer.Argument(help="Folder or URL of shards.")],
    as_json: AsJson = False,
) -> None:
    """Show splits, classes with their images, sizes, how pixels are read, and what was left out."""
    from bcos_cli.data.index import load_index

    index = load_index(data)
    _show(data, index, as_json, most=len(index.classes))


@shards.command(name="index")
def index_command(
    destination: Annotated[
        Path, typer.Argument(help="Folder for index.json; without --split, count the classes of the existing one.")
    ],
    split: Annotated[
        list[str] | None,
        typer.Option(help="SPLIT=SHARDS, such as 'train=data/train-{000000..000099}.tar'; paths or URLs, repeatable."),
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="File with one class name per line.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the index of shards made by another program, or count the classes of an existing index."""
    from bcos_cli import console
    from bcos_cli.config.network import read_classes
    from bcos_cli.data.index import load_index
    from bcos_cli.data.index_builder import count_classes, expand, index_shards
    from bcos_core.address import is_address
    from bcos_core.errors import BcosError

    if not split:
        total = len(load_index(str(destination)).shards)
        with console.counted("counting", total) as counter:
            index = count_classes(str(destination), counter.advance)
        _show(str(destination), index, as_json)
        return
    splits: dict[str, list[str]] = {}
    for text in split:
        name, _, pattern = text.partition("=")
        if not name or not pattern:
            raise BcosError(f"a split is written SPLIT=SHARDS, such as train=data/train-*.tar, got {text!r}")
        splits[name] = splits.get(name, []) + expand([pattern])
    names = None if classes is None else read_classes(classes)
    with console.counted("reading", sum(map(len, splits.values()))) as counter:
        index, base = index_shards(splits, names, destination, counter.advance)
    _show(str(destination), index, as_json)
    if is_address(base):
        tell(f"copy the index to where its shards are, {base}index.json, and read them there: --data '{base}'")


@shards.command()
def verify(
    data: Annotated[str, typer.Argument(help="Folder or URL of shards.")],
    images: Annotated[bool, typer.Option(help="Decode every image too.")] = True,
) -> None:
    """Compare every shard with the index: size, SHA-256, samples, labels, images. Exit status 1 if one differs."""
    from bcos_cli import console
    from bcos_cli.data.index import load_index
    from bcos_cli.data.verify import verify as verify_shards

    index = load_index(data)
    with console.counted("verifying", len(index.shards)) as counter:
        problems = verify_shards(data, index, counter.advance, images=images)
    for problem in problems:
        tell(problem)
    if problems:
        tell(f"{len(problems)} of {len(index.shards)} shards differ from the index")
        raise typer.Exit(1)
    say(f"{len(index.shards)} shards agree with the index")


def _show(data: str, index: "ShardIndex", as_json: bool, most: int = 20) -> None:
    """Print splits, `most` classes, and all that is in no shard; or the index as JSON."""
    if as_json:
        say_json(index.model_dump(mode="json"))
        return
    from bcos_cli import console
    from bcos_cli.data.index import index_location
    from bcos_core.text import listed

    rows = []
    for split in index.splits():
        shards_of_it = index.of(split)
        megabytes = sum(shard.bytes for shard in shards_of_it) / 1e6
        rows.append((split, f"{index.samples(split):,}", len(shards_of_it), f"{megabytes:,.1f}"))
    console.table(index_location(data), ["split", "images", "shards", "MB"], rows)
    say(f"{len(index.classes)} {'class' if len(index.classes) == 1 else 'classes'}: {listed(index.classes, 12)}")
    say(f"pixels: {index.pixels()}")
    if all(shard.class_counts is not None for shard in index.shards):
        counts = [index.class_counts(split) for split in index.splits()]
        of_classes = list(zip(index.classes, *counts, strict=True))[:most]
        console.table("images of each class", ["class", *index.splits()], of_classes)
        if len(index.classes) > most:
            say(f"... and {len(index.classes) - most:,} more classes: bcos shards info {data}")
    if index.skipped:
        first = listed(image.path for image in index.skipped)
        say(f"left out {len(index.skipped):,}: images that cannot be read (index.json has the reasons): {first}")
    for files in index.left_out:
        say(f"left out {files}")
    for files in index.partial:
        say(f"read in part {files}")
