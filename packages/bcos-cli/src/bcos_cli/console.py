"""Progress bars on standard error and tables on standard output.

Names in them may come from strangers: they are not read as markup, and control characters are written as escapes.
"""

import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from bcos_cli.messages import say
from bcos_core.text import printable


class _Terminal(Console):
    """A console that shows text as it is; styles are ours."""

    def __init__(self, *, stderr: bool = False) -> None:
        """On standard error lines are as long as they are: a log has no width."""
        super().__init__(stderr=stderr, soft_wrap=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text to be laid out."""
        return super().render_str(printable(text, keep="\n"), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render everything that is shown; segments with control codes are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, keep="\n"))

    def on_broken_pipe(self) -> None:
        """Leave a closed pipe to the program, which rich would exit."""
        raise  # rich calls this where it has caught it


out = _Terminal()
err = _Terminal(stderr=True)


def rate(per_second: float) -> str:
    """Return a number of images a second as text: never 0 where there are some."""
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"


class _Rate(ProgressColumn):
    """Images a second, for tasks that count them in their field ``images``."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        images = task.fields.get("images", 0)
        return Text(f"{rate(images / elapsed)} images/s" if images and elapsed else "")


@contextmanager
def counted(description: str, total: int, enabled: bool = True) -> Iterator["Counter"]:
    """Show a progress bar with count, rate, time left and a note for `total` steps of one piece of work."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=err,
        disable=not enabled,
        redirect_stdout=out.is_terminal,  # else rich would write to standard error what is printed to a file or pipe
    ) as bar:
        yield Counter(bar, description, total)


LINE_SECONDS = 30.0
"""Time between lines of progress where there is no terminal whose line could be drawn anew: in files and pipes."""


class Counter:
    """One task of a progress bar."""

    def __init__(self, bar: Progress, description: str, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task(printable(description), total=total, note="", images=0)
        self._images = 0
        self._last_line = time.monotonic()

    def advance(self, steps: int = 1, *, images: int = 0, note: str | None = None) -> None:
        """Count steps done, and the images in them."""
        self._images += images
        fields = {"images": self._images} if note is None else {"images": self._images, "note": printable(note)}
        self._bar.update(self._task, advance=steps, **fields)
        self._write_line()

    def set(self, done: int, total: int) -> None:
        """Set how much is done."""
        self._bar.update(self._task, completed=done, total=total)
        self._write_line()

    def _write_line(self) -> None:
        if self._bar.disable or err.is_terminal or time.monotonic() - self._last_line < LINE_SECONDS:
            return
        self._last_line = time.monotonic()
        task = self._bar.tasks[self._task]
        if not task.finished:  # the bar's last state is written anyway
            more = [_Rate().render(task).plain, str(task.fields["note"])]
            parts = [f"{task.description} {task.completed:,.0f} of {task.total or 0:,.0f}", *filter(None, more)]
            err.print(", ".join(parts))


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]], *, prose: Collection[str] = ()) -> None:
    """Print a table that fits the terminal; in a pipe its cells are whole, between tabs, the title on standard error.

    Numbers and headings stay on one line. Where there is too little room, columns of one value give way to a line above
    the table, names are shortened in the middle, and what is still too wide continues below, the first column again.

    Args:
        prose: columns of sentences, which are wrapped between words.
    """
    headings = [printable(column) for column in columns]
    cells = [[printable(str(cell)) for cell in row] for row in rows]  # before their width is measured
    if not out.is_terminal:
        err.print(title)
        for row in [headings, *cells]:
            say("\t".join(row))
        return
    out.print(title, style="bold", soft_wrap=True)
    made = [_Column(h, [row[i] for row in cells], h in prose, i == 0) for i, h in enumerate(headings)]
    first, *others = made
    if not _fits(made, out.width) and len(cells) > 1:
        constant = [column for column in others if len(set(column.cells)) == 1]
        others = [column for column in others if column not in constant]
        if named := [
            f"{column.heading}: {column.cells[0]}".removeprefix(": ") for column in constant if column.cells[0]
        ]:
            out.print(" · ".join(named))
    for block in _blocks(first, others, out.width):
        out.print(_rendered(block))


def short_paths(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that tell them apart: names, with as many folders as it takes."""
    whole = [Path(os.path.abspath(path)).parts for path in paths]  # noqa: PTH100 - reason: links keep the names given
    for length in range(1, max(map(len, whole), default=0) + 1):
        ends = [str(Path(*parts[-length:])) for parts in whole]
        if len(set(ends)) == len(set(whole)):
            return ends
    return [str(path) for path in paths]


_GAP = 2
_SHORTEST_NAME, _SHORTEST_FIRST, _SHORTEST_PROSE = 12, 30, 30
"""Room that names keep at least; those of the first column, which tell rows apart, and sentences keep more."""
_NUMBER = re.compile(r"[-+−<>]?\d[\d,.×/]*(e[-+−]?\d+)?%?|nan|-?inf|to|[%MGk]|min|ms|\?")


@dataclass(eq=False)
class _Column:
    """A column of a table, and the room that it takes."""

    heading: str
    cells: list[str]
    is_prose: bool
    is_first: bool = False

    def __post_init__(self) -> None:
        self.is_number = all(_NUMBER.fullmatch(word) for cell in self.cells for word in cell.split())
        self.width = max(map(cell_len, [self.heading, *self.cells]))
        of_names = _SHORTEST_FIRST if self.is_first else _SHORTEST_NAME
        shortest = _SHORTEST_PROSE if self.is_prose else of_names
        self.least = self.width if self.is_number else min(self.width, max(cell_len(self.heading), shortest))
        names = set(self.cells)  # which must still be told apart
        while not self.is_prose and len({_middle_out(name, self.least) for name in names}) < len(names):
            self.least += 1


def _fits(columns: Sequence[_Column], width: int) -> bool:
    return sum(column.width + _GAP for column in columns) - _GAP <= width


def _blocks(first: _Column, others: Sequence[_Column], width: int) -> Iterator[list[_Column]]:
    """Yield the columns of each part of a table, no wider than there is room."""
    block = [first]
    for column in others:
        if len(block) > 1 and sum(c.least + _GAP for c in [*block, column]) - _GAP > width:
            yield block
            block = [first]
        block.append(column)
    yield block


def _rendered(columns: Sequence[_Column]) -> Table:
    """Return a table in which the widest names and sentences have given way to the rest."""
    widths = [column.width for column in columns]
    while sum(widths) + _GAP * (len(widths) - 1) > out.width:
        wide = [i for i, column in enumerate(columns) if widths[i] > column.least]
        if not wide:
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        justify: Literal["right", "left"] = "right" if column.is_number and any(column.cells) else "left"
        made.add_column(column.heading, justify=justify, width=width, no_wrap=not column.is_prose, overflow="fold")
    shown = [
        column.cells if column.is_prose else [_middle_out(cell, width) for cell in column.cells]
        for column, width in zip(columns, widths, strict=True)
    ]
    for row in zip(*shown, strict=True):
        made.add_row(*row)
    return made


def _middle_out(name: str, width: int) -> str:
    """Return a name with its middle left out, where it is wider."""
    if cell_len(name) <= width:
        return name
    half = (width - 1) // 2
    return f"{set_cell_size(name, width - 1 - half)}…{set_cell_size(name[::-1], half)[::-1]}"
