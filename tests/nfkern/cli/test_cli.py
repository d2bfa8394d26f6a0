"""The command line as a stranger meets it: help, errors in one line, exit codes."""

import dataclasses
import importlib
import io
import os
import re
import subprocess
import sys

import pytest

from nfkern.algorithms.agents.registry import AGENTS
from nfkern.cli import commands as cli
from nfkern.errors import UserError


@pytest.mark.parametrize("args", [[], ["--help"], ["help"]])
def test_help_lists_every_command(args, capsys):
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize("args", [["data"], ["data", "--help"], ["help", "data"], ["--help", "data"], ["data", "-h"]])
def test_a_group_lists_its_own(args, capsys):
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert "data generate" in out
    assert "train nf_gcbc" not in out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nfkern 0.")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian", "nf_gcbc"], "did you mean `nfkern train nf_gcbc`?"),
        (["trian", "nf_gcbc", "--help"], "did you mean `nfkern train nf_gcbc`?"),
        (["train", "nf-bc", "--steps", "3"], "did you mean `nfkern train nf_bc`?"),
        (["evl", "runs/x"], "no command 'evl runs/x'; did you mean `nfkern eval`?"),
        (["reprot"], "did you mean `nfkern report`?"),
        (["nf_bc", "--steps", "3"], "did you mean `nfkern train nf_bc`?"),
        (["import", "x"], "did you mean `nfkern data import`?"),
        (["train", "NF_BC"], "did you mean `nfkern train nf_bc`?"),
        (["compare", "a", "b"], "did you mean `nfkern bench compare`?"),
        (["train", "--env-name", "x"], "nfkern train: expected one of nf_bc, nf_gcbc, "),
        ([""], "no command ''"),
        (["help", "trian"], "no command 'trian'; did you mean `nfkern train`?"),
        (["nothing", "--help"], "no command 'nothing'"),
        (["data", "generat"], "did you mean `nfkern data generate`?"),
        (["frobnicate"], "no command 'frobnicate'; `nfkern --help` lists all"),
        (["train", "sac"], "no command 'train sac'"),
    ],
)
def test_unknown_commands_are_usage_errors(args, message, capsys):
    assert cli.main(args) == 2
    assert message in one_line(capsys)


def one_line(capsys):
    """A command's message about an error: one line on stderr, and nothing else."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nfkern")
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize(
    "args",
    [
        ["--env-name", "x", "--steps", "0", "nf_bc"],
        ["--resume", "nf_bc", "--env-name", "x", "--steps", "0"],
        # A value that is the name of an algorithm, too.
        ["--env-name", "x", "--preset", "fql", "flow_matching_bc", "--steps", "0"],
        ["--env-name=x", "--steps=0", "nf_bc"],
    ],
)
def test_options_may_stand_before_the_algorithm(args, capsys):
    name = "flow_matching_bc" if "flow_matching_bc" in args else "nf_bc"
    assert cli.main(["train", *args]) == 2
    assert one_line(capsys) == f"nfkern train {name}: steps: expected at least 1, got 0\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: nfkern {name}" in text
    # Every option but --help itself explains itself: tyro prints the default behind the help text.
    assert "(required)" in text or "(default" in text or name == "bench list"


def test_bad_settings_are_usage_errors(capsys):
    assert cli.main(["train", "nf_gcbc", "--env-name", "x", "--steps", "0"]) == 2
    assert capsys.readouterr().err == "nfkern train nf_gcbc: steps: expected at least 1, got 0\n"
    assert cli.main(["train", "nf_gcbc", "--env-name", "x", "--preset", "nothing"]) == 2
    assert "--preset: nf_gcbc has paper" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("no such thing"), 2, "no such thing"),
        (UserError("one thing\n  and another"), 2, "one thing and another"),
        (UserError("no such flag"), 2, "no such flag"),
        (PermissionError(13, "Permission denied", "/proc/x"), 2, "/proc/x: Permission denied"),
        (ModuleNotFoundError("no", name="own.part"), 2, "needs the package own.part: `pip install own`"),
        # Between processes, and not of our output.
        (BrokenPipeError(32, "Broken pipe"), 2, "Broken pipe"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_take_one_line(error, code, message, monkeypatch, capsys):
    @dataclasses.dataclass
    class Failing:
        """Fails."""

        def run(self):
            raise error

    monkeypatch.setattr(cli, "_load", lambda name: Failing)
    assert cli.main(["doctor"]) == code
    assert capsys.readouterr().err == f"nfkern doctor: {message}\n"


def test_the_list_of_commands_needs_no_torch():
    code = "import sys; from nfkern.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    for name, agent in AGENTS.items():
        assert re.search(rf"^  train {name} +{re.escape(agent.summary)}$", result.stdout, re.MULTILINE), name


def test_every_command_is_there():
    for name in cli.COMMANDS:
        assert callable(cli._load(name)), name


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_load", lambda name: importlib.import_module("no_such_module_here"))
    assert cli.main(["doctor"]) == 2
    assert "needs the package no_such_module_here: `pip install" in capsys.readouterr().err


def test_output_cut_short_by_its_reader_is_no_error(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(open(writer, "wb")) as out:
        monkeypatch.setattr("sys.stdout", out)
        assert cli.main(["--help"]) == 0
        # What is left would be written once more at exit.
        out.flush()


@pytest.mark.parametrize("text", ["short\n", "long\n" * 100_000])
def test_a_command_whose_reader_is_gone_ends_quietly(text, monkeypatch, capsys):
    @dataclasses.dataclass
    class Talking:
        """Talks."""

        def run(self):
            print(text)
            sys.stdout.flush()

    monkeypatch.setattr(cli, "_load", lambda name: Talking)
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(open(writer, "wb")) as out:
        monkeypatch.setattr("sys.stdout", out)
        assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().err == ""


def test_streams_that_are_closed_stop_nothing(monkeypatch):
    @dataclasses.dataclass
    class Showing:
        """Asks for a terminal, as a progress bar does."""

        def run(self):
            return int(sys.stderr.isatty() or sys.stdout.isatty())

    monkeypatch.setattr(cli, "_load", lambda name: Showing)
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    assert cli.main(["doctor"]) == 0


def test_output_that_cannot_be_written_is_an_error(monkeypatch, capsys):
    with open("/dev/full", "w") as out:
        monkeypatch.setattr("sys.stdout", out)
        assert cli.main(["--help"]) == 2
    assert capsys.readouterr().err == "nfkern: No space left on device\n"
