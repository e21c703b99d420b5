"""Images whose class is easily learned."""

import numpy as np

SIDE = 8


def striped(label, i, side=SIDE):
    """An image whose class is easily learned: 0 has rows, 1 has columns, 2 a bright corner."""
    rng = np.random.default_rng(1000 * label + i)
    image = rng.integers(0, 60, (side, side))
    if label == 0:
        image[::2] += 180
    elif label == 1:
        image[:, ::2] += 180
    else:
        image[: side // 2, : side // 2] += 180
    return image.astype(np.uint8)
