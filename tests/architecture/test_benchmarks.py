"""The benchmark for GPUs, small and on a CPU: that it runs to its end and writes what it measured."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
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
    measured = json.loads((tmp_path / "out/gpu.json").read_text(encoding="utf-8"))
    sides = {result["side"]: result for result in measured["results"]}
    assert set(sides) == {"plain", "ours", "reference"}
    for side, result in sides.items():
        kinds = ["eager"] if side == "reference" else ["eager", "compiled"]
        expected = {f"{what}, {kind}" for what in ("training step", "inference") for kind in kinds} | {"explaining"}
        assert len(result["rounds"]) == 2
        for found in result["rounds"]:
            assert set(found) == expected
            assert all(seconds > 0 for times in found.values() for seconds in times)
    lines = (tmp_path / "out/cifar/scores.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["network"] for line in lines] == ["bcos-2", "plain"]
