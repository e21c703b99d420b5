"""Opening shards and indexes: files, buckets, and web addresses from the host they name alone. Imports no torch."""

import base64
import http.client
import io
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from bcos_cli.data.address import WEB, as_path
from bcos_core.address import is_address, scheme_of
from bcos_core.errors import first_line, shortened
from bcos_core.text import printable

TIMEOUT = 60.0
"""Seconds without an answer."""
ATTEMPTS = 30
PAUSE = 2.0
"""Seconds between attempts."""
_TEMPORARY = (408, 429, 500, 502, 503, 504)
"""Statuses of a server that may answer in a moment."""
Open = Callable[[str], IO[bytes]]
"""Opens a path or URL."""


def open_url(location: str) -> IO[bytes]:
    """Open a path or URL as WebDataset does; ``s3://`` with the AWS command line, unless something else is set up.

    No shell sees an address, except one that begins with ``pipe:``.

    Raises:
        OSError: there is nothing, or not a regular file, or the address is of an unknown kind.
    """
    if "GOPEN_REWRITE" in os.environ:
        from webdataset.gopen import rewrite_url

        try:
            location = rewrite_url(location)
        except ValueError as reason:  # WebDataset is told to be strict, or the variable has no =
            raise OSError(f"GOPEN_REWRITE cannot be used: {reason}") from reason
    if not is_address(as_path(location)):
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
            f"{scheme_of(location)}: is not a known kind of address; use http(s)://, s3://, gs:// or pipe:COMMAND"
        ) from reason
    return stream


def open_file(path: str) -> IO[bytes]:
    """Open a regular file, or a link to one: a named pipe would wait for ever, and a device never ends.

    Raises:
        OSError: there is no such file.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - reason: with its error for a null byte
    except ValueError as reason:
        raise OSError(str(reason)) from reason
    if not stat.S_ISREG(mode):
        raise OSError(f"{path!r} is not a regular file")
    return Path(path).open("rb")


def open_http(address: str) -> IO[bytes]:
    """Open an address; a name and a password in it are sent as HTTP's basic authentication.

    Raises:
        OSError: no such address, no answer, or a redirection to another host or scheme.
    """
    try:
        sent = _request(address)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = _opener().open(sent, timeout=TIMEOUT)
                break
            except (HTTPError, URLError, TimeoutError, ConnectionError) as reason:  # the last: it hung up
                if attempt == ATTEMPTS or not _may_pass(reason):
                    raise
            time.sleep(PAUSE)
    except HTTPError as reason:
        reason.close()
        raise OSError(f"{reason.code} {_shown(str(reason.reason))}") from reason
    except URLError as reason:
        raise OSError(str(reason.reason)) from reason
    except ConnectionError as reason:  # RemoteDisconnected is an HTTPException too
        raise OSError(first_line(reason)) from reason
    except (http.client.HTTPException, ValueError) as reason:
        raise OSError(f"it is not an address that can be read: {first_line(reason)}") from reason
    return io.BufferedReader(_Body(response), 1 << 16)


class _SameHost(request.HTTPRedirectHandler):
    """Follow redirections of a server to its own addresses only: the user named this host, and no other."""

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> request.Request | None:
        here, there = urlsplit(req.full_url), urlsplit(newurl)
        if here.netloc.lower() != there.netloc.lower() or there.scheme not in (here.scheme, "https"):
            fp.close()
            target = _shown(f"{there.scheme}://{there.netloc.rpartition('@')[2]}")
            raise URLError(f"it leads to {target}, another scheme or host; give that address if you trust it")
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        """Refuse other schemes with the same message."""
        target = urlsplit(headers.get("location") or headers.get("uri") or "")
        if target.scheme not in ("", "http", "https"):
            self.redirect_request(req, fp, code, msg, headers, target.geturl())
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Body(io.RawIOBase):
    """The body of a response, which is an error if it breaks off."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count = self._response.readinto(buffer)
        except http.client.HTTPException as reason:
            raise OSError(f"the connection broke off: {first_line(reason)}") from reason
        if not count and self._response.length:
            raise OSError(f"the connection broke off {self._response.length:,} bytes before the end")
        return count

    def close(self) -> None:
        self._response.close()
        super().close()


def _request(address: str) -> request.Request:
    parts = urlsplit(address)
    _, at, host = parts.netloc.rpartition("@")
    made = request.Request(parts._replace(netloc=host, fragment="").geturl())
    if at:
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        made.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    return made


def _opener() -> request.OpenerDirector:
    """Return an opener of web addresses and nothing else: Python's own opens files and FTP too."""
    opener = request.OpenerDirector()
    web = (request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, _SameHost)
    for handler in (*web, request.HTTPDefaultErrorHandler, request.HTTPErrorProcessor):
        opener.add_handler(handler())
    return opener


def _may_pass(reason: OSError) -> bool:
    """Whether another attempt may succeed where this one failed."""
    if isinstance(reason, HTTPError):
        if reason.code in _TEMPORARY:
            reason.close()
        return reason.code in _TEMPORARY
    passing = (TimeoutError, ConnectionResetError, ConnectionAbortedError)
    return isinstance(reason, passing) or isinstance(getattr(reason, "reason", None), passing)


def _shown(text: str) -> str:
    """Return what a server says as a short line."""
    return printable(shortened(text, 100))
