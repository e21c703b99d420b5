"""The pictures of docs/exact.md: ``uv run python docs/make_exact_images.py``, some minutes on one core.

A B-cos network and a plain one learn to tell six photographs of scikit-image (``pip install scikit-image``) apart by
square parts of 48 pixels. They are then explained on a mosaic of four of the photographs.
"""

import io
import math
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from PIL import Image
from skimage import data, transform
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from bcos_core import AddInverse, BcosConv2d, Explanation, LogitLayer, explain
from bcos_core.receipt import Receipt, receipts
from bcos_explain import contribution_rgb, explanation_image, input_image, on_background

FOLDER = Path(__file__).parent / "images"
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "retina", "rocket", "immunohistochemistry")
CLASSES = ("astronaut", "cat", "coffee", "retina", "rocket", "tissue")
SIDE, PART = 96, 48


def photographs() -> Tensor:
    """(6, 3, SIDE, SIDE) in [0, 1]: the largest square in the middle of each."""
    found = []
    for name in PHOTOGRAPHS:
        pixels = getattr(data, name)()[..., :3]
        height, width = pixels.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = transform.resize(pixels[top : top + side, left : left + side], (SIDE, SIDE), anti_aliasing=True)
        found.append(torch.tensor(square, dtype=torch.float32).permute(2, 0, 1))
    return torch.stack(found)


def bcos_network() -> nn.Sequential:
    """Six channels to six logits, without norms, activations, or a bias but the last.

    No output of a layer is larger than its input, so that only alignment makes large logits.
    """
    return nn.Sequential(
        *(BcosConv2d(6, 24, 5, padding=2), nn.AvgPool2d(2)),
        *(BcosConv2d(24, 48, 3, padding=1), nn.AvgPool2d(2)),
        BcosConv2d(48, 64, 3, padding=1),
        *(BcosConv2d(64, 6, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        LogitLayer(logit_temperature=0.02, logit_bias=-math.log(5)),
    )


def plain_network() -> nn.Sequential:
    """The same with convolutions, norms that centre, and ReLU."""
    return nn.Sequential(
        *(nn.Conv2d(3, 24, 5, padding=2), nn.BatchNorm2d(24), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(48, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 6, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def train(model: nn.Module, encode: nn.Module, images: Tensor, steps: int = 500) -> None:
    """Adam on random parts of the photographs, mirrored half of the time."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        classes = torch.randint(len(images), (16,), generator=generator)
        corners = torch.randint(SIDE - PART + 1, (16, 2), generator=generator).tolist()
        parts = [
            images[k, :, top : top + PART, left : left + PART]
            for k, (top, left) in zip(classes.tolist(), corners, strict=True)
        ]
        x = torch.stack([part.flip(-1) if i % 2 else part for i, part in enumerate(parts)])
        loss = binary_cross_entropy_with_logits(model(encode(x)), one_hot(classes, len(images)).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def input_x_gradient(model: nn.Module, x: Tensor, target: int) -> Tensor:
    """(H, W): the plain gradient times the input, summed over channels."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, target].sum(), leaf)
    return (gradient * x)[0].sum(0)


def share(map_: Tensor, cell: int) -> str:
    """How much of the positive contributions of a mosaic lies on one of its four photographs."""
    positive = map_.clamp_min(0)
    row, column = divmod(cell, 2)
    inside = positive[row * SIDE :, column * SIDE :][:SIDE, :SIDE]
    return f"{100 * float(inside.sum() / positive.sum()):.0f} % of the red on the {CLASSES[cell]}"


def canvas(widths: tuple[int, ...], heights: tuple[int, ...], gap: int) -> tuple[plt.Figure, list[list[plt.Axes]]]:
    """Figure with a grid of axes of exactly these pixels, so that maps are not resampled; 46 pixels below each row."""
    width, height = gap + sum(widths) + gap * len(widths), 24 + sum(heights) + 46 * len(heights)
    figure = plt.figure(figsize=(width / 100, height / 100), dpi=100)
    rows, top = [], 24
    for high in heights:
        row, left = [], gap
        for wide in widths:
            row.append(figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height)))
            left += wide + gap
        rows.append(row)
        top += high + 46
    return figure, rows


def save(figure: plt.Figure, name: str, colours: int = 256) -> None:
    """Write a figure with a palette, which keeps noise small."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, facecolor="white")
    plt.close(figure)
    picture = Image.open(buffer).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    picture.save(FOLDER / name, optimize=True)


def panel(axes: plt.Axes, picture: object, title: str = "", below: str = "") -> None:
    """A picture without ticks, with words around it."""
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10, pad=5)
    axes.set_xlabel(below, fontsize=9, labelpad=4)
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")


def limit_of(map_: Tensor) -> float:
    """End of the colours: what speaks for the class is seen in full, what speaks against it may be cut."""
    return float(map_[map_ > 0].quantile(0.99))


def red_and_blue(map_: Tensor, limit: float | None = None) -> object:
    """Contributions in the colours of the other documents, in 29 steps, which compress well."""
    limit = limit_of(map_) if limit is None else limit
    return contribution_rgb((map_ / limit * 14).round().clamp(-14, 14), limit=14)


def draw_maps(bcos: nn.Module, plain: nn.Module, mosaic: Tensor) -> None:
    """W as colours, contributions, and input × gradient of both networks."""
    size = mosaic.shape[-1]
    figure, grid = canvas((size,) * 4, (size,) * 3, 14)
    rows = (
        (bcos, AddInverse(), "B-cos network", 1),
        (bcos, AddInverse(), "B-cos network", 2),
        (plain, nn.Identity(), "plain network", 1),
    )
    panel(grid[1][0], input_image(mosaic[0]), "image")
    grid[0][0].remove()
    grid[2][0].remove()
    for row, (model, encode, name, target) in zip(grid, rows, strict=True):
        x = encode(mosaic)
        e = explain(model, x, target)
        other = input_x_gradient(model, x, target)
        titles = ("W(x) as colours", "contributions W(x)·x", "input × gradient") if row is grid[0] else ("",) * 3
        colours = on_background(explanation_image(e.input[0], e.weight[0]))
        panel(row[1], colours, titles[0], f"{name}:\nwhy {CLASSES[target]}?")
        panel(row[2], red_and_blue(e.map[0]), titles[1], f"{equation(e)}\n{share(e.map[0], target)}")
        sums = f"sums to {float(other.sum()):.2f}".replace("-", "−")
        panel(row[3], red_and_blue(other), titles[2], f"{sums}\n{share(other, target)}")
    save(figure, "exact-maps.png")


def draw_black(bcos: nn.Sequential, mosaic: Tensor) -> None:
    """The same score explained in six channels and in three."""
    size, target = mosaic.shape[-1], 0
    six, three = explain(bcos, AddInverse()(mosaic), target), explain(nn.Sequential(AddInverse(), bcos), mosaic, target)
    figure, (axes,) = canvas((size,) * 3, (size,), 14)
    panel(axes[0], input_image(mosaic[0]), f"image: why {CLASSES[target]}?")
    limit = limit_of(six.map[0])
    panel(axes[1], red_and_blue(six.map[0], limit), "explained in six channels", equation(six))
    panel(axes[2], red_and_blue(three.map[0], limit), "explained in three channels", equation(three))
    save(figure, "exact-black.png")


def equation(e: Explanation) -> str:
    """Score, contributions and bias of one image."""
    return receipts(e)[0][0].equation


def draw_receipts(bcos: nn.Module, plain: nn.Module, images: Tensor) -> None:
    """What a logit is made of: contributions for and against, and the bias."""
    torch.manual_seed(0)
    fresh = nn.Sequential(BcosConv2d(6, 8, 3), BcosConv2d(8, 1000, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    fresh.append(LogitLayer(logit_bias=-math.log(999)))
    cat = images[1:2]
    cases = (
        ("B-cos network: cat", bcos, AddInverse()(cat), 1),
        ("plain network: cat", plain, cat, 1),
        ("fresh network, 1,000 classes", fresh, AddInverse()(cat), None),
    )
    figure, axes = plt.subplots(1, 3, figsize=(10.6, 2.5), layout="constrained")
    for ax, (title, model, x, target) in zip(axes, cases, strict=True):
        receipt = receipts(explain(model, x, target), model=model)[0][0]
        waterfall(ax, receipt)
        ax.set_title(f"{title}\n{receipt.equation}", fontsize=10)
    save(figure, "exact-receipts.png", 64)


def waterfall(axes: plt.Axes, receipt: Receipt) -> None:
    """Bars that begin where the last one ended: pixels for, pixels against, bias, and the logit from zero."""
    gain = (receipt.absolute + receipt.contributions) / 2
    loss = (receipt.absolute - receipt.contributions) / 2
    steps = (
        ("pixels for it", 0.0, gain, "#d62728"),
        ("pixels against it", gain, -loss, "#1f77ff"),
        ("bias", gain - loss, receipt.bias, "#999999"),
        ("logit", 0.0, receipt.score, "#222222"),
    )
    for i, (_, start, length, colour) in enumerate(steps):
        axes.barh(i, length, left=start, color=colour, height=0.6)
        axes.annotate(f" {length:+.2f} ".replace("-", "−"), (max(start, start + length), i), va="center", fontsize=8.5)
    axes.set_yticks(range(4), [name for name, *_ in steps], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.22)
    axes.axvline(0, color="#222222", linewidth=0.8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Train both networks and draw."""
    matplotlib.use("agg")
    torch.manual_seed(0)
    images = photographs()
    bcos, plain = bcos_network(), plain_network()
    train(bcos, AddInverse(), images)
    train(plain, nn.Identity(), images)
    mosaic = torch.cat([torch.cat([images[0], images[1]], 2), torch.cat([images[2], images[3]], 2)], 1)[None]
    draw_maps(bcos, plain, mosaic)
    draw_black(bcos, mosaic)
    draw_receipts(bcos, plain, images)


if __name__ == "__main__":
    main()
