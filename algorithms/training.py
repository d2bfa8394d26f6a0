"""The one training loop of the offline agents."""

import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nfkern
from nfkern.algorithms.agents import AGENTS
from nfkern.algorithms.behavioral_cloning import BehavioralCloning, BehavioralCloningConfig
from nfkern.algorithms.datasets import DEFAULT_DATASET_DIR, BatchSampler, TransitionDataset
from nfkern.algorithms.datasets.recipes import data_name
from nfkern.algorithms.interrupts import deferred_signals
from nfkern.algorithms.metrics import MetricLog
from nfkern.algorithms.runs import (
    checkpoint_label,
    checkpoints,
    evaluation_path,
    load_checkpoint,
    locked,
    save_checkpoint,
)
from nfkern.checkpoint import read_json, write_json
from nfkern.errors import UserError
from nfkern.progress import progress_bar


@dataclass(frozen=True)
class RunSettings:
    """Where and how an agent is trained; what it is lies in its own settings."""

    env_name: str
    """OGBench dataset name, such as pointmaze-medium-navigate-v0."""
    seed: int = 0
    """Seed of initialisation, batches and noise; the same seed and thread count give the same run."""
    run_dir: Path | None = None
    """The run's folder; default runs/<algorithm>/<env-name>/seed-<seed>."""
    dataset_dir: Path = DEFAULT_DATASET_DIR
    """Where datasets lie."""
    resume: bool = False
    """Continue the run in run_dir from its newest checkpoint, or start it if there is none."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA where there is one."""
    threads: int = 0
    """CPU threads; 0 for PyTorch's choice."""
    log_interval: int = 1000
    """Steps between rows of train.csv."""
    checkpoint_interval: int = 10_000
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    eval_interval: int = 50_000
    """Steps between evaluations; there is always one at the end."""
    eval_episodes: int = 50
    """Episodes per task of an evaluation; 0 for no evaluation."""
    eval_seed: int = 0
    """Seed of the evaluation's starts, goals and noise: the same for every run, so that runs can be compared."""
    track: bool = False
    """Also log to Weights & Biases (`pip install wandb`)."""
    wandb_project: str = "nfkern"
    """Project there."""
    quiet: bool = False
    """No progress bar."""

    def __post_init__(self) -> None:
        """Check the intervals."""
        counts = ("log_interval", "checkpoint_interval", "keep_checkpoints", "eval_interval")
        least = dict.fromkeys(counts, 1) | dict.fromkeys(("seed", "threads", "eval_episodes", "eval_seed"), 0)
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}: expected at least {minimum}, got {getattr(self, name)}")

    def torch_device(self) -> torch.device:
        """The device.

        Raises:
            UserError: there is no such device.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--device: expected auto, cpu, cuda or cuda:N, got {self.device!r} ({reason})") from None
        return device


class Interrupted(Exception):  # noqa: N818 - not an error
    """Training stopped on request, with its state saved."""


def train(algorithm: str, config: BehavioralCloningConfig, settings: RunSettings) -> Path:
    """Train an agent on an offline dataset.

    Args:
        algorithm: a name of `AGENTS`.
        config: its settings.
        settings: of the run.

    Returns:
        The run's folder: config.json, train.csv, eval.csv, tensorboard/, evaluations/, checkpoints/.

    Raises:
        UserError: the dataset is missing, or the folder holds another run.
        Interrupted: SIGINT or SIGTERM came; the newest checkpoint continues the run exactly.
    """
    run_dir = settings.run_dir or Path("runs") / algorithm / settings.env_name / f"seed-{settings.seed}"
    dataset = TransitionDataset.load(settings.env_name, settings.dataset_dir)
    validation = TransitionDataset.load(settings.env_name, settings.dataset_dir, split="val")
    with locked(run_dir):
        _train(run_dir, algorithm, config, settings, dataset, validation)
    return run_dir


def _train(
    run_dir: Path,
    algorithm: str,
    config: BehavioralCloningConfig,
    settings: RunSettings,
    dataset: TransitionDataset,
    validation: TransitionDataset,
) -> None:
    """Start or continue the run."""
    device = settings.torch_device()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    goals = config.goal_sampling()
    samplers = {
        name: BatchSampler(data, config.batch_size, goals, config.history, config.chunk, seed=(settings.seed, stream))
        for stream, (name, data) in enumerate({"train": dataset, "val": validation}.items())
    }
    torch.manual_seed(settings.seed)
    example = BatchSampler(dataset, 1, None, config.history, config.chunk).sample()
    agent, step = AGENTS[algorithm].create(config, example, dataset.statistics()).to(device), 0
    # Only now, when nothing in the settings can be wrong any more, is the folder claimed.
    start = _prepare(run_dir, algorithm, config, settings)
    if start is not None:
        agent, step, states = load_checkpoint(start, device)
        for name, state in states.items():
            samplers[name].load_state_dict(state)
    log = MetricLog(run_dir, step, settings)
    try:
        _loop(agent, samplers, step, run_dir, settings, log)
    finally:
        log.close()


def _loop(
    agent: BehavioralCloning,
    samplers: dict[str, BatchSampler],
    step: int,
    run_dir: Path,
    settings: RunSettings,
    log: MetricLog,
) -> None:
    steps, clock = agent.config.steps, time.perf_counter()
    bar = progress_bar(total=steps, initial=step, desc=agent.name, unit="step", disable=settings.quiet)

    def save() -> None:
        states = {name: sampler.state_dict() for name, sampler in samplers.items()}
        save_checkpoint(run_dir, step, agent, states, settings.keep_checkpoints)

    with bar, deferred_signals() as signals:
        since, since_step = clock, step
        while True:
            if _evaluation_due(step, run_dir, settings, steps):
                # Its finished episodes are kept on the way, so an interruption may come through at once.
                with signals.immediate():
                    _evaluate(agent, step, run_dir, settings, log)
            if step >= steps:
                break
            info = agent.update(samplers["train"].sample())
            step += 1
            bar.update()
            if step % settings.log_interval == 0 or step == steps:
                now = time.perf_counter()
                metrics = {f"training/{name}": value.item() for name, value in info.items()}
                metrics |= _validate(agent, samplers["val"])
                metrics["training/learning_rate"] = float(agent.scheduler.get_last_lr()[0])
                speed = (step - since_step) / (now - since)
                log.train(step, metrics | {"time/steps_per_second": speed, "time/seconds": now - clock})
                bar.set_postfix(loss=f"{metrics['training/actor/loss']:.3f}")
                since, since_step = now, step
            intervals = (settings.checkpoint_interval, settings.eval_interval)
            if step == steps or signals.received or any(step % interval == 0 for interval in intervals):
                save()
            if signals.received:
                raise Interrupted(f"stopped at step {step} of {steps}; its checkpoint is saved")


def _evaluation_due(step: int, run_dir: Path, settings: RunSettings, steps: int) -> bool:
    if not settings.eval_episodes or not step or (step % settings.eval_interval and step != steps):
        return False
    return not evaluation_path(run_dir, step, settings.eval_seed).exists()


def _validate(agent: BehavioralCloning, sampler: BatchSampler) -> dict[str, float]:
    """The loss of a validation batch; its noise leaves the training's random stream alone."""
    device = agent.observation_normalizer.center.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        _, info = agent.loss(sampler.sample())
    return {f"validation/{name}": value.item() for name, value in info.items()}


def _evaluate(agent: BehavioralCloning, step: int, run_dir: Path, settings: RunSettings, log: MetricLog) -> None:
    from nfkern.algorithms.evaluation import evaluate

    path = evaluation_path(run_dir, step, settings.eval_seed)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial.jsonl")
    result = evaluate(
        agent,
        settings.env_name,
        episodes_per_task=settings.eval_episodes,
        seed=settings.eval_seed,
        progress_file=partial,
        label=checkpoint_label(run_dir / "checkpoints" / f"{step:08d}"),
        progress=not settings.quiet,
    )
    result.save(path)
    partial.unlink()
    log.evaluation(step)


def _prepare(run_dir: Path, algorithm: str, config: BehavioralCloningConfig, settings: RunSettings) -> Path | None:
    """Claim the run's folder; the checkpoint to continue from, if any."""
    header = {
        "algorithm": algorithm,
        "env_name": settings.env_name,
        "seed": settings.seed,
        "dataset": _dataset_digest(settings),
        "config": asdict(config),
        "versions": {
            "nfkern": nfkern.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
    }
    path = run_dir / "config.json"
    if not path.exists():
        write_json(path, header)
        return None
    if not settings.resume:
        raise UserError(f"{run_dir} already holds a run: continue it with --resume, or choose another --run-dir")
    saved = read_json(path)
    # Through JSON, as the saved one went: it turns tuples into lists.
    old, new = (_flat(value) for value in (saved, json.loads(json.dumps(header))))
    compared = {key for key in old | new if key.split(".")[0] in ("algorithm", "env_name", "seed", "dataset", "config")}
    different = sorted(key for key in compared if old.get(key) != new.get(key))
    if different:
        changes = ", ".join(f"{key} {old.get(key)} there, {new.get(key)} now" for key in different)
        raise UserError(f"{run_dir} holds another run: {changes}; choose another --run-dir")
    found = checkpoints(run_dir)
    return found[-1] if found else None


def _flat(header: dict[str, Any]) -> dict[str, Any]:
    """The header with its settings as `config.name`."""
    config = header.get("config", {})
    return {key: value for key, value in header.items() if key != "config"} | {
        f"config.{key}": value for key, value in config.items()
    }


def _dataset_digest(settings: RunSettings) -> str | None:
    """The training file's sha256 as its manifest has it; None for files without one."""
    name = data_name(settings.env_name)
    manifest = settings.dataset_dir.expanduser() / f"{name}.json"
    return read_json(manifest)["sha256"].get(f"{name}.npz") if manifest.exists() else None
