"""Arguments of commands: numbers as people write them, and what is said of wrong ones."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tyro

from nfkern.cli import commands as cli
from nfkern.cli.parsing import parse
from nfkern.errors import UserError, check_least, closest


@dataclass(frozen=True)
class Settings:
    """A command's settings."""

    place: tyro.conf.Positional[Path]
    """Where."""
    steps: int = 1
    """How many."""
    hidden: tuple[int, int] = (2, 2)
    """Sizes."""
    limit: int | None = None
    """The most."""
    learning_rate: float = 0.1
    """How fast."""
    names: tuple[str, ...] = field(default=())
    """Which."""

    def __post_init__(self) -> None:
        if self.steps == 13:
            raise ValueError("steps: expected another number, got 13")


def parsed(*args):
    return parse(Settings, ["here", *args], "nfkern try")


@pytest.mark.parametrize(
    ("text", "number"), [("8e3", 8000), ("8000", 8000), ("1_000", 1000), ("2.0", 2), ("-1E2", -100), ("1e18", 10**18)]
)
def test_integers_as_people_write_them(text, number):
    for found in (
        parsed("--steps", text).steps,
        parsed(f"--limit={text}").limit,
        parsed("--hidden", "1", text).hidden[1],
    ):
        assert found == number
        assert type(found) is int


@pytest.mark.parametrize("text", ["8.5", "1e400", "nan", "inf", "1e19", "99999999999999999999", "x", "", "1e-3"])
def test_what_is_no_integer(text):
    for option in ("--steps", "--limit"):
        with pytest.raises(UserError, match=f"^{option}: expected an integer( of 64 bits)?, got {text!r}$"):
            parsed(option, text)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "x"])
def test_what_is_no_finite_number(text):
    with pytest.raises(UserError, match=f"--learning-rate: expected a finite number, got {text!r}"):
        parsed("--learning-rate", text)
    assert parsed("--learning-rate", "1e-3").learning_rate == 1e-3
    assert parsed("--learning-rate", "2").learning_rate == 2


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--lr", "--learning-rate"),
        ("--step", "--steps"),
        ("--learning_rat=3", "--learning-rate"),
        ("--rate", "--learning-rate"),
    ],
)
def test_options_are_suggested(typed, meant):
    with pytest.raises(UserError) as caught:
        parsed(typed, "3")
    assert str(caught.value) == (
        f"no option {typed.partition('=')[0]}; did you mean {meant}? `nfkern try --help` lists all"
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Missing from nfkern try: PATH"),
        (["here", "--zzz"], "no option --zzz; `nfkern try --help` lists all"),
        (["here", "there"], "Unrecognized options: there"),
        (["here", "--steps"], "Missing value for argument '--steps'. Expected 1 values."),
        (["here", "--hidden", "1"], "Missing value for argument '--hidden'. Expected 2 values."),
        (["here", "--steps", "13"], "steps: expected another number, got 13"),
    ],
)
def test_errors_take_one_line(args, message):
    with pytest.raises(UserError) as caught:
        parse(Settings, args, "nfkern try")
    assert str(caught.value) == message


def test_a_long_message_is_not_broken():
    name = "a-word-" * 40
    with pytest.raises(UserError, match=f"got '{name}'"):
        parsed("--steps", name)


def test_closest():
    names = ["learning-rate", "batch-size", "norm-eps", "steps"]
    assert [closest(typed, names) for typed in ("lr", "bs", "eps", "stps", "quite-another", "")] == [
        "learning-rate",
        "batch-size",
        "norm-eps",
        "steps",
        None,
        None,
    ]


def test_check_least():
    check_least({"workers": 1, "limit": None, "share": 1.5})
    for value in (0, -1, float("nan")):
        with pytest.raises(UserError, match=f"--eval-workers: expected at least 1, got {value}"):
            check_least({"eval_workers": value})


# Of each command: what its user can mend, and a part of the message.
USER_ERRORS = [
    ("train nf_bc", "--env-name"),
    ("train nf_bc --env-name x --lr 3", "did you mean --learning-rate?"),
    ("train nf_bc --env x", "did you mean --env-name?"),
    ("train nf_bc --env-name x --steps many", "--steps: expected an integer, got 'many'"),
    ("train nf_bc --env-name x --steps 0", "steps: expected at least 1, got 0"),
    ("train nf_bc --env-name x --learning-rate nan", "--learning-rate: expected a finite number"),
    ("train nf_bc --env-name x --seed 99999999999999999999", "--seed: expected an integer of 64 bits"),
    ("train nf_bc --env-name x --preset none", "--preset: nf_bc has pusht"),
    ("train nf_bc --env-name pointmaze-medum-navigate-v0", "did you mean pointmaze-medium-navigate-v0"),
    ("train nf_bc --env-name x --device gpu", "--device: expected auto, cpu, cuda"),
    ("train nf_ugs --env-name ant-u-mze", "did you mean ant-u-maze?"),
    ("eval", "expected at least one run directory"),
    ("eval nothing", "nothing is no run: expected a folder with config.json"),
    ("eval nothing --max-episode-steps -1", "--max-episode-steps: expected at least 1, got -1"),
    ("eval nothing --workers 0", "--workers: expected at least 1, got 0"),
    ("eval nothing --seed -1", "--seed: expected at least 0, got -1"),
    ("report", "expected at least one run directory"),
    ("report nothing", "nothing is no run"),
    ("demo --steps 0", "--steps: expected at least 1, got 0"),
    ("demo --max-episode-steps 0", "--max-episode-steps: expected at least 1, got 0"),
    ("doctor --numeric", "did you mean --numerics?"),
    ("tasks --setting none", "invalid choice 'none' for argument '--setting'"),
    ("sweep nothing.toml", "nothing.toml"),
    ("data generate pointmaze-medum-navigate-v0", "did you mean pointmaze-medium-navigate-v0"),
    ("data generate pointmass-scripted-v0 --transitions 0", "transitions must be at least 1, got 0"),
    ("data generate pointmass-scripted-v0 --workers 0", "workers must be at least 1, got 0"),
    ("data generate pointmass-scripted-v0 --seed -1", "seed must be at least 0, got -1"),
    ("data download x-v0 --retries 0", "at least 1 attempt"),
    ("data download x-v0 --timeout -1", "more than 0 seconds"),
    ("data import nothing --name x-v0", "there is no file or folder nothing"),
    ("data import . --name x-v0 --validation 2", "validation: expected a share between 0 and 1"),
    ("data info nothing", "there is no dataset file"),
    ("bench run", "--out"),
    ("bench run --out x.json --device gpu", "--device: expected cpu or cuda, got 'gpu'"),
    ("bench run --out x.json --threads 0", "--threads: expected at least 1, got 0"),
    ("bench list --suite none", "invalid choice 'none'"),
    ("bench compare a b", "a: cannot be read"),
    ("bench report --html x.html", "expected at least one file"),
    ("bench report a --html x.html", "a: cannot be read"),
    ("bench guard --kept 2", "kept: expected a number from 0 to 1, got 2.0"),
    ("bench quality --out x.json --steps 0", "--steps: expected at least 1, got 0"),
    ("bench success --out x.json --target nan", "--target: expected a finite number"),
    ("bench success --out x.json --envs pointmaze-medum-navigate-v0", "did you mean pointmaze-medium-navigate-v0"),
    ("bench resources --jobs 0", "--jobs: expected at least 1, got 0"),
    ("bench tune --case none", "--case: expected one of"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "message"), USER_ERRORS, ids=[line for line, _ in USER_ERRORS])
def test_user_errors_exit_with_2_in_one_line(line, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nfkern ")
    assert len(err.splitlines()) == 1
    assert message in err
    # Nothing was begun.
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "flags",
    [
        ["sweep", ""],
        ["report", "runs/x", "--out", ""],
        ["train", "nf_bc", "--env-name", "x", "--run-dir", ""],
    ],
)
def test_an_empty_path_is_refused(flags, capsys):
    assert cli.main(flags) == 2
    assert "expected a path, got ''" in capsys.readouterr().err
