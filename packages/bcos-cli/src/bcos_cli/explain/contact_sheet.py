"""One sheet for all images."""

from dataclasses import dataclass, field, replace
from itertools import chain

from bcos_cli.explain.image_files import ImageFile
from bcos_cli.explain.sheets import Scale, explanation_tiles, likelihood, percent, remarks_below
from bcos_cli.explain.targets import class_text, target_text
from bcos_cli.explain.writer import Writer
from bcos_explain import ClassExplanation, ExplainedImage
from bcos_explain.render import Tile, grid, save_sheet
from bcos_explain.render.grid import GAP

ROWS = 12
"""Rows on a page."""
WIDTH = 1400
"""Width in pixels that a page may have, where a row then holds several images."""
SIDE = 128
"""Width of each picture in pixels, unless another one is asked for."""


@dataclass
class ContactSheet:
    """Collects the tiles of each image, and writes a page whenever one is full."""

    writer: Writer
    names: list[str] = field(default_factory=list)
    """Files of the pages that are written."""
    _images: list[list[Tile | None]] = field(default_factory=list)
    _explanations: list[ClassExplanation] = field(default_factory=list)

    def add(self, file: ImageFile, image: ExplainedImage, scale: Scale) -> None:
        """Add an image: the input, then the explanations."""
        style = self.writer.style(image)
        predicted = f"{class_text(image.predicted, style.classes)} {percent(image.confidence)}"
        tiles: list[Tile | None] = [Tile(image.image, file.path.name, predicted)]
        named = set()
        for explanation in image.explanations:
            target = explanation.target
            for tile in explanation_tiles(image, explanation, scale, style):
                subtitle = explanation.method if target in named else likelihood(explanation)
                tiles.append(replace(tile, title=target_text(target, style.classes), subtitle=subtitle))
                named.add(target)
        self._images.append(tiles)
        self._explanations += image.explanations
        if len(self._images) == ROWS * self._per_row:
            self.close()

    @property
    def _side(self) -> int:
        return self.writer.options.side or SIDE

    @property
    def _per_row(self) -> int:
        """Images beside each other."""
        return max(1, WIDTH // (max(map(len, self._images)) * (self._side + GAP)))

    def close(self) -> None:
        """Write the last page."""
        if not self._images:
            return
        options = self.writer.options
        name = f"contact-sheet.{len(self.names) + 1}.{options.format}"
        shared = "all pictures share one scale" if options.scale == "shared" else "each image has its own scale"
        widest, several = max(map(len, self._images)), self._per_row
        parts = [tiles + [None] * (widest - len(tiles)) for tiles in self._images]
        rows = [list(chain(*parts[start : start + several])) for start in range(0, len(parts), several)]
        if options.scale == "shared":  # the last row of a page has the scale of all
            rows[:-1] = [[tile and replace(tile, bar=None) for tile in row] for row in rows[:-1]]
        footer = [shared, *remarks_below(self._explanations)]
        sheet = grid(rows, side=self._side, footer=footer, background=options.page)
        save_sheet(sheet, self.writer.out / name)
        self.names.append(name)
        self._images, self._explanations = [], []
