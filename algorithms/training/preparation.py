"""Preparations for a training's first step: environments to evaluate in, initial weights, the introduction."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.registry import find_preset, load_agent
from nfkern.algorithms.runs.run import Run
from nfkern.algorithms.runs.settings import CommonSettings, RunSettings
from nfkern.errors import UserError
from nfkern.host.packages import install_command
from nfkern.kernels import backend_reasons
from nfkern.kernels.dispatch.native_extension import instruction_set, threads_in_use

if TYPE_CHECKING:
    from nfkern.algorithms.evaluation.rollout import EnvironmentPool


@contextlib.contextmanager
def evaluation_pool(settings: RunSettings) -> "Iterator[EnvironmentPool | None]":
    """Make the environments of a run's evaluations now, so that problems with them show now.

    None without evaluations: where none are asked for, and where the data's name is that of no environment.

    Raises:
        UserError: there is no such environment, or it cannot be made.
    """
    if not settings.eval_episodes:
        yield None
        return
    name = settings.data_name() if settings.eval_env is None else settings.eval_env
    way_out = "name another with --eval-env ID, or leave evaluations out with --eval-episodes 0"
    try:
        # Only here, for training without evaluations needs no simulator.
        from nfkern.algorithms.envs.make import UnknownEnvironment
        from nfkern.algorithms.evaluation.rollout import EnvironmentPool
    except ModuleNotFoundError as error:
        command = install_command(error.name or "")
        raise UserError(f"evaluations need {error.name}: {command}, or --eval-episodes 0") from error
    try:
        pool = EnvironmentPool(name, success_timing=settings.success_timing)
    except UnknownEnvironment as error:
        if settings.eval_env is not None:
            raise UserError(f"--eval-env: {error}") from error
        yield None
        return
    except (UserError, ValueError) as error:
        raise UserError(f"{error}; {way_out}") from error
    with contextlib.closing(pool):
        yield pool


def check_fits(agent: Agent, pool: "EnvironmentPool") -> None:
    """Check as `rollout.check_fits` does, and name the flags that help.

    Raises:
        UserError: the agent cannot act in the environment.
    """
    from nfkern.algorithms.evaluation import rollout

    try:
        rollout.check_fits(pool, agent.sizes, goal_conditioned=agent.goal_conditioned)
    except ValueError as error:
        raise UserError(f"{error}: name another with --eval-env ID, or give --eval-episodes 0") from error


def start_from(agent: Agent, run_dir: Path) -> None:
    """Give an agent the weights and normalisers of a run's newest checkpoint.

    Bounds of actions hold the new data's beside the former ones.

    Raises:
        UserError: it is no run, one of another algorithm or of other networks, or the data do not fit its normaliser.
    """
    source = load_agent(Run(run_dir).latest_checkpoint().path)
    if source.name != agent.name:
        raise UserError(f"--init-from: expected a run of {agent.name}, got one of {source.name} in {run_dir}")
    low, high = agent.action_low.clone(), agent.action_high.clone()
    try:
        agent.load_state_dict(source.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"--init-from: the networks of {run_dir} have other settings or sizes: {reason}") from None
    agent.action_low.copy_(torch.minimum(agent.action_low, low))
    agent.action_high.copy_(torch.maximum(agent.action_high, high))
    reach = max(float(agent.action_normalizer(bound).abs().max()) for bound in (low, high))
    if agent.bounded and 1 + 1e-5 < reach < math.inf:
        raise UserError(
            f"--init-from: expected actions within the bounds of those that {run_dir} learned from, got some "
            f"{reach:.3g} times as far from their middle"
        )


def introduction(
    agent: Agent,
    runs: Sequence[Run],
    source: str,
    settings: CommonSettings,
    place: str | None,
    tasks: int = 1,
) -> Iterator[str]:
    """Yield the lines that introduce a training: preset, network, warm-up, backend, source, evaluations, folders.

    A quiet run has none but the one that nothing will be evaluated, where that was not asked for.

    Args:
        agent: one of those that are trained.
        runs: of each seed.
        source: what is learned from.
        settings: of the run.
        place: the environment of the evaluations; None without one.
        tasks: how many tasks are evaluated there.
    """
    missing = place is None and settings.eval_episodes > 0
    no_evaluation = f"evaluation: none, for {settings.data_name()} is no environment's name (--eval-env ID names one)"
    if settings.quiet:
        yield from [no_evaluation] * missing
        return
    if settings.preset is not None:
        yield f"preset {settings.preset}: {find_preset(agent.name, settings.preset).source}"
    parameters = sum(parameter.numel() for parameter in agent.networks.parameters())
    device = agent.observation_normalizer.center.device
    seeds = f" for each of {len(runs)} seeds" if len(runs) > 1 else ""
    yield f"{agent.name}: {parameters:,} parameters{seeds}, {agent.config.steps:,} steps"
    if agent.config.steps < agent.config.warmup_steps:
        yield (
            f"warm-up: {agent.config.warmup_steps:,} steps (--warmup-steps), more than are taken: the learning rate "
            f"never reaches its peak of {agent.config.learning_rate:g}"
        )
    yield f"device: {device}, {_backend(device)}"
    yield source
    if missing:
        yield no_evaluation
    elif not settings.eval_episodes:
        yield "evaluation: none"
    else:
        every = min(settings.eval_interval, agent.config.steps)
        each = f" of each of {tasks} tasks" if tasks > 1 else ""
        episodes = "1 episode" if settings.eval_episodes == 1 else f"{settings.eval_episodes} episodes"
        yield f"evaluation: {episodes}{each} in {place}, every {every:,} steps"
    yield f"run: {', '.join(str(run.path) for run in runs)}"


def _backend(device: torch.device) -> str:
    reasons = backend_reasons("coupling_to_latent", device.type)
    kernels = f"reference instead of native kernels ({', '.join(reasons)})" if reasons else "native kernels"
    if device.type != "cpu":
        return kernels
    if reasons:
        return f"{kernels}, {torch.get_num_threads()} threads"
    return f"{kernels} ({instruction_set()}), {threads_in_use()} threads"
