"""Opening shards wherever they are."""

import shlex
from typing import IO
from urllib.parse import urlparse

import webdataset
from webdataset.gopen import gopen_schemes


def open_url(location: str) -> IO[bytes]:
    """Open a path or URL, as WebDataset does; ``s3://`` through the AWS command line, where nothing else is set up.

    Raises:
        OSError: there is nothing, or it is an address of an unknown kind.
    """
    if urlparse(location).scheme == "s3" and "s3" not in gopen_schemes:
        location = f"pipe:aws s3 cp {shlex.quote(location)} -"
    try:
        stream: IO[bytes] = webdataset.gopen(location)
    except ValueError as reason:  # no handler
        raise OSError(
            f"{urlparse(location).scheme}: is no known kind of address; use http(s)://, s3://, gs:// or pipe:COMMAND"
        ) from reason
    return stream
