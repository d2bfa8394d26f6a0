"""`nfkern.train` and `nfkern.evaluate`: training and evaluation as calls, with the settings of the command line."""

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from nfkern.algorithms.acting import Actor, load
from nfkern.algorithms.agents.online.base import OnlineGCRL
from nfkern.algorithms.agents.policy import Policy
from nfkern.algorithms.agents.registry import AGENTS, find_preset
from nfkern.algorithms.data import TransitionDataset
from nfkern.algorithms.evaluation import evaluate as evaluation
from nfkern.algorithms.evaluation.result import EvaluationResult
from nfkern.algorithms.evaluation.rollout import EnvironmentPool, check_fits
from nfkern.algorithms.runs.settings import OnlineSettings, RunSettings
from nfkern.errors import UserError, closest
from nfkern.host.files import atomic_file

Arrays = Sequence[np.ndarray] | Mapping[str, np.ndarray]
COLUMNS = ("observations", "actions", "terminals", "rewards", "masks")


def train(
    algorithm: str,
    data: str | Path | Arrays | TransitionDataset,
    *,
    preset: str | None = None,
    run_dir: str | Path | None = None,
    **settings: Any,
) -> Actor:
    """Train an algorithm as `nfkern train` does, and return the trained policy.

    Args:
        algorithm: its name, as in `nfkern --help`.
        data: the name of a dataset or, for `nf_ugs` and `crl`, of a maze; the path of an npz file; arrays
            (observations (rows, D), actions (rows, A), terminals (rows,)[, rewards (rows,), masks (rows,)]), or a
            dictionary of them, terminals 1 where an episode ends, masks 0 where the task does; or a
            `TransitionDataset`. Arrays are kept in a file beside the run, data-....npz, where reports and continued
            runs find them.
        preset: settings to start from, by name.
        run_dir: the run's folder; by default below runs/, as the command has it.
        **settings: those of the command, with underscores: `steps=5000`, `eval_env="Reacher-v5"`, `resume=True`; and
            `encoder=MyModule`, a class at the top level of a module, for agents with a flow.

    Returns:
        The policy of the last checkpoint.

    Raises:
        TypeError: an unknown setting.
        UserError: an unknown algorithm, data that cannot be learned from, or a folder that holds another run.
        ValueError: a setting out of range.

    Example:
        >>> policy = nfkern.train("nf_bc", (observations, actions, terminals), preset="small")  # doctest: +SKIP
    """
    if algorithm not in AGENTS:
        raise UserError(f"algorithm: expected one of {', '.join(AGENTS)}, got {algorithm!r}{_meant(algorithm, AGENTS)}")
    agent = AGENTS[algorithm]
    online = issubclass(agent, OnlineGCRL)
    settings_class: type[RunSettings] | type[OnlineSettings] = OnlineSettings if online else RunSettings
    of_run, of_agent = ({field.name for field in fields(each)} for each in (settings_class, agent.config_class))
    for name in settings:
        if name == "seeds":
            raise TypeError("seeds: expected one seed, as `seed`; `nfkern train --seeds` trains several")
        if name == "eval_env" and not isinstance(settings[name], str | None):
            raise TypeError(f"eval_env: expected an environment's name, got {type(settings[name]).__name__}")
        if name not in of_run | of_agent:
            raise TypeError(f"{name}: {algorithm} has no such setting{_meant(name, of_run | of_agent)}")
    given: dict[str, Any] = {"run_dir": None if run_dir is None else Path(run_dir), "preset": preset}
    config = agent.config_class()
    if preset is not None:
        found = find_preset(algorithm, preset)
        config, given = found.config, {**found.settings, **given}
    given |= {name: _as_declared(name, value) for name, value in settings.items() if name in of_run}
    chosen = {name: _plain(name, value) for name, value in settings.items()}
    config = agent.config_class(**asdict(config) | {name: chosen[name] for name in chosen if name in of_agent})
    # Whatever is out of range is refused before anything is written.
    run = settings_class(env_name="", **given)
    run = replace(run, env_name=str(data if isinstance(data, str | Path) else _written(algorithm, data, run.run_dir)))
    if isinstance(run, OnlineSettings):
        from nfkern.algorithms.training.online import train_online

        return load(train_online(algorithm, config, run))  # type: ignore[arg-type]
    from nfkern.algorithms.training.offline import train as train_offline

    return load(train_offline(algorithm, config, run))


def evaluate(
    policy: "str | Path | Actor | Policy | Callable[..., np.ndarray]",
    env: str | gymnasium.Env[Any, Any],
    *,
    episodes: int = 50,
    seed: int = 0,
    tasks: Sequence[int] | None = None,
    max_episode_steps: int | None = None,
    progress: bool = True,
) -> EvaluationResult:
    """Count a policy's successes in an environment, from starts and goals that follow from the seed.

    Two policies that are evaluated with one seed start from the same places.

    Args:
        policy: of `nfkern.load` or `nfkern.train`, or a run's folder; a model of Stable-Baselines3, or anything else
            with such a `predict` and no state; or a function from an observation (and a goal, where the environment
            gives one) to an action.
        env: the name of a dataset or of a registered environment, or an environment, which is stepped as it is.
        episodes: of each task, where the environment has several.
        seed: of starts, goals and the policy's noise.
        tasks: task numbers, from 1; all by default.
        max_episode_steps: ends episodes early; the environment's own limit by default.
        progress: show a bar, if stderr is a terminal.

    Returns:
        The episodes; `print` shows their table, `.success_rate`, `.interval` and `.mean_return` are its numbers.

    Raises:
        UserError: an unknown environment.
        ValueError: the policy and the environment do not fit together, or another argument.
    """
    if isinstance(policy, str | Path):
        policy = load(policy)
    with contextlib.closing(EnvironmentPool(env, max_episode_steps=max_episode_steps)) as pool:
        first = pool.take(1)[0]
        first.reset(seed=0)
        if isinstance(policy, Actor) and policy.sizes:
            check_fits(pool, policy.sizes, goal_conditioned=policy.policy.goal_conditioned)
        return evaluation.evaluate(
            _policy(policy, first.goal is not None),
            pool,
            episodes_per_task=episodes,
            tasks=tasks,
            seed=seed,
            block_size=25 if isinstance(env, str) else 1,
            label=repr(policy) if isinstance(policy, Actor) else "",
            progress=progress,
        )


def _policy(policy: Any, goals: bool) -> Policy:
    if isinstance(policy, Actor):
        return policy.policy
    if hasattr(policy, "act") and hasattr(policy, "history"):
        found: Policy = policy
        return found
    if hasattr(policy, "predict"):
        return _Function(lambda observation: policy.predict(observation, deterministic=True)[0], False)
    if callable(policy):
        parameters = inspect.signature(policy).parameters.values()
        takes = sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters)
        return _Function(policy, goals and takes > 1)
    raise TypeError(f"policy: expected a policy, a model with `predict` or a function, got {type(policy).__name__}")


class _Function:
    """A function of one observation, and of one goal, as a policy."""

    history = chunk = execute = 1

    def __init__(self, function: Callable[..., Any], goal_conditioned: bool) -> None:
        self._function, self.goal_conditioned = function, goal_conditioned

    def act(
        self, observations: np.ndarray, goals: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Return an action for each row."""
        rows = [(each[-1], *(() if goals is None else (goals[row],))) for row, each in enumerate(observations)]
        return np.stack([np.asarray(self._function(*row), np.float32) for row in rows])[:, None]


def _written(algorithm: str, data: Arrays | TransitionDataset, run_dir: Path | None) -> Path:
    """Write arrays to a file beside the run, named by what they hold, and return its path."""
    columns = _columns(data)
    digest = hashlib.sha256()
    for name, column in columns.items():
        digest.update(f"{name} {column.dtype} {column.shape}".encode())
        digest.update(np.ascontiguousarray(column).data)
    folder = Path("runs", algorithm) if run_dir is None else run_dir.parent
    path = folder / f"data-{digest.hexdigest()[:12]}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, ".npz") as temporary:
        np.savez(temporary, allow_pickle=False, **columns)
        try:
            TransitionDataset.read(temporary)
        except ValueError as error:
            # The reader's way out is for files.
            raise UserError(f"data: {str(error).partition(' (`nfkern')[0]}") from error
    return path


def _columns(data: Arrays | TransitionDataset) -> dict[str, np.ndarray]:
    if isinstance(data, TransitionDataset):
        terminals = np.zeros(len(data.observations), bool)
        terminals[data.episode_ends] = True
        arrays: list[Any] = [data.observations, data.actions, terminals, data.rewards, data.masks]
    elif isinstance(data, Mapping):
        if not set(COLUMNS[:3]) <= set(data) <= set(COLUMNS):
            raise UserError(f"data: expected {', '.join(COLUMNS[:3])}[, rewards, masks], got {', '.join(data)}")
        arrays = [data.get(name) for name in COLUMNS]
        arrays = arrays if data.get("masks") is not None else arrays[:-1]
    else:
        arrays = list(data) if isinstance(data, Sequence) else [data]
        if not 3 <= len(arrays) <= 5:
            what = f"{len(arrays)} of them" if isinstance(data, Sequence) else type(data).__name__
            raise UserError(f"data: expected arrays ({', '.join(COLUMNS[:3])}[, rewards, masks]), got {what}")
    if len(arrays) == 4 and arrays[3] is not None:
        # Without masks every reward counts as one of a task that goes on.
        arrays.append(np.ones(len(arrays[3]), np.float32))
    columns = {name: np.asarray(each) for name, each in zip(COLUMNS, arrays, strict=False) if each is not None}
    return columns


def _plain(name: str, value: Any) -> Any:
    """Return an agent's setting as its config has it: tuples for lists, and the name of an encoder's class."""
    if isinstance(value, torch.nn.Module):
        raise TypeError(f"{name}: expected a class, which is made anew wherever the policy is loaded, got a module")
    if isinstance(value, type):
        return f"{value.__module__}:{value.__qualname__}"
    return tuple(value) if isinstance(value, list) else value


def _as_declared(name: str, value: Any) -> Any:
    return Path(value) if name in ("dataset_dir", "init_from") and isinstance(value, str) else value


def _meant(name: str, known: Iterable[str]) -> str:
    found = closest(name, known)
    return "" if found is None else f"; did you mean {found}?"
