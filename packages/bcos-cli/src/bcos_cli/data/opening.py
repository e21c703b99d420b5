"""Opening shards wherever they are. Imports torch for nothing that lies here."""

import os
import stat
from pathlib import Path
from typing import IO

from bcos_cli.data.address import WEB, as_path, is_url, scheme_of
from bcos_cli.data.http import open_http


def open_url(location: str) -> IO[bytes]:
    """Open a path or URL, as WebDataset does; ``s3://`` through the AWS command line, where nothing else is set up.

    No shell sees an address, except one that begins with ``pipe:``.

    Raises:
        OSError: there is nothing, or it is an address of an unknown kind, or not a regular file.
    """
    if "GOPEN_REWRITE" in os.environ:
        from webdataset.gopen import rewrite_url

        try:
            location = rewrite_url(location)
        except ValueError as reason:  # WebDataset is told to be strict, or the variable has no =
            raise OSError(f"GOPEN_REWRITE cannot be used: {reason}") from reason
    if not is_url(as_path(location)):
        return open_file(as_path(location))
    if scheme_of(location) in WEB:
        return open_http(location)
    from webdataset.gopen import Pipe, gopen, gopen_schemes

    if scheme_of(location) == "s3" and "s3" not in gopen_schemes:
        bucket: IO[bytes] = Pipe(["aws", "s3", "cp", location, "-"], mode="rb", bufsize=8192, ignore_status=[141])
        return bucket
    try:
        stream: IO[bytes] = gopen(location)
    except ValueError as reason:
        if scheme_of(location) in gopen_schemes:  # which WebDataset was told to refuse
            raise OSError(str(reason)) from reason
        raise OSError(
            f"{scheme_of(location)}: is no known kind of address; use http(s)://, s3://, gs:// or pipe:COMMAND"
        ) from reason
    return stream


def open_file(path: str) -> IO[bytes]:
    """Open a regular file, or a link to one: a named pipe would wait for ever, and a device never ends.

    Raises:
        OSError: there is nothing, or something else.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - reason: a path with a null byte is told as such
    except ValueError as reason:
        raise OSError(str(reason)) from reason
    if not stat.S_ISREG(mode):
        raise OSError(f"{path!r} is not a regular file")
    return Path(path).open("rb")
