"""Files from the web, once: resumable, verified, cached. Imports no torch until a cache folder is needed."""

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

from filelock import FileLock
from tqdm import tqdm

from bcos_core.errors import BcosError

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without an answer."""
ATTEMPTS = 5
"""Connections for one file, each going on where the last one broke."""

_DIGITS = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")


def cache_folder() -> Path:
    """Where downloads are kept: PyTorch's own folder for checkpoints, which ``TORCH_HOME`` moves."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch(url: str, *, folder: str | Path | None = None, progress: bool = True) -> Path:
    """Download a file unless it is there already, and verify it.

    A transfer that breaks goes on where it stopped, in this call or in a later one. Hexadecimal digits before
    the suffix (``resnet_18-68b4160fff.pth``) are the start of the file's SHA-256; a file with another one is
    removed.

    Args:
        url: http or https.
        folder: where to keep the file; None for :func:`cache_folder`.
        progress: show a bar, where the standard error stream is a terminal.

    Returns:
        The file.

    Raises:
        BcosError: no answer, a broken transfer, or a file that is not the one that was asked for.
    """
    name = Path(urlparse(url).path).name
    if urlparse(url).scheme not in ("http", "https") or not name:
        raise BcosError(f"cannot download {url!r}; give an http or https URL that ends in a file name")
    folder = cache_folder() if folder is None else Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    digits = match.group(1) if (match := _DIGITS.search(name)) else ""
    with FileLock(f"{target}.lock"):
        if not target.exists():
            partial = target.with_name(f"{name}.part")
            if not digits:  # nothing would tell whether two parts belong together
                partial.unlink(missing_ok=True)
            _transfer(url, partial, target, progress)
            _verify(partial, digits, url, target)
            partial.replace(target)
        else:
            _verify(target, digits, url, target)
    return target


def _verify(file: Path, digits: str, url: str, target: Path) -> None:
    if not digits:
        return
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(digits):
        file.unlink()
        raise BcosError(
            f"{str(file)!r} is not the file that {url} names: its SHA-256 starts with {found[: len(digits)]}, "
            f"needed {digits}; it was removed: try again, or place the right file at {str(target)!r}"
        )


def _transfer(url: str, partial: Path, target: Path, progress: bool) -> None:
    """Write to `partial`, going on after what it holds."""
    reason: object = None
    for _ in range(ATTEMPTS):
        before = partial.stat().st_size if partial.exists() else 0
        try:
            if _receive(url, partial, before, progress):
                return
            reason = f"the transfer broke after {partial.stat().st_size} bytes"
        except urllib.error.HTTPError as error:
            reason = error
            error.close()
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and before:
                partial.unlink()  # longer than the file: it is none of it
                continue
            break
        except (OSError, http.client.HTTPException) as error:
            reason = error
        if (partial.stat().st_size if partial.exists() else 0) <= before:
            break  # no progress: trying on would change nothing
    raise BcosError(
        f"cannot download {url}: {reason}; try again (what has arrived is kept), "
        f"or place the file at {str(target)!r} by hand"
    )


def _receive(url: str, partial: Path, before: int, progress: bool) -> bool:
    """One connection; whether the file is complete now."""
    headers = {"User-Agent": "bcos-models"} | ({"Range": f"bytes={before}-"} if before else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            before = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = None if length is None else before + int(length)
        bar = tqdm(
            total=total,
            initial=before,
            unit="B",
            unit_scale=True,
            desc=partial.stem,
            disable=None if progress else True,
        )
        with bar, partial.open("ab" if before else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return total is None or partial.stat().st_size == total
