"""The settings of a training besides the agent's own, as flags of the command line."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from nfkern.algorithms.data import DEFAULT_DATASET_DIR
from nfkern.algorithms.data.files import dataset_file
from nfkern.algorithms.data.manifest import sha256_of
from nfkern.algorithms.runs.run import Run
from nfkern.errors import UserError

# No machine has more cores; with too many threads, OpenMP ends the process.
MOST_THREADS = 4096

_SEEDS = tyro.conf.create_mutex_group(required=False, title="seeds")
_CUDA_GRAPH = tyro.conf.create_mutex_group(required=False, title="CUDA graph")


@dataclass(frozen=True)
class CommonSettings:
    """Settings of any agent's training."""

    env_name: str
    """The environment or dataset to learn from."""
    preset: str | None = None
    """Start from settings by name; flags given beside it win. Write it before --help to see its values."""
    seed: int = 0
    """Seed of everything random."""
    run_dir: Path | None = None
    """The run's folder; default runs/<algorithm>/<env-name>/seed-<seed>."""
    resume: bool = False
    """Continue the run in run_dir from its newest checkpoint, or start it if there is none."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA where there is one."""
    threads: int = 0
    """CPU threads; 0 for PyTorch's choice."""
    init_from: Path | None = None
    """Start with the weights and normalisers of this run's newest checkpoint, whose networks must be of these sizes."""
    log_interval: int | None = None
    """Gradient steps between rows of train.csv; default a hundredth of all, but at most 1000."""
    checkpoint_interval: int = 10_000
    """Gradient steps between checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    eval_interval: int = 50_000
    """Gradient steps between evaluations; there is always one at the end."""
    eval_episodes: int = 50
    """Episodes (of each task, where there are several) of an evaluation; 0 for no evaluation."""
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
            if (value := getattr(self, name)) is not None and value < minimum:
                raise ValueError(f"{name}: expected at least {minimum}, got {value}")
        if self.threads > MOST_THREADS:
            raise ValueError(f"threads: expected at most {MOST_THREADS}, got {self.threads}")

    def log_every(self, steps: int) -> int:
        """Return the gradient steps between rows of train.csv, for a number of steps in all."""
        return min(1000, max(1, steps // 100)) if self.log_interval is None else self.log_interval

    def check_tracking(self) -> None:
        """Check that runs can be tracked, if tracking is on.

        Raises:
            UserError: Weights & Biases is not installed.
        """
        if self.track:
            try:
                import wandb  # noqa: F401
            except ImportError:
                raise UserError("--track needs Weights & Biases: `pip install wandb`, or leave --track out") from None

    def header(self) -> dict[str, Any]:
        """Return the settings that a run's config.json keeps besides its name and seed."""
        return {}

    def runs(self, algorithm: str) -> dict[int, Run]:
        """Return each seed's run."""
        return {self.seed: Run(self.run_dir or self._default_dir(algorithm) / f"seed-{self.seed}")}

    def data_name(self) -> str:
        """Return the name of the environment or dataset, which may be given by its file."""
        return Path(self.env_name).stem if self.env_name.endswith(".npz") else self.env_name

    def _default_dir(self, algorithm: str) -> Path:
        return Path("runs") / algorithm / self.data_name()

    def dataset_digest(self) -> str | None:
        """Return the training file's sha256; None where no file is read."""
        return None

    def torch_device(self) -> torch.device:
        """Return the device.

        Raises:
            UserError: there is no such device.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        expected = f"--device: expected auto, cpu, cuda or cuda:N, got {self.device!r}"
        # Other devices of torch hold no numbers (meta), or have not been tried with this package.
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise UserError(expected)
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"{expected} ({str(error).splitlines()[0]})") from None
        return device


@dataclass(frozen=True)
class OnlineSettings(CommonSettings):
    """Settings for agents that act in environments while they learn."""

    env_name: str
    """A maze: {point,ant}-{u,big,hardest}-maze."""
    goals: Literal["all", "hard"] = "all"
    """Goals of the evaluation: every goal cell of the maze, or the far ones of the paper's code."""


@dataclass(frozen=True)
class RunSettings(CommonSettings):
    """Settings for agents that learn from a dataset; the agent's own settings are its config."""

    env_name: str
    """Name of a dataset, such as pointmaze-medium-navigate-v0 or pusht-human-v0, or a path to an .npz file."""
    seed: Annotated[int, _SEEDS] = 0
    """Seed of initialisation, batches and noise; the same seed and thread count give the same run."""
    seeds: Annotated[str | None, _SEEDS] = None
    """Several seeds, as 0..7 or 0,2,5, trained together in batched kernels; each leaves a run of its own."""
    run_dir: Path | None = None
    """The run's folder; default runs/<algorithm>/<env-name>/seed-<seed>. With --seeds: the folder of their folders."""
    dataset_dir: Path = DEFAULT_DATASET_DIR
    """The folder of the datasets."""
    train_episodes: int | None = None
    """Train on at most so many of the dataset's training episodes, drawn alike for all seeds; default all."""
    eval_env: str | None = None
    """Evaluate in this environment, any id that gymnasium knows, or MODULE:ID, where MODULE may be a file in the
    current folder; default the dataset's own."""
    cuda_graph: Annotated[bool, tyro.conf.FlagCreatePairsOff, _CUDA_GRAPH] = False
    """Keep the data on the GPU and replay each step as a CUDA graph: the default on CUDA, where the agent allows it."""
    no_cuda_graph: Annotated[bool, tyro.conf.FlagCreatePairsOff, _CUDA_GRAPH] = False
    """Draw batches on the host and launch every kernel by itself, as on a CPU; other batches than with --cuda-graph."""
    eval_workers: int = 1
    """Processes of an evaluation; its result does not depend on them."""
    success_timing: Literal["pre", "post"] | None = None
    """Judge success before or after the action; default the environment's own (OGBench 1.2: pre for single tasks)."""

    def __post_init__(self) -> None:
        """Check what belongs together."""
        super().__post_init__()
        for name in ("eval_workers", "train_episodes"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if self.cuda_graph and self.no_cuda_graph:
            raise ValueError("cuda_graph: expected at most one of cuda_graph and no_cuda_graph, got both")
        if self.seeds is None:
            return
        if self.seed:
            raise ValueError(f"seeds: expected seed or seeds, got both, {self.seed} and {self.seeds!r}")
        if self.track:
            raise ValueError("seeds: Weights & Biases tracks one run at a time; leave out track, or train seed by seed")
        self.all_seeds()

    def all_seeds(self) -> tuple[int, ...]:
        """Return the seeds to train, in the order given.

        Raises:
            ValueError: `seeds` is neither FIRST..LAST nor a list with commas, or names a seed twice.
        """
        if self.seeds is None:
            return (self.seed,)
        span = re.fullmatch(r"(\d+)\.\.(\d+)", self.seeds)
        if span:
            found = tuple(range(int(span[1]), int(span[2]) + 1))
        else:
            found = tuple(int(part) for part in self.seeds.split(",") if re.fullmatch(r"\d+", part))
            found = found if len(found) == self.seeds.count(",") + 1 else ()
        if not found or len(set(found)) < len(found):
            raise ValueError(f"seeds: expected FIRST..LAST or different seeds with commas, got {self.seeds!r}")
        return found

    def runs(self, algorithm: str) -> dict[int, Run]:
        """Return each seed's run."""
        if self.seeds is None:
            return super().runs(algorithm)
        parent = self.run_dir or self._default_dir(algorithm)
        return {seed: Run(parent / f"seed-{seed}") for seed in self.all_seeds()}

    def header(self) -> dict[str, Any]:
        """Return training episodes, environment and folder of the datasets, where they are not the default ones."""
        folder = None if self.dataset_dir == DEFAULT_DATASET_DIR else str(self.dataset_dir.expanduser().absolute())
        chosen = {"train_episodes": self.train_episodes, "eval_env": self.eval_env, "dataset_dir": folder}
        return {name: value for name, value in chosen.items() if value is not None}

    def dataset_digest(self) -> str | None:
        """Return the training file's sha256; None without a file."""
        path = dataset_file(self.env_name, self.dataset_dir)
        return sha256_of(path) if path.exists() else None

    def captures(self, device: torch.device, capturable: bool) -> bool:
        """Return whether steps run as CUDA graphs on a device, for an agent that can or cannot be captured.

        Raises:
            UserError: it was asked for and cannot be.
        """
        if not self.cuda_graph:
            return device.type == "cuda" and capturable and not self.no_cuda_graph
        if device.type != "cuda":
            raise UserError(f"--cuda-graph needs a CUDA device, got {device}: leave it out")
        if not capturable:
            raise UserError("--cuda-graph: this algorithm cannot be captured in a CUDA graph: leave it out")
        return True
