"""Ctrl-C, once and twice, at any moment: status 130, one line, no traceback."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

START = """
import atexit, os, signal, sys, threading, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told this process to ignore it
from bcos_cli.__main__ import main

def press():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)

def program(run):
    sys.modules["bcos_cli.main"] = types.SimpleNamespace(main=run)
    main()
"""
TWICE = """
def run():
    try:
        press()
    {0}:
        press()
program(run)
"""
LOST = """
class Dying:
    def __del__(self):
        press()

def run():
    Dying()
    time.sleep(5)
program(run)
"""
IMPORT = """
class Modules:
    def find_spec(self, name, *rest):
        if name == "bcos_cli.main":
            press()
sys.meta_path.insert(0, Modules())
main()
"""
EXIT = """
def run():
    {0}
    sys.exit(3)
program(run)
"""
COMMAND = """
import bcos_cli.plugins
bcos_cli.plugins.recipes = press
atexit.register(press)
sys.argv = ["bcos", "recipes"]
main()
"""
CHILD = """
import multiprocessing
def run():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    print(child.pid, flush=True)
    os.kill(child.pid, signal.SIGINT)  # as the terminal does
    time.sleep(0.2)
    print(child.is_alive(), flush=True)
    try:
        press()
    finally:
        press()
program(run)
"""


def ended(code):
    """(Status, standard output, standard error) of a process that presses Ctrl-C itself."""
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def is_running(number):
    """Whether a process runs, a second later: whoever inherits one that has ended may not have noticed."""
    try:
        process = psutil.Process(number)
        process.wait(1)
    except psutil.NoSuchProcess:
        return False
    except psutil.TimeoutExpired:
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize(
    "code",
    ["program(press)", TWICE.format("finally"), TWICE.format("except KeyboardInterrupt"), LOST, IMPORT, COMMAND],
    ids=[
        "once",
        "while it ends",
        "while it is handled",
        "in a destructor",
        "in an import",
        "in a command, and at exit",
    ],
)
def test_ctrl_c_is_one_line_and_status_130(code):
    assert ended(code) == (130, "", "bcos: interrupted\n")


@pytest.mark.parametrize(
    "moment", ["atexit.register(press)", "threading.Thread(target=lambda: time.sleep(0.5) or press()).start()"]
)
def test_ctrl_c_at_the_exit_is_no_traceback(moment):
    assert ended(EXIT.format(moment)) == (130, "", "")


def test_child_processes_leave_it_to_the_main_process_and_end_with_it():
    status, out, err = ended(CHILD)
    child, alive = out.split()
    assert (status, alive, err) == (130, "True", "bcos: interrupted\n")
    assert not is_running(int(child))


def test_a_program_in_the_background_goes_on():
    ignored = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    assert ended(ignored + EXIT.format("os.kill(os.getpid(), signal.SIGINT)")) == (3, "", "")


def test_a_plugin_that_hangs_is_named_when_it_is_interrupted(tmp_path, monkeypatch):
    (tmp_path / "slow_plugin.py").write_text("import __main__\n__main__.press()\n")
    (tmp_path / "slow-1.dist-info").mkdir()
    (tmp_path / "slow-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1\n")
    (tmp_path / "slow-1.dist-info" / "entry_points.txt").write_text("[bcos_models]\na = slow_plugin\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    line = "bcos: interrupted while loading the plugin slow:a (entry point slow_plugin of slow)\n"
    assert ended("sys.argv = ['bcos', 'models']\nmain()") == (130, "", line)


@pytest.mark.slow
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_reaches_every_process_of_a_packing_and_none_shows_a_traceback(presses, tmp_path, make_tree):
    root = make_tree([f"a/{i}.png" for i in range(400)])
    command = [sys.executable, "-c", f"{START}main()", "shards", "pack", str(root), "s"]
    options = ["--workers", "2", "--samples-per-shard", "2"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        while not (tmp_path / "s").is_dir() and process.poll() is None:
            time.sleep(0.02)
        for _ in range(presses):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.endswith("bcos: interrupted\n")
