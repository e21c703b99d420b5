"""Help, listings and mistakes are quick: they import no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "packages"

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


def test_commands_import_no_torch():
    """All of them in one process: what none of them imports, each does not."""
    code = (
        "import json, sys\n"
        "from bcos_cli.main import run\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    status = run(arguments)\n"
        "    loaded = [name for name in ('torch', 'numpy') if name in sys.modules]\n"
        "    assert not loaded, (arguments, loaded)\n"
        "    expected = 2 if 'nowhere' in arguments or 'train.epoch=1' in arguments else 0\n"
        "    assert status == expected, (arguments, status)\n"
    )
    command = [sys.executable, "-c", code, json.dumps(COMMANDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_modules_that_say_so_import_no_torch():
    sources = [path for package in PACKAGES.glob("*/src") for path in package.rglob("*.py")]
    names = [
        ".".join(path.relative_to(path.parents[len(path.parts) - path.parts.index("src") - 2]).with_suffix("").parts)
        for path in sources
        if "Imports no torch." in path.read_text().partition('"""')[2].partition('"""')[0]
    ]
    assert len(names) > 20
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name.removesuffix('.__init__'))\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["bcos_core", "bcos_models", "bcos_explain", "bcos_cli"])
def test_importing_a_package_imports_no_torch(package):
    code = f"import sys, {package}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
