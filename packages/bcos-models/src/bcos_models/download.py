"""Downloads, of each file once: resumed, verified, cached. Imports no torch until a cache folder is needed."""

import hashlib
import http
import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock
from tqdm import tqdm

from bcos_core.errors import BcosError, first_line

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds to wait for an answer."""
PROBE_TIMEOUT = 5.0
"""Seconds to wait for any sign of the hub."""
ATTEMPTS = 5
"""Connections for one file, each going on where the last one broke."""

_DIGITS = re.compile(r"-(?=[0-9]*[a-f])([0-9a-f]{8,64})\.[^.]+$")
"""PyTorch's convention for file names; a date holds no letter."""


def cache_folder() -> Path:
    """Return the folder of downloads: PyTorch's own folder for checkpoints, which ``TORCH_HOME`` moves."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch(url: str, *, sha256: str = "", folder: str | Path | None = None) -> Path:
    """Download a file unless it is there already, and verify it.

    A transfer that breaks goes on where it stopped, in this call or in a later one. A file whose SHA-256 does
    not start as it must is refused; one that this function has not downloaded itself is left where it is.

    Args:
        url: http or https.
        sha256: first hexadecimal digits of the file's SHA-256; empty for those that its name ends in, as in
            ``resnet_18-68b4160fff.pth``. Where neither says any, the file is not verified.
        folder: where to keep the file; None for :func:`cache_folder`.

    Returns:
        The file.

    Raises:
        BcosError: no answer, a broken transfer, or a file that is not the one that was asked for.
    """
    name = _file_name(url)
    sha256 = sha256 or (match.group(1) if (match := _DIGITS.search(name)) else "")
    folder = cache_folder() if folder is None else Path(folder)
    if not sha256:  # files of the same name, from other places, are other files
        folder /= hashlib.sha256(url.encode()).hexdigest()[:16]
    target = folder / name
    try:
        if not target.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{target}.lock"):
                if not target.is_file():
                    _download(url, target, sha256)
                    return target
        _verify(target, sha256, url, target)
    except (OSError, NotImplementedError) as reason:  # the latter where a file system has no locks
        raise BcosError(f"cannot keep {url} at {str(target)!r}: {first_line(reason)}; set TORCH_HOME") from reason
    return target


PACKAGE = "package:"


def packaged_file(address: str) -> Path:
    """Return the file of an installed package that ``package:MODULE/FILE`` names.

    Raises:
        BcosError: no such package, or it has no such file.
    """
    module, _, name = address.removeprefix(PACKAGE).partition("/")
    try:
        file = Path(str(resources.files(module))) / name
    except (ImportError, TypeError, ValueError) as reason:  # the latter two for what is no package
        raise BcosError(f"{address!r} names no installed package: {first_line(reason)}") from reason
    if not file.is_file():
        raise BcosError(f"the installed package {module!r} lacks its file {name!r}; install it again")
    return file


@contextmanager
def quick_hub() -> Iterator[None]:
    """Inside the block, an unreachable Hugging Face hub is an error at once, unless its cache has what is needed.

    The hub's library, which timm downloads with, tries each file for half a minute.
    """
    from huggingface_hub import constants

    problem = None if constants.HF_HUB_OFFLINE else _unreachable(constants.ENDPOINT)
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or problem is not None
    try:
        yield
    except Exception as reason:
        if problem is None:
            raise
        raise BcosError(f"{constants.ENDPOINT} cannot be reached ({problem}), and its cache lacks the file") from reason
    finally:
        constants.HF_HUB_OFFLINE = before


def _unreachable(url: str) -> str | None:
    """Return why nobody answers at an address; None if somebody does, with an error perhaps."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_TIMEOUT).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except (OSError, http.client.HTTPException) as reason:
        cause: object = getattr(reason, "reason", reason)
        # other libraries may trust other certificates
        return None if isinstance(cause, ssl.SSLError) else str(cause)
    return None


def hub_file(repository: str, name: str) -> Path:
    """Download a file of ``owner/repository[@revision]``, or find it in the hub's cache."""
    from huggingface_hub import hf_hub_download

    repo_id, _, revision = repository.partition("@")
    try:
        with quick_hub():
            return Path(hf_hub_download(repo_id, name, revision=revision or None, library_name="bcos-models"))
    except Exception as reason:  # the library raises many types, of its HTTP client too
        raise BcosError(
            f"cannot get {name} of {repository!r} from the Hugging Face hub: {first_line(reason)}; "
            "check the name (owner/repository, with @revision if need be) and the network, or give a local path"
        ) from reason


def _file_name(url: str) -> str:
    try:
        parts = urlsplit(url)
        name = Path(parts.path).name
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and name not in ("", ".", "..")
    except ValueError:
        usable = False
    if not usable or not url.isascii() or any(c.isspace() for c in url):
        raise BcosError(f"cannot download {url!r}; give an http or https URL that ends in a file name")
    return name


def _download(url: str, target: Path, sha256: str) -> None:
    """Write to a file beside `target`, which is renamed once it is whole."""
    partial = target.with_name(f"{target.name}.part")
    if not sha256:  # nothing would tell whether two parts belong together
        partial.unlink(missing_ok=True)
    if not (partial.is_file() and sha256 and _digest(partial).startswith(sha256)):
        _transfer(url, partial, target)
        try:
            _verify(partial, sha256, url, target)
        except BcosError:
            partial.unlink()  # of our own making
            raise
    partial.replace(target)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verify(file: Path, sha256: str, url: str, target: Path) -> None:
    if not sha256 or (found := _digest(file)).startswith(sha256):
        return
    what = "it was left as it is: remove it" if file == target else "it was removed: try again"
    raise BcosError(
        f"{str(file)!r} is not the file that {url} names: its SHA-256 starts with {found[: len(sha256)]}, "
        f"needed {sha256}; {what}, or place the right file at {str(target)!r}"
    )


def _transfer(url: str, partial: Path, target: Path) -> None:
    """Write to `partial`, going on after what it holds."""
    reason: object = None
    for _ in range(ATTEMPTS):
        before = _size(partial)
        try:
            if _receive(url, partial, before):
                return
            reason = f"the transfer broke after {_size(partial)} bytes"
        except urllib.error.HTTPError as error:
            reason = error
            error.close()
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and before:
                partial.unlink()  # longer than the file, so not a part of it
                continue
            break
        except (OSError, http.client.HTTPException) as error:
            reason = error
        if _size(partial) <= before:
            break  # no progress, so another attempt would not help
    raise BcosError(
        f"cannot download {url}: {reason}; try again (what has arrived is kept), "
        f"or place the file at {str(target)!r} by hand"
    )


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _receive(url: str, partial: Path, before: int) -> bool:
    """Receive what one connection gives; return whether the file is complete now."""
    headers = {"User-Agent": "bcos-models"} | ({"Range": f"bytes={before}-"} if before else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            before = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = None if length is None else before + int(length)
        # disable=None: where the standard error stream is no terminal
        bar = tqdm(total=total, initial=before, unit="B", unit_scale=True, desc=partial.stem, disable=None)
        with bar, partial.open("ab" if before else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return total is None or _size(partial) == total
