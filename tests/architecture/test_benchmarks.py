"""Benchmarks, small and on a CPU: that they run to their end and write what they measured; tables in documents."""

import io
import json
import math
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import tables
from benchmarks.stride_spectrum import above_surroundings, spectrum
from PIL import Image

ROOT = Path(__file__).parents[2]
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def archive(path: Path) -> Path:
    """Noise in the layout of CIFAR-10, four images of each class and split."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as tar:
        for split in ("train", "test"):
            for name in CLASSES:
                for i in range(4 if split == "test" else 8):
                    stream = io.BytesIO()
                    Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(stream, "JPEG")
                    member = tarfile.TarInfo(f"{split}/{name}/{i:04}.jpg")
                    member.size = len(stream.getvalue())
                    tar.addfile(member, io.BytesIO(stream.getvalue()))
    return path


@pytest.mark.slow  # trains twice, and starts ten processes
def test_the_benchmark_for_gpus_runs_on_a_cpu(tmp_path: Path) -> None:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": programs, "CIFAR": str(archive(tmp_path / "cifar.tgz")), "OMP_NUM_THREADS": "1"}
    command = ["bash", str(ROOT / "benchmarks/gpu.sh"), str(tmp_path / "out"), "--quick"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads((tmp_path / "out/bench.json").read_text(encoding="utf-8"))
    (network,) = measured["networks"]
    assert network["errors"] == []
    seen = {(row["what"], row["side"], row["kind"]) for row in network["times"]}
    both, plain_and_ours = ("plain", "ours", "reference"), ("plain", "ours")
    expected = {(what, side, "eager") for what in ("training step", "inference", "explaining") for side in both}
    expected |= {(what, side, "compiled") for what in ("training step", "inference") for side in plain_and_ours}
    assert seen == expected | {(what, "ours", "folded") for what in ("inference", "explaining")}
    assert all(seconds > 0 for row in network["times"] for seconds in row["wall"])
    assert {row["side"] for row in network["memory"]} == set(both)
    assert all(row["MiB"] > 1 for row in network["memory"])
    lines = (tmp_path / "out/cifar/scores.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["network"] for line in lines] == ["bcos-2", "plain"]


@pytest.mark.slow  # starts a dozen processes
def test_commands_data_and_startup_are_measured(tmp_path: Path) -> None:
    parts = ["--quick", "--parts", "commands", "pipeline", "startup", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks", *parts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert set(measured["pipeline"]["images/s"]) == {"shards", "ImageFolder"}
    assert min(measured["startup"]["bcos --help"]["wall"]) > 0
    assert all(f"| `{name}` |" in done.stdout for name in measured["startup"])


DOCUMENT = {
    "machine": "a card", "date": "2026-01-01", "python": "3.11", "torch": "2.15",
    "conditions": {"threads": 2, "bf16": False, "memory_batch": 16, "explained": [1, 8]},
    "networks": [
        {
            "network": "net", "batch": 4, "compiling": {"ours": 12.0},
            "times": [
                {"what": what, "side": side, "kind": kind, "images": images, "wall": [seconds * 1.5, seconds]}
                for what, side, kind, images, seconds in [
                    ("training step", "plain", "eager", 4, 2.0), ("training step", "ours", "eager", 4, 3.0),
                    ("training step", "plain", "compiled", 4, 1.0), ("training step", "ours", "compiled", 4, 1.1),
                    ("inference", "plain", "eager", 4, 0.05), ("inference", "ours", "folded", 4, 0.06),
                    ("explaining", "plain", "eager", 8, 0.5), ("explaining", "reference", "eager", 8, 1.5),
                ]
            ],
            "memory": [{"side": "plain", "MiB": 1000.0}, {"side": "ours", "MiB": 1100.0}],
            "errors": [{"side": "reference", "what": "fold", "error": "Traceback\nKeyError: 'x'"}],
        }
    ],
}  # fmt: skip


def test_tables_show_ratios_of_minima_to_the_plain_network_of_the_same_kind() -> None:
    text = tables.markdown(DOCUMENT)
    assert "| `net` | 4 | 2,000 | 1.50 |  | 1,000 | 1.10 | 1,000 | 1.10 |  |" in text
    assert "| `net` | 4 | 50.0 | 1.20 |  |  |  |  |" in text
    assert "| `net` |  |  |  |  | 500 |  |  | 3.00 |" in text  # one image was not explained
    assert "Medians lie 25% above the minima, at most 25%." in text
    assert "- `net`, reference, fold: KeyError: 'x'" in text


def test_only_the_section_of_the_device_is_replaced(tmp_path: Path) -> None:
    begin, end = tables.section("cpu")
    path = tmp_path / "performance.md"
    path.write_text(f"before\n{begin}old\n{end}after\n", encoding="utf-8")
    tables.write_section(path, "cpu", "new\n")
    assert path.read_text(encoding="utf-8") == f"before\n{begin}\nnew\n\n{end}after\n"
    with pytest.raises(SystemExit, match="has no section for cuda"):
        tables.write_section(path, "cuda", "new")


@pytest.mark.parametrize("device", ["cpu"])
def test_document_shows_the_figures_that_were_measured(device: str) -> None:
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    begin, end = tables.section(device)
    measured = json.loads((ROOT / f"benchmarks/results/{device}.json").read_text(encoding="utf-8"))
    assert text.partition(begin)[2].partition(end)[0].strip() == tables.markdown(measured).strip()


def test_a_grid_is_found_at_its_period_alone():
    noise = torch.randn(16, 6, 64, 64, generator=torch.Generator().manual_seed(0))
    found = {period: above_surroundings(spectrum(noise), period) for period in (2, 4, 8)}
    assert all(0.8 < value < 1.25 for value in found.values())
    every_fourth_column = torch.arange(64).mul(2 * math.pi / 4).cos()
    found = {period: above_surroundings(spectrum(noise + every_fourth_column), period) for period in (2, 4, 8)}
    assert found[4] > 10
    assert all(0.8 < found[period] < 1.25 for period in (2, 8))
