"""One sheet for all images."""

from dataclasses import replace

from bcos_cli.explain.answers import Answer, Subject
from bcos_cli.explain.image_files import ImageFile
from bcos_cli.explain.pictures import as_floats
from bcos_cli.explain.scales import Scales
from bcos_cli.explain.sheets import answer_tiles, likelihood, percent, remarks_below
from bcos_cli.explain.targets import class_text
from bcos_cli.explain.writer import Writer
from bcos_explain.render import Tile, grid, save_sheet

ROWS = 12
"""Images on a page."""
SIDE = 128
"""Width of each picture in pixels, unless another one is asked for."""


class ContactSheet:
    """Collects a row for each image, and writes a page whenever one is full.

    Args:
        writer: which knows how pictures look and where they go.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._rows: list[list[Tile | None]] = []
        self._answers: list[Answer] = []
        self.names: list[str] = []

    def add(self, file: ImageFile, subject: Subject, scales: Scales) -> None:
        """Add the row of an image: the input, then the answers."""
        style = self._writer.style(subject.arrays["rgb"].shape[0])
        predicted = f"{class_text(subject.predicted, style.classes)} {percent(subject.confidence)}"
        row: list[Tile | None] = [Tile(as_floats(subject.arrays["rgb"]), file.path.name, predicted)]
        named = set()
        for i, answer in enumerate(subject.answers):
            for tile in answer_tiles(subject, i, scales, style):
                subtitle = answer.method if answer.question in named else likelihood(answer)
                row.append(replace(tile, title=answer.question.text(style.classes), subtitle=subtitle))
                named.add(answer.question)
        if self._rows and self._writer.options.scale == "shared":  # the last row of a page has the scale of all
            self._rows[-1] = [tile and replace(tile, bar=None) for tile in self._rows[-1]]
        self._rows.append(row)
        self._answers += subject.answers
        if len(self._rows) == ROWS:
            self.close()

    def close(self) -> None:
        """Write the last page."""
        if not self._rows:
            return
        options = self._writer.options
        name = f"contact-sheet.{len(self.names) + 1}.{options.format}"
        shared = "all pictures share one scale" if options.scale == "shared" else "each row has its own scale"
        footer = [shared, *remarks_below(self._answers)]
        sheet = grid(self._rows, side=options.side or SIDE, footer=footer, background=options.page)
        save_sheet(sheet, self._writer.out / name)
        self.names.append(name)
        self._rows, self._answers = [], []
