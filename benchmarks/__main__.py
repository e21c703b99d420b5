"""All measurements by one command, ``uv run nox -s bench`` (``-- --quick`` in two minutes, not for figures).

Writes ``bench.json`` and ``bench.md``, and with ``--write docs/performance.md`` the section of this device there.
Networks are run in processes of their own, one after the other, in turns; nothing else should run meanwhile.
"""

import argparse
import json
import platform
import re
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bcos_cli.processes.memory import keep_freed_memory
from benchmarks import tables
from benchmarks.bench import Conditions, measure
from benchmarks.commands import DEPTHS, commands, pipeline, startup, training
from benchmarks.grids import seconds_a_grid
from benchmarks.networks import NETWORKS, QUICK
from benchmarks.scaling import plot, scaling

PARTS = ("networks", "grids", "commands", "pipeline", "startup", "training", "scaling")


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    grids: tuple[int, int] = (20, 4)
    """Of ours, and of the reference, which takes as long for each."""
    explained: int = 500
    read: int = 2000
    side: int = 224


_SIZES, _QUICK_SIZES = Sizes(), Sizes((2, 1), 20, 64, 64)


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return f"{found[1] if found else platform.processor()} (virtual machine of {torch.get_num_threads()} cores)"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--write", type=Path, help="document with a section for this device, which is replaced")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, help="images of a step; by default each network's own number")
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast and channels last")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.0, help="of each kind of run, at least")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="the smallest network, few images")
    options = parser.parse_args()
    if options.quick:
        options.networks, options.rounds = list(QUICK), min(options.rounds, 2)
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    quick = options.quick
    conditions = Conditions(
        device=options.device,
        batch=4 if quick else options.batch,
        explained=(1, 2) if quick else (1, 8, 32),
        memory_batch=4 if quick else 16 if options.device == "cpu" else options.batch or 128,
        backend=options.backend,
        threads=options.threads,
        bf16=options.bf16,
    )
    document: dict[str, Any] = {
        "machine": machine(options.device),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "conditions": asdict(conditions),
        "networks": [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    if options.device == "cpu":
        keep_freed_memory()  # as commands do

    def keep(part: str, found: Any) -> None:
        """Write what there is so far: a run may be cut off."""
        document[part] = found
        (options.out / "bench.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
        (options.out / "bench.md").write_text(tables.markdown(document), encoding="utf-8")

    if "networks" in options.parts:
        compiled = not options.eager
        for measured in measure(options.networks, conditions, options.rounds, options.seconds, compiled=compiled):
            print(f"{measured['network']} ({time.strftime('%T')})", file=sys.stderr, flush=True)
            keep("networks", [*document["networks"], measured])
    with tempfile.TemporaryDirectory() as folder:
        place, sizes = Path(folder), _QUICK_SIZES if quick else _SIZES
        parts = {
            "grids": lambda: [seconds_a_grid(QUICK[0] if quick else "resnet50", options.device, *sizes.grids)],
            "commands": lambda: commands(place / "commands", sizes.explained, options.threads),
            "pipeline": lambda: pipeline(place / "pipeline", sizes.read, options.rounds, 2, sizes.side),
            "startup": lambda: startup(options.rounds, options.threads),
            "training": lambda: training(place / "training", DEPTHS[:1] if quick else DEPTHS),
            "scaling": lambda: scaling(options.rounds, most=2 if quick else None),
        }
        for part, take in parts.items():
            if part in options.parts:
                print(f"{part} ({time.strftime('%T')})", file=sys.stderr, flush=True)
                keep(part, take())
    return document


def main() -> None:
    options = parse()
    document = run(options)
    text = tables.markdown(document)
    if "scaling" in document:
        plot(document["scaling"], options.out / "scaling.png")
    if options.write:
        tables.write_section(options.write, options.device, text)
    print(text)
    sys.exit(any(result["errors"] for result in document["networks"]))


if __name__ == "__main__":
    main()
