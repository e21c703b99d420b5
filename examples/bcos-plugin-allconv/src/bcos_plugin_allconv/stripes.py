"""The data set of the package."""

import numpy as np

from bcos_cli.data.sources import ArraySource, ImageItem, encode_png

CLASSES = ["horizontal", "vertical", "rising", "falling"]
SIDE = 12


def stripes(per_class: int = 100) -> ArraySource:
    """Draw stripes of four directions and any phase, a fifth of them for tests; the same ones every time."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    along = (rows, columns, rows + columns, rows - columns)
    items, pngs = [], {}
    for label, name in enumerate(CLASSES):
        for number in range(per_class):
            split = "test" if number % 5 == 0 else "train"
            path = f"{split}/{name}/{number:03d}.png"
            wave = np.sin(along[label] * 1.5 + generator.uniform(0, 2 * np.pi))
            items.append(ImageItem(path, split, label))
            pngs[path] = encode_png(np.uint8(127.5 + 127.5 * wave))
    return ArraySource(CLASSES, items, pngs)
