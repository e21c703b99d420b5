"""The built-in data set: scikit-learn's handwritten digits."""

from bcos_cli.data.sources.source import ArraySource, ImageItem, encode_png

TEST_EVERY = 5
"""One in five images is for testing; the writers are mixed in both splits."""


def digits_source() -> ArraySource:
    """Return 1,797 greyscale images of 8×8 pixels in ten classes (Alpaydin and Kaynak, 1998), 1,438 for training."""
    from sklearn.datasets import load_digits

    data = load_digits()
    items: list[ImageItem] = []
    pngs: dict[str, bytes] = {}
    for i, (image, label) in enumerate(zip(data.images, data.target, strict=True)):
        split = "test" if i % TEST_EVERY == TEST_EVERY - 1 else "train"
        path = f"{split}/{label}/{i:04d}.png"
        pngs[path] = encode_png((image * (255 / 16)).round().astype("uint8"))
        items.append(ImageItem(path, split, int(label), len(pngs[path])))
    return ArraySource([str(digit) for digit in range(10)], items, pngs)
