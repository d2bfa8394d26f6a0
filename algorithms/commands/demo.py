"""`nfkern demo`: the main job from start to end, on real data, in minutes."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nfkern.algorithms.commands.data import Generate
from nfkern.algorithms.commands.evaluate import Evaluate
from nfkern.algorithms.reports.report import Report
from nfkern.algorithms.runs.run import Run
from nfkern.errors import UserError, check_least
from nfkern.host.files import read_json, write_json
from nfkern.host.progress import progress_bar

ENV_NAME = "pointmaze-medium-navigate-v0"

ALGORITHMS = ("nf_gcbc", "gaussian_gcbc", "flow_matching_gcbc")
# Two processes of one thread each: a second thread adds little to products this small.
LANES = (("nf_gcbc",), ("gaussian_gcbc", "flow_matching_gcbc"))


@dataclass(frozen=True)
class Demo:
    """Generate real data, train NF-GCBC and its Gaussian and flow-matching counterparts, evaluate, write a report.

    Everything lies in one folder. A demo that was interrupted goes on where it stopped when the command is repeated.
    """

    out: Path = Path("demo")
    """The demo's folder: data/, runs/, report.html."""
    transitions: int = 100_000
    """Transitions of training data."""
    steps: int = 3000
    """Gradient steps of each policy."""
    episodes_per_task: int = 20
    """Evaluation episodes for each of the five goals."""
    max_episode_steps: int | None = None
    """End evaluation episodes after so many steps instead of the benchmark's own limit."""
    seed: int = 0
    """Seed of data, training and evaluation."""

    def run(self) -> int:
        """Run all parts; the exit code."""
        start = time.monotonic()
        counts = {"episodes_per_task": self.episodes_per_task, "max_episode_steps": self.max_episode_steps}
        check_least({**counts, "transitions": self.transitions, "steps": self.steps})
        check_least({"seed": self.seed}, 0)
        self._claim()
        # A demo that is told to end must end its trainings too, and does so on the way out.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return self._parts(start)
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on from here", file=sys.stderr)
            return 130

    def _claim(self) -> None:
        """Note what this demo is, so that its parts are never mixed with another's."""
        mine = {key: value for key, value in asdict(self).items() if key != "out"}
        path = self.out / "demo.json"
        if path.exists() and (there := read_json(path)) != mine:
            raise UserError(f"{self.out} holds a demo with other settings, {there}: choose another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(path, mine)

    def _parts(self, start: float) -> int:
        data, runs = self.out / "data", {name: Run(self.out / "runs" / name) for name in ALGORITHMS}
        _say(1, f"generating {self.transitions:,} transitions of {ENV_NAME}: OGBench's scripted oracle in MuJoCo")
        code = Generate(ENV_NAME, transitions=self.transitions, seed=self.seed, workers=2, dataset_dir=data).run()
        if code:
            return code
        _say(2, f"training {', '.join(ALGORITHMS)}: {self.steps} steps each, in two processes of one thread")
        _train({name: self._training(name, runs[name].path, data) for name in ALGORITHMS}, runs, self.steps)
        _say(3, f"evaluating in the simulator: 5 goals x {self.episodes_per_task} episodes, the same starts for all")
        folders = tuple(run.path for run in runs.values())
        code = Evaluate(
            folders,
            episodes_per_task=self.episodes_per_task,
            seed=self.seed,
            workers=2,
            trajectories=True,
            max_episode_steps=self.max_episode_steps,
        ).run()
        if code:
            return code
        _say(4, "writing the report")
        report = self.out / "report.html"
        Report(folders, out=report, dataset_dir=data).run()
        self._summary(runs)
        print(f"\nReport: {report} (open it in a browser)\nTook {(time.monotonic() - start) / 60:.1f} minutes.")
        return 0

    def _training(self, algorithm: str, run_dir: Path, data: Path) -> list[str]:
        """The training command of one policy."""
        return [
            *(sys.executable, "-m", "nfkern", "train", algorithm, "--preset", "quickstart", "--env-name", ENV_NAME),
            *(
                "--seed",
                str(self.seed),
                "--dataset-dir",
                str(data),
                "--run-dir",
                str(run_dir),
                "--resume",
                "--quiet",
                "--threads",
                "1",
            ),
            *("--eval-episodes", "0", "--log-interval", "50", "--checkpoint-interval", "250"),
            *("--steps", str(self.steps), "--warmup-steps", str(min(500, self.steps // 2))),
        ]

    def _summary(self, runs: Mapping[str, Run]) -> None:
        print(f"\n{'policy':<20}{'success':>9}{'95% interval':>16}")
        for name, run in runs.items():
            found = run.evaluations.find(self.steps, seed=self.seed, episodes_per_task=self.episodes_per_task)
            assert found is not None
            _, result = found
            low, high = result.interval
            print(f"{name:<20}{result.success_rate:>9.1%}{f'{low:.0%} - {high:.0%}':>16}")
        print("One training seed and five goals: the intervals resample goals and say nothing about other seeds.")


def _say(number: int, text: str) -> None:
    print(f"\n[{number}/4] {text}", flush=True)


def _train(commands: Mapping[str, list[str]], runs: Mapping[str, Run], steps: int) -> None:
    """Run the lanes side by side with a progress bar for each policy.

    Raises:
        UserError: a training failed; the message ends with the end of its log.
    """
    bars = {
        name: progress_bar(total=steps, desc=f"{name:<18}", position=position, unit="step")
        for position, name in enumerate(commands)
    }
    waiting, running = [list(lane) for lane in LANES], dict[str, subprocess.Popen[bytes]]()
    try:
        while any(waiting) or running:
            for lane, names in zip(LANES, waiting, strict=True):
                if names and not set(lane) & set(running):
                    name = names.pop(0)
                    bars[name].unpause()
                    running[name] = _start(commands[name], _log(runs[name]))
            time.sleep(0.5)
            for name, process in list(running.items()):
                code = process.poll()
                bars[name].update((steps if code == 0 else _last_step(runs[name])) - bars[name].n)
                if code is not None:
                    del running[name]
                    bars[name].close()
                if code:
                    raise UserError(
                        f"training {name} failed (exit code {code}):\n{_log(runs[name]).read_text()[-2000:]}"
                    )
    finally:
        for process in running.values():
            # It saves its state first; the demo continues from there.
            process.terminate()
            process.wait()
        for bar in bars.values():
            bar.close()


def _start(command: Sequence[str], path: Path) -> "subprocess.Popen[bytes]":
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as log:
        # In a session of its own: the terminal's Ctrl-C would reach it beside the demo's own signal, and a second
        # signal means "at once".
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def _log(run: Run) -> Path:
    return run.path.with_suffix(".log")


def _last_step(run: Run) -> int:
    steps = [row["step"] for row in run.rows("train.csv") if row["step"].isdigit()]
    return int(steps[-1]) if steps else 0
