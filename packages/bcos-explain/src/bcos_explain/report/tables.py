"""Cells of tables as text."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from bcos_explain.report.data import Table

_DIGITS = 3
"""Decimals of numbers below 10; one fewer for each further digit before the point."""
_SMALLEST, _LARGEST = 1e-2, 1e6
"""Columns with values outside of this range (except 0) have 4 significant digits, in powers of ten if needed."""


class Cell(NamedTuple):
    """One cell."""

    text: str
    value: float | None
    """Sort key of a number, NaN for one that is undefined; None for text and for empty cells."""


class ShownTable(NamedTuple):
    """A table as text."""

    title: str
    note: str
    columns: list[tuple[str, bool]]
    """Names, and whether the column holds numbers, which are aligned to the right."""
    rows: list[list[Cell]]


def shown_table(table: Table) -> ShownTable:
    """Give each column of floats as many decimals as suit all of its values."""
    cells = [_cells([row[k] for row in table.rows]) for k in range(len(table.columns))]
    are_numbers = [any(cell.value is not None for cell in column) for column in cells]
    rows = [list(row) for row in zip(*cells, strict=True)]
    return ShownTable(table.title, table.note, list(zip(table.columns, are_numbers, strict=True)), rows)


def _cells(column: Sequence[Any]) -> list[Cell]:
    floats = [abs(float(v)) for v in column if _is_number(v) and not isinstance(v, Integral) and math.isfinite(v)]
    largest = max(floats, default=0.0)
    if all(v == 0 or _SMALLEST <= v < _LARGEST for v in floats):
        form = f",.{max(0, _DIGITS - math.floor(math.log10(max(largest, 1))))}f"
    else:
        form = ".4g"
    return [_cell(value, form) for value in column]


def _cell(value: Any, form: str) -> Cell:
    if _is_number(value) and math.isnan(value):
        return Cell("undefined", math.nan)
    if not _is_number(value):
        return Cell("" if value is None else str(value), None)
    text = format(value, ",d" if isinstance(value, Integral) else form)
    return Cell(text.replace("-", "−"), float(value))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
