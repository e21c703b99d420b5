import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture
def fresh_environment(tmp_path):
    """Make an empty environment and install into it; returns its Python, run by the returned function."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed; install it to test installation into a fresh environment")
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT")}

    def call(*command):
        done = subprocess.run(
            [str(c) for c in command],
            capture_output=True,
            text=True,
            timeout=500,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def make(*requirements):
        call(uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
        python = tmp_path / "venv" / "bin" / "python"
        call(uv, "pip", "install", "--quiet", "--python", python, *requirements)
        return lambda *arguments: call(python, *arguments)

    return make
