"""The data that a user names: shards, or a registered data set, which is packed first. Imports no torch."""

import os
from pathlib import Path
from typing import Annotated

import typer

from bcos_cli.file_names import INDEX_NAME
from bcos_cli.messages import tell
from bcos_cli.plugins import datasets
from bcos_core.address import is_address

SHARDS = Path("shards")
"""Folder for the shards of registered data sets, each in one of its name."""


DataPath = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Folder or URL of shards, or a registered data set, such as digits, which is packed in shards/NAME; by "
        "default that of the run or recipe.",
    ),
]


def packed_data_set(data: str | None) -> str | None:
    """Return where the shards of `data` are, as the user typed it; those of a registered data set are packed first.

    Without `data` there is nothing to pack. What is there under the name of a data set comes before it. Of several
    processes one packs, and others wait.
    """
    if data is None or is_address(data) or Path(data).exists() or data not in datasets().names():
        return data
    from bcos_cli.data.pack import pack  # which imports NumPy
    from bcos_cli.data.sources import open_source

    folder, rank = SHARDS / data, os.environ.get("RANK", "0")
    if rank == "0" or not (folder / INDEX_NAME).exists():
        pack(open_source(data), data, folder, wait=True)
    if rank == "0":
        tell(f"the data set {data!r} is packed in {str(folder)!r}")
    return str(folder)
