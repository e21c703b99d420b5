"""Results of parts of a long measurement, kept on disk until all of it is done."""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Strict, TypeAdapter, ValidationError

from bcos_cli.config.section import Count
from bcos_core.errors import BcosError, shown

Part = dict[str, Any]


class _WrittenPart(BaseModel):
    """A :class:`bcos_explain.metrics.MetricResult` as JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    scores: list[float]
    cluster: Count = 1
    higher_is_better: bool | None = None
    chance: float | None = None
    curves: list[list[float]] | None = None
    curve_x: list[float] | None = None
    remarks: list[list[str | float | None]] = []


_LINE = TypeAdapter(tuple[Annotated[Count, Strict()], _WrittenPart])


class PartialResults:
    """What was measured so far, one line a part, so that a killed evaluation goes on where it was.

    Args:
        folder: where; None keeps nothing on disk.
        fingerprint: of all that the results depend on; those with another one are not taken up.
        rank: of this process, which writes files of its own. Those of every process are read, so a
            measurement may go on with another number of processes.

    Raises:
        BcosError: as :meth:`load`.
    """

    def __init__(self, folder: Path | None, fingerprint: str, rank: int) -> None:
        self.folder = folder
        self._own = None if folder is None else folder / fingerprint
        self._rank = rank
        self.load("*")  # what is damaged is told before anything is measured

    def load(self, task: str) -> dict[int, Part]:
        """Parts of a task by number; a line that was cut off by a kill does not count.

        Raises:
            BcosError: a line that is whole has something else than one part.
        """
        parts: dict[int, Part] = {}
        for path in [] if self._own is None else sorted(self._own.glob(f"{task}.*.jsonl")):
            for number, line in enumerate(path.read_bytes().splitlines(), start=1):
                if (found := _read(line, f"line {number} of {path}")) is not None:
                    parts[found[0]] = found[1]
        return parts

    def add(self, task: str, number: int, part: Part) -> None:
        """Keep one part, on the disk before this returns."""
        if self._own is not None:
            try:
                self._append(self._own, task, number, part)
            except OSError:  # a folder that cannot be written, or that another evaluation has finished with
                self._own = None

    def _append(self, own: Path, task: str, number: int, part: Part) -> None:
        own.mkdir(parents=True, exist_ok=True)
        with (own / f"{task}.{self._rank}.jsonl").open("ab") as file:
            torn = file.tell() > 0 and not _ends_with_newline(own / f"{task}.{self._rank}.jsonl")
            file.write((b"\n" if torn else b"") + json.dumps([number, part]).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def clear(self) -> None:
        """Remove what was kept: the result is complete."""
        if self.folder is not None and self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty: another evaluation is under way, or was killed
                self.folder.rmdir()


def _read(line: bytes, where: str) -> tuple[int, Part] | None:
    """Number and part; None of a line that is no JSON, which a kill or a power failure has left."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    try:
        number, part = _LINE.validate_python(values)
    except ValidationError as reason:
        raise BcosError(
            f"{where} holds no part of a measurement, got {shown(values)}; remove the file to measure it again"
        ) from reason
    return number, part.model_dump(exclude_unset=True)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
