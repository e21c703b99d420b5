"""Addresses of indexes and shards, and which of them an index may name. Imports no torch.

What the user typed is trusted. What an index says is not: it may name files in its own folder, or on the host that it
came from. Links in a folder are followed: whoever made them could write there, which an index cannot.
"""

import posixpath
import re
from pathlib import PureWindowsPath
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from bcos_core.address import is_address, scheme_of
from bcos_core.errors import BcosError, shown

WEB = ("http", "https")
COMMAND = "pipe"
_HOSTS = (*WEB, "s3", "gs")
"""Schemes of addresses that an index at the same scheme and host may give in full."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PLAIN = re.compile(r"[A-Za-z0-9._/+=,-]+")
_WILD = re.compile(r"[*?\[\]{}#]")
_LONGEST = 1000


def as_path(address: str) -> str:
    """Return the path of a ``file:`` address; anything else as it is."""
    return url2pathname(urlsplit(address).path) if scheme_of(address) == "file" else address


def folder_of(index: str) -> str:
    """Return what precedes the name of a file beside `index`: a path, a URL, or a command that ends with one."""
    folder, slash, _ = as_path(index).rpartition("/")
    return folder + (slash or "./")


def shard_address(index: str, name: str) -> str:
    """Return the path or URL of the shard that the index at `index` calls `name`.

    Each character of the name stands for itself.

    Raises:
        BcosError: the name leads out of the folder of the index, or to another scheme or host, or runs a command.
    """
    if reason := _unfit(index, name):
        raise BcosError(
            f"the index {index!r} names the shard {shown(name)}, which {reason}; an index may name files in its "
            "own folder or addresses of its own host: put the shards beside it and write it with: bcos shards index"
        )
    if is_address(name):
        return name
    path = posixpath.normpath(name)
    return folder_of(index) + (quote(path) if scheme_of(index) in WEB else path)


def file_name_problem(name: str) -> str | None:
    """Say why `name` is not a relative path that stays in its folder; None if it is one."""
    if not name or len(name) > _LONGEST:
        return f"has {len(name):,} characters instead of 1 to {_LONGEST:,}"
    if CONTROL.search(name):
        return "has control characters"
    if is_address(name):
        return "is not a file"
    if name.startswith("/") or "\\" in name or PureWindowsPath(name).drive:
        return "is a path from the root or has a backslash"
    if ".." in name.split("/"):
        return "leads out of the folder"
    return None


def _unfit(index: str, name: str) -> str | None:
    scheme = scheme_of(index)
    if is_address(name) and len(name) <= _LONGEST and not CONTROL.search(name):
        return _unfit_url(index, name)
    if problem := file_name_problem(name):
        return problem
    if scheme in ("", "file", "s3", *WEB):  # every character is taken literally
        return None
    if scheme == "gs":
        return _unfit_pattern(name)
    return None if _PLAIN.fullmatch(name) else "a command or a pattern could be hidden in"


def _unfit_url(index: str, name: str) -> str | None:
    if scheme_of(name) == COMMAND:
        return "is a command"
    try:
        same = [(scheme_of(address), urlsplit(address).netloc.lower()) for address in (index, name)]
    except ValueError:  # stray brackets
        return "is not an address"
    if same[0] != same[1] or same[0][0] not in _HOSTS or not same[0][1]:
        return "has another scheme or host"
    if ".." in name.split("/"):
        return "leads out of the folder"
    return _unfit_pattern(name) if same[0][0] == "gs" else None


def _unfit_pattern(name: str) -> str | None:
    return "could be a pattern for several files" if _WILD.search(name) else None
