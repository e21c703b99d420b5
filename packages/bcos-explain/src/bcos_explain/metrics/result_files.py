"""Results of metrics as files."""

import csv
import io
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bcos_core import BcosError
from bcos_core.files import write_atomically
from bcos_explain.metrics.result import MetricResult

SCORES_CSV = "scores.csv"
CURVES_CSV = "curves.csv"
SCORES_JSON = "scores.json"

Keys = Mapping[str, Sequence[int | str]]


def write_results(folder: str | Path, results: Mapping[str, MetricResult], keys: Keys | None = None) -> list[Path]:
    """Write every score and every summary, each file whole or not at all.

    - ``scores.csv``: ``result,sample,cell,score``, one row a score; an undefined score is empty, and so is
      the cell where each sample has one score.
    - ``scores.json``: :meth:`MetricResult.to_dict` of each result by its name.
    - ``curves.csv``: ``result,sample,cell,x,value``, if there are any curves.

    Args:
        folder: created if it is missing; files of these names are replaced.
        results: by name, such as ``"gridpg/bcos"``.
        keys: what the scores belong to, by the same names: one key a sample (a grid is one sample, with a
            cell for each of its scores). Samples of results that are not named are numbered from 0.

    Returns:
        The files that were written.

    Raises:
        BcosError: as many keys as samples are needed, or keys of no result.
    """
    keys = {} if keys is None else keys
    if unknown := sorted(set(keys) - set(results)):
        raise BcosError(f"there are keys for {', '.join(unknown)}, but results for {', '.join(results) or 'nothing'}")
    samples = {name: _samples(name, result, keys.get(name)) for name, result in results.items()}
    folder = Path(folder)
    summaries = {name: result.to_dict() for name, result in results.items()}
    scores = (
        (name, *sample, score)
        for name, result in results.items()
        for sample, score in zip(samples[name], result.scores.tolist(), strict=True)
    )
    curves = (
        (name, *sample, x, value)
        for name, result in results.items()
        if result.curves is not None and result.curve_x is not None
        for sample, curve in zip(samples[name], result.curves.tolist(), strict=True)
        for x, value in zip(result.curve_x.tolist(), curve, strict=True)
    )
    contents = {
        SCORES_CSV: _table(("result", "sample", "cell", "score"), scores),
        SCORES_JSON: json.dumps(summaries, indent=1, allow_nan=False) + "\n",
    }
    if any(result.curves is not None for result in results.values()):
        contents[CURVES_CSV] = _table(("result", "sample", "cell", "x", "value"), curves)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def _samples(name: str, result: MetricResult, keys: Sequence[int | str] | None) -> list[tuple[int | str, int | str]]:
    """Key and cell of each score."""
    needed = len(result.scores) // result.cluster
    keys = range(needed) if keys is None else keys
    if len(keys) != needed:
        raise BcosError(f"{name} has scores of {needed} samples, got {len(keys)} keys")
    return list(itertools.product(keys, range(result.cluster) if result.cluster > 1 else [""]))


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV, with an empty cell for NaN."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows((*row, "" if math.isnan(value) else value) for *row, value in rows)
    return text.getvalue()
