"""Help, listings and mistakes are quick: they import no torch."""

import subprocess
import sys

import pytest

COMMANDS = [
    ["--help"],
    ["--version"],
    ["train", "--help"],
    ["eval", "--help"],
    ["explain", "--help"],
    ["demo", "--help"],
    ["shards", "--help"],
    ["shards", "pack", "--help"],
    ["models"],
    ["models", "--json"],
    ["explainers"],
    ["metrics"],
    ["recipes"],
    ["plugins"],
    ["train", "digits", "-o", "train.epoch=1"],
    ["shards", "info", "nowhere"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_command_imports_no_torch(arguments):
    code = (
        "import sys; from bcos_cli.main import run; status = run(sys.argv[1:]);"
        "print(status, 'torch' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    status = 2 if "nowhere" in arguments or "train.epoch=1" in arguments else 0
    assert done.stderr.splitlines()[-1] == f"{status} False False", done.stderr


@pytest.mark.parametrize("package", ["bcos_core", "bcos_models", "bcos_explain", "bcos_cli"])
def test_importing_a_package_imports_no_torch(package):
    code = f"import sys, {package}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
