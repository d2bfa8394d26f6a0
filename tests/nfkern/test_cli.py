"""The command line as a stranger meets it: help, errors in one line, exit codes."""

import dataclasses
import io

import pytest

from nfkern import cli
from nfkern.errors import UsageError, UserError


@pytest.mark.parametrize("args", [[], ["--help"], ["help"]])
def test_help_lists_every_command(args, capsys):
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)


def test_a_group_lists_its_own(capsys):
    assert cli.main(["data"]) == 0
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
        (["data", "generat"], "did you mean `nfkern data generate`?"),
        (["frobnicate"], "no command 'frobnicate'; `nfkern --help` lists all"),
        (["train", "sac"], "no command 'train sac'"),
    ],
)
def test_unknown_commands_are_usage_errors(args, message, capsys):
    assert cli.main(args) == 2
    assert message in capsys.readouterr().err


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
        (UserError("no such thing"), 1, "no such thing"),
        (UsageError("no such flag"), 2, "no such flag"),
        (PermissionError(13, "Permission denied", "/proc/x"), 1, "[Errno 13] Permission denied: '/proc/x'"),
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


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "doctor", ("no_such_module_here", "X", ""))
    assert cli.main(["doctor"]) == 1
    assert "needs the package no_such_module_here: `pip install" in capsys.readouterr().err


def test_output_cut_short_by_its_reader_is_no_error(monkeypatch, tmp_path):
    @dataclasses.dataclass
    class Printing:
        """Prints."""

        def run(self):
            raise BrokenPipeError

    with open(tmp_path / "out", "w") as file:
        monkeypatch.setattr(cli, "_load", lambda name: Printing)
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(file.buffer))
        assert cli.main(["doctor"]) == 0
