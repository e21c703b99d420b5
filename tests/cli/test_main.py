"""Exit status, and what a mistake looks like."""

import contextlib
import inspect
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest
import typer

from bcos_cli import main
from bcos_cli.evaluate.metrics import DEFAULT
from bcos_cli.main import build_app
from bcos_core import BcosError


@pytest.fixture
def broken_command(monkeypatch):
    """Let ``bcos recipes`` raise something."""

    def install(error):
        def fail():
            raise error

        build_app()  # which reads recipes too, once in a process
        monkeypatch.setattr("bcos_cli.plugins.recipes", fail)

    return install


def test_help_and_version_succeed(bcos):
    assert bcos("--help")[0] == 0
    status, out, err = bcos("--version")
    assert (status, err) == (0, "")
    assert [text.split()[0] for text in out.splitlines()] == [
        "bcos-cli",
        "bcos-core",
        "bcos-models",
        "bcos-explain",
    ]


@pytest.mark.parametrize(
    "arguments", [[], ["shards"], ["shards", "pack"], ["runs", "compare"], ["serve"], ["explain"], ["eval"], ["train"]]
)
def test_help_fits_a_terminal_and_cuts_nothing_off(arguments, bcos, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    _, out, _ = bcos(*arguments, "--help")
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    command = typer.main.get_command(build_app())
    for name in arguments:
        command = command.commands[name]
    for parameter in command.params:
        for option in parameter.opts:
            assert option in out
            is_switch = getattr(parameter, "is_flag", False)
            assert not (is_switch and re.search(rf"{option}[^\n]*<", out)), option
    for below in getattr(command, "commands", {}).values():
        whole = inspect.cleandoc(below.help).split("\n\n")[0]
        assert "".join(whole.split()) in "".join(out.split())


@pytest.mark.parametrize("arguments", [[], ["shards"]])
def test_without_a_command_the_help_is_shown_and_no_empty_line_of_error(arguments, bcos):
    _, out, err = bcos(*arguments)
    assert "Usage: bcos" in out + err
    assert "bcos:  (" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["shards", "verfy"], "No such command 'verfy'. Did you mean 'verify'?"),
        (["compare", "a", "b"], "No such command 'compare'. Did you mean: bcos runs compare?"),
        (["pack"], "No such command 'pack'. Did you mean: bcos shards pack?"),
        (["train"], "there is no recipe; give one that bcos recipes lists, a network with --from"),
        (["models", "--jsn"], "--jsn"),
        (["train", "digit"], "there is no recipe 'digit'; did you mean 'digits'?"),
        (["train", "digits", "-o", "train.epoch=1"], "unknown key 'train.epoch'; did you mean 'epochs'?"),
        (["train", "digits"], "there are no data to train on; give a folder of shards with --data"),
        (["train", "digits", "--data", "no"], "there are no shards at 'no'"),
        (["train", "digits", "--num-processes", "0"], "num-processes"),
        (["eval", "nothing", "--data", "x"], "'nothing' is neither a run's folder"),
        (["eval", "nothing", "--metric", "top2"], "there is no metric 'top2'; did you mean 'top"),
        (["explain", "nothing", "x.png", "--out", "o"], "there is no image or folder 'x.png'"),
        (["shards", "info", "no"], "there are no shards at 'no'"),
        (["shards", "pack", "no", "out"], "there is no data source 'no'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistake_is_one_line_and_status_2(arguments, message, bcos, line):
    assert message in line(bcos(*arguments))


def test_misspelt_command_points_to_a_help_that_exists(bcos):
    assert "bcos trian --help" not in bcos("trian")[2]


def test_mistake_leaves_no_folder_behind(bcos, tmp_path):
    bcos("train", "digits", "--data", "no", "--out", "run")
    assert not (tmp_path / "run").exists()


def test_mistake_has_a_traceback_with_debug_only(bcos):
    status, _, err = bcos("train", "digit", debug=True)
    assert status == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("bcos: there is no recipe")


def test_bug_is_one_line_with_a_hint_and_status_1(bcos, line, broken_command):
    broken_command(RuntimeError("two\nlines"))
    text = line(bcos("recipes"), status=1)
    assert text == "bcos: internal error: RuntimeError: two lines; --debug shows the traceback"
    status, _, err = bcos("recipes", debug=True)
    assert status == 1
    assert "Traceback" in err
    assert err.splitlines()[-1] == "bcos: internal error: RuntimeError: two lines"


def test_mistake_inside_a_command_is_status_2(bcos, line, broken_command):
    broken_command(BcosError("give this, not that"))
    assert line(bcos("recipes")) == "bcos: give this, not that"


@pytest.mark.parametrize("code", [0, 3])
def test_exit_of_a_command_is_its_status(code, bcos, broken_command):
    broken_command(typer.Exit(code))
    assert bcos("recipes")[0] == code


def test_interrupt_is_status_130_and_one_line(bcos, line, broken_command):
    broken_command(KeyboardInterrupt())
    assert line(bcos("recipes"), status=130) == "bcos: interrupted"


@pytest.mark.slow
def test_interrupt_from_the_terminal_ends_a_packing(tmp_path, make_tree):
    (tmp_path / "slow.py").write_text(
        "import signal, time, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from bcos_cli.data import pack\nfrom bcos_cli.main import main\n"
        "pack._check_decodes = lambda data: time.sleep(0.1)\nmain(sys.argv[1:])\n"
    )
    root = make_tree([f"a/{i}.png" for i in range(200)])
    command = [
        sys.executable,
        "slow.py",
        "shards",
        "pack",
        str(root),
        "s",
        "--workers",
        "1",
        "--samples-per-shard",
        "2",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "s").glob("*.tar")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "bcos: interrupted"
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--debug", "train", "digit"], ["train", "digit", "--debug"]])
def test_debug_is_understood_anywhere(arguments):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        main.main(arguments)
    assert stopped.value.code == 2
    assert "Traceback" in err.getvalue()


def test_debug_can_be_set_in_the_environment(monkeypatch):
    monkeypatch.setenv("BCOS_DEBUG", "1")
    err = io.StringIO()
    with contextlib.redirect_stderr(err), pytest.raises(SystemExit):
        main.main(["train", "digit"])
    assert "Traceback" in err.getvalue()


def test_other_processes_say_who_they_are(bcos, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert "bcos: [process 3] there is no recipe" in bcos("train", "digit")[2]


@pytest.fixture
def with_plugin(stranger):
    """The program anew, with a stranger's plugin."""
    return lambda plugin: stranger(bcos_cli=plugin)


def test_plugin_adds_a_command(with_plugin, bcos):
    from bcos_cli.hookspecs import hookimpl

    class Plugin:
        @hookimpl
        def bcos_cli_commands(self, app):
            @app.command()
            def dance(times: int = 1):
                typer.echo("dancing " * times)

    with_plugin(Plugin())
    assert bcos("dance", "--times", 2)[:2] == (0, "dancing dancing \n")
    assert bcos("recipes")[0] == 0


def test_plugin_adds_a_recipe_and_a_data_set(with_plugin, bcos, tmp_path):
    from bcos_cli.config import load_recipe
    from bcos_cli.data.sources import open_source
    from bcos_cli.hookspecs import hookimpl
    from bcos_cli.spec import DatasetSpec, RecipeSpec

    (tmp_path / "r.yaml").write_text("base: digits\ntrain: {epochs: 77}\n")

    class Plugin:
        @hookimpl
        def bcos_cli_recipes(self):
            return [RecipeSpec("theirs", tmp_path / "r.yaml", "a recipe")]

        @hookimpl
        def bcos_cli_datasets(self):
            return [DatasetSpec("numbers", "bcos_cli.data.sources.digits:digits_source")]

    with_plugin(Plugin())
    assert load_recipe("theirs").train.epochs == 77
    assert len(open_source("numbers").items) == 1797
    assert "theirs" in bcos("recipes")[1]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["explain", "run", "", "--out", "o"], "the argument after 'run' is empty, got ''"),
        (["explain", "run", " ", "--out", "o"], "the argument after 'run' is empty, got ' '"),
        (["explain", "", "x.png", "--out", "o"], "the argument after 'explain' is empty"),
        (["explain", "run", "--out", "o", "--", ""], "the argument after '--' is empty"),
        (["explain", "run", "x.png", "--out", ""], "--out is empty"),
        (["explain", "run", "x.png", "--out="], "--out is empty"),
        (["train", "digits", "--data", "x", "--out", ""], "--out is empty"),
        (["train", "digits", "-o", ""], "-o is empty"),
        (["shards", "pack", "", "out"], "the argument after 'pack' is empty"),
        (["shards", "pack", "tree", ""], "the argument after 'tree' is empty"),
        (["shards", "info", ""], "the argument after 'info' is empty"),
        (["eval", "run", "--json", ""], "--json is empty"),
        (["runs", "list", ""], "the argument after 'list' is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_empty_argument_is_not_the_folder_where_one_stands(arguments, what, bcos, line, tmp_path):
    message = line(bcos(*arguments))
    assert message.startswith(f"bcos: {what}")
    assert message.endswith("give a value, for this folder '.', or leave it out")
    assert list(tmp_path.iterdir()) == []


def test_help_that_nobody_reads_to_its_end_is_no_bug(bcos, broken_command):
    error = SystemExit(1)
    error.__context__ = BrokenPipeError()
    broken_command(error)
    assert bcos("recipes") == (141, "", "")


@pytest.mark.skipif(not hasattr(select, "poll"), reason="closed pipes are another error on Windows")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("train --help", 141),
        ("--help", 141),
        ("models", 141),
        ("models --json", 141),
        ("--version", 141),
        ("nosuch", 2),
    ],
)
def test_a_pipe_that_nobody_reads_ends_the_program_quietly(arguments, status):
    unread, out = os.pipe()
    os.close(unread)
    program = [sys.executable, "-c", "from bcos_cli.main import main; main()", *arguments.split()]
    told = subprocess.run(program, stdout=out, stderr=subprocess.PIPE, text=True, timeout=120)
    assert told.returncode == status, told.stderr
    assert "rror" not in told.stderr
    assert subprocess.run(program, stdout=out, stderr=out, timeout=120).returncode == status
    os.close(out)


def test_another_pipe_that_breaks_is_a_failure(bcos, line, broken_command):
    broken_command(BrokenPipeError(32, "Broken pipe"))
    assert "internal error: BrokenPipeError" in line(bcos("recipes"), status=1)


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("bye")])
def test_no_library_ends_a_command_of_ours(error, bcos, line, broken_command):
    broken_command(error)
    assert "internal error: SystemExit" in line(bcos("recipes"), status=1)


def test_a_message_shows_control_characters(bcos, line):
    assert r"cannot read a\x1b[2Jb\nbcos: c/index.json" in line(bcos("shards", "info", "a\x1b[2Jb\nbcos: c"))


def test_plugin_command_may_take_nothing_and_end_as_it_likes(with_plugin, bcos):
    from bcos_cli.hookspecs import hookimpl

    class Plugin:
        @hookimpl
        def bcos_cli_commands(self, app):
            @app.command()
            def leave_me(how: str):
                raise SystemExit(7 if how == "" else 8)

    with_plugin(Plugin())
    with pytest.raises(SystemExit, match="7"):
        bcos("leave-me", "")


def _twice(app):
    app.command("recipes")(lambda: None)


def _twice_in_a_group(app):
    group = typer.Typer()
    group.command("train")(lambda: None)
    app.add_typer(group)  # without a name: its commands are the program's


def _into_our_program(app):
    from bcos_cli.main import app as ours

    ours.command("train")(lambda: None)


def _unusable(app):
    @app.command()
    def odd(thing: int | str):
        """Take what the command line cannot give."""


def _half(app):
    app.command("half")(lambda: None)
    raise SystemExit(0)


def _interrupted(app):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        (_twice, "BcosError: the command 'recipes' is already registered; choose another name"),
        (_twice_in_a_group, "BcosError: the command 'train' is already registered; choose another name"),
        (_into_our_program, "ImportError: cannot import name 'app' from 'bcos_cli.main'"),
        (
            lambda app: None,
            "BcosError: its hook bcos_cli_commands adds no command; add them to the app that it is given",
        ),
        (_unusable, "AssertionError: Typer currently doesn't support Union types"),
        (_half, "SystemExit: 0"),
        (_interrupted, "KeyboardInterrupt: "),
    ],
)
def test_plugin_whose_commands_cannot_be_used_has_none_and_the_rest_works(commands, reason, with_plugin, bcos):
    from bcos_cli.hookspecs import hookimpl

    class Plugin:
        @hookimpl
        def bcos_cli_commands(self, app):
            sys.stdout.write("here I am\n")
            commands(app)

    with_plugin(Plugin())
    status, out, err = bcos("plugins", "--json")
    (error,) = [row["error"] for row in json.loads(out) if row["name"] == "stranger:zoo"]
    assert (status, err) == (0, "here I am\n")
    assert error.lower().startswith(reason.lower())  # Typer has changed a letter
    assert bcos("recipes")[0] == 0
    assert bcos("half")[0] == 2


def test_command_of_a_plugin_that_asks_to_be_first_replaces_none_of_ours(with_plugin, bcos):
    from bcos_cli.hookspecs import hookimpl

    class Plugin:
        @hookimpl(trylast=True)  # pluggy lists it before all others
        def bcos_cli_commands(self, app):
            app.command("recipes")(lambda: typer.echo("mine"))

    with_plugin(Plugin())
    rows = json.loads(bcos("plugins", "--json")[1])
    broken = {row["name"]: row["error"] for row in rows if row["error"]}
    assert broken == {"stranger:zoo": "BcosError: the command 'recipes' is already registered; choose another name"}
    assert "cifar10_resnet20" in bcos("recipes")[1]


def test_plugin_whose_command_fails_is_listed_as_broken_and_the_rest_works(with_plugin, bcos):
    from bcos_cli.hookspecs import hookimpl

    class Plugin:
        @hookimpl
        def bcos_cli_commands(self, app):
            raise RuntimeError("no luck")

    with_plugin(Plugin())
    status, out, err = bcos("plugins")
    assert status == 0, err
    assert "broken: RuntimeError: no luck" in out
    assert bcos("models")[0] == 0


def test_module_can_be_run_as_launchers_do():
    done = subprocess.run(
        [sys.executable, "-m", "bcos_cli", "train", "digit"],
        capture_output=True,
        text=True,
        timeout=120,
        env=dict(os.environ),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bcos: there is no recipe 'digit'; did you mean 'digits'?\n"


@pytest.mark.parametrize("arguments", [["-h"], ["eval", "-h"], ["shards", "pack", "-h"]])
def test_h_is_help(arguments, bcos):
    assert bcos(*arguments)[:2] == bcos(*arguments[:-1], "--help")[:2]


def test_help_of_eval_names_metrics_that_exist(bcos):
    shown = " ".join(re.findall(r"[\w.,]+", bcos("eval", "--help")[1]))
    named = re.search(r"By default (.*?)\.", shown)[1].split(", ")
    assert named == list(DEFAULT)


@pytest.mark.parametrize(("typed", "completed"), [("bcos ev", "eval"), ("bcos eval --met", "--metric")])
def test_a_shell_completes_commands_and_options(typed, completed, monkeypatch, capsys):
    monkeypatch.setenv("_BCOS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
    with pytest.raises(SystemExit) as ended:
        main.main([])
    assert ended.value.code == 0
    assert capsys.readouterr().out.split() == [completed]
