"""What is found out before a training's first step, so that it can be evaluated and begun, and what stops it later."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.registry import find_preset, load_agent
from nfkern.algorithms.runs.folder import checkpoints, latest_checkpoint
from nfkern.algorithms.runs.settings import CommonSettings, RunSettings
from nfkern.errors import UserError
from nfkern.kernels import backend_reasons
from nfkern.kernels.dispatch.native_extension import instruction_set, threads_in_use

if TYPE_CHECKING:
    from nfkern.algorithms.evaluation.rollout import EnvironmentPool


@contextlib.contextmanager
def evaluation_pool(settings: RunSettings) -> "Iterator[EnvironmentPool | None]":
    """The environments of a run's evaluations, made now, so that what is wrong with them shows now.

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
        raise UserError(f"evaluations need {error.name}: pip install 'nfkern[rl]', or --eval-episodes 0") from error
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
    """`rollout.check_fits`, with the way out.

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
    source = load_agent(latest_checkpoint(run_dir))
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
    run_dirs: Mapping[int, Path],
    source: str,
    settings: CommonSettings,
    place: str | None,
    tasks: int = 1,
) -> Iterator[str]:
    """What is about to be trained, a line each: preset, network, backend, source, evaluations, folders.

    Of a quiet run no more than that nothing will be evaluated, where that was not asked for.

    Args:
        agent: one of those that are trained.
        run_dirs: the folder of each seed's run.
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
    seeds = f" for each of {len(run_dirs)} seeds" if len(run_dirs) > 1 else ""
    yield f"{agent.name}: {parameters:,} parameters{seeds}, {agent.config.steps:,} steps"
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
    yield f"run: {', '.join(map(str, run_dirs.values()))}"


def _backend(device: torch.device) -> str:
    reasons = backend_reasons("coupling_to_latent", device.type)
    kernels = f"reference instead of native kernels ({', '.join(reasons)})" if reasons else "native kernels"
    if device.type != "cpu":
        return kernels
    if reasons:
        return f"{kernels}, {torch.get_num_threads()} threads"
    return f"{kernels} ({instruction_set()}), {threads_in_use()} threads"


def check_finite(metrics: Mapping[str, float], step: int, run_dir: Path) -> None:
    """Stop a training that has left the numbers.

    Raises:
        UserError: a metric is NaN or infinite.
    """
    wrong = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if wrong:
        raise UserError(_not_finite(", ".join(wrong), step, run_dir))


def check_weights(agent: Agent, step: int, run_dir: Path) -> None:
    """See that a checkpoint is worth keeping.

    Raises:
        UserError: a weight is NaN or infinite.
    """
    for name, parameter in agent.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(_not_finite(f"the weight {name} is not finite", step, run_dir))


def _not_finite(what: str, step: int, run_dir: Path) -> str:
    # None is written whose weights are not finite.
    found = checkpoints(run_dir)
    newest = f"the newest checkpoint that is finite is {found[-1]}" if found else "there is no finite checkpoint yet"
    return f"{run_dir}: {what} at step {step}; {newest}. A lower --learning-rate or --warmup-steps may help"
