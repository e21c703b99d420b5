"""Addresses, told from local paths. Imports no torch."""

import re

_IGNORED = re.compile(r"^[\s\x00-\x20\x7f-\xa0]+|[\x00-\x1f\x7f-\x9f]+")
"""Characters that some programs drop from an address before they open it."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//|:)?")
"""Scheme of an address; a single letter is a drive of Windows."""
_KNOWN = ("ais", "file", "ftps", "gs", "hf", "htgs", "http", "https", "pipe", "s3", "scp", "sftp")
"""Schemes that need no ``//`` (or ``::``); what else has a colon is a path, such as ``exp:1/shards``."""


def scheme_of(location: str) -> str:
    """Return the scheme of an address (``http``, ``s3``, ``pipe``, ...) in small letters; nothing for a local path.

    >>> scheme_of("S3://bucket/a.tar"), scheme_of("C:/data"), scheme_of("exp:1/shards")
    ('s3', '', '')
    """
    found = _SCHEME.match(_IGNORED.sub("", location))
    scheme = found[1].lower() if found else ""
    return scheme if found and (found[2] or scheme in _KNOWN) else ""


def is_address(location: str) -> bool:
    """Whether a location is not a local path: ``http:``, ``s3:``, ``hf:``, ``pipe:``, ..."""
    return bool(scheme_of(location))
