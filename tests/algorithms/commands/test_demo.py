"""The demo from start to end, small; and what it does when it is interrupted or a training fails."""

import contextlib
import io
import sys

import pytest

from nfkern.algorithms.commands import demo
from nfkern.algorithms.runs.run import Run
from nfkern.cli import commands as cli
from nfkern.errors import UserError

SMALL = {
    "nf_gcbc": ("--encoder-width", "8", "--blocks", "2", "--hidden", "8", "8"),
    "gaussian_gcbc": ("--hidden", "8"),
}


@pytest.fixture
def in_this_process(monkeypatch):
    """Two small trainings, and their evaluations, start no processes."""

    def train(commands, runs, steps):
        for name, command in commands.items():
            with contextlib.redirect_stdout(io.StringIO()):
                assert cli.main([*command[command.index("train") :], *SMALL[name]]) == 0

    monkeypatch.setattr(demo, "_train", train)
    monkeypatch.setattr(demo, "ALGORITHMS", tuple(SMALL))
    for name in ("Generate", "Evaluate"):
        kind = getattr(demo, name)
        monkeypatch.setattr(demo, name, lambda *args, kind=kind, **options: kind(*args, **options | {"workers": 1}))


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_start_to_end_and_again(tmp_path, capfd):
    check_start_to_end_and_again(tmp_path, capfd)


@pytest.mark.exhaustive(part="commands")
def test_start_to_end_and_again_with_processes(tmp_path, capfd):
    check_start_to_end_and_again(tmp_path, capfd)


def check_start_to_end_and_again(tmp_path, capfd):
    command = demo.Demo(tmp_path / "demo", transitions=1000, steps=6, episodes_per_task=1, max_episode_steps=20)
    assert command.run() == 0
    first, said = capfd.readouterr()
    for name in demo.ALGORITHMS:
        assert f"{name}: success 0.0% of 5 episodes\n" in said
    for part in ("[1/4] generating", "[2/4] training", "[3/4] evaluating", "[4/4] writing", "Report: ", "minutes"):
        assert part in first
    for name in demo.ALGORITHMS:
        assert first.count(f"\n{name} ") == 1
    report = tmp_path / "demo" / "report.html"
    assert report.read_text().count("data:image/png") == 3
    # Again: nothing is done twice, and the same table is printed.
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*.safetensors")}
    assert command.run() == 0
    second = capfd.readouterr().out
    assert second[second.index("policy") :].split("Took")[0] == first[first.index("policy") :].split("Took")[0]
    assert runs == {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*.safetensors")}


def test_bars_of_parallel_trainings_are_lines_in_a_file(tmp_path, capfd):
    runs = {name: Run(tmp_path / name) for name in demo.ALGORITHMS}
    demo._train({name: [sys.executable, "-c", "pass"] for name in runs}, runs, 10)
    lines = capfd.readouterr().err.split("\n")
    for name in runs:
        shares = [line.partition(":")[2].partition("|")[0].strip() for line in lines if name in line]
        assert shares == ["0%", "100%"]
    assert len(lines) == 2 * len(runs) + 1
    assert not set("\r\x1b") & set("".join(lines))


def test_a_failed_training_ends_the_others_and_shows_its_log(tmp_path):
    runs = {name: Run(tmp_path / name) for name in demo.ALGORITHMS}
    commands = {name: [sys.executable, "-c", "import time; time.sleep(60)"] for name in runs}
    commands["gaussian_gcbc"] = [sys.executable, "-c", "raise SystemExit('no memory left')"]
    started = []
    original = demo._start

    def start(command, log):
        started.append(original(command, log))
        return started[-1]

    demo._start, kept = start, demo._start
    try:
        with pytest.raises(UserError, match=r"training gaussian_gcbc failed \(exit code 1\):\nno memory left"):
            demo._train(commands, runs, 10)
    finally:
        demo._start = kept
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def test_its_help_says_that_it_goes_on(capsys):
    with pytest.raises(SystemExit):
        cli.main(["demo", "--help"])
    assert "A demo that was interrupted goes on where it stopped" in " ".join(capsys.readouterr().out.split())
