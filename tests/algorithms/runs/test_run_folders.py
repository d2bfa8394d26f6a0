"""A run's folder belongs to one process at a time, and to one run."""

import os
import signal
import time
import warnings

import pytest

from nfkern.algorithms.agents.imitation.nf_bc import NFBCConfig
from nfkern.algorithms.runs.run import Run
from nfkern.algorithms.runs.settings import RunSettings
from nfkern.algorithms.runs.start import resume_or_start
from nfkern.errors import UserError


def in_child(work):
    """A process that runs `work`; it exits with 0 unless that raises."""
    with warnings.catch_warnings():
        # From Python 3.12 on, of every fork of a process with threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def code_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_second_holder_is_refused_and_told_who_holds(tmp_path):
    folder = tmp_path / "run"
    mine = rf"another process is training in .*run \(process {os.getpid()} on .*\): wait, or choose another"

    def try_it():
        with pytest.raises(UserError, match=mine), Run(folder).locked():
            pass

    for _ in range(2):
        with Run(folder).locked():
            try_it()
            assert code_of(in_child(try_it)) == 0
            (folder / "config.json").touch()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="run is a file: expected a folder"), Run(tmp_path / "run").locked():
        pass
    with pytest.raises(UserError, match="run is no run: expected a folder"):
        Run(tmp_path / "run").header  # noqa: B018
    below = Run(tmp_path / "run" / "below")
    with pytest.raises(UserError, match="below cannot be made: Not a directory; choose another"), below.locked():
        pass


def test_a_killed_holder_holds_nothing(tmp_path):
    folder = tmp_path / "run"

    def hold():
        with Run(folder).locked():
            (folder / "held").touch()
            time.sleep(60)

    child = in_child(hold)
    while not (folder / "held").exists():
        time.sleep(0.001)
    with pytest.raises(UserError, match=f"process {child} on"), Run(folder).locked():
        pass
    os.kill(child, signal.SIGKILL)
    assert code_of(child) == -signal.SIGKILL
    with Run(folder).locked():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("begun", [True, False])
def test_holds_never_overlap(begun, tmp_path):
    """Neither where a run has begun nor where each holder finds nothing to do, and removes the folder again."""
    folder, inside = tmp_path / "run", tmp_path / "inside"
    if begun:
        folder.mkdir()
        (folder / "config.json").touch()
    end = time.monotonic() + 20

    def hold_often():
        holds = 0
        while holds < 50 and time.monotonic() < end:
            try:
                with Run(folder).locked():
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                    time.sleep(0.0002)
                    inside.unlink()
                    holds += 1
            except UserError:
                time.sleep(0.0001)
        assert holds == 50

    children = [in_child(hold_often) for _ in range(4)]
    assert [code_of(child) for child in children] == [0] * 4


def start(folder, resume=False, batch_size=256):
    settings = RunSettings("x-v0", run_dir=folder, resume=resume)
    return resume_or_start(settings.runs("nf_bc"), "nf_bc", NFBCConfig(batch_size=batch_size), settings)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "train.csv", "checkpoints/00000010/agent.safetensors"])
def test_a_folder_of_other_things_is_refused(name, resume, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"expected a new or empty folder, .*got {name.split('/')[0]}; choose another"):
        start(tmp_path, resume)
    assert [file.name for file in tmp_path.iterdir()] == [name.split("/")[0]]
    assert (tmp_path / name).exists()


def test_what_a_start_leaves_behind_is_no_other_thing(tmp_path):
    for name in (".lock", ".config.json.123"):
        (tmp_path / name).touch()
    assert start(tmp_path) == 0
    assert (tmp_path / "config.json").exists()
    (tmp_path / "train.csv").write_text("step\n1\n")
    with pytest.raises(UserError, match="already holds a run: continue it with --resume"):
        start(tmp_path)


@pytest.mark.parametrize("resume", [False, True])
def test_a_killed_run_without_results_claims_nothing(resume, tmp_path):
    assert start(tmp_path, batch_size=1024) == 0
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events").touch()
    assert start(tmp_path, resume) == 0
    assert Run(tmp_path).header["config"]["batch_size"] == 256
    assert not (tmp_path / "tensorboard").exists()


def test_another_programs_files_stay(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tensorboard").mkdir()
    with pytest.raises(UserError, match="config.json is no run's: it lacks algorithm"):
        start(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "tensorboard"]


@pytest.mark.parametrize("result", ["checkpoints/00000010/agent.safetensors", "evaluations/00000010-0-0.json"])
def test_a_killed_run_with_results_keeps_its_folder(result, tmp_path):
    assert start(tmp_path, batch_size=1024) == 0
    (tmp_path / result).parent.mkdir(parents=True)
    (tmp_path / result).touch()
    with pytest.raises(UserError, match="already holds a run: continue it with --resume"):
        start(tmp_path)
    with pytest.raises(UserError, match="holds another run: config.batch_size 1024 there, 256 now"):
        start(tmp_path, resume=True)


def test_a_sweeps_log_is_no_other_thing_to_what_it_starts(tmp_path):
    (tmp_path / "log.txt").touch()
    with pytest.raises(UserError, match=r"expected a new or empty folder, .*got log.txt"):
        start(tmp_path)
    assert start(tmp_path, resume=True) == 0
