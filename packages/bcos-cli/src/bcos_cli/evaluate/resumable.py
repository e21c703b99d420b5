"""Partial results, from which a killed evaluation continues."""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Strict, TypeAdapter, ValidationError

from bcos_cli.config.section import Count
from bcos_cli.processes.group import process_state
from bcos_core.errors import BcosError, shown

Part = dict[str, Any]


class _WrittenPart(BaseModel):
    """A :class:`bcos_explain.metrics.MetricResult` as JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    scores: list[float]
    cluster: Count = 1
    higher_is_better: bool | None = None
    chance: float | None = None
    statistic: Literal["mean", "median"] = "mean"
    curves: list[list[float]] | None = None
    curve_x: list[float] | None = None
    remarks: list[list[str | float | None]] = []


_LINE = TypeAdapter(tuple[Annotated[Count, Strict()], _WrittenPart])


class PartialResults:
    """Results so far, one line of a file for each part, until all is done.

    Args:
        folder: folder of all partial results; None keeps nothing on disk.
        fingerprint: hash of everything that the results depend on; those with another one are ignored.
        rank: that of this process, which writes files of its own. Those of all are read: their number may change.

    Raises:
        BcosError: as :meth:`load`.
    """

    def __init__(self, folder: Path | None, fingerprint: str, rank: int) -> None:
        self.folder = folder
        self._own = None if folder is None else folder / fingerprint
        self._rank = rank
        self.load("*")  # refuse damaged files before anything is measured

    def load(self, task: str) -> dict[int, Part]:
        """Read the parts of a task by number; a line that a kill cut off is ignored.

        Raises:
            BcosError: a line is valid JSON, but not a part.
        """
        parts: dict[int, Part] = {}
        for path in [] if self._own is None else sorted(self._own.glob(f"{task}.*.jsonl")):
            for number, line in enumerate(path.read_bytes().splitlines(), start=1):
                if (found := _read(line, f"line {number} of {path}")) is not None:
                    parts[found[0]] = found[1]
        return parts

    def add(self, task: str, number: int, part: Part) -> None:
        """Write one part; it is on the disk when this returns."""
        if self._own is None:
            return
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            with (self._own / f"{task}.{self._rank}.jsonl").open("a+b") as file:
                file.seek(-min(1, file.tell()), os.SEEK_END)
                torn = file.read() not in (b"", b"\n")  # a kill cut the last line off
                file.write((b"\n" if torn else b"") + json.dumps([number, part]).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # a folder that cannot be written, or that another evaluation has removed
            self._own = None

    def clear(self) -> None:
        """Remove the parts, because the result is complete."""
        if self.folder is not None and self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty: another evaluation is under way, or was killed
                self.folder.rmdir()


def partial_results(folder: Path | None, *depends_on: Any) -> PartialResults:
    """Return this process's partial results in `folder` for these values, which must be valid in JSON."""
    fingerprint = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]
    return PartialResults(folder, fingerprint, process_state().process_index)


def _read(line: bytes, where: str) -> tuple[int, Part] | None:
    """Return number and part; None for a line that is not JSON, which a kill or a power failure leaves."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    try:
        number, part = _LINE.validate_python(values)
    except ValidationError as reason:
        raise BcosError(
            f"{where} is not a part of a measurement, got {shown(values)}; remove the file to measure it again"
        ) from reason
    return number, part.model_dump(exclude_unset=True)
