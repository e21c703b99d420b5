"""Code of plugins cannot end the program, write into its output or hang unnamed."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bcos_core import BcosError
from bcos_core.plugin_guard import PluginExitError, diverted_output, error_summary, plugin_guard
from bcos_core.plugins import resolve


class Odd(BaseException):
    """What some libraries end their own threads with."""


@pytest.mark.parametrize("loading", [True, False])
@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("bye"), KeyboardInterrupt(), Odd("odd"), GeneratorExit()])
def test_what_would_end_the_program_is_a_mistake(error, loading):
    message = "^the plugin x cannot be used: it raised "
    with pytest.raises(PluginExitError, match=message) as caught, plugin_guard("the plugin x", loading=loading):
        raise error
    assert caught.value.__cause__ is error
    assert isinstance(caught.value, BcosError)
    assert error_summary(caught.value).startswith(f"{type(error).__name__}: ")


def test_errors_pass_through():
    error = RuntimeError("boom")
    with pytest.raises(RuntimeError) as caught, plugin_guard("the plugin x"):
        raise error
    assert caught.value is error
    assert error_summary(error) == "RuntimeError: boom"


class Silent(Exception):  # noqa: N818 - reason: what it is called does not matter
    def __str__(self):
        raise RuntimeError("no words")


def test_what_cannot_be_said_or_would_command_the_terminal_is_still_named():
    assert error_summary(Silent()) == "Silent: Silent"
    assert error_summary(ValueError("a\x1b[2Jb\nc")) == r"ValueError: a\x1b[2Jb"


@pytest.mark.parametrize("caught_by_the_plugin", [False, True])
@pytest.mark.parametrize("loading", [True, False])
def test_ctrl_c_of_the_user_is_an_interrupt_and_names_what_ran(loading, caught_by_the_plugin):
    def plugin():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            if not caught_by_the_plugin:
                raise

    before = signal.getsignal(signal.SIGINT)
    message = r"^(while loading|in) the plugin x$"
    with pytest.raises(KeyboardInterrupt, match=message), plugin_guard("the plugin x", loading=loading):
        plugin()
    assert signal.getsignal(signal.SIGINT) is before


def test_threads_may_load_plugins_too():
    raised = []

    def load():
        try:
            with plugin_guard("the plugin x"):
                raise KeyboardInterrupt
        except BcosError as reason:
            raised.append(reason)

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert len(raised) == 1


def test_a_plugin_that_takes_long_is_named_once(monkeypatch, capsys):
    monkeypatch.setattr("bcos_core.plugin_guard.PATIENCE", 0.05)
    with plugin_guard("the plugin x (entry point y of z)"):
        time.sleep(0.5)
    with plugin_guard("the model", loading=False):
        time.sleep(0.2)
    line = "bcos: still loading the plugin x (entry point y of z) after 0.05 seconds ...; press Ctrl-C to stop\n"
    assert capsys.readouterr().err == line


def test_a_quick_plugin_is_not_named(capsys):
    with plugin_guard("the plugin x"):
        pass
    assert capsys.readouterr() == ("", "")


def test_what_is_printed_goes_to_standard_error_from_processes_and_threads_too(capfd):
    sys.stdout.write("before\n")
    with diverted_output(), plugin_guard("the plugin x"):
        sys.stdout.write("printed\n")
        os.write(1, b"written\n")
        subprocess.run([sys.executable, "-S", "-c", "print('of a process')"], check=True)
    sys.stdout.write("after\n")
    out, err = capfd.readouterr()
    assert out == "before\nafter\n"
    assert sorted(err.splitlines()) == ["of a process", "printed", "written"]


def test_two_threads_leave_standard_output_as_it_was(capfd):
    first, second = diverted_output(), diverted_output()
    before = sys.stdout
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    sys.stdout.write("hidden\n")
    second.__exit__(None, None, None)
    assert sys.stdout is before
    os.write(1, b"shown\n")
    assert capfd.readouterr() == ("shown\n", "hidden\n")


def test_a_builder_whose_import_would_end_the_program_is_a_mistake(monkeypatch, tmp_path, capsys):
    (tmp_path / "leaving_builder.py").write_text("print('hello')\nraise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    message = r"^the builder 'leaving_builder:f' cannot be used: it raised SystemExit: 0$"
    with pytest.raises(BcosError, match=message):
        resolve("leaving_builder:f")
    assert capsys.readouterr() == ("", "hello\n")


def test_plugin_of_an_earlier_layout_is_told_where_modules_went():
    with pytest.raises(ImportError) as caught:
        import bcos_core.no_longer_here  # noqa: F401 - reason: it is not there
    assert error_summary(caught.value).endswith("modules have moved: CHANGELOG.md of bcos-core says where")
    assert "moved" not in error_summary(ImportError("numpy", name="numpy"))
