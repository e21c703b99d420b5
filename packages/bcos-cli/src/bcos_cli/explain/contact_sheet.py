"""One sheet for all images."""

from dataclasses import dataclass, field, replace

from bcos_cli.explain.image_files import ImageFile
from bcos_cli.explain.sheets import Scale, explanation_tiles, likelihood, percent, remarks_below
from bcos_cli.explain.targets import class_text, target_text
from bcos_cli.explain.writer import Writer
from bcos_explain import ClassExplanation, ExplainedImage
from bcos_explain.render import Tile, grid, save_sheet

ROWS = 12
"""Images on a page."""
SIDE = 128
"""Width of each picture in pixels, unless another one is asked for."""


@dataclass
class ContactSheet:
    """Collects a row for each image, and writes a page whenever one is full."""

    writer: Writer
    names: list[str] = field(default_factory=list)
    """Files of the pages that are written."""
    _rows: list[list[Tile | None]] = field(default_factory=list)
    _explanations: list[ClassExplanation] = field(default_factory=list)

    def add(self, file: ImageFile, image: ExplainedImage, scale: Scale) -> None:
        """Add the row of an image: the input, then the explanations."""
        style = self.writer.style(image)
        predicted = f"{class_text(image.predicted, style.classes)} {percent(image.confidence)}"
        row: list[Tile | None] = [Tile(image.image, file.path.name, predicted)]
        named = set()
        for explanation in image.explanations:
            target = explanation.target
            for tile in explanation_tiles(image, explanation, scale, style):
                subtitle = explanation.method if target in named else likelihood(explanation)
                row.append(replace(tile, title=target_text(target, style.classes), subtitle=subtitle))
                named.add(target)
        if self._rows and self.writer.options.scale == "shared":  # the last row of a page has the scale of all
            self._rows[-1] = [tile and replace(tile, bar=None) for tile in self._rows[-1]]
        self._rows.append(row)
        self._explanations += image.explanations
        if len(self._rows) == ROWS:
            self.close()

    def close(self) -> None:
        """Write the last page."""
        if not self._rows:
            return
        options = self.writer.options
        name = f"contact-sheet.{len(self.names) + 1}.{options.format}"
        shared = "all pictures share one scale" if options.scale == "shared" else "each row has its own scale"
        footer = [shared, *remarks_below(self._explanations)]
        sheet = grid(self._rows, side=options.side or SIDE, footer=footer, background=options.page)
        save_sheet(sheet, self.writer.out / name)
        self.names.append(name)
        self._rows, self._explanations = [], []
