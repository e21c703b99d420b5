"""What reading a hostile file may do: give a result, or raise BcosError in one line. All else is a fault."""

import contextlib
import io
import os
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

from bcos_cli.messages import tell
from bcos_core.errors import BcosError

CANARY = "bcos_fuzz_canary"
"""A module that hostile values name, which must not be imported."""
SECRET = "secret.txt"
"""A file beside the folder that is read, which hostile values name, and which must not be opened."""
LONGEST_MESSAGE = 2000
CPU_SECONDS = 10
MEMORY = 512 << 20
"""Bytes by which one input may raise the peak of this process."""
_PROCESSES = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen"}
_ADDRESSES = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"}
_CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class FaultError(AssertionError):
    """Something other than a result or a BcosError of one line."""


class TookTooLong(BaseException):
    """No ``except Exception`` on the way takes it for a damaged file."""


class _Watch:
    """What Python's audit events tell while an input is read; hooks cannot be removed, so this one is switched."""

    def __init__(self):
        self.folder = None
        self.found = []

    def __call__(self, event, args):
        if self.folder is None:
            return
        if event in _PROCESSES:
            self.found.append(f"starts a process: {args!r:.300}")
        elif event in _ADDRESSES:
            self.found.append(f"opens an address: {args!r:.300}")
        elif event == "pickle.find_class" or (event == "import" and args[0] == CANARY):
            self.found.append(f"imports what the file names: {args!r:.300}")
        elif event == "open" and isinstance(args[0], str | bytes):
            self._file(os.fsdecode(args[0]), bool((args[2] or 0) & _WRITING) or bool(set(args[1] or "") & set("wax+")))
        elif event in _CHANGES and isinstance(args[0], str | bytes):
            self._file(os.fsdecode(args[0]), True)

    def _file(self, path, is_written):
        path = os.path.abspath(path)  # noqa: PTH100 - reason: as the path is spelt, its links not followed
        if path == str(self.folder.parent / SECRET):
            self.found.append(f"opens a file outside of the folder: {path}")
        inside = path.startswith((f"{self.folder}/", "/dev/")) or path == str(self.folder)
        if is_written and not inside and "__pycache__" not in path:
            self.found.append(f"writes outside of the folder: {path}")


_watch = _Watch()
sys.addaudithook(_watch)


def _too_long(*_):
    raise TookTooLong(f"more than {CPU_SECONDS} seconds of processor time")


@contextlib.contextmanager
def watched(folder: Path):
    """Fail unless what the block does with files below `folder` is harmless; a BcosError in one line ends it well."""
    _watch.folder, _watch.found = folder, []
    peak, start = _peak(), time.process_time()
    before = signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                yield
            except BcosError as mistake:
                _check_message(str(mistake))
    finally:
        _watch.folder = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    own = [w for w in told if "/PIL/" not in w.filename]  # Pillow tells of damaged metadata, the program prints it
    problems = [*_watch.found, *(f"warns: {w.category.__name__}: {w.message}" for w in own)]
    if (seconds := time.process_time() - start) > CPU_SECONDS:
        problems.append(f"takes {seconds:.0f} seconds")
    if (grown := _peak() - peak) > MEMORY:
        problems.append(f"takes {grown >> 20} MB")
    if problems:
        raise FaultError("; ".join(problems))


def _check_message(message):
    if "\n" in message or not message or len(message) > LONGEST_MESSAGE:
        raise FaultError(f"a message of {len(message)} characters, or not of one line: {message[:3000]!r}")
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        tell(message)
    if len(error.getvalue().splitlines()) != 1:
        raise FaultError(f"a message that is several lines on a terminal: {message!r}")


def _peak():
    """Largest memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
