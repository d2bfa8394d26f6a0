"""`nfkern sweep`: many training runs on Ray, on this machine or a cluster; one that fails stops no other."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from nfkern.algorithms.sweep.spec import Sweep as Spec
from nfkern.algorithms.sweep.spec import SweepRun
from nfkern.algorithms.sweep.summary import summarize, table
from nfkern.cli.parsing import parse
from nfkern.errors import UserError
from nfkern.host.files import read_json, write_json
from nfkern.host.progress import progress_bar

# After the loss of a machine, the run resumes elsewhere: it costs the steps since the last checkpoint.
RETRIES = 3
# A run that is told to stop saves a checkpoint first.
PATIENCE_S = 120


@dataclass(frozen=True)
class Sweep:
    """Train every algorithm on every task with every seed of a TOML file, and print a table over the seeds.

    The file has `seeds` (how many, or a list), `cpus` and `gpus` of each run, a table [common] of settings, and for
    each algorithm a [[runs]] with `algorithm`, `env-name` (one or several), settings of its own, and a `label` where an
    algorithm comes twice. Settings are the flags of `nfkern train`. Repeating the command goes on where it stopped;
    what is finished is not run again, what failed is tried again.
    """

    spec: tyro.conf.Positional[Path]
    """The TOML file."""
    out: Path | None = None
    """The sweep's folder, which all machines share; default runs/<the file's name>."""
    address: str | None = None
    """Address of a Ray cluster, such as auto or ray://head:10001; default a local one for this sweep alone."""
    dry_run: bool = False
    """Check the file and print the commands."""
    summary: bool = False
    """Print the table of what is there, and run nothing."""
    json: bool = False
    """Print the table as JSON."""

    def run(self) -> int:
        """Run what is left; 1 if a run failed."""
        spec = Spec.load(self.spec)
        # Runs that differ in seed and task alone have the same settings: one check is enough.
        for run in {(run.label, run.settings): run for run in spec.runs}.values():
            _check(run)
        folder = self.out or Path("runs") / self.spec.stem
        if self.dry_run:
            print("\n".join(" ".join(_command(run, folder, spec)[2:]) for run in spec.runs))
            return 0
        state = folder / "sweep.json"
        kept = read_json(state) if state.exists() else {}
        # A run with other settings is another run; `nfkern train` will say so.
        states = {run.name: kept[run.name][0] for run in spec.runs if kept.get(run.name, [0, 0])[1] == [*run.arguments]}
        code = 0 if self.summary else self._execute(spec, folder, states)
        rows = summarize(spec.runs, folder, states)
        if self.json:
            json.dump([asdict(row) for row in rows], sys.stdout, indent=1)
            print()
        else:
            print("\n".join(table(rows)))
        failed = [run.name for run in spec.runs if states.get(run.name) == "failed"]
        for name in failed:
            print(f"failed: {name}, see {folder / name / 'log.txt'}", file=sys.stderr)
        return code or bool(failed)

    def _execute(self, spec: Spec, folder: Path, states: dict[str, str]) -> int:
        """Run what is not finished, keeping `states` on disk; 130 if interrupted."""
        left = [run for run in spec.runs if states.get(run.name) != "finished"]
        folder.mkdir(parents=True, exist_ok=True)
        ray = _start_ray(self.address)
        # Not retried for an error of its own: Ray retries where a machine or a worker is lost.
        remote = ray.remote(num_cpus=spec.cpus, num_gpus=spec.gpus, max_retries=RETRIES)(execute)
        pending = {}
        try:
            for run in left:
                log = (folder / run.name / "log.txt").resolve()
                pending[remote.remote(_command(run, folder.resolve(), spec), str(log))] = run
            done = len(spec.runs) - len(left)
            with progress_bar(total=len(spec.runs), initial=done, desc=self.spec.stem, unit="run") as bar:
                while pending:
                    (ready,), _ = ray.wait(list(pending), num_returns=1)
                    run = pending.pop(ready)
                    states[run.name] = _outcome(ray, ready)
                    write_json(folder / "sweep.json", _to_keep(spec, states))
                    bar.update()
                    bar.set_postfix_str(f"{run.name} {states[run.name]}")
        except KeyboardInterrupt:
            print("interrupted: runs save their checkpoints; the same command goes on", file=sys.stderr)
            for reference in pending:
                ray.cancel(reference)
            if pending:
                ray.wait(list(pending), num_returns=len(pending), timeout=PATIENCE_S + 30)
            return 130
        finally:
            ray.shutdown()
        return 0


def execute(command: list[str], log: str) -> int:
    """Run a training in a process of its own; its exit code. What it prints goes to a file."""
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            while True:
                # Ray's interruption is no signal: it would not end a wait without a limit.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(timeout=1)
        except BaseException:
            # Cancelled: the training saves what it has.
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            finally:
                process.kill()
            raise


def _to_keep(spec: Spec, states: Mapping[str, str]) -> dict[str, Any]:
    return {run.name: [states[run.name], list(run.arguments)] for run in spec.runs if run.name in states}


def _command(run: SweepRun, folder: Path, spec: Spec) -> list[str]:
    where = ("--run-dir", str(folder / run.name), "--threads", str(spec.cpus), "--resume", "--quiet")
    return [sys.executable, "-m", "nfkern", "train", *run.arguments, *where]


def _check(run: SweepRun) -> None:
    """Parse a run's settings as `nfkern train` will.

    Raises:
        UserError: they are wrong; the message is that of `nfkern train`.
    """
    algorithm, *arguments = run.arguments
    from nfkern.algorithms.commands.train import COMMANDS

    command = COMMANDS[algorithm]
    try:
        parse(command, arguments, f"nfkern train {algorithm}", command.default(arguments))
    except UserError as error:
        raise UserError(f"{run.label}: {error}") from None


def _start_ray(address: str | None) -> Any:
    # Ray would report usage to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address=address or "local", **options if address else options | {"include_dashboard": False})
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--address: cannot reach Ray at {address or 'local'} ({error})") from None
    return ray


def _outcome(ray: Any, reference: Any) -> str:
    """Return "finished" or "failed"."""
    try:
        code = ray.get(reference)
    except ray.exceptions.RayError:
        return "failed"
    return "finished" if code == 0 else "failed"
