"""Progress bars on standard error and tables on standard output.

Names in them may come from strangers: they are not read as markup, and control characters are written as escapes.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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

from bcos_core.text import printable


class _Terminal(Console):
    """A console that shows text as it is; styles are ours."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

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


class _Rate(ProgressColumn):
    """Images a second, for tasks that count them in their field ``images``."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        images = task.fields.get("images", 0)
        return Text(f"{images / elapsed:,.0f} images/s" if images and elapsed else "")


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
    ) as bar:
        yield Counter(bar, description, total)


class Counter:
    """One task of a progress bar."""

    def __init__(self, bar: Progress, description: str, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task(printable(description), total=total, note="", images=0)
        self._images = 0

    def advance(self, steps: int = 1, *, images: int = 0, note: str | None = None) -> None:
        """Count steps done, and the images in them."""
        self._images += images
        fields = {"images": self._images} if note is None else {"images": self._images, "note": printable(note)}
        self._bar.update(self._task, advance=steps, **fields)

    def set(self, done: int, total: int) -> None:
        """Set how much is done."""
        self._bar.update(self._task, completed=done, total=total)


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]], *, whole: int = 1) -> None:
    """Print a table; numbers are aligned to the right, and cells of the first `whole` columns stay on one line."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]  # before rich measures their width
    made = Table()
    for i, column in enumerate(map(printable, columns)):
        numeric = bool(cells) and all(_is_number(row[i]) for row in cells)
        made.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=i < whole)
    for row in cells:
        made.add_row(*row)
    out.print(title, style="bold", soft_wrap=True)  # rich would squeeze it to the width of the table
    out.print(made)


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("%", "").replace(" ", "").lstrip("-+").isdigit()
